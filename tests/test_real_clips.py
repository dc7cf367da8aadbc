"""Real talking heads: prepare, fine-tune a few steps, drive. Needs clips with landmarks beside them."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import animate
from talking_heads.animation.head_files import load_head
from talking_heads.data import prepare, video
from talking_heads.data.detection import DlibDetector
from talking_heads.data.landmarks import interocular
from talking_heads.data.manifest import read_manifest
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot import protocol, real_clips
from talking_heads.experiments.few_shot.paper_metrics import ARCFACE_CSIM
from talking_heads.experiments.few_shot.real_clips import METRICS, heads_by_shots
from talking_heads.experiments.few_shot.weights import load_networks
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.head import feed_forward, generate
from talking_heads.judges.verification import equal_error_rate
from talking_heads.metrics import recogniser
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.images import ssim
from talking_heads.nn.perceptual import make_extractors

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[1] / "results"
CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
pytestmark = pytest.mark.skipif(
    not CLIPS, reason="needs real clips with landmarks: set TALKING_HEADS_CLIPS to their folder"
)


def test_clips_are_prepared_and_one_head_learns_and_is_driven(tmp_path):
    clips = Path(CLIPS)
    lines = prepare.prepare(clips, tmp_path, prepare.Settings(64, 64), quiet=True)
    assert len(lines) == len(list(clips.glob("*.mp4")))
    assert all(line["frames"] >= 32 for line in lines), lines
    profile = config.load(
        "laptop", {"protocol.shots": [1, 8], "protocol.holdout_frames": 8, "protocol.test_videos": 1}
    )
    store = Store(tmp_path, "test")
    nets, _ = load_networks(profile, "ft", "reference", RESULTS)
    (task,) = protocol.tasks(store, profile)
    train = protocol.load(store, task.number, task.few_shot, profile, CPU)
    test = protocol.load(store, task.number, task.hold_out, profile, CPU)
    before = feed_forward(nets, train, test.y)
    head = fine_tune(set_up(nets, train.x, train.y, profile, make_extractors(profile)), epochs=12)
    after = generate(head, test.y)
    assert after.shape == test.images.shape
    before_ssim, after_ssim = (
        np.mean([ssim(a, b) for a, b in zip(images, test.images, strict=True)]) for images in (before, after)
    )
    print(f"SSIM on held-out frames of {task.identity}: {before_ssim:.3f} before, {after_ssim:.3f} after")
    assert after_ssim > before_ssim + 0.02


def two_clips() -> list[Path]:
    return sorted(Path(CLIPS).glob("*.mp4"))[:2]


def loudness(sound: np.ndarray) -> np.ndarray:
    """The mean amplitude of every tenth of a second of 16 kHz sound."""
    whole = len(sound) // 1600 * 1600
    return np.abs(sound[:whole].reshape(-1, 1600).astype(float)).mean(1)


def test_a_real_clip_is_animated_by_another(tmp_path, monkeypatch):
    short = config.load("laptop", {"few_shot.fine_tuning.epochs": 2})
    monkeypatch.setattr(config, "load", lambda name: short)
    (source, driver), out = two_clips(), tmp_path / "out.mp4"
    command = ["animate", "--photo", str(source), "--shots", "4", "--driver", str(driver), "--out", str(out)]
    assert main(command) == 0
    result, motion = video.read(out), video.read(driver)
    assert len(result.frames) == len(motion.frames)
    assert result.fps == pytest.approx(motion.fps, rel=1e-3)
    assert abs(len(result.sound) - len(motion.sound)) < 0.1 * video.SOUND_RATE, "the driver's sound, whole"
    result_loudness, motion_loudness = loudness(result.sound), loudness(motion.sound)
    n = min(len(result_loudness), len(motion_loudness))
    assert np.corrcoef(result_loudness[:n], motion_loudness[:n])[0, 1] > 0.95
    card = load_head(out.with_name("out.mp4.head")).card
    assert card.pop("weights")
    assert card == {"person": source.stem, "kind": "real person", "origin": source.name, "T": 4}


@pytest.mark.dlib
def test_fine_tuning_brings_a_head_closer_to_a_real_clip(tmp_path):
    """On the clip's second half, for every T."""
    profile = config.load("laptop", {"protocol.shots": [1, 2, 4], "few_shot.fine_tuning.epochs": 12})
    nets, _ = load_networks(profile, "ft", "reference", RESULTS)
    table = heads_by_shots(two_clips()[0], nets, profile, CPU, tmp_path)
    measured = [name for name in METRICS if name != ARCFACE_CSIM] if recogniser.is_installed() else ["SSIM"]
    assert list(table.index) == [(metric, t) for metric in measured for t in (1, 2, 4)]
    assert list(table.columns) == ["nearest frame", "before", "after"]
    assert table.to_numpy().min() > 0 and table.to_numpy().max() < 1
    for metric in measured:
        gain = table.loc[(metric, 4), "after"] - table.loc[(metric, 4), "before"]
        assert gain < 0 if metric == "landmark error" else gain > 0


def test_csim_is_measured_where_arcface_has_been_fetched(tmp_path, monkeypatch):
    """Here by a stand-in whose features are colours: frames of one clip resemble each other."""
    monkeypatch.setattr(real_clips, "arcface_session", lambda device: "session")

    def mean_colour(images, *_):
        return images.reshape(len(images), -1, 3).mean(1)

    monkeypatch.setattr(real_clips.inception, "arcface_features", mean_colour)
    profile = config.load("laptop", {"protocol.shots": [1], "few_shot.fine_tuning.epochs": 1})
    nets, _ = load_networks(profile, "ft", "reference", RESULTS)
    table = heads_by_shots(two_clips()[0], nets, profile, CPU, tmp_path)
    assert (table.loc[(ARCFACE_CSIM, 1)] > 0.9).all() and list(table.loc["SSIM"].index) == [1]


# -- dlib in place of face-alignment ----------------------------------------------------------------
@pytest.fixture(scope="module")
def without_landmarks(tmp_path_factory) -> Path:
    """The first second of two clips, without landmarks beside them."""
    pytest.importorskip("dlib")
    folder = tmp_path_factory.mktemp("clips")
    for path in two_clips():
        frames = video.read(path).frames[:25]
        video.write(folder / path.name, np.stack(list(frames)), 25.0, None, lossless=True)
    return folder


@pytest.mark.dlib
def test_dlib_agrees_with_the_landmarks_of_the_clips(without_landmarks):
    """Within 0.07 interocular distances on average: 0.035 to 0.065 were measured on eight clips."""
    detect = DlibDetector()
    for path in two_clips():
        frames = list(video.read(without_landmarks / path.name).frames)[::5]
        points, faces = detect(frames)
        true = np.load(path.with_suffix(".npz"))["landmarks"][:25:5]
        assert (faces == 1).all()
        assert (np.linalg.norm(points - true, axis=-1).mean(1) / interocular(true)).mean() < 0.07
        elsewhere = true[::-1] + np.random.default_rng(0).normal(0, 3, true.shape)  # in other frames
        placed = detect.place(np.stack(frames), elsewhere)
        assert (np.linalg.norm(placed - points, axis=-1).mean(1) / interocular(true)).mean() < 0.03
        blank = detect.place(np.zeros_like(frames[:1]), true[:1])
        assert np.isfinite(blank).all(), "where no face is detected, the expected box is used"
    nothing, faces = detect([np.zeros((200, 200, 3), np.uint8)])
    assert np.isnan(nothing).all() and faces[0] == 0


@pytest.mark.dlib
def test_clips_without_landmarks_are_prepared_and_the_manifest_names_the_detector(
    without_landmarks, tmp_path
):
    command = ["prepare", str(without_landmarks), str(tmp_path / "out"), "--size", "64", "--device", "cpu"]
    assert main(command) in (0, None)
    lines = read_manifest(tmp_path / "out")
    assert [line["detector"] for line in lines] == ["dlib", "dlib"]
    assert all(line["frames"] == 25 for line in lines)


@pytest.mark.dlib
def test_dlib_recognises_the_people_of_the_clips():
    """At the size of the heads: frames of one clip are more alike than those of two people."""
    pytest.importorskip("dlib")
    features, people = [], []
    for number, path in enumerate(sorted(Path(CLIPS).glob("*.mp4"))):
        frames, points = video.read(path).frames, np.load(path.with_suffix(".npz"))["landmarks"]
        chosen = np.linspace(0, len(frames) - 1, 4).astype(int)
        scale = 64 / frames[0].shape[0]
        small = [cv2.resize(frames[k], (64, 64), interpolation=cv2.INTER_AREA) for k in chosen]
        features.append(recogniser.face_features(np.stack(small), (points[chosen] + 0.5) * scale - 0.5))
        people += [number] * len(chosen)
    found, numbers = np.concatenate(features), np.array(people)
    first, second = np.triu_indices(len(found), 1)
    similarity, same = cosine(found[first], found[second]), numbers[first] == numbers[second]
    assert equal_error_rate(similarity[same], similarity[~same]) < 0.02
    assert similarity[same].mean() > 0.96 > 0.9 > similarity[~same].mean()


@pytest.mark.dlib
def test_a_photograph_without_landmarks_becomes_a_head_whose_card_names_the_detector(
    without_landmarks, tmp_path, monkeypatch
):
    monkeypatch.setattr(animate, "fine_tune", lambda tuning, *_, **__: tuning.head)
    first, second = sorted(without_landmarks.glob("*.mp4"))
    out = tmp_path / "a.mp4"
    command = ["animate", "--photo", str(first), "--driver", str(second), "--out", str(out), "--shots", "2"]
    assert main([*command, "--device", "cpu"]) in (0, None)
    assert load_head(tmp_path / "a.mp4.head").card["landmarks"] == "dlib"
