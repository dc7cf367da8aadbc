"""Talking clips: preparing of consecutive frames with their sound, alignment, CREMA-D and LRW."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data import corpora, prepare, sources, talking, video
from talking_heads.data.landmarks import openings
from talking_heads.data.sound import FPS, HOP, read_sound
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.speech import PHONEMES
from talking_heads.data.speakers.talking import FIRST, SEED, evaluation_store
from talking_heads.data.store import CorpusDamaged, Store
from talking_heads.data.talking import ANCHORS, MEAN_FACE, longest_run
from talking_heads.data.windows import StoreClips, WindowDataset, WindowSettings

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
TALKING = prepare.Settings(48, 0, "square")


@pytest.fixture(scope="module")
def clip():
    """A second at 25 frames a second."""
    return make_clip(ClipSettings(3, 1, 0, 25, 25.0, 64))


def film(path, clip, fps=25.0, sound=True, landmarks=None, frames=None):
    """Write a clip with its landmarks beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, clip.frames if frames is None else frames, fps, clip.sound if sound else None, True)
    np.savez(path.with_suffix(".npz"), landmarks=clip.landmarks if landmarks is None else landmarks)


def prepare_clips(folder, settings=TALKING, layout="folder"):
    """The manifest's lines by the names of the sources."""
    lines = prepare.prepare(folder / "in", folder / "out", settings, layout, quiet=True)
    return {Path(line["source"]).name: line for line in lines}


# -- frames and sound -------------------------------------------------------------------------------
def test_consecutive_frames_are_kept_with_their_sound(tmp_path, clip):
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    line = prepare_clips(tmp_path)["00001.mkv"]
    assert (line["frames"], line["fps"], line["note"]) == (25, FPS, "")
    store = Store(tmp_path / "out", "test", 48)
    track, sound = store.track(0), store.sound(0)
    np.testing.assert_allclose(track["time"], np.arange(25) / 25, atol=1e-6)
    assert sound.dtype == np.int16 and len(sound) == 25 * HOP
    original = read_sound(tmp_path / "in/ada/talk/00001.mkv")
    assert np.array_equal(sound, original[: 25 * HOP])


def test_other_rates_become_25_frames_a_second(tmp_path, clip):
    """A frame is the one that a player shows: at 50 every second one, at 12.5 every one twice."""
    numbered = np.zeros_like(clip.frames)
    numbered[:] = (10 * np.arange(25, dtype=np.uint8))[:, None, None, None]
    for name, fps in (("fast", 50.0), ("slow", 12.5)):
        film(tmp_path / f"in/{name}/talk/00001.mkv", clip, fps, frames=numbered)
    prepare_clips(tmp_path)
    store = Store(tmp_path / "out", "test")
    shown = {
        store.identity(n): (store.read(n, np.arange(store.frame_count(n)))[0][:, 0, 0, 0] / 10).round()
        for n in range(2)
    }
    assert shown["fast"].tolist() == list(range(0, 24, 2))
    assert shown["slow"].tolist() == [k // 2 for k in range(50)]


def test_the_longest_run_of_frames_with_a_face_is_kept(tmp_path, clip):
    """The sound begins with its first frame."""
    landmarks = clip.landmarks.copy()
    landmarks[[3, 20]] = np.nan
    film(tmp_path / "in/ada/talk/00001.mkv", clip, landmarks=landmarks)
    line = prepare_clips(tmp_path)["00001.mkv"]
    assert line["frames"] == 16 and "landmarks missing or not finite in 2 frames" in line["note"]
    store = Store(tmp_path / "out", "test")
    original = read_sound(tmp_path / "in/ada/talk/00001.mkv")
    assert np.array_equal(store.sound(0), original[4 * HOP : 20 * HOP])


def test_runs():
    assert longest_run(np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1], bool)) == slice(3, 6)
    assert longest_run(np.zeros(4, bool)) == slice(0, 0)
    assert longest_run(np.ones(4, bool)) == slice(0, 4)


def test_what_cannot_talk_is_left_out_with_its_reason(tmp_path, clip):
    film(tmp_path / "in/silent/talk/00001.mkv", clip, sound=False)
    landmarks = np.full_like(clip.landmarks, np.nan)
    landmarks[::2] = clip.landmarks[::2]
    film(tmp_path / "in/gaps/talk/00001.mkv", clip, landmarks=landmarks)
    film(tmp_path / "in/good/talk/00001.mkv", clip)
    lines = {
        Path(line["source"]).parts[-3]: line
        for line in prepare.prepare(tmp_path / "in", tmp_path / "out", TALKING, quiet=True)
    }
    assert lines["silent"]["note"] == "left out: no sound" and not lines["silent"]["frames"]
    assert "fewer than two consecutive frames with a face" in lines["gaps"]["note"]
    assert lines["good"]["frames"] == 25


def test_windows_do_not_cross_the_clips_of_a_video(tmp_path, clip):
    """Two clips of one video are two talking clips, each with its own sound."""
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    other = make_clip(ClipSettings(3, 1, 1, 30, 25.0, 64))
    film(tmp_path / "in/ada/talk/00002.mkv", other)
    prepare_clips(tmp_path)
    store = Store(tmp_path / "out", "test")
    clips = StoreClips(store)
    assert [clips.frame_count(n) for n in range(len(clips))] == [25, 30] and clips.identity(1) == "ada"
    assert np.array_equal(clips.sound(1), read_sound(tmp_path / "in/ada/talk/00002.mkv")[: 30 * HOP])
    assert np.array_equal(clips.read(1, np.arange(30))[0], store.read(0, np.arange(25, 55))[0])
    windows = WindowDataset(clips, WindowSettings(2, 2, 2), seed=0)[0]
    assert windows.x_0.shape == (2, 3, 48, 48) and windows.sound.shape == (2, 5, 3200)


@pytest.mark.timing
def test_a_window_of_a_prepared_corpus_loads_in_a_millisecond(tmp_path, clip):
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    prepare_clips(tmp_path, TALKING._replace(size=64))
    dataset = WindowDataset(StoreClips(Store(tmp_path / "out", "test")), WindowSettings(8, 2, 2), seed=0)
    start = time.process_time()
    for step in range(50):
        dataset[step]
    assert (time.process_time() - start) / (50 * 8) < 1e-3, "the clip's first window included"


def test_a_corpus_without_sound_says_so(tmp_path, clip):
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    prepare_clips(tmp_path, prepare.Settings(48, 8))
    with pytest.raises(CorpusDamaged, match=r"sound\.npy: no sound of this video .* as talking clips"):
        Store(tmp_path / "out", "test").sound(0)


def test_too_many_open_files_are_no_damage(tmp_path, clip, monkeypatch):
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    prepare_clips(tmp_path)
    store = Store(tmp_path / "out", "test")

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(OSError, match="too many open files; raise the limit"):
        store.read(0, np.array([0]))


def test_frames_outside_a_clip_are_refused(tmp_path, clip):
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    film(tmp_path / "in/ada/talk/00002.mkv", clip)
    prepare_clips(tmp_path)
    clips = StoreClips(Store(tmp_path / "out", "test"))
    with pytest.raises(IndexError, match="clip 0 has 25 frames"):
        clips.read(0, np.array([24, 25]))


def test_preparing_again_does_nothing_and_another_alignment_prepares_anew(tmp_path, clip):
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    first = prepare_clips(tmp_path)["00001.mkv"]
    written = (tmp_path / "out/test/ada/talk/sound.npy").stat().st_mtime_ns
    assert prepare_clips(tmp_path)["00001.mkv"] == first
    assert (tmp_path / "out/test/ada/talk/sound.npy").stat().st_mtime_ns == written
    aligned = prepare_clips(tmp_path, TALKING._replace(talking="similarity"))["00001.mkv"]
    assert aligned["key"] != first["key"]


# -- alignment ----------------------------------------------------------------------------------------
def test_similarity_puts_eyes_and_nose_on_the_mean_face(tmp_path, clip):
    """Nearly: five points have more freedom than a similarity transform, and it is smoothed."""
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    distances = {}
    for alignment in ("square", "similarity"):
        out = tmp_path / alignment
        settings = TALKING._replace(talking=alignment)
        prepare.prepare(tmp_path / "in", out, settings, quiet=True)
        points = Store(out, "test").track(0)["landmarks"]
        mean = MEAN_FACE * 48 - 0.5
        distances[alignment] = np.linalg.norm(points[:, ANCHORS] - mean, axis=-1).mean()
    assert distances["similarity"] < 0.05 * 48 and distances["similarity"] < 0.6 * distances["square"]


def test_the_alignment_follows_the_mean_of_seven_frames(tmp_path, clip, monkeypatch):
    """Frames are aligned by smoothed points: without smoothing, the eyes and the nose would lie closer."""
    film(tmp_path / "in/ada/talk/00001.mkv", clip)
    jitter = {}
    for smoothed in (talking.SMOOTHED, 1):
        monkeypatch.setattr(talking, "SMOOTHED", smoothed)
        settings = TALKING._replace(talking="similarity")
        prepare.prepare(tmp_path / "in", tmp_path / f"{smoothed}", settings, quiet=True)
        points = Store(tmp_path / f"{smoothed}", "test").track(0)["landmarks"][:, ANCHORS]
        jitter[smoothed] = np.linalg.norm(np.diff(points.mean(1), axis=0), axis=-1).mean()
    assert set(jitter) == {7, 1} and jitter[7] > 1.2 * jitter[1]


def test_landmarks_move_with_the_aligned_frames(tmp_path, clip):
    """A white dot painted on the tip of the nose stays on its landmark."""
    frames = clip.frames.copy()
    for image, (x, y) in zip(frames, clip.landmarks[:, 33], strict=True):
        column, row = round(float(x)), round(float(y))
        image[:] = 0
        image[row - 2 : row + 3, column - 2 : column + 3] = 255
    film(tmp_path / "in/ada/talk/00001.mkv", clip, frames=frames)
    prepare_clips(tmp_path, TALKING._replace(talking="similarity"))
    store = Store(tmp_path / "out", "test")
    images, points = store.read(0, np.arange(25))
    rows, columns = np.mgrid[:48, :48]
    for image, (x, y) in zip(images[..., 0].astype(float), points[:, 33], strict=True):
        centre = (image * columns).sum() / image.sum(), (image * rows).sum() / image.sum()
        assert np.hypot(centre[0] - x, centre[1] - y) < 1


# -- layouts ----------------------------------------------------------------------------------------
def test_crema_has_the_papers_test_actors(tmp_path, clip):
    for actor in (1001, 1015, 1020, 1089, 1091):
        film(tmp_path / f"in/VideoFlash/{actor}_DFA_ANG_XX.mkv", clip)
    film(tmp_path / "in/VideoFlash/readme.mkv", clip)
    lines = prepare_clips(tmp_path, TALKING, "crema")
    splits = {name[:4]: line["split"] for name, line in lines.items() if line["frames"]}
    assert splits["1015"] == splits["1020"] == splits["1089"] == "test"
    assert {splits["1001"], splits["1091"]} <= {"meta", "validation"}
    assert "not named as CREMA-D's files" in lines["readme.mkv"]["note"]
    store = Store(tmp_path / "out", "test")
    assert sorted(store.identities()) == ["1015", "1020", "1089"]


def test_crema_splits_all_actors():
    """Ten test actors and a few for validation, of 91."""
    splits = [sources.split_of(f"{actor}", "", "crema") for actor in range(1001, 1092)]
    assert splits.count("test") == 10 and 4 <= splits.count("validation") <= 14
    tests = [actor - 1000 for actor, split in zip(range(1001, 1092), splits, strict=True) if split == "test"]
    assert tests == [15, 20, 21, 30, 33, 52, 62, 81, 82, 89]


def test_lrw_has_its_own_split_folders(tmp_path, clip):
    for split in ("train", "val", "test"):
        film(tmp_path / f"in/ABOUT/{split}/ABOUT_{split}.mkv", clip)
    film(tmp_path / "in/ABOUT/ABOUT_lost.mkv", clip)
    lines = prepare_clips(tmp_path, TALKING, "lrw")
    splits = {name: line["split"] for name, line in lines.items() if line["frames"]}
    assert splits == {"ABOUT_train.mkv": "meta", "ABOUT_val.mkv": "validation", "ABOUT_test.mkv": "test"}
    assert "not in a folder train, val or test" in lines["ABOUT_lost.mkv"]["note"]


@pytest.mark.parametrize("name", ["crema", "lrw"])
def test_profiles_of_the_second_paper_prepare_talking_clips(name):
    profile = config.load(name)
    assert corpora.settings_of(profile) == (128, 0, "similarity")
    assert corpora.settings_of(config.load("laptop")) == (64, 96, "")
    assert (
        config.load("lrw").diffused.conditions.motion_grey
        != config.load("crema").diffused.conditions.motion_grey
    )


def test_the_command_aligns_by_the_layout(tmp_path, clip, monkeypatch):
    seen = []

    def record(source, out, settings, *more, **options):
        seen.append(settings)
        return []

    monkeypatch.setattr(prepare, "prepare", record)
    command = ["prepare", "in", "out", "--size", "48"]
    for more in (
        [],
        ["--layout", "crema"],
        ["--talking", "square"],
        ["--layout", "lrw", "--frames-per-video", "9"],
    ):
        main([*command, *more, "--device", "cpu"])
    assert seen == [(48, 96, ""), (48, 0, "similarity"), (48, 0, "square"), (48, 9, "similarity")]


# -- the embedded corpus --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Four evaluation identities of three seconds at 48², written and prepared."""
    values = {"clips.image_size": 48, "protocol.identities": 4, "protocol.seconds": 3.0}
    profile = config.load("smoke").override({f"diffused.{name}": v for name, v in values.items()})
    return evaluation_store(profile.diffused, tmp_path_factory.mktemp("evaluation"))


def test_mouth_and_sound_are_aligned_after_writing_and_preparing(evaluation):
    """Of lags of -3 ... 3 frames, the mouth's opening and the phonemes agree most at 0; sound to 1 ms."""
    agreement, identity = [], FIRST["evaluation"]
    for number in range(4):
        clip = make_clip(ClipSettings(SEED, identity + number, 0, 75, 25.0, 48))
        opening = openings(evaluation.track(number)["landmarks"])[0]
        ends = [segment.end for segment in clip.segments]
        jaw = np.array(
            [PHONEMES[clip.segments[k].phoneme].jaw for k in np.searchsorted(ends, np.arange(75) / 25)]
        )
        agreement.append([np.corrcoef(opening[3:-3], np.roll(jaw, lag)[3:-3])[0, 1] for lag in range(-3, 4)])
        sound = evaluation.sound(number).astype(float)
        shifts = range(-48, 49)  # samples: 3 ms
        match = [np.dot(np.roll(sound, -shift)[100:-100], clip.sound[100:-100]) for shift in shifts]
        assert abs(shifts[int(np.argmax(match))]) <= 16, "more than a millisecond"
    assert np.mean(agreement, 0).argmax() == 3, np.mean(agreement, 0).round(2)


def test_evaluation_clips_are_prepared_once(evaluation):
    assert [evaluation.frame_count(n) for n in range(len(evaluation))] == [75] * 4
    assert len(StoreClips(evaluation)) == 4


@pytest.mark.skipif(not CLIPS, reason="needs real clips: set TALKING_HEADS_CLIPS")
@pytest.mark.parametrize("alignment", ["square", "similarity"])
def test_real_clips_become_talking_clips(tmp_path, alignment):
    lines = prepare.prepare(Path(CLIPS), tmp_path / "out", prepare.Settings(64, 50, alignment), quiet=True)
    assert len([line for line in lines if line["frames"] == 50]) >= 6, [line["note"] for line in lines]
    store = Store(tmp_path / "out", "test")
    for number in range(len(store)):
        points = store.track(number)["landmarks"]
        assert len(store.sound(number)) == store.frame_count(number) * HOP
        assert ((points > -16) & (points < 80)).all()
