"""Real talking heads: prepare, fine-tune a few steps, drive. Needs a folder of clips with landmark sidecars."""

import os
from pathlib import Path

import numpy as np
import pytest

from talking_heads import profiles
from talking_heads.corpus import prepare
from talking_heads.corpus.store import Store
from talking_heads.evaluation import methods, metrics, protocol
from talking_heads.fine_tuning import fine_tune, set_up
from talking_heads.perceptual import make_extractors
from talking_heads.reproduce import reference

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
pytestmark = pytest.mark.skipif(not CLIPS, reason="needs real clips with landmarks: set TALKING_HEADS_CLIPS to their folder")


def test_clips_are_prepared_and_one_head_learns_and_is_driven(tmp_path):
    clips = Path(CLIPS)
    found = prepare.prepare(clips, tmp_path, prepare.Settings(64, 64), quiet=True)
    assert len(found) == len(list(clips.glob("*.mp4"))) and all(line["frames"] >= 32 for line in found), found
    store = Store(tmp_path, "test")
    profile = profiles.load("laptop", shots=[1, 8, 8], holdout_frames=8, test_videos=1)
    nets, _ = reference.load_networks(profile, "ft", "reference", Path(__file__).parents[1] / "results")
    (task,) = protocol.tasks(store, profile)
    import torch
    cpu = torch.device("cpu")
    train, test = (protocol.load(store, task.number, f, profile, cpu) for f in (task.few_shot, task.hold_out))
    before = methods.feed_forward(nets, train, test.y, profile)
    head = fine_tune(set_up(nets, train.x, train.y, profile, make_extractors(profile)), epochs=12)
    after = methods.drive(head, test.y, profile)
    score = [np.mean([metrics.ssim(a, b) for a, b in zip(images, test.images)]) for images in (before, after)]
    print(f"SSIM on hold-out frames of {task.person}: before {score[0]:.3f}, after {score[1]:.3f}")
    assert after.shape == test.images.shape and score[1] > score[0] + 0.02
