"""Animation: landmark adaptation against ground truth, smoothing, heads as files, and the command."""

import dataclasses
import functools
import json
import time
import tracemalloc
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import animate, engines, face_shape, head_files, smoothing
from talking_heads.animation.face_rig import ANCHORS, FaceRig
from talking_heads.animation.face_shape import FaceShape, carry, fit
from talking_heads.data import crops, prepare, video
from talking_heads.data.detection import DlibDetector
from talking_heads.data.landmarks import draw, interocular, openings
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot import reenactment
from talking_heads.experiments.reference import COMMITTED
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.judges.use import find_landmarks
from talking_heads.nn.weight_files import save_weights

CPU = torch.device("cpu")
CARD = {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}
FIRST = np.array([0])  # the frames that are rendered where only landmarks are needed
SEED = 8  # of the speakers
LIDS = {68: slice(36, 42), 69: slice(42, 48)}  # the points around either pupil


@pytest.fixture(scope="module")
def model():
    return FaceShape.load()


def error(points, truth):
    return float((np.linalg.norm(points - truth, axis=-1).mean(1) / interocular(truth)).mean())


@functools.cache
def track(identity, number, moved_by=None, frames=48):
    """Landmarks (frames, 68, 2) of a rendered clip."""
    clip = make_clip(
        ClipSettings(SEED, identity, number, frames, 12.5, 64), sound=False, only=FIRST, moved_by=moved_by
    )
    return clip.landmarks.astype(float)


def rendered(identity, number, frames=8, size=64, fps=2.5):
    return make_clip(ClipSettings(SEED, identity, number, frames, fps, size), sound=False)


# -- landmark adaptation ----------------------------------------------------------------------------
def adaptation_errors(model, pairs, t):
    """Errors of the driver's landmarks and of the adapted ones, against the source with the same motion."""
    errors = []
    for source, driver in pairs:
        raw, truth = track(driver, 0), track(source, 0, moved_by=(driver, 0))
        adapted = model.adapt(raw, track(source, 1)[:t], 64)
        errors.append((error(raw, truth), error(adapted, truth)))
    return np.mean(errors, 0)


@pytest.mark.parametrize("t", [1, 8])
def test_adapted_landmarks_are_nearer_to_the_ground_truth_than_raw_ones(model, t):
    pairs = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12))
    raw, adapted = adaptation_errors(model, pairs, t)
    assert adapted < 0.75 * raw


def test_a_newly_fitted_model_adapts_too_and_carries_its_provenance(tmp_path):
    path = tmp_path / "shape.safetensors"
    fit([track(100 + n, 0, frames=8) for n in range(40)]).save(path, {"identities": 40})
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["about"]) == {"identities": 40}
    raw, adapted = adaptation_errors(FaceShape.load(path), ((1, 2), (3, 4), (5, 6), (7, 8)), 8)
    assert adapted < 0.8 * raw


def test_a_face_with_its_own_motion_is_unchanged(model):
    points = track(21, 0)
    assert error(model.adapt(points, points, 64), points) < 0.02


def test_an_identity_with_the_motion_of_another_keeps_its_face():
    a, b = (
        make_clip(ClipSettings(SEED, 1, 0, 6, 12.5, 48)),
        make_clip(ClipSettings(SEED, 1, 0, 6, 12.5, 48), moved_by=(2, 0)),
    )
    c = make_clip(ClipSettings(SEED, 2, 0, 6, 12.5, 48))
    assert a.traits == b.traits and all(np.array_equal(b.pose[name], c.pose[name]) for name in c.pose)
    assert not np.array_equal(a.landmarks, b.landmarks) and not np.array_equal(b.landmarks, c.landmarks)


def test_a_carried_point_moves_with_the_points_around_it():
    square = np.array([[[0, 0], [2, 0], [2, 2], [0, 2]]], float)
    quarter_turn = np.array([[0, 1], [-1, 0]])
    moved = 3 * square @ quarter_turn + [5, 7]
    np.testing.assert_allclose(carry(square[:, 1], square, moved), moved[:, 1])


def test_a_face_is_placed_from_a_few_anchors(model):
    truth = track(42, 0)[0]
    placed = model.place(truth[list(ANCHORS)], list(ANCHORS))
    assert error(placed[None], truth[None]) < 0.15
    with pytest.raises(ValueError, match="four points"):
        model.place(truth[:3], [0, 1, 2])


def test_the_astronauts_points_are_a_face(model):
    points = animate.astronaut_points()[None, :68]
    fitted = model.explain(points)
    shapes = model.shapes(fitted.identity, fitted.expression)
    assert error(fitted.camera.project(shapes), points) < 0.06


def peak_of_adapting(model, points):
    """Bytes that the adaptation of a driver's landmarks takes at most."""
    tracemalloc.start()
    model.adapt(points, points[:4], 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_adaptation_is_computed_in_blocks_of_frames(model, monkeypatch):
    """With the same result, and in memory that hardly grows with the driver's clip."""
    points = track(21, 0)
    whole = model.explain(points)
    monkeypatch.setattr(face_shape, "BLOCK", 20)
    parts = model.explain(points)
    for a, b in ((parts.identity, whole.identity), (parts.expression, whole.expression)):
        np.testing.assert_allclose(a, b, atol=1e-9)
    np.testing.assert_allclose(parts.camera.rotation, whole.camera.rotation, atol=1e-9)
    few, many = points[:40], np.concatenate([points] * 5)
    growth = peak_of_adapting(model, many) - peak_of_adapting(model, few)
    assert growth < 1000 * (len(many) - len(few)), "bytes a frame"


def turn(points):
    """How far the tip of the nose is to the right of the middle between the outer corners of the eyes."""
    return points[30, 0] - points[[36, 45], 0].mean()


def test_a_face_rig_follows_its_sliders():
    rig = FaceRig.fit(track(41, 0))
    frontal = rig.pose()
    for mouth, eyes in ((0.05, 0.2), (0.4, 0.1), (0.2, 0.3)):
        assert openings(rig.pose(mouth=mouth, eyes=eyes)) == pytest.approx((mouth, eyes), abs=0.03)
    assert turn(rig.pose(yaw=30)) > 3 and turn(rig.pose(yaw=-30)) < -3
    assert rig.pose(pitch=15)[30, 1] > frontal[30, 1] + 1
    rolled = rig.pose(roll=15)
    assert rolled[45, 1] > rolled[36, 1] + 2


# -- smoothing --------------------------------------------------------------------------------------
def centre(points):
    return points.mean(1)[:, 0]


def mouth(points):
    return openings(points)[0]


def test_smoothed_tracks_flicker_less_and_do_not_lag():
    lags = []
    for identity in (31, 32, 33):
        clean = track(identity, 0, frames=80)
        noisy = clean + np.random.default_rng(0).normal(0, 0.35, clean.shape)
        steady, causal = smoothing.steady(noisy, 12.5), smoothing.one_euro(noisy, 12.5)
        clean_flicker = smoothing.flicker(clean)
        assert smoothing.flicker(steady) - clean_flicker < 0.5 * (smoothing.flicker(noisy) - clean_flicker)
        assert error(steady, clean) < min(error(noisy, clean), error(causal, clean))
        for signal in (centre, mouth):
            lags.append([smoothing.lag(signal(points), signal(clean)) for points in (steady, causal)])
    steady_lag, causal_lag = np.mean(lags, 0)
    assert abs(steady_lag) < 0.05 < causal_lag


def mean_error(tracks, truth):
    return np.mean([error(points, true) for points, true in zip(tracks, truth, strict=True)])


def test_detected_tracks_lose_no_motion_by_smoothing():
    """Tracks of the landmark judge get no less accurate, and no steadier than the ground truth."""
    clips = [make_clip(ClipSettings(0, 940_000 + n, 1, 24, 12.5, 64), sound=False) for n in range(3)]
    truth = [clip.landmarks.astype(float) for clip in clips]
    detected = [find_landmarks(clip.frames).astype(float) for clip in clips]
    steady = [smoothing.steady(points, 12.5) for points in detected]
    assert mean_error(steady, truth) < 1.01 * mean_error(detected, truth)
    flicker = [np.mean([smoothing.flicker(points) for points in x]) for x in (truth, steady, detected)]
    assert 0.93 * flicker[0] < flicker[1] < flicker[2]


def test_the_lag_of_a_shifted_signal():
    truth = np.sin(np.arange(60) / 4)
    assert smoothing.lag(np.sin((np.arange(60) - 1.3) / 4), truth) == pytest.approx(1.3, abs=0.11)


def grey_frames(levels):
    return np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, 8, 8, 3))


def test_even_motion_does_not_flicker():
    even = np.zeros((5, 68, 2)) + np.arange(5)[:, None, None]
    even[:, 36:42] += [10, 0]
    assert smoothing.flicker(even) == pytest.approx(0)
    assert smoothing.picture_flicker(grey_frames([0, 50, 100, 150])) == 0
    assert smoothing.picture_flicker(grey_frames([0, 50, 0, 50])) == 100


# -- heads as files ---------------------------------------------------------------------------------
@pytest.fixture
def kept(profile, few, untrained_head, tmp_path):
    """An untrained head, and its file."""
    path = head_files.keep_head(tmp_path / "p.head", untrained_head, few, profile, CARD)
    return untrained_head, path


def test_frames_are_computed_while_others_are_written(kept, few, monkeypatch):
    """One batch ahead, whatever the length; an error reaches who uses the frames."""
    head, computed, most = head_files.load_head(kept[1]), [], []
    monkeypatch.setattr(head_files, "BATCH", 2)
    generate = head_files.generate
    monkeypatch.setattr(head_files, "generate", lambda *a: computed.append(1) or generate(*a))
    points = np.repeat(few.points[:1], 20, 0)
    for number, frame in enumerate(animate.render(head, points)):
        assert frame.shape == few.images.shape[1:]
        most.append(len(computed) - number // 2)
    assert number == 19 and max(most) <= 3
    monkeypatch.setattr(head_files, "draw_all", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(animate.render(head, points))


def test_a_kept_head_generates_the_same_frames(few, kept):
    head, path = kept
    loaded = head_files.load_head(path)
    with torch.no_grad():
        expected = ((head(few.y).movedim(1, -1) + 1) * 127.5).numpy()
    np.testing.assert_allclose(loaded.drive(few.points).astype(int), expected, atol=3)
    assert loaded.card == CARD and np.array_equal(loaded.images, few.images)
    assert head_files.owner_of(path) == "p"


def test_a_kept_head_holds_the_settings_of_its_profile(profile, kept):
    settings = head_files.load_head(kept[1]).settings
    assert settings == head_files.HeadSettings.of_profile(profile)
    assert settings.networks == profile.few_shot.networks


@pytest.mark.cuda
def test_a_head_on_a_gpu_generates_the_same_frames(few, kept):
    frames = [
        head_files.load_head(kept[1], device).drive(few.points).astype(int) for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(frames[1], frames[0], atol=2)


@pytest.mark.cuda
def test_animate_on_a_gpu(clips, tmp_path):
    out = tmp_path / "out.mp4"
    photo, clip = clips / "source.png", clips / "driver.mp4"
    assert animate_command("--photo", photo, "--driver", clip, "--out", out, "--device", "cuda") == 0
    assert len(video.read(out).frames) == 20


@pytest.mark.timing
def test_a_head_is_loaded_within_a_second(kept, slowness):
    start = time.perf_counter()
    head_files.load_head(kept[1])
    assert time.perf_counter() - start < slowness


def test_files_that_are_no_heads_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a head"):
        head_files.load_head(COMMITTED / "weights" / "ft.safetensors")
    (tmp_path / "x.head").write_bytes(b"something")
    with pytest.raises(ValueError, match=r"x\.head: not a safetensors file"):
        head_files.load_head(tmp_path / "x.head")
    assert head_files.owner_of(tmp_path / "x.head") is None


@pytest.mark.parametrize(
    "metadata", [{"settings": {}, "card": CARD}, {"settings": 1, "card": CARD}, {"settings": {}}]
)
def test_damaged_heads_are_refused(metadata, tmp_path):
    metadata = {"format": head_files.FORMAT, **metadata}
    save_weights(tmp_path / "half.head", {"psi": torch.zeros(1)}, metadata)
    with pytest.raises(ValueError, match=r"half\.head: a damaged head"):
        head_files.load_head(tmp_path / "half.head")


def test_heads_of_an_older_version_are_named_so(tmp_path):
    save_weights(tmp_path / "old.head", {"psi": torch.zeros(1)}, {"format": "talking head 1", "card": CARD})
    with pytest.raises(ValueError, match=r"old\.head: a head of an older version.*learn it again"):
        head_files.load_head(tmp_path / "old.head")


def test_incomplete_cards_are_refused(profile, few, tmp_path):
    incomplete = {name: value for name, value in CARD.items() if name != "origin"}
    with pytest.raises(ValueError, match="lacks origin"):
        head_files.keep_head(tmp_path / "y", None, few, profile, incomplete)
    with pytest.raises(ValueError, match="kind 'alien'"):
        head_files.keep_head(tmp_path / "y", None, few, profile, {**CARD, "kind": "alien"})
    assert not (tmp_path / "y").exists()


# -- the command ------------------------------------------------------------------------------------
def write_photo(path, image, landmarks, pupils=None):
    """A photograph and its landmarks (68, 2) beside it."""
    cv2.imwrite(str(path), image[..., ::-1])
    more = {} if pupils is None else {"pupils": pupils[None]}
    np.savez(path.with_suffix(".npz"), landmarks=landmarks[None], **more)


@pytest.fixture(scope="module")
def source():
    return make_clip(ClipSettings(SEED, 1, 0, 1, 12.5, 96))


@pytest.fixture(scope="module")
def driver():
    return make_clip(ClipSettings(SEED, 2, 0, 20, 12.5, 96))


@pytest.fixture(scope="module")
def clips(tmp_path_factory, source, driver):
    """A photograph and a driver's clip, with landmarks beside them."""
    folder = tmp_path_factory.mktemp("clips")
    write_photo(folder / "source.png", source.frames[0], source.landmarks[0])
    video.write(folder / "driver.mp4", driver.frames, driver.fps, driver.sound)
    np.savez(folder / "driver.npz", landmarks=driver.landmarks)
    return folder


@pytest.fixture
def smoke_profile():
    """The smoke profile with one epoch of fine-tuning."""
    return config.load("smoke", {"few_shot.fine_tuning.epochs": 1, "few_shot.networks.precision": "fp32"})


@pytest.fixture
def learn(smoke_profile, monkeypatch, tmp_path):
    """Learns a head from training frames, with untrained networks and without a content loss."""
    monkeypatch.setattr(animate, "make_extractors", lambda profile: [])
    nets = build_networks(smoke_profile.few_shot.networks, 1)

    def run(few):
        return animate.learn(nets, few, smoke_profile, tmp_path / "p.head", CARD, log=False)

    return run


def animate_command(*arguments):
    return main(["animate", *map(str, arguments)])


def test_animate_writes_a_video_with_sound_and_a_mark_and_a_head(clips, tmp_path, monkeypatch):
    load = config.load
    monkeypatch.setattr(config, "load", lambda name: load(name, {"few_shot.fine_tuning.epochs": 2}))
    out, unmarked = tmp_path / "out.mp4", tmp_path / "unmarked.mp4"
    photo, clip = clips / "source.png", clips / "driver.mp4"
    assert animate_command("--photo", photo, "--driver", clip, "--out", out) == 0
    written = video.read(out)
    assert len(written.frames) == 20 and written.frames[0].shape == (256, 256, 3)
    with av.open(str(out)) as container:
        assert "synthetic" in container.metadata["comment"]
        assert container.streams.audio[0].rate == animate.SOUND_RATE
    head = tmp_path / "out.mp4.head"
    card = head_files.load_head(head).card
    assert card["T"] == 1 and card["origin"] == "source.png"

    assert animate_command("--head", head, "--driver", clip, "--out", unmarked, "--no-mark") == 0
    marked, plain = (np.stack(video.read(path).frames).astype(int) for path in (out, unmarked))
    difference = np.abs(marked - plain)
    assert difference[:, -24:, :80].mean() > 8 > difference[:, :200].mean()


def test_animate_computes_with_an_engine(clips, kept, tmp_path, monkeypatch, capsys):
    """The frames are those of PyTorch; "auto" says what it has chosen."""
    pytest.importorskip("onnxruntime")
    network = engines.make_network(head_files.load_head(kept[1]), engines.ONNX)
    networks = {engines.PYTORCH: None, engines.ONNX: network}
    monkeypatch.setattr(engines, "ENGINES", tuple(networks))
    monkeypatch.setattr(engines, "make_network", lambda head, name: networks[name])
    monkeypatch.setattr(engines, "seconds", lambda computed, *_: 1.0 if computed is network else 2.0)
    frames = {}
    for engine in (engines.PYTORCH, engines.ONNX, engines.AUTO):
        out = tmp_path / f"{engine}.mp4"
        inputs = ("--head", kept[1], "--driver", clips / "driver.mp4", "--engine", engine)
        assert animate_command(*inputs, "--out", out) == 0
        assert ("engine: onnxruntime" in capsys.readouterr().out) == (engine == engines.AUTO)
        frames[engine] = np.stack(video.read(out).frames).astype(int)
    assert len(frames[engines.ONNX]) == 20 and np.array_equal(frames[engines.ONNX], frames[engines.AUTO])
    assert 0 < np.abs(frames[engines.ONNX] - frames[engines.PYTORCH]).mean() < 4


def test_a_face_that_fills_its_photograph_keeps_its_size(source, smoke_profile, learn, tmp_path, monkeypatch):
    landmarks, size = source.landmarks[0], smoke_profile.data.image_size
    left, top = (landmarks.min(0) - 4).astype(int)
    side = int(np.ptp(landmarks, axis=0).max()) + 8
    tight = source.frames[0][top : top + side, left : left + side]
    write_photo(tmp_path / "tight.png", tight, landmarks - [left, top])
    few = animate.source_frames([tmp_path / "tight.png"], smoke_profile, 1, None)
    assert few.square[2] > 1.3 * size
    head = learn(few)
    tracks = []
    monkeypatch.setattr(head_files.KeptHead, "drive", lambda self, points: tracks.append(points))
    wide = crops.to_crop(source.landmarks, crops.clip_square(source.landmarks), size)
    wide_driver = animate.Driver(np.repeat(wide, 3, 0).astype(float), 12.5, None)
    animate.perform(head, wide_driver, adapt=False, smooth=False)
    assert np.abs(tracks[0][0] - few.points[0]).max() < 0.5


@pytest.fixture
def clips_with_pupils(clips, source, driver, tmp_path):
    """Copies of the clips with pupils beside them."""
    for name, clip in (("source.png", source), ("driver.mp4", driver)):
        (tmp_path / name).write_bytes((clips / name).read_bytes())
        path = (tmp_path / name).with_suffix(".npz")
        np.savez(path, landmarks=clip.landmarks, pupils=clip.pupils)
    return tmp_path


def read_driver(folder, profile):
    return animate.read_driver(folder / "driver.mp4", profile.data.image_size, None)


@pytest.mark.parametrize("pupils", [True, False])
def test_only_a_head_learned_with_pupils_follows_the_drivers(clips_with_pupils, smoke_profile, learn, pupils):
    moves = read_driver(clips_with_pupils, smoke_profile)
    assert moves.points.shape == (20, 70, 2) and np.isfinite(moves.points).all()
    few = animate.source_frames([clips_with_pupils / "source.png"], smoke_profile, 1, None, pupils)
    assert few.points.shape == (1, 70 if pupils else 68, 2)
    head = learn(few)
    aside = moves.points.copy()
    aside[:, 68:] += [2.0, 0.0]
    frames = animate.perform(head, moves)
    frames_aside = animate.perform(head, dataclasses.replace(moves, points=aside))
    assert np.array_equal(frames, frames_aside) != pupils


def side_of(points, pupil):
    """The place of a pupil between its lids, over the width of the eye; the median of a track."""
    lids = points[:, LIDS[pupil], 0]
    return np.median(points[:, pupil, 0] - lids.mean(1)) / np.median(np.ptp(lids, axis=1))


@pytest.mark.parametrize("pupil", LIDS)
def test_adapted_pupils_keep_their_place_between_the_lids(clips_with_pupils, smoke_profile, model, pupil):
    points = read_driver(clips_with_pupils, smoke_profile).points
    adapted = model.adapt(points, track(1, 0, frames=1), smoke_profile.data.image_size)
    assert side_of(adapted, pupil) == pytest.approx(side_of(points, pupil), abs=0.05)


def test_pupils_of_another_shape_are_refused(clips_with_pupils, source, smoke_profile):
    path = clips_with_pupils / "source.npz"
    np.savez(path, landmarks=source.landmarks, pupils=source.pupils[:, :1])
    with pytest.raises(ValueError, match=r"source\.npz: pupils have shape \(1, 1, 2\)"):
        animate.source_frames([clips_with_pupils / "source.png"], smoke_profile, 1, None, True)


def eye_centre(points):
    return points[:, LIDS[68]].mean(1)


def test_pupils_of_a_detector_are_prepared_learned_from_and_driven(clips, driver, tmp_path, smoke_profile):
    """A detector that returns 70 points, pupils last."""
    (tmp_path / "in").mkdir()
    clip = tmp_path / "in" / "driver.mp4"
    clip.write_bytes((clips / "driver.mp4").read_bytes())
    points = np.concatenate([driver.landmarks, driver.pupils], 1)

    def detect(frames):
        return points[: len(frames)], np.ones(len(frames), int)

    settings = prepare.Settings(64, 0)
    prepare.prepare(tmp_path / "in", tmp_path / "out", settings, detect=detect, quiet=True)
    _, prepared = Store(tmp_path / "out", "test").read(0, np.arange(20), pupils=True)
    assert prepared.shape == (20, 70, 2) and np.isfinite(prepared).all()
    lengths = [np.linalg.norm(eye_centre(p)[0] - p[0, 8]) for p in (prepared, points)]
    expected = lengths[0] / lengths[1] * (points[:, 68] - eye_centre(points))
    np.testing.assert_allclose(prepared[:, 68] - eye_centre(prepared), expected, atol=0.05)
    assert animate.read_driver(clip, 64, detect).points.shape == (20, 70, 2)
    few = animate.source_frames([clip], smoke_profile, 4, detect, pupils=True)
    assert few.points.shape == (4, 70, 2)


@pytest.fixture
def photos(tmp_path):
    """Three photographs of one identity, of other sizes."""
    clip, paths = rendered(1, 0, frames=3, size=96), []
    for n, size in enumerate((96, 144, 120)):
        paths.append(tmp_path / f"{n}.png")
        landmarks = (clip.landmarks[n] + 0.5) * size / 96 - 0.5
        write_photo(paths[-1], cv2.resize(clip.frames[n], (size, size)), landmarks)
    return paths


def test_several_photographs_are_learned_from_together(photos, smoke_profile):
    few = animate.source_frames(photos, smoke_profile, 8, None)
    single = [animate.source_frames([path], smoke_profile, 8, None).images for path in photos]
    assert np.array_equal(few.images, np.concatenate(single))


def test_the_halves_of_a_source(photos, smoke_profile):
    few = animate.source_frames(photos, smoke_profile, 8, None)
    first, second = animate.halves(few)
    assert np.array_equal(first.images, few.images[:1]) and np.array_equal(second.images, few.images[1:])
    photo = few.select(FIRST)
    assert all(np.array_equal(half.images, photo.images) for half in animate.halves(photo))


@pytest.mark.parametrize(
    "counts, shares", [([3], [3]), ([8, 1], [7, 1]), ([8, 8, 1], [3, 4, 1]), ([1] * 10, [1] * 10)]
)
def test_shares_of_the_training_frames(counts, shares):
    assert animate.shares(counts, 8) == shares


def test_a_folder_stands_for_its_photographs(clips, capsys):
    """Without the driver."""
    assert animate.find_photos([clips], clips / "driver.mp4") == [clips / "source.png"]
    assert "driver.mp4: left out: it is the driver" in capsys.readouterr().out


def test_the_drivers_sound_is_written_as_it_was_read(clips, tmp_path):
    """Sample by sample, where the file is lossless."""
    sound = animate.read_driver(clips / "driver.mp4", 64, None).sound
    assert sound.dtype == np.int16 and sound.max() > 1000
    copy = tmp_path / "copy.mkv"
    video.write(copy, np.zeros((20, 32, 32, 3), np.uint8), 12.5, sound, rate=animate.SOUND_RATE)
    written = video.open_video(copy).sound(animate.SOUND_RATE)
    assert np.array_equal(written[: len(sound)], sound)


def test_videos_of_this_command_are_recognised(clips, driver, tmp_path):
    points = np.zeros((20, 68, 2))
    out = animate.export(tmp_path / "o.mp4", driver.frames, animate.Driver(points, 12.5, None), CARD)
    assert animate.is_ours(out) and not animate.is_ours(clips / "driver.mp4")


def test_animate_without_landmarks_and_detector_names_the_missing_weights(
    clips, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    photo, out = tmp_path / "new.png", tmp_path / "o.mp4"
    photo.write_bytes((clips / "source.png").read_bytes())
    assert animate_command("--photo", photo, "--driver", clips / "driver.mp4", "--out", out) == 2
    assert "face-alignment" in capsys.readouterr().err and not out.exists()
    assert animate.optional_detector() is None


@pytest.mark.dlib
def test_dlib_detects_where_the_networks_of_face_alignment_are_missing(tmp_path, monkeypatch):
    pytest.importorskip("dlib")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    detector = animate.detector_for([tmp_path / "a.png"])
    assert isinstance(detector, DlibDetector)
    assert animate.detection_of([tmp_path / "a.png"], detector) == {"landmarks": "dlib"}
    np.savez(tmp_path / "a.npz", landmarks=np.zeros((1, 68, 2)))
    assert animate.detection_of([tmp_path / "a.png"], detector) == {}


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "either --photo"),
        (("--photo", "source.png", "--head", "p.head"), "either --photo"),
        (("--photo", "source.png", "--kind", "alien"), "kind 'alien'; there are: procedural speaker"),
        (("--head", "p.head", "--keep", "q.head"), "--keep says where"),
        (("--photo", "missing.png"), "missing.png: no such file"),
    ],
)
def test_animate_refuses_unusable_options_before_it_learns(
    clips, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.setattr(animate, "fine_tune", lambda *arguments, **options: pytest.fail("it learns first"))
    monkeypatch.chdir(clips)
    out = tmp_path / "o.mp4"
    assert animate_command(*options, "--driver", "driver.mp4", "--out", out) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_sources_without_a_face_are_refused(tmp_path, smoke_profile, source):
    write_photo(tmp_path / "empty.png", source.frames[0], np.full((68, 2), np.nan))
    with pytest.raises(ValueError, match=r"empty\.png: .*no usable frame"):
        animate.source_frames([tmp_path / "empty.png"], smoke_profile, 1, None)


def test_a_photograph_as_driver_is_refused(clips):
    with pytest.raises(ValueError, match="a photograph cannot drive"):
        animate.read_driver(clips / "source.png", 32, None)


# -- landmark images --------------------------------------------------------------------------------
def test_pupils_are_drawn_as_dots_if_they_are_known():
    clip = rendered(1, 0, frames=1, fps=12.5)
    landmarks, pupils = clip.landmarks[0], clip.pupils[0]
    plain, dotted = draw(landmarks, 64, 1.25), draw(np.concatenate([landmarks, pupils]), 64, 1.25)
    changed = np.argwhere((dotted != plain).any(-1))[:, ::-1]  # (x, y) of pixels
    distances = np.linalg.norm(changed[:, None] - pupils[None], axis=-1).min(1)
    assert len(changed) >= 4 and distances.max() < 2.5
    assert np.array_equal(dotted[..., ::2], plain[..., ::2]), "the lids stay visible below the dots"
    unknown = np.concatenate([landmarks, np.full((2, 2), np.nan)])
    assert np.array_equal(draw(unknown, 64, 1.25), plain)


# -- reenactment ------------------------------------------------------------------------------------
class Lookup:
    """In place of a head: returns the frames of the clip whose landmarks are given."""

    def __init__(self, source, *clips):
        self.images, self.points, self.clips = source.frames, source.landmarks, clips
        self.settings = SimpleNamespace(image_size=64)

    def drive(self, points):
        for clip in self.clips:
            if np.array_equal(clip.landmarks, points):
                return clip.frames
        return self.clips[-1].frames


def test_drivers_are_ranked_by_identity_similarity_to_the_source():
    source, same, other = rendered(51, 0), rendered(51, 1), rendered(52, 0)
    tracks = {"other": other.landmarks, "same": same.landmarks}
    ranking = reenactment.rank_drivers(Lookup(source, same, other), tracks)
    assert list(ranking.index) == ["same", "other"] and ranking["same"] > ranking["other"] + 0.2


def test_adaptation_is_evaluated_against_the_ground_truth_in_pairs(model):
    rows = []
    for source, driver in ((61, 62), (63, 64), (65, 66)):
        clip, truth = reenactment.render_performance(SEED, source, driver, 12, 2.5, 64)
        assert np.allclose(clip.pose["yaw"], truth.pose["yaw"]) and clip.sound is not None
        head = Lookup(rendered(source, 0), clip, truth)
        raw, adapted, true = reenactment.evaluate_adaptation(head, clip, truth, model)
        assert true["landmarks"] == "true" and true["track error"] == 0
        assert raw["CSIM-judge"] < adapted["CSIM-judge"] == pytest.approx(1, abs=1e-3)
        assert adapted["SSIM"] == pytest.approx(1)
        rows += [{"pair": source, **raw}, {"pair": source, **adapted}]
    trials = pd.DataFrame(rows)
    table = reenactment.paired_gains(trials).set_index("metric")
    means = trials.groupby("landmarks")["track error"].mean()
    gain = table.loc["track error", "gain"]
    assert gain == pytest.approx(means["raw"] - means["adapted"]) and gain > 0, "a lower error is a gain"
    assert (table["pairs"] == 3).all() and table["gain"].between(table["low"], table["high"]).all()
