"""Self-reenactment (section 4): T frames of a video's first half to learn from, 32 of its second half to be judged on.

A *cell* is one person at one T and one fine-tuning seed, for all methods on the same frames. Cells lie on disk as soon
as they are computed, so an evaluation may be interrupted and goes on; what is measured is read off them.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..corpus.episodes import to_tensor
from ..corpus.landmarks import draw_all, interocular, openings
from ..corpus.prepare import spread
from ..corpus.store import Store
from ..perceptual import embedded_digest
from ..profiles import Profile, key
from ..progress import Progress
from ..tensors import code_digest
from . import judges, metrics
from .methods import BEFORE, FAMILY, FEED_FORWARD, MEAN, NEAREST, OURS_BEFORE, TRIVIAL, X2FACE, Frames, Method

REAL_FRAMES = 32  # of every other video, at most
NOT_TUNED = (*TRIVIAL, X2FACE, OURS_BEFORE, BEFORE, FEED_FORWARD)  # the same frames whatever the fine-tuning seed


@dataclass(frozen=True)
class Task:
    """One video's frames: the largest few-shot set (smaller ones are its beginnings) and the hold-out set."""

    person: str
    number: int  # of the video in the store
    few_shot: np.ndarray
    hold_out: np.ndarray


def tasks(store: Store, profile: Profile, count: int | None = None) -> list[Task]:
    """``count`` videos (the profile's number by default): everybody's longest one, then everybody's second longest, and so on.

    Few-shot frames come in random order from the first half. Videos too short for the largest T or the hold-out set are passed
    over. Raises ValueError, naming the longest one, where none is left.
    """
    most, out, count = max(profile.shots), [], count or profile.test_videos
    ranked = [sorted(numbers, key=store.frame_count, reverse=True) for numbers in store.people().values()]
    rounds = [(person, n) for turn in zip_longest(*ranked) for person, n in zip(store.people(), turn) if n is not None]
    enough = [(person, n) for person, n in rounds if store.frame_count(n) // 2 >= max(most, profile.holdout_frames)]
    if not enough:
        person, longest = max(rounds, key=lambda r: store.frame_count(r[1]))
        raise ValueError(f"{store.folder(longest)}: {store.frame_count(longest)} frames are too few for T = {most} and {profile.holdout_frames} hold-out frames, "
                         "and this is the longest video")
    for person, number in enough[:count]:
        n = store.frame_count(number)
        half = n // 2
        rng = np.random.default_rng([profile.seed, len(out)])
        hold_out = half + np.linspace(0, n - half - 1, profile.holdout_frames).round().astype(int)
        out.append(Task(person, number, rng.permutation(half)[:most], hold_out))
    return out


def load(store: Store, number: int, frames: np.ndarray, profile: Profile, device: torch.device, pupils: bool = False) -> Frames:
    """Frames of a video with their landmark images, which show the pupils where asked for and known."""
    images, points = store.read(number, frames, pupils)
    return Frames(images, points[:, :68], to_tensor(images, device), to_tensor(draw_all(points, profile.image_size, profile.line_width), device))


CELL_FIELDS = ("seed", "image_size", "line_width", "extractors", "content_weights", "feature_matching_weight", "feature_matching_reduce",
               "discriminator_steps", "tune_epochs", "tune_batch", "tune_rate", "tune_discriminator_rate", "tune_adversarial_weight", "holdout_frames", "beta1",
               "discriminator_beta1", "precision")


LOSSES = ("cnt", "adv", "fm", "dsc", "r_real", "r_fake", "grad_norm")
CELL_CODE = ("networks/*.py", "baselines/*.py", "judges/networks.py", "losses.py", "perceptual.py", "fine_tuning.py", "meta_learning.py",
             "evaluation/methods.py", "corpus/landmarks.py", "corpus/episodes.py")


def cells_in(folder: Path, store: Store, profile: Profile) -> Path:
    """The folder of the cells of these settings, people, frames, feature networks and code: what other ones made is never read."""
    frames = [(k.person, k.number, k.few_shot.tolist(), k.hold_out.tolist()) for k in tasks(store, profile)]
    parts = [key(profile, *CELL_FIELDS), store.identity(), repr(frames), code_digest(*CELL_CODE), *map(embedded_digest, profile.extractors)]
    return folder / hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def run_cells(folder: Path, store: Store, profile: Profile, methods: Sequence[Method], shots: Sequence[int], device: torch.device) -> list[Path]:
    """Compute what is missing below ``folder``; returns the files of all cells.

    A cell holds the truth, a source frame, and of every method the frames, the losses of its fine-tuning, its seconds and the
    key of the weights it is about.
    Frames of other weights are computed anew, and dropped at every other T; cells of other settings or code lie in another folder.
    """
    folder = cells_in(folder, store, profile)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*_seed*.npz"):
        drop_stale(path, methods)
    paths, todo = [], []
    for seed in range(profile.tune_seeds):
        for task in tasks(store, profile):
            for t in shots:
                path = folder / f"{task.person}_video{task.number}_T{t}_seed{seed}.npz"
                paths.append(path)
                if missing := missing_in(path, methods):
                    todo.append((path, task, t, seed, missing))
    progress = Progress("evaluating", sum(len(missing) for *_, missing in todo), "sets of frames")
    for path, task, t, seed, missing in todo:
        train = load(store, task.number, task.few_shot[:t], profile, device)
        test = load(store, task.number, task.hold_out, profile, device)
        arrays = dict(np.load(path)) if path.exists() else {}
        arrays |= {"truth": test.images, "points": test.points, "source": train.images[0], "reach": reach_of(train, test)}
        for method in missing:
            start = time.time()
            arrays[method.name] = method.make(train, test, seed)
            arrays[f"seconds of {method.name}"], arrays[key_of(method.name)] = np.array(time.time() - start), np.array(method.key)
            arrays[losses_of(method.name)] = np.array([[r.get(k, np.nan) for k in LOSSES] for r in method.rows], np.float32)
            progress.add(1)
        save_cell(path, arrays)
    return paths


def save_cell(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_suffix(".part")  # no name of a cell: a kill while it is written leaves it behind
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def drop_stale(path: Path, methods: Sequence[Method]) -> None:
    """Take out of a cell the frames that these methods made with other weights."""
    with np.load(path) as cell:
        stale = [m.name for m in methods if key_of(m.name) in cell and str(cell[key_of(m.name)]) != m.key]
        kept = {k: cell[k] for k in cell.files if k not in stale and k.split(" of ", 1)[-1] not in stale} if stale else {}
    if stale:
        save_cell(path, kept)


def reach_of(train: Frames, test: Frames) -> np.ndarray:
    """How far each hold-out frame's landmarks lie from those of the nearest training frame, in distances between the eyes: (n,)."""
    apart = np.linalg.norm(train.points[None] - test.points[:, None], axis=-1).mean(-1).min(1)
    return apart / interocular(test.points)


def found(folder: Path, store: Store, profile: Profile) -> list[Path]:
    """The cells of these settings and seeds that are there. Raises FileNotFoundError where there are none."""
    paths = [p for p in sorted(cells_in(folder, store, profile).glob("*_seed*.npz")) if about(p)[3] < profile.tune_seeds]
    if not paths:
        raise FileNotFoundError(f"{folder}: no evaluated frames; run chapter 05_comparison first")
    return paths


def missing_in(path: Path, methods: Sequence[Method]) -> list[Method]:
    """The methods whose frames, of their present weights, a cell does not hold."""
    if not path.exists():
        return list(methods)
    with np.load(path) as cell:
        return [m for m in methods if key_of(m.name) not in cell or str(cell[key_of(m.name)]) != m.key]


def about(path: Path) -> tuple[str, int, int, int]:
    """Person, number of the video, T and fine-tuning seed of a cell."""
    person, video, t, seed = path.stem.rsplit("_", 3)
    return person, int(video.removeprefix("video")), int(t[1:]), int(seed.removeprefix("seed"))


def key_of(name: str) -> str:
    """Where a cell keeps the key of a method's weights."""
    return f"weights of {name}"


def losses_of(name: str) -> str:
    """Where a cell keeps a method's losses, a column for each of ``LOSSES``."""
    return f"losses of {name}"


def tuning_logs(paths: Sequence[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The losses of the fine-tunings of cells, by method: a row for every step of every person, video and seed."""
    out: dict[str, list[pd.DataFrame]] = {}
    for path in paths:
        person, video, _, seed = about(path)
        with np.load(path) as cell:
            for name in (n for n in names if losses_of(n) in cell and len(cell[losses_of(n)])):
                log = pd.DataFrame(cell[losses_of(name)], columns=LOSSES, dtype=float)
                out.setdefault(name, []).append(log.assign(step=log.index + 1, person=person, video=video, seed=seed))
    return {name: pd.concat(logs, ignore_index=True) for name, logs in out.items()}


def scores(images: np.ndarray, truth: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of generated frames (n, S, S, 3) against the true ones with their landmarks (n, 68, 2): (n,) each."""
    return compare(images, judges.identity_features(images), judges.find_landmarks(images), truth, judges.identity_features(truth), points)


def compare(images: np.ndarray, features: np.ndarray, found: np.ndarray, truth: np.ndarray, true_features: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """As :func:`scores`, where the judges have looked already: features (n, 128) of both, landmarks found (n, 68, 2)."""
    return {"SSIM": np.array([metrics.ssim(a, b) for a, b in zip(images, truth)]),
            "CSIM-judge": metrics.cosine(features, true_features),
            "landmark error": metrics.landmark_error(found, points),
            "sharpness": metrics.sharpness(images) / metrics.sharpness(truth)}


def measured_in(cell: Mapping[str, np.ndarray], names: Sequence[str], seed: int) -> list[str]:
    """The methods of a cell that count: those that are not fine-tuned at the first seed alone."""
    return [n for n in names if n in cell and not (seed and n in NOT_TUNED)]


def measure(paths: Sequence[Path], names: Sequence[str]) -> tuple[pd.DataFrame, dict[tuple[str, int], tuple[np.ndarray, ...]]]:
    """One row for every method, T, person, video, seed and hold-out frame; and the judge's features per method and T.

    These are (generated, true, person, seed): (n, 128) twice, whose they are and of which seed, (n,). What does not depend on
    the seed is measured once.
    """
    rows, features = [], {}
    for path in paths:
        person, video, t, seed = about(path)
        with np.load(path) as cell:
            truth, points = cell["truth"], cell["points"]
            true_features, reach = judges.identity_features(truth), cell["reach"]
            wanted_mouth, wanted_eyes = openings(points)
            for method in measured_in(cell, names, seed):
                images = cell[method]
                made, found_ = judges.identity_features(images), judges.find_landmarks(images)
                mouth, eyes = openings(found_)
                rows.append(pd.DataFrame({
                    "method": method, "T": t, "person": person, "video": video, "seed": seed, "frame": np.arange(len(images)),
                    **compare(images, made, found_, truth, true_features, points), "reach": reach,
                    "mouth": mouth, "mouth wanted": wanted_mouth, "eyes": eyes, "eyes wanted": wanted_eyes}))
                features.setdefault((method, t), []).append((made, true_features, np.full(len(made), person), np.full(len(made), seed)))
    return pd.concat(rows, ignore_index=True), {k: tuple(map(np.concatenate, zip(*parts))) for k, parts in features.items()}


def other_videos(store: Store, profile: Profile) -> dict[str, list[np.ndarray]]:
    """Some real frames of each of a test person's other videos: what a fake is hidden among. Raises ValueError where there are none."""
    out = {}
    learned = {task.number for task in tasks(store, profile)}
    for task in tasks(store, profile):
        numbers = [n for n in store.people()[task.person] if n not in learned]
        if not numbers:
            raise ValueError(f"{task.person}: has one video only; a triplet needs real frames of others")
        out[task.person] = [store.read(n, spread(store.frame_count(n), REAL_FRAMES))[0] for n in numbers]
    return out


def fakes(paths: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Generated frames by "method@T" and person, and the family of methods that each belongs to."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for path in paths:
        person, _, t, _ = about(path)
        with np.load(path) as cell:
            for name in (n for n in names if n in cell):
                of = out.setdefault(f"{name}@{t}", {})
                of[person] = np.concatenate([of[person], cell[name]]) if person in of else cell[name]
    families = {label: FAMILY.get(label.split("@")[0], label.split("@")[0]) for label in out}
    return out, families | ({f"{MEAN}@1": NEAREST} if f"{MEAN}@1" in out else {})  # of one frame both are that frame


def per_person(frames: pd.DataFrame, method: str, t: int, metric: str) -> pd.Series:
    """A metric's mean for each person (over frames and seeds), sorted by person."""
    part = frames[(frames["method"] == method) & (frames["T"] == t)]
    return part.groupby("person")[metric].mean().sort_index()
