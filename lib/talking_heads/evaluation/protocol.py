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

from ..corpus.episodes import to_tensor
from ..corpus.landmarks import draw_all, openings
from ..corpus.store import Store
from ..profiles import Profile, key
from ..progress import Progress
from . import judges, metrics
from .methods import Frames, Method

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


def load(store: Store, number: int, frames: np.ndarray, profile: Profile, device: torch.device) -> Frames:
    images, points = store.read(number, frames)
    return Frames(images, points, to_tensor(images, device), to_tensor(draw_all(points, profile.image_size, profile.line_width), device))


CELL_FIELDS = ("seed", "image_size", "line_width", "extractors", "content_weights", "feature_matching_weight", "tune_epochs", "tune_batch",
               "tune_rate", "tune_discriminator_rate", "tune_adversarial_weight", "pix2pixhd_tune_rate", "holdout_frames", "beta1",
               "discriminator_beta1", "precision")


def run_cells(folder: Path, store: Store, profile: Profile, methods: Sequence[Method], shots: Sequence[int], device: torch.device) -> list[Path]:
    """Compute what is missing below ``folder``; returns the files of all cells.

    A cell holds the truth, a source frame, every method's frames, their seconds and the key of the weights they are about.
    Frames of other weights are computed anew; cells of other settings lie in another folder.
    """
    folder = folder / key(profile, *CELL_FIELDS)
    folder.mkdir(parents=True, exist_ok=True)
    paths, todo = [], []
    for seed in range(profile.tune_seeds):
        for task in tasks(store, profile):
            for t in shots:
                path = folder / f"{task.person}_T{t}_seed{seed}.npz"
                paths.append(path)
                known = dict(np.load(path)) if path.exists() else {}
                missing = [m for m in methods if str(known.get(key_of(m.name))) != m.key]
                if missing:
                    todo.append((path, task, t, seed, missing))
    progress = Progress("evaluating", sum(len(missing) for *_, missing in todo), "sets of frames")
    for path, task, t, seed, missing in todo:
        train = load(store, task.number, task.few_shot[:t], profile, device)
        test = load(store, task.number, task.hold_out, profile, device)
        arrays = dict(np.load(path)) if path.exists() else {}
        arrays |= {"truth": test.images, "points": test.points, "source": train.images[0]}
        for method in missing:
            start = time.time()
            arrays[method.name] = method.make(train, test, seed)
            arrays[f"seconds of {method.name}"], arrays[key_of(method.name)] = np.array(time.time() - start), np.array(method.key)
            progress.add(1)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)
    return paths


def found(folder: Path, profile: Profile) -> list[Path]:
    """The cells of these settings that are there. Raises FileNotFoundError where there are none."""
    paths = sorted((folder / key(profile, *CELL_FIELDS)).glob("*_seed*.npz"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no evaluated frames; run chapter 05_comparison first")
    return paths


def key_of(name: str) -> str:
    """Where a cell keeps the key of a method's weights."""
    return f"weights of {name}"


def scores(images: np.ndarray, truth: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of generated frames (n, S, S, 3) against the true ones with their landmarks (n, 68, 2): (n,) each."""
    return {"SSIM": np.array([metrics.ssim(a, b) for a, b in zip(images, truth)]),
            "CSIM-judge": metrics.cosine(judges.identity_features(images), judges.identity_features(truth)),
            "landmark error": metrics.landmark_error(judges.find_landmarks(images), points),
            "sharpness": metrics.sharpness(images) / metrics.sharpness(truth)}


def measure(paths: Sequence[Path], names: Sequence[str]) -> tuple[pd.DataFrame, dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]]:
    """One row for every method, T, person, seed and hold-out frame; and judge features (generated, true) per method and T."""
    rows, features = [], {}
    for path in paths:
        person, t, seed = path.stem.rsplit("_", 2)
        t, seed = int(t[1:]), int(seed[4:])
        with np.load(path) as cell:
            truth, points = cell["truth"], cell["points"]
            true_features = judges.identity_features(truth)
            wanted_mouth, wanted_eyes = openings(points)
            for method in (m for m in names if m in cell):
                images = cell[method]
                made = judges.identity_features(images)
                mouth, eyes = openings(judges.find_landmarks(images))
                rows.append(pd.DataFrame({
                    "method": method, "T": t, "person": person, "seed": seed, "frame": np.arange(len(images)),
                    **scores(images, truth, points), "mouth": mouth, "mouth wanted": wanted_mouth, "eyes": eyes, "eyes wanted": wanted_eyes}))
                known = features.setdefault((method, t), ([], []))
                known[0].append(made)
                known[1].append(true_features)
    return pd.concat(rows, ignore_index=True), {k: (np.concatenate(a), np.concatenate(b)) for k, (a, b) in features.items()}


def other_videos(store: Store, profile: Profile) -> dict[str, np.ndarray]:
    """Real frames of each test person's other videos: what a fake is hidden among. Raises ValueError where there are none."""
    out = {}
    for task in tasks(store, profile):
        numbers = [n for n in store.people()[task.person] if n != task.number]
        if not numbers:
            raise ValueError(f"{task.person}: has one video only; a triplet needs real frames of others")
        out[task.person] = np.concatenate([store.read(n, np.arange(store.frame_count(n)))[0] for n in numbers])
    return out


def fakes(paths: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Generated frames by "method@T" and person, and the method that each belongs to."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for path in paths:
        person, t, _ = path.stem.rsplit("_", 2)
        with np.load(path) as cell:
            for name in (n for n in names if n in cell):
                out.setdefault(f"{name}@{t[1:]}", {})[person] = cell[name]
    return out, {label: label.split("@")[0] for label in out}


def per_person(frames: pd.DataFrame, method: str, t: int, metric: str) -> pd.Series:
    """A metric's mean for each person (over frames and seeds), sorted by person."""
    part = frames[(frames["method"] == method) & (frames["T"] == t)]
    return part.groupby("person")[metric].mean().sort_index()
