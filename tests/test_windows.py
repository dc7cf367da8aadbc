"""Windows of talking clips: frames, sound and mouth of a training sample, and their loading."""

import time

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import openings
from talking_heads.data.loader import Batches
from talking_heads.data.sound import HOP
from talking_heads.data.speakers import pool
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.pool import LiveClips, PoolSettings, make_pool
from talking_heads.data.speakers.speech import PHONEMES
from talking_heads.data.speakers.talking import (
    FIRST,
    LIVE_IDENTITIES,
    SEED,
    talking_pool,
    talking_settings,
)
from talking_heads.data.windows import (
    LENGTH,
    PEAK,
    WindowDataset,
    WindowSettings,
    cut_sound,
    mouth_box,
    neighbours,
)
from talking_heads.experiments.diffused import clips as experiment_clips

SMOKE = config.load("smoke").diffused


class NumberedClips:
    """Clips whose pixels and samples say where they come from."""

    counts = (6, 1, 9)

    def __len__(self):
        return len(self.counts)

    def frame_count(self, video):
        return self.counts[video]

    def read(self, video, frames, pupils=False):
        images = np.zeros((len(frames), 16, 16, 3), np.uint8)
        images[..., 0], images[..., 1] = video, np.asarray(frames)[:, None, None]
        points = np.tile(np.linspace(2, 13, 68)[:, None], (len(frames), 1, 2)).astype(np.float32)
        return images, points

    def sound(self, video):
        return np.repeat(np.arange(self.counts[video], dtype=np.int16) + 1, HOP)

    def identity(self, video):
        return str(video)

    def name(self, video):
        return "clip"


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    """The smoke profile's training clips."""
    return talking_pool("training", SMOKE, tmp_path_factory.mktemp("pools"))


def sources(frames):
    """(clip, frame) of tensors (..., 3, H, W) of :class:`NumberedClips`."""
    levels = ((frames[..., :2, 0, 0] + 1) * 127.5).round().int()
    return [tuple(pair) for pair in levels.reshape(-1, 2).tolist()]


def test_frames_of_a_window():
    """Identity and target are different frames of one clip; missing motion frames are identity frames."""
    dataset = WindowDataset(NumberedClips(), WindowSettings(2, 2, 2), seed=0)
    seen = set()
    for step in range(200):
        windows = dataset[step]
        motion = [sources(frames) for frames in windows.motion]
        for (clip, k), identity, before in zip(
            sources(windows.x_0), sources(windows.identity), motion, strict=True
        ):
            assert identity[0] == clip and identity[1] != k and clip != 1  # which has one frame
            assert before == [(clip, j) if j >= 0 else identity for j in (k - 2, k - 1)]
            seen.add((clip, k))
        for (clip, k), middles in zip(sources(windows.x_0), windows.sound[:, :, LENGTH // 2], strict=True):
            count = dataset.clips.counts[clip]
            heard = (middles * count / PEAK).round().int().tolist()  # frame + 1, as in ``NumberedClips``
            around = np.clip(np.arange(k - 2, k + 3), 0, count - 1)
            assert heard == (around + 1).tolist(), "the windows around the target, centred on their frames"
    assert seen == {(0, k) for k in range(6)} | {(2, k) for k in range(9)}


def test_missing_audio_windows_repeat_the_first_or_the_last():
    assert neighbours(0, 6, 2).tolist() == [0, 0, 0, 1, 2]
    assert neighbours(3, 6, 2).tolist() == [1, 2, 3, 4, 5]
    assert neighbours(5, 6, 2).tolist() == [3, 4, 5, 5, 5]
    assert neighbours(4, 6, 0).tolist() == [4]


def test_the_sound_of_a_frame_is_centred_on_its_instant():
    """Frame k is shown at k / 25 s; what lies outside the sound is silence."""
    sound = np.arange(10 * HOP, dtype=np.int16)
    windows = (cut_sound(sound, np.array([0, 4, 9])) * 32768).astype(int)
    assert windows.shape == (3, LENGTH) and windows[1, LENGTH // 2] == 4 * HOP
    assert windows[0, LENGTH // 2] == 0 and not windows[0, : LENGTH // 2].any()
    assert windows[2, LENGTH // 2] == 9 * HOP and windows[2, -1] == 0
    assert (windows[1] == np.arange(4 * HOP - LENGTH // 2, 4 * HOP + LENGTH // 2)).all()


def test_the_mouth_is_that_of_the_target(talking):
    clips = PoolVideos(talking)
    dataset = WindowDataset(clips, WindowSettings(4, 2, 2), seed=3)
    windows = dataset[0]
    for x_0, box in zip(windows.x_0, windows.mouth.tolist(), strict=True):
        matches = [
            (clip, k)
            for clip in range(len(clips))
            for k in range(clips.frame_count(clip))
            if torch.equal(to_tensor(clips.read(clip, np.array([k]))[0][0]), x_0)
        ]
        points = clips.read(matches[0][0], np.array([matches[0][1]]))[1][0, 48:68]
        left, top, right, bottom = box
        assert (points >= [left, top]).all() and (points < [right, bottom]).all()
        assert right - left > bottom - top, "a mouth is wider than high"


def test_a_mouth_outside_the_frame_has_a_box_inside():
    points = np.full((68, 2), -50.0)
    assert mouth_box(points, 64).tolist() == [0, 0, 1, 1]
    assert mouth_box(-points + 100, 64).tolist() == [63, 63, 64, 64]


def test_windows_depend_on_seed_rank_and_step_alone():
    first, again, other_rank = (
        WindowDataset(NumberedClips(), WindowSettings(2, 2, 1), seed=5, rank=rank) for rank in (0, 0, 1)
    )
    for step in (7, 0, 3):
        assert all(torch.equal(a, b) for a, b in zip(first[step], again[step], strict=True))
    assert any(not torch.equal(other_rank[step].x_0, first[step].x_0) for step in range(4))


def test_clips_of_one_frame_alone_are_refused():
    clips = NumberedClips()
    clips.counts = (1, 1)
    with pytest.raises(ValueError, match="no clip has 2 frames, a target and an identity frame"):
        WindowDataset(clips, WindowSettings(1, 2, 2), seed=0)


def test_a_pool_without_sound_says_so(tmp_path):
    silent = make_pool(tmp_path / "silent", PoolSettings(0, 0, 1, 1, 2, 16))
    assert silent.sound is None
    with pytest.raises(ValueError, match="rendered without sound"):
        PoolVideos(silent).sound(0)


@pytest.mark.timing
@pytest.mark.parametrize("workers", [0, 2])
def test_a_window_loads_in_a_millisecond(tmp_path, workers):
    clips = PoolVideos(make_pool(tmp_path / "pool", PoolSettings(0, 0, 64, 1, 25, 64, 25.0, True)))
    batches = Batches(WindowDataset(clips, WindowSettings(8, 2, 2), seed=0), "cpu", workers)
    next(batches)  # the workers have started
    seconds = []
    for _ in range(50):  # most clips are read for the first time
        start = time.perf_counter()
        windows = next(batches)
        seconds.append((time.perf_counter() - start) / len(windows.x_0))
    assert np.median(seconds) < 1e-3


# -- procedural talking clips -----------------------------------------------------------------------
def test_a_talking_pool_holds_the_rendered_clips(talking):
    clip = make_clip(ClipSettings(SEED, FIRST["training"] + 1, 0, 10, 25.0, SMOKE.clips.image_size))
    assert talking.images.shape == (4, 1, 10, 32, 32, 3) and talking.sound.shape == (4, 1, 10 * HOP)
    assert np.array_equal(talking.images[1, 0], clip.frames)
    np.testing.assert_allclose(talking.sound[1, 0] / 32767, clip.sound, atol=1e-4)


def test_clips_rendered_as_training_goes_are_those_of_a_pool(talking):
    pool, live = PoolVideos(talking), LiveClips(talking_settings("training", SMOKE), "cpu")
    assert [live.identity(k) for k in range(len(live))] == [pool.identity(k) for k in range(len(pool))]
    for expected, frames in zip(pool.read(2, np.array([7, 1])), live.read(2, np.array([7, 1])), strict=True):
        np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(live.sound(2), pool.sound(2))
    assert live.digest() != pool.digest() and live.metadata()["rendered"] == "as training goes"


def test_a_step_replaces_one_of_the_clips_that_are_drawn_from(monkeypatch):
    """A batch is a function of the step: it is the same where a training resumes."""
    monkeypatch.setattr(LiveClips, "kept", 2)
    fresh, resumed = (LiveClips(talking_settings("training", SMOKE), "cpu") for _ in range(2))
    assert [fresh.window(step).tolist() for step in (2, 3)] == [[2, 3], [3, 0]]
    assert fresh.window(0, rank=1).tolist() == [2, 3]
    settings = WindowSettings(2, 2, 2)
    rendered = []
    monkeypatch.setattr(pool, "make_clip", lambda c, *_: rendered.append(c.identity) or make_clip(c))
    batches = [WindowDataset(fresh, settings, seed=4)[step] for step in range(3)]
    assert len(rendered) == len(set(rendered)) == 4, "no clip twice while it is in the window"
    batches.append(WindowDataset(fresh, settings, seed=4)[3])
    again = WindowDataset(resumed, settings, seed=4)[3]
    assert all(torch.equal(a, b) for a, b in zip(batches[3], again, strict=True))
    assert not torch.equal(batches[0].identity, batches[2].identity)


def test_a_gpu_renders_as_training_goes(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment_clips, "validation_clips", lambda *_: None)
    data = experiment_clips.clip_data(config.load("smoke"), tmp_path, torch.device("cuda"))
    assert isinstance(data.training, LiveClips) and len(data.training) == LIVE_IDENTITIES
    assert data.origin["rendered"] == "as training goes" and not list(tmp_path.iterdir())


def test_a_pool_of_the_plain_corpus_lies_beside_the_other_one(talking, tmp_path):
    few = {"diffused.clips.corpus": "plain", "diffused.clips.identities": 2}
    pool = talking_pool("training", config.load("smoke", few).diffused, tmp_path)
    assert pool.metadata()["corpus"] == "plain" and "corpus" not in talking.metadata()
    assert pool.folder.name.endswith("-plain") and not np.array_equal(pool.images[0], talking.images[0])
    np.testing.assert_array_equal(pool.sound[0], talking.sound[0])


def test_the_splits_share_no_identity():
    section = config.load("laptop-full").diffused
    sizes = {split: talking_settings(split, section) for split in FIRST}
    assert sizes["training"].people >= 1000 and sizes["training"].frames >= 50
    assert sizes["evaluation"].people >= 24 and sizes["evaluation"].frames >= 150
    ranges = {split: range(FIRST[split], FIRST[split] + size.people) for split, size in sizes.items()}
    taken = [number for numbers in ranges.values() for number in numbers]
    assert len(taken) == len(set(taken))


def test_the_mouth_follows_the_phonemes_without_delay():
    """At lags of -3 ... 3 frames, the opening of the mouth correlates most with the jaw at lag 0."""
    lags = []
    for identity in range(FIRST["training"], FIRST["training"] + 4):
        clip = make_clip(ClipSettings(SEED, identity, 0, 75, 25.0, 32))
        opening = openings(clip.landmarks)[0]
        instants = np.arange(75) / 25
        ends = [segment.end for segment in clip.segments]
        jaw = np.array([PHONEMES[clip.segments[k].phoneme].jaw for k in np.searchsorted(ends, instants)])
        lags.append([np.corrcoef(opening[3:-3], np.roll(jaw, lag)[3:-3])[0, 1] for lag in range(-3, 4)])
    assert np.mean(lags, 0).argmax() == 3, np.mean(lags, 0).round(2)
