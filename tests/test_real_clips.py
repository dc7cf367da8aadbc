"""Real talking heads: prepare, fine-tune a few steps, drive. Needs a folder of clips with landmark sidecars."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import animate
from talking_heads.animation import head_files as heads
from talking_heads.data import prepare, video
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot import protocol
from talking_heads.experiments.few_shot import weights as reference
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.head import drive, feed_forward
from talking_heads.nn.perceptual import make_extractors

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
pytestmark = pytest.mark.skipif(
    not CLIPS, reason="needs real clips with landmarks: set TALKING_HEADS_CLIPS to their folder"
)


def test_clips_are_prepared_and_one_head_learns_and_is_driven(tmp_path):
    clips = Path(CLIPS)
    found = prepare.prepare(clips, tmp_path, prepare.Settings(64, 64), quiet=True)
    assert len(found) == len(list(clips.glob("*.mp4"))) and all(line["frames"] >= 32 for line in found), found
    store = Store(tmp_path, "test")
    profile = config.load(
        "laptop", {"protocol.shots": [1, 8, 8], "protocol.holdout_frames": 8, "protocol.test_videos": 1}
    )
    nets, _ = reference.load_networks(profile, "ft", "reference", Path(__file__).parents[1] / "results")
    (task,) = protocol.tasks(store, profile)
    cpu = torch.device("cpu")
    train, test = (protocol.load(store, task.number, f, profile, cpu) for f in (task.few_shot, task.hold_out))
    before = feed_forward(nets, train, test.y, profile)
    head = fine_tune(set_up(nets, train.x, train.y, profile, make_extractors(profile)), epochs=12)
    after = drive(head, test.y, profile)
    score = [np.mean([images.ssim(a, b) for a, b in zip(images, test.images)]) for images in (before, after)]
    print(f"SSIM on hold-out frames of {task.person}: before {score[0]:.3f}, after {score[1]:.3f}")
    assert after.shape == test.images.shape and score[1] > score[0] + 0.02


def two_clips():
    return sorted(Path(CLIPS).glob("*.mp4"))[:2]


def test_a_real_clip_is_animated_by_another(tmp_path, monkeypatch):
    load = config.load
    monkeypatch.setattr(profiles, "load", lambda name: load(name, {"few_shot.fine_tuning.epochs": 2}))
    (source, driver), out = two_clips(), tmp_path / "out.mp4"
    assert (
        main(["animate", "--photo", str(source), "--shots", "4", "--driver", str(driver), "--out", str(out)])
        == 0
    )
    made, moves = video.read(out), video.read(driver)
    assert len(made.frames) == len(moves.frames) and made.fps == pytest.approx(moves.fps, rel=1e-3)
    assert abs(len(made.sound) - len(moves.sound)) < 0.1 * video.SOUND_RATE, "the driver's sound, whole"
    louder = lambda sound: np.abs(sound[: len(sound) // 1600 * 1600].reshape(-1, 1600).astype(float)).mean(1)
    n = min(len(louder(made.sound)), len(louder(moves.sound)))
    assert np.corrcoef(louder(made.sound)[:n], louder(moves.sound)[:n])[0, 1] > 0.95
    kept = heads.load_head(out.with_name("out.mp4.head"))
    assert kept.card == {
        "person": source.stem,
        "kind": "real person",
        "origin": source.name,
        "T": 4,
        "weights": kept.card["weights"],
    }


def test_closeness_of_a_real_clip(tmp_path):
    """SSIM on the clip's second half for every T, before and after some steps of fine-tuning."""
    profile = config.load("laptop", {"protocol.shots": [1, 2, 4], "few_shot.fine_tuning.epochs": 12})
    nets, _ = reference.load_networks(profile, "ft", "reference", Path(__file__).parents[1] / "results")
    table = animate.closeness(two_clips()[0], nets, profile, torch.device("cpu"), tmp_path)
    assert list(table.index) == [1, 2, 4] and list(table.columns) == ["nearest frame", "before", "after"]
    assert table.to_numpy().min() > 0 and table.loc[4, "after"] > table.loc[4, "before"]
