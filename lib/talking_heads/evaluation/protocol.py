"""Self-reenactment (section 4): T frames of a video's first half to learn from, 32 of its second half to be judged on.

A *cell* is one person at one T and one fine-tuning seed, for all methods on the same frames. Cells lie on disk as soon
as they are computed, so an evaluation may be interrupted and goes on; what is measured is read off them.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..corpus.episodes import to_image, to_tensor
from ..corpus.landmarks import draw_all, openings
from ..corpus.store import Store
from ..fine_tuning import fine_tune, set_up
from ..meta_learning import Networks, autocast
from ..profiles import Profile, key
from ..progress import Progress
from . import judges, metrics

BEFORE, AFTER, FEED_FORWARD = "Ours-FT before fine-tuning", "Ours-FT", "Ours-FF"
NEAREST, MEAN = "nearest training frame", "mean training frame"
METHODS = (FEED_FORWARD, BEFORE, AFTER, NEAREST, MEAN)
TRIVIAL = (NEAREST, MEAN)


@dataclass(frozen=True)
class Task:
    """One person's frames: the largest few-shot set (smaller ones are its beginnings) and the hold-out set."""

    person: str
    number: int  # of the video in the store
    few_shot: np.ndarray
    hold_out: np.ndarray


def tasks(store: Store, profile: Profile, people: int | None = None) -> list[Task]:
    """A task for each person: its longest video; few-shot frames in random order from the first half.

    Raises ValueError, naming the person, where a video is too short for the largest T or the hold-out set.
    """
    most, out = max(profile.shots), []
    for person, numbers in list(store.people().items())[:people or profile.test_people]:
        number = max(numbers, key=store.frame_count)
        n = store.frame_count(number)
        half = n // 2
        if half < most or n - half < profile.holdout_frames:
            raise ValueError(f"{store.folder(number)}: {n} frames are too few for T = {most} and {profile.holdout_frames} hold-out frames")
        rng = np.random.default_rng([profile.seed, len(out)])
        hold_out = half + np.linspace(0, n - half - 1, profile.holdout_frames).round().astype(int)
        out.append(Task(person, number, rng.permutation(half)[:most], hold_out))
    return out


@dataclass
class Frames:
    """Frames with their landmarks: images (n, S, S, 3) uint8, points (n, 68, 2), tensors x and y (n, 3, S, S)."""

    images: np.ndarray
    points: np.ndarray
    x: Tensor
    y: Tensor


def load(store: Store, number: int, frames: np.ndarray, profile: Profile, device: torch.device) -> Frames:
    images, points = store.read(number, frames)
    return Frames(images, points, to_tensor(images, device), to_tensor(draw_all(points, profile.image_size, profile.line_width), device))


@torch.no_grad()
def feed_forward(nets: Networks, train: Frames, y: Tensor, profile: Profile) -> np.ndarray:
    """G(y, ê_NEW): frames (n, S, S, 3) without any fine-tuning."""
    with autocast(profile.precision, y.device):
        e = nets.embedder.eval().embed(train.x[None], train.y[None])
        return to_image(torch.cat([nets.generator.eval()(part, e) for part in y.split(32)]))


@torch.no_grad()
def drive(head: torch.nn.Module, y: Tensor, profile: Profile) -> np.ndarray:
    """G'(y): frames (n, S, S, 3) of a fine-tuned head."""
    with autocast(profile.precision, y.device):
        return to_image(torch.cat([head(part) for part in y.split(32)]))


def nearest_frames(train: Frames, points: np.ndarray) -> np.ndarray:
    """For every wanted pose the training frame with the nearest landmarks."""
    distance = ((train.points[None] - points[:, None]) ** 2).sum((2, 3))
    return train.images[distance.argmin(1)]


def cell(task: Task, t: int, seed: int, store: Store, profile: Profile, ft: Networks, ff: Networks | None,
         extractors: Sequence, device: torch.device) -> dict[str, np.ndarray]:
    """Hold-out frames of all methods for one person at T = ``t``: method -> (n, S, S, 3), and the truth."""
    train = load(store, task.number, task.few_shot[:t], profile, device)
    test = load(store, task.number, task.hold_out, profile, device)
    mean = train.images.astype(np.float32).mean(0).round().astype(np.uint8)
    out = {"truth": test.images, "points": test.points, "source": train.images[0],
           BEFORE: feed_forward(ft, train, test.y, profile),
           NEAREST: nearest_frames(train, test.points), MEAN: np.broadcast_to(mean, test.images.shape).copy()}
    if ff is not None:
        out[FEED_FORWARD] = feed_forward(ff, train, test.y, profile)
    start = time.time()
    head = fine_tune(set_up(ft, train.x, train.y, profile, extractors), seed)
    out["seconds"] = np.array(time.time() - start)
    out[AFTER] = drive(head, test.y, profile)
    return out


CELL_FIELDS = ("seed", "image_size", "line_width", "extractors", "content_weights", "feature_matching_weight", "tune_epochs", "tune_batch",
               "tune_rate", "tune_discriminator_rate", "tune_adversarial_weight", "holdout_frames", "shots", "beta1", "discriminator_beta1", "precision")


def run_cells(folder: Path, store: Store, profile: Profile, ft: Networks, ff: Networks | None, extractors: Sequence,
              device: torch.device, weights_key: str) -> list[Path]:
    """Compute the cells that are missing below ``folder``; returns all of them.

    Cells of other settings or weights (``weights_key``) lie in other folders and are never mixed in.
    """
    folder = folder / f"{key(profile, *CELL_FIELDS)}-{weights_key}"
    folder.mkdir(parents=True, exist_ok=True)
    grid = [(task, t, s) for s in range(profile.tune_seeds) for task in tasks(store, profile) for t in profile.shots]
    paths = [folder / f"{task.person}_T{t}_seed{s}.npz" for task, t, s in grid]
    todo = [(path, *g) for path, g in zip(paths, grid) if not path.exists()]
    steps = lambda t: profile.tune_epochs * -(-t // profile.tune_batch) * min(t, profile.tune_batch)
    progress = Progress("evaluating", sum(steps(t) for _, _, t, _ in todo), "fine-tuning frames")
    for path, task, t, s in todo:
        arrays = cell(task, t, s, store, profile, ft, ff, extractors, device)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)
        progress.add(steps(t))
    return paths


def scores(images: np.ndarray, truth: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of generated frames (n, S, S, 3) against the true ones with their landmarks (n, 68, 2): (n,) each."""
    return {"SSIM": np.array([metrics.ssim(a, b) for a, b in zip(images, truth)]),
            "CSIM-judge": metrics.cosine(judges.identity_features(images), judges.identity_features(truth)),
            "landmark error": metrics.landmark_error(judges.find_landmarks(images), points)}


def measure(paths: Sequence[Path]) -> tuple[pd.DataFrame, dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]]:
    """One row for every method, T, person, seed and hold-out frame; and judge features (generated, true) per method and T."""
    rows, features = [], {}
    for path in paths:
        person, t, seed = path.stem.rsplit("_", 2)
        t, seed = int(t[1:]), int(seed[4:])
        with np.load(path) as cell_:
            truth, points = cell_["truth"], cell_["points"]
            true_features = judges.identity_features(truth)
            wanted_mouth, wanted_eyes = openings(points)
            for method in (m for m in METHODS if m in cell_):
                images = cell_[method]
                made = judges.identity_features(images)
                mouth, eyes = openings(judges.find_landmarks(images))
                rows.append(pd.DataFrame({
                    "method": method, "T": t, "person": person, "seed": seed, "frame": np.arange(len(images)),
                    **scores(images, truth, points), "mouth": mouth, "mouth wanted": wanted_mouth, "eyes": eyes, "eyes wanted": wanted_eyes}))
                known = features.setdefault((method, t), ([], []))
                known[0].append(made)
                known[1].append(true_features)
    return pd.concat(rows, ignore_index=True), {k: (np.concatenate(a), np.concatenate(b)) for k, (a, b) in features.items()}


def per_person(frames: pd.DataFrame, method: str, t: int, metric: str) -> pd.Series:
    """A metric's mean for each person (over frames and seeds), sorted by person."""
    part = frames[(frames["method"] == method) & (frames["T"] == t)]
    return part.groupby("person")[metric].mean().sort_index()
