"""Preparing: one crop for everybody, a clear line for every bad source, and going on after a kill."""

import json
import os
import re
import shutil
import struct
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from talking_heads.animation import animate
from talking_heads.config import load
from talking_heads.data import corpora, prepare, sources, video
from talking_heads.data.crops import Square, clip_square, crop, keep_inside, to_crop
from talking_heads.data.landmarks import PARTS, draw, interocular, openings
from talking_heads.data.manifest import read_manifest
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.store import Store
from talking_heads.nn import pretrained

SETTINGS = prepare.Settings(64, 16)


@pytest.fixture(scope="module")
def clip():
    return make_clip(ClipSettings(3, 1, 0, 12, 12.5, 96))


def film(path, clip, frames=None, landmarks=None, fps=None, sound=True, lossless=True):
    """Write a clip with its landmarks beside it, or with other frames, landmarks or another rate."""
    frames = clip.frames if frames is None else frames
    landmarks = clip.landmarks if landmarks is None else landmarks
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, frames, fps or clip.fps, clip.sound if sound else None, lossless)
    np.savez(path.with_suffix(".npz"), landmarks=landmarks, fps=clip.fps)


def prepare_folder(source, out, **options):
    """Prepare a folder; the manifest's lines by the names of the sources."""
    manifest = prepare.prepare(source, out, SETTINGS, quiet=True, **options)
    return {Path(line["source"]).name: line for line in manifest}


def test_lossless_video_is_lossless_and_has_its_sound(tmp_path, clip):
    video.write(tmp_path / "a.mp4", clip.frames, clip.fps, clip.sound)
    back = video.read(tmp_path / "a.mp4")
    assert np.array_equal(np.stack(back.frames), clip.frames) and back.fps == clip.fps and not back.note
    n = min(len(back.sound), len(clip.sound))
    assert abs(n - len(clip.sound)) < 1600 and np.abs(back.sound[:n] / 32767 - clip.sound[:n]).max() < 2e-3
    with av.open(str(tmp_path / "a.mp4")) as c:
        assert c.streams.video[0].format.name.startswith(("gbr", "rgb")), "no chroma subsampling"


def test_bad_sources_get_a_line_and_never_stop_the_rest(tmp_path, clip):
    source = tmp_path / "in"
    film(source / "good.mp4", clip)
    film(source / "silent.mp4", clip, sound=False)
    film(source / "видео.mp4", clip)
    film(source / "fast.mp4", clip, fps=30)
    film(source / "eight.mp4", clip, clip.frames[:8], clip.landmarks[:8])
    tall = np.pad(clip.frames, ((0, 0), (30, 34), (0, 0), (0, 0)), mode="edge")
    film(source / "vertical.mp4", clip, tall, clip.landmarks + np.array([0, 30]))
    film(source / "truncated.mp4", clip, lossless=False)
    data = (source / "truncated.mp4").read_bytes()
    (source / "truncated.mp4").write_bytes(data[: len(data) // 3])
    (source / "text.mp4").write_text("this is no video")
    (source / "empty.mp4").write_bytes(b"")
    film(source / "shape.mp4", clip, landmarks=clip.landmarks[:, :5])
    holes = clip.landmarks.copy()
    holes[3, 10] = np.nan
    film(source / "nan.mp4", clip, landmarks=holes)
    film(source / "allnan.mp4", clip, landmarks=holes * np.nan)
    film(source / "length.mp4", clip, landmarks=clip.landmarks[:7])
    film(source / "noarray.mp4", clip)
    np.savez(source / "noarray.npz", points=clip.landmarks)
    film(source / "garbled.mp4", clip)
    (source / "garbled.npz").write_bytes(b"not an archive")
    film(source / "tiny.mp4", clip, landmarks=clip.landmarks * 0.1)
    film(source / "hidden.mp4", clip)
    np.savez(source / "hidden.npz", landmarks=clip.landmarks, hidden=clip.hidden[:5])

    manifest = prepare_folder(
        source,
        tmp_path / "out",
        detect=lambda frames: pytest.fail("every readable clip has landmarks beside it"),
    )
    assert len(manifest) == 17
    for name in ("good.mp4", "видео.mp4", "fast.mp4"):
        assert manifest[name]["frames"] == 12 and not manifest[name]["note"], manifest[name]
    assert manifest["silent.mp4"]["frames"] == 12 and manifest["silent.mp4"]["note"] == "no sound"
    assert manifest["fast.mp4"]["fps"] == 30
    assert manifest["eight.mp4"]["frames"] == 8 and "short: 8 frames" in manifest["eight.mp4"]["note"]
    assert manifest["vertical.mp4"]["frames"] == 12 and "portrait" in manifest["vertical.mp4"]["note"]
    assert manifest["nan.mp4"]["frames"] == 11 and "not finite in 1 frames" in manifest["nan.mp4"]["note"]
    for name, why in {
        "truncated.mp4": "not a readable video|truncated|damaged",
        "text.mp4": "not a readable video",
        "empty.mp4": "empty file",
        "shape.mp4": r"shape \(12, 5, 2\), not",
        "allnan.mp4": "no usable frame",
        "length.mp4": "7 frames, the video has 12",
        "noarray.mp4": "no array 'landmarks'",
        "garbled.mp4": "not a readable npz",
        "tiny.mp4": "only .* pixels large",
        "hidden.mp4": r"hidden has shape \(5, 70\)",
    }.items():
        assert manifest[name]["frames"] == 0 and manifest[name]["note"].startswith("left out: ")
        assert re.search(why, manifest[name]["note"]), manifest[name]
    store = Store(tmp_path / "out", "test")
    assert {store.name(n) for n in range(len(store))} == {
        "good",
        "silent",
        "видео",
        "fast",
        "eight",
        "vertical",
        "nan",
    }


def test_a_truncated_clip_keeps_what_can_be_decoded_only_if_landmarks_fit(tmp_path, clip):
    """The tail of a damaged file is never filled up with repeated frames."""
    (tmp_path / "in").mkdir()
    film(tmp_path / "in/a.mp4", clip)
    with av.open(str(tmp_path / "in/a.mp4")) as c:
        packets = [p.pos for p in c.demux(c.streams.video[0]) if p.pos]
    data = bytearray((tmp_path / "in/a.mp4").read_bytes())
    data[packets[6] : packets[9]] = os.urandom(packets[9] - packets[6])
    (tmp_path / "in/a.mp4").write_bytes(data)
    (line,) = prepare_folder(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 0 and "landmarks for 12 frames" in line["note"]


def test_of_a_file_that_breaks_off_only_true_frames_are_kept(tmp_path):
    """The index comes first, as in a download that broke off; frames that are missing are not repeated."""
    long = make_clip(ClipSettings(3, 1, 0, 24, 12.5, 96))
    film(tmp_path / "whole.mp4", long, lossless=False)
    (tmp_path / "in").mkdir()
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(tmp_path / "in/a.mp4"), "w", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "in/a.mp4").read_bytes()
    (tmp_path / "in/a.mp4").write_bytes(data[: len(data) * 2 // 3])
    (line,) = prepare_folder(
        tmp_path / "in",
        tmp_path / "out",
        detect=lambda frames: (long.landmarks[: len(frames)], np.ones(len(frames), int)),
    ).values()
    assert 4 <= line["frames"] < 24 and "truncated" in line["note"]
    frames, _ = Store(tmp_path / "out", "test").read(0, np.arange(line["frames"]))
    true_frames = np.stack([crop(image, Square(*line["square"]), 64) for image in long.frames[: len(frames)]])
    assert np.abs(frames.astype(int) - true_frames).mean((1, 2, 3)).max() < 5


class Faces:
    """Stands in for the detector: a number of faces for every frame."""

    def __init__(self, clip, faces):
        self.clip, self.faces = clip, np.array(faces)

    def __call__(self, frames):
        points = self.clip.landmarks.copy()
        points[self.faces == 0] = np.nan
        return points, self.faces


@pytest.mark.parametrize(
    "faces, kept, why",
    [
        ([1] * 12, 12, ""),
        ([0] * 12, 0, "no face in 12 of 12"),
        ([1] * 9 + [0] * 3, 9, "no face in 3 of 12"),
        ([1] * 10 + [2] * 2, 10, "two or more faces in 2"),
        ([2] * 12, 0, "two or more faces in 12"),
    ],
)
def test_frames_without_a_face_or_with_two_are_left_out(tmp_path, clip, faces, kept, why):
    """Never replaced by a neighbour: the frames kept are those with one face."""
    video.write(tmp_path / "in/a.mp4", clip.frames, clip.fps, clip.sound)
    (line,) = prepare_folder(tmp_path / "in", tmp_path / "out", detect=Faces(clip, faces)).values()
    assert line["frames"] == kept and why in line["note"]
    if kept:
        track = Store(tmp_path / "out", "test").track(0)
        assert np.allclose(track["time"], np.flatnonzero(np.array(faces) == 1) / 12.5)


def test_missing_detector_weights_name_both_files_and_nothing_is_written(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    video.write(tmp_path / "in/a.mp4", clip.frames, clip.fps)
    with pytest.raises(FileNotFoundError) as error:
        prepare.prepare(tmp_path / "in", tmp_path / "out", SETTINGS, quiet=True)
    for part in (
        "s3fd-619a316812.pth",
        "2DFAN4-11f355bf06.pth.tar",
        "https://",
        str(tmp_path / "torch/hub/checkpoints"),
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_detector_runs_the_real_networks_in_batches(tmp_path, clip, monkeypatch):
    """Random weights of the published layout: shapes, batches and bookkeeping of the real code path."""
    from face_alignment import utils
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    for name in ("transform_np", "_get_preds_fromhm"):  # numba compiles them for half a minute
        monkeypatch.setattr(utils, name, getattr(utils, name).py_func)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    torch.manual_seed(0)
    for name, net in (("s3fd", s3fd()), ("2dfan4", FAN(4))):
        path = pretrained.path_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
        monkeypatch.setitem(
            pretrained.PRETRAINED, name, pretrained.Pretrained(pretrained.PRETRAINED[name].file, "", "", "")
        )
    from talking_heads.data.detection import Detector

    detector = Detector(batch=2)
    detector.fa.face_detector.filter_threshold = 0.0  # random weights find boxes of any score
    detections = detector.fa.face_detector.detect_from_batch(
        torch.from_numpy(clip.frames[:2]).permute(0, 3, 1, 2)
    )
    assert len(detections) == 2 and all(len(boxes) and np.shape(boxes)[1] == 5 for boxes in detections)
    boxes = [
        [np.array([20.0, 10, 80, 90, 0.9]), np.array([0.0, 0, 90, 90, 0.8])],
        [],
        [np.array([10.0, 10, 70, 80, 0.99])],
    ]
    monkeypatch.setattr(
        detector.fa.face_detector, "detect_from_batch", lambda t: [boxes.pop(0) for _ in range(len(t))]
    )
    points, faces = detector(list(clip.frames[:3]))
    assert points.shape == (3, 68, 2) and faces.tolist() == [2, 0, 1]
    assert np.isfinite(points[[0, 2]]).all() and np.isnan(points[1]).all()


def test_photographs_of_different_sizes_are_one_video(tmp_path, clip):
    folder = tmp_path / "in/Ada"
    folder.mkdir(parents=True)
    for n, scale in ((0, 1.0), (1, 1.7)):
        image = cv2.resize(clip.frames[n], None, fx=scale, fy=scale)
        cv2.imwrite(str(folder / f"{n}.png"), image[..., ::-1])
        np.savez(folder / f"{n}.npz", landmarks=((clip.landmarks[n] + 0.5) * scale - 0.5)[None])
    (folder / "broken.jpg").write_bytes(b"no picture")
    np.savez(folder / "broken.npz", landmarks=clip.landmarks[:1])
    manifest = prepare_folder(tmp_path / "in", tmp_path / "out")
    assert manifest["broken.jpg"]["note"] == "left out: not a readable photograph"
    store = Store(tmp_path / "out", "test")
    assert store.identity(0) == "Ada" and store.frame_count(0) == 2
    _, points = store.read(0, np.arange(2))
    assert np.abs(interocular(points) - interocular(points)[0]).max() < 3, "both faces fill the crop alike"


def test_photographs_of_one_size_share_a_crop(tmp_path, clip):
    """VoxCeleb1's frames at 1 fps: motion between them stays motion."""
    folder = tmp_path / "in/id10001/1.6/vid"
    folder.mkdir(parents=True)
    for n in range(3):
        cv2.imwrite(str(folder / f"{n:07d}.png"), clip.frames[n][..., ::-1])
        np.savez(folder / f"{n:07d}.npz", landmarks=clip.landmarks[n][None] + [4 * n, 0])
    manifest = prepare_folder(tmp_path / "in", tmp_path / "out")
    assert len({tuple(line["square"]) for line in manifest.values()}) == 1
    _, points = Store(tmp_path / "out", "test").read(0, np.arange(3))
    scale = 64 / next(iter(manifest.values()))["square"][2]
    moved = (points[2] - points[0]).mean(0) - (clip.landmarks[2] - clip.landmarks[0]).mean(0) * scale
    np.testing.assert_allclose(moved, [8 * scale, 0], atol=0.05)


def test_voxceleb_layouts_and_splits(tmp_path):
    for path in (
        "dev/mp4/id00012/abc/00001.mp4",
        "dev/mp4/id00012/abc/00002.mp4",
        "test/mp4/id00017/xyz/00003.mp4",
    ):
        (tmp_path / "vox2" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "vox2" / path).write_bytes(b"x")
    units = {u.video: u for u in sources.discover(tmp_path / "vox2", "voxceleb2")}
    assert (
        len(units["abc"].sources) == 2 and units["abc"].person == "id00012" and units["xyz"].split == "test"
    )
    assert units["abc"].split in ("meta", "validation")
    for identity in ("id10270", "id10001"):
        folder = tmp_path / f"vox1/unzippedFaces/{identity}/1.6/vid"
        folder.mkdir(parents=True)
        for n in range(3):
            (folder / f"{n:07d}.jpg").write_bytes(b"x")
    for identity in ("Eartha_Kitt", "Anna_Paquin"):
        folder = tmp_path / f"vox1/unzippedFaces/{identity}/1.6/film"
        folder.mkdir(parents=True)
        (folder / "0000001.jpg").write_bytes(b"x")
    units = {u.person: u for u in sources.discover(tmp_path / "vox1", "voxceleb1")}
    assert units["Eartha_Kitt"].split == "test" and units["Anna_Paquin"].split in ("meta", "validation")
    for path in ("anna/one.mp4", "anna/two.mp4", "ben/one.mp4", "alone.mp4"):
        (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / path).write_bytes(b"x")
    assert {(u.person, u.video) for u in sources.discover(tmp_path / "own")} == {
        ("anna", "one"),
        ("anna", "two"),
        ("ben", "one"),
        ("alone", "alone"),
    }
    assert (
        units["id10270"].split == "test"
        and units["id10001"].split in ("meta", "validation")
        and len(units["id10001"].sources) == 3
    )
    with pytest.raises(ValueError, match="holds no video"):
        (tmp_path / "nothing").mkdir()
        sources.discover(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no such folder"):
        sources.discover(tmp_path / "nowhere")


def test_splits_are_disjoint_for_good():
    identities = [f"id{n:05d}" for n in range(4000)]
    groups = [sources.split_of(identity, "dev", "voxceleb2") for identity in identities]
    assert 40 < groups.count("validation") < 130 and groups.count("test") == 0
    assert groups == [sources.split_of(identity, "dev", "voxceleb2") for identity in identities]


def test_preparing_goes_on_where_it_was_and_notices_changes(tmp_path, clip):
    for name in "abcdef":
        film_path = tmp_path / f"in/{name}.mp4"
        film_path.parent.mkdir(exist_ok=True)
        film(film_path, clip)
    prepare_folder(tmp_path / "in", tmp_path / "out", workers=2)
    manifest = tmp_path / "out/manifest.jsonl"
    whole = sorted(manifest.read_text().splitlines())
    # killed after two: the manifest is short, one folder half written
    manifest.write_text("\n".join(whole[:2]) + "\n")
    shutil.rmtree(tmp_path / "out/test/f")
    (tmp_path / "out/test/e/e.part").mkdir()
    before = (tmp_path / "out/test/a/a/frames.npy").stat().st_mtime_ns
    prepare_folder(tmp_path / "in", tmp_path / "out", workers=2)
    assert sorted(manifest.read_text().splitlines()) == whole
    assert (tmp_path / "out/test/a/a/frames.npy").stat().st_mtime_ns == before, (
        "what was done is not done again"
    )
    np.savez(tmp_path / "in/a.npz", landmarks=clip.landmarks + 1)
    prepare_folder(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/test/a/a/frames.npy").stat().st_mtime_ns != before


def test_a_crop_outside_the_frame_is_moved_inside():
    square = keep_inside(Square(-30, -20, 300), 200, 160)
    assert square.side == 160 and square.x >= -0.5 and square.y == -0.5
    image = np.arange(160 * 200 * 3, dtype=np.uint8).reshape(160, 200, 3)
    assert crop(image, square, 64).shape == (64, 64, 3)


def test_crop_and_landmarks_move_together(clip):
    """A dot drawn at a landmark is found where the landmark goes."""
    points = clip.landmarks[0]
    image = np.zeros((96, 96, 3), np.uint8)
    x, y = points[30].round()
    image[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
    square = Square(10.2, 7.7, 70.0)
    small = crop(image, square, 64).mean(-1)
    at = np.array([(small * np.arange(64)[None]).sum(), (small * np.arange(64)[:, None]).sum()]) / small.sum()
    assert np.abs(at - to_crop(np.array([x, y]), square, 64)).max() < 0.6


def test_224_square_videos_take_the_same_crop_in_training_and_at_inference(tmp_path):
    big = make_clip(ClipSettings(3, 1, 0, 4, 12.5, 224), sound=False)
    square = keep_inside(clip_square(big.landmarks), 224, 224)
    assert crop(big.frames[0], square, 256).shape == (256, 256, 3)
    (tmp_path / "in").mkdir()
    film(tmp_path / "in/a.mp4", big, sound=False)
    prepare.prepare(tmp_path / "in", tmp_path / "out", prepare.Settings(256, 0), quiet=True)
    frames, points = Store(tmp_path / "out", "test").read(0, np.arange(4))
    again = np.stack([crop(f, square, 256) for f in big.frames])
    assert np.abs(frames.astype(int) - again).mean() < 2, "JPEG at most"
    assert np.allclose(points, to_crop(big.landmarks, square, 256), atol=1e-3)
    seen = animate.source_frames(
        [tmp_path / "in/a.mp4"], load("smoke").override({"data.image_size": 256}), 4, None
    )
    driver = animate.read_driver(tmp_path / "in/a.mp4", 256, None)
    assert np.abs(frames.astype(int) - seen.images).mean() < 2 and np.allclose(points, seen.points, atol=1e-3)
    assert np.allclose(
        driver.points[:, :68], to_crop(big.landmarks, clip_square(big.landmarks), 256), atol=1e-3
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clip):
    """The store of one prepared clip of twelve frames."""
    root = tmp_path_factory.mktemp("prepared")
    film(root / "in/a.mp4", clip)
    prepare.prepare(root / "in", root / "out", SETTINGS, quiet=True)
    return Store(root / "out", "test")


@pytest.mark.timing
def test_nine_frames_are_read_in_less_than_a_millisecond(prepared, slowness):
    order, seconds = np.random.default_rng(0).permutation(12)[:9], []
    for _ in range(50):
        start = time.perf_counter()
        prepared.read(0, order, pupils=True)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 1e-3 * slowness


# -- the cap --------------------------------------------------------------------------------------
def film_clips(folder, clip, lengths):
    """Clips of one video with so many frames each; equal ones are copies of one file."""
    written = {}
    for number, length in enumerate(lengths):
        path = folder / f"{number:05d}.mp4"
        if length not in written:
            film(path, clip, clip.frames[:length], clip.landmarks[:length], sound=False)
            written[length] = path
            continue
        for suffix in (".mp4", ".npz"):
            shutil.copy(written[length].with_suffix(suffix), path.with_suffix(suffix))


@pytest.mark.parametrize(
    "lengths, cap, kept",
    [
        ([12] * 5, 8, 8),
        ([2] * 95, 96, 96),
        ([2, 12, 12], 9, 9),  # what a short clip lacks, the others have
        ([4] * 12, 8, 8),  # eight of twelve clips, one frame of each
        ([3] * 3, 0, 9),  # 0 keeps all
    ],
)
def test_the_cap_holds_for_a_video_of_several_clips(tmp_path, clip, lengths, cap, kept):
    film_clips(tmp_path / "in/ada/talk", clip, lengths)
    manifest = prepare.prepare(tmp_path / "in", tmp_path / "out", prepare.Settings(32, cap), quiet=True)
    store = Store(tmp_path / "out", "test")
    assert len(store) == 1
    assert store.frame_count(0) == kept == sum(line["frames"] for line in manifest)
    assert len(store.read(0, np.arange(kept))[0]) == len(store.track(0)["time"]) == kept
    if len(set(lengths)) == 1:
        counts = np.unique(store.track(0)["clip"], return_counts=True)[1]
        assert counts.max() - counts.min() <= 1, "every clip has its share"


def test_the_duration_of_a_video_is_that_of_its_sources(tmp_path, clip):
    """Also of frames that the cap leaves out, and of all of a video's clips."""
    film(tmp_path / "in/ada/brief/00000.mp4", clip, clip.frames[:6], clip.landmarks[:6], sound=False)
    film_clips(tmp_path / "in/ada/long", clip, [12, 12, 6])
    prepare.prepare(tmp_path / "in", tmp_path / "out", prepare.Settings(32, 4), quiet=True)
    store = Store(tmp_path / "out", "test")
    videos = {store.folder(video).name: video for video in range(len(store))}
    assert [store.frame_count(video) for video in videos.values()] == [4, 4]
    assert store.duration(videos["brief"]) == pytest.approx(6 / 12.5)
    assert store.duration(videos["long"]) == pytest.approx(30 / 12.5)


# -- landmark images ------------------------------------------------------------------------------
def test_landmark_image_has_every_part_and_refuses_nan(clip):
    image = draw(clip.landmarks[0], 96, 1.5)
    colours = {c for *_, c in PARTS}
    assert len(colours) == len(PARTS)
    for first, last, _, colour in PARTS:
        x, y = clip.landmarks[0, first : last + 1].mean(0) if last - first < 5 else clip.landmarks[0, first]
        near = image[int(y) - 3 : int(y) + 5, int(x) - 3 : int(x) + 5].reshape(-1, 3).astype(int)
        direction = near @ np.array(colour) / (np.linalg.norm(near, axis=1) + 1e-9) / np.linalg.norm(colour)
        assert direction.max() > 0.97, colour
    with pytest.raises(ValueError, match="not finite"):
        draw(clip.landmarks[0] * np.nan, 96, 1.0)


def test_openings_follow_the_face():
    clip = make_clip(ClipSettings(3, 1, 0, 30, 12.5, 96), sound=False, only=np.array([0]))
    mouth, eyes = openings(clip.landmarks)
    assert np.corrcoef(mouth, clip.pose["jaw_open"])[0, 1] > 0.9
    assert np.corrcoef(eyes, clip.pose["blink_left"])[0, 1] < -0.8


def test_corpus_of_the_smoke_profile(tmp_path):
    profile = load("smoke").override(
        {"data.speakers.meta_identities": 3, "data.speakers.evaluation_frames": 12}
    )
    root = corpora.ensure(profile, tmp_path)
    stores = {split: corpora.store(profile, tmp_path, split) for split in sources.SPLITS}
    groups = [set(store.identities()) for store in stores.values()]
    assert [len(group) for group in groups] == [3, 2, 2]
    assert len(set.union(*groups)) == 7, "no identity is in two groups"
    manifest = (root / "manifest.jsonl").read_text(encoding="utf-8")
    notes = [json.loads(line)["note"] for line in manifest.splitlines()]
    assert {note.split(":")[0] for note in notes} <= {"", "short"}
    # rendered straight into the crop: preparing changes neither frames nor landmarks
    path = next(tmp_path.rglob("meta/mp4/id000000/video0/00001.mp4"))
    frames, points = stores["meta"].read(0, np.arange(6))
    assert np.array_equal(np.stack(video.read(path).frames), frames)
    np.testing.assert_allclose(points, np.load(path.with_suffix(".npz"))["landmarks"], atol=1e-3)
    assert {"pupils", "hidden"} <= stores["test"].track(0).keys()
    assert corpora.ensure(profile, tmp_path) == root
    assert (root / "manifest.jsonl").read_text(encoding="utf-8") == manifest
    with pytest.raises(ValueError, match="expects your copy of voxceleb1"):
        corpora.ensure(load("voxceleb1"), tmp_path)


def test_a_complete_corpus_of_jobs_is_read_without_its_videos(tmp_path, monkeypatch):
    """Until its settings change; one whose preparation was interrupted is prepared to its end."""
    profile = load("voxceleb2-ft").override({"data.image_size": 16})
    videos, clip = tmp_path / "voxceleb2/videos", make_clip(ClipSettings(3, 1, 0, 4, 12.5, 32), sound=False)
    for identity in ("id00001", "id00002"):
        film(videos / "dev/mp4" / identity / "a/00001.mp4", clip, sound=False)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_prepare_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corpora.find(profile, tmp_path)
    root = corpora.find(profile, tmp_path)
    assert len(read_manifest(root)) == 2, "it was prepared to its end"
    videos.rename(tmp_path / "gone")
    assert corpora.find(profile, tmp_path) == root
    with pytest.raises(ValueError, match="expects your copy of voxceleb2"):
        corpora.find(profile.override({"data.frames_per_video": 3}), tmp_path)


def interrupted(*_):
    raise KeyboardInterrupt
    yield


@pytest.mark.parametrize("profile, identities", [("laptop", 12), ("laptop-full", 24)])
def test_the_embedded_corpus_is_large_enough(profile, identities):
    data = load(profile).data
    speakers = data.speakers
    assert speakers.meta_identities >= 400 and speakers.evaluation_identities >= identities
    assert speakers.meta_videos >= 2 and speakers.evaluation_videos >= 4
    assert speakers.evaluation_frames >= 96
    assert data.frames_per_video == 0 or data.frames_per_video >= speakers.evaluation_frames


def test_a_clip_that_was_filmed_upright_is_read_upright(tmp_path):
    """Telephones store the sensor's frames and, in the track's header, how to turn them."""
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, :16] = [250, 0, 0]  # a red left edge
    video.write(tmp_path / "lying.mp4", frames, 12.5)
    data = bytearray((tmp_path / "lying.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44  # nine big-endian fixed-point numbers: a quarter turn clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "upright.mp4").write_bytes(data)
    lying, upright = (video.read(tmp_path / n).frames[0] for n in ("lying.mp4", "upright.mp4"))
    assert lying.shape == (32, 64, 3) and upright.shape == (64, 32, 3)
    assert np.array_equal(upright, np.rot90(lying, -1)) and upright[2, 16, 0] > 200 > 50 > upright[-3, 16, 0]
