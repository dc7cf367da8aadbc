"""Short trainings with and without L_FM: does one diverge? (claim of section 3.2)"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.experiments.few_shot.trainings import chapter_folder, share
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.nn.perceptual import make_extractors
from talking_heads.training import loop
from talking_heads.training.alarms import Collapsed

COLUMNS = ["feature_matching", "seed", "start", "end", "step", "apart", "diverged", "since"]
WITH, WITHOUT = "with", "without"


def stability(
    profile: Profile, root: Path, results: Path, device: torch.device
) -> tuple[pd.DataFrame, dict[str, list[dict]]]:
    """Short trainings on the small corpus with and without L_FM, ``stability_seeds`` of each.

    L_ADV has the paper's weight of 1 in them. Columns: feature_matching ("with", "without"), seed, start and
    end (content loss when D joins and over the last steps), step (the last one, where the alarm stopped it),
    apart (how much higher D scores real frames than generated ones over the last steps), diverged (stopped,
    or ended higher than it started), and since (the first step from which the running content loss stays
    above the start, or the one where it was stopped). Also the logged rows of each training, by name.
    """
    videos = corpora.store(profile, root, "meta")
    small = share(videos, profile.few_shot.trainings.small_share)
    extractors = [extractor.to(device) for extractor in make_extractors(profile)]
    rows, logs = [], {}
    for how, seed in product((WITH, WITHOUT), range(profile.protocol.stability_seeds)):
        changed = _settings(profile, how, seed)
        learner = MetaLearner(changed, "small", small, extractors, device)
        folder = chapter_folder(Path(results) / profile.name / "runs", learner, videos)
        alarmed = folder / "collapsed.txt"  # a training that was stopped stays stopped
        if not alarmed.exists():
            try:
                loop.train(learner, folder)
            except Collapsed as alarm:
                print(f"  {alarm}", flush=True)
                alarmed.write_text(str(alarm), encoding="utf-8")
        log = [json.loads(line) for line in (folder / loop.LOG).read_text(encoding="utf-8").splitlines()]
        logs[f"{how} L_FM, seed {seed}"] = log
        rows.append(
            [how, seed, *_summary(log, changed.few_shot.meta_learning.content_steps, alarmed.exists())]
        )
    return pd.DataFrame(rows, columns=COLUMNS), logs


def _settings(profile: Profile, how: str, seed: int) -> Profile:
    steps, weight = profile.protocol.stability_steps, profile.few_shot.losses.feature_matching_weight
    return profile.override(
        {
            "seed": seed,
            "few_shot.meta_learning.steps": steps,
            "few_shot.meta_learning.epochs": 0,
            "few_shot.meta_learning.content_steps": steps // 3,
            "few_shot.losses.adversarial_weight": 1.0,
            "few_shot.losses.feature_matching_weight": weight if how == WITH else 0.0,
        }
    )


def _summary(log: list[dict], content_steps: int, stopped: bool) -> list:
    """start, end, step, apart, diverged and since of a training's log."""
    loss = pd.Series([row["cnt"] for row in log])
    edge = max(1, content_steps // 5)
    start, end = loss[content_steps - edge : content_steps].mean(), loss[-edge:].mean()
    leads = [row["r_real"] - row["r_fake"] for row in log[-edge:] if "r_real" in row]
    running = loss.rolling(edge, min_periods=1).mean()
    below = running.index[(running <= start) & (running.index >= content_steps)]
    diverged = bool(stopped or end > start)
    since = float("nan")
    if stopped:
        since = len(loss)
    elif diverged:
        since = (below[-1] if len(below) else content_steps - 1) + 2
    apart = float(np.mean(leads)) if leads else float("nan")
    return [float(start), float(end), len(loss), apart, diverged, since]
