"""Self-reenactment (section 4): T frames of a video's first half to learn from, held-out frames of its second
half.

A *cell* is one identity at one T and one fine-tuning seed, for all methods on the same frames. Cells are
written as soon as they are computed, so an evaluation may be interrupted and goes on; metrics are computed
from them.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from talking_heads import devices
from talking_heads.config import Profile, digest
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all, interocular
from talking_heads.data.prepare_video import spread
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot.cells import (
    LOSSES,
    Cell,
    add_to_cell,
    drop_stale,
    key_of,
    losses_of,
    missing_in,
)
from talking_heads.experiments.few_shot.methods import (
    Method,
)
from talking_heads.few_shot import fine_tuning
from talking_heads.few_shot.baselines import training as baselines
from talking_heads.nn.perceptual import embedded_digest
from talking_heads.progress import Progress
from talking_heads.shards import Shard

VERSION = 1  # of the choice of frames: raised when the same corpus and settings give other frames
GAP = 1.0  # seconds between the last few-shot candidate and the first held-out frame of a clip
REAL_FRAMES = 32  # of every other video, at most


@dataclass(frozen=True)
class Task:
    """One video's frames: the largest few-shot set (smaller ones are its beginnings) and the held-out set."""

    identity: str
    number: int  # of the video in the store
    few_shot: np.ndarray
    hold_out: np.ndarray


def split_halves(clip: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a video's first and second half, with ``GAP`` seconds between them where they meet in one
    clip.

    ``clip`` and ``seconds`` (n,) are the number of every frame's clip and its time in it.
    """
    half = len(clip) // 2
    first, second = np.arange(half), np.arange(half, len(clip))
    if not half or clip[half - 1] != clip[half]:
        return first, second
    middle, same = (seconds[half - 1] + seconds[half]) / 2, clip == clip[half]
    apart = ~same | (np.abs(seconds - middle) >= GAP / 2 - 1e-6)
    return first[apart[first]], second[apart[second]]


def tasks(store: Store, profile: Profile, count: int | None = None) -> list[Task]:
    """``count`` videos (the profile's number by default): every identity's longest one, then the second
    longest ones, ...

    Few-shot frames come in random order from the first half, held-out frames are evenly spaced in the second
    (see :func:`split_halves`). Videos too short for the largest T or the held-out set are
    passed over. Raises ValueError, naming the longest one, where none is left.
    """
    section, count = profile.protocol, count or profile.protocol.test_videos
    most = max(section.shots)
    chosen: list[Task] = []
    for identity, number in _by_length(store):
        if store.frame_count(number) < most + section.holdout_frames:
            continue
        track = store.track(number)
        first, second = split_halves(track["clip"], track["time"])
        if len(first) < most or len(second) < section.holdout_frames:
            continue
        rng = np.random.default_rng([profile.seed, len(chosen)])
        hold_out = second[spread(len(second), section.holdout_frames)]
        chosen.append(Task(identity, number, rng.permutation(first)[:most], hold_out))
        if len(chosen) == count:
            break
    if not chosen:
        longest = max(range(len(store)), key=store.frame_count)
        raise ValueError(
            f"{store.folder(longest)}: {store.frame_count(longest)} frames are too few for T = {most} and "
            f"{section.holdout_frames} held-out frames, {GAP:g} s apart, and this is the longest video"
        )
    return chosen


def _by_length(store: Store) -> Iterator[tuple[str, int]]:
    """(identity, video): every identity's longest video, then the second longest ones, and so on."""
    identities = store.identities()
    ranked = [sorted(numbers, key=store.duration, reverse=True) for numbers in identities.values()]
    for turn in zip_longest(*ranked):
        for identity, number in zip(identities, turn, strict=True):
            if number is not None:
                yield identity, number


def load(
    store: Store,
    number: int,
    frames: np.ndarray,
    profile: Profile,
    device: torch.device,
    pupils: bool = False,
) -> Frames:
    """Frames of a video with their landmark images; with ``pupils`` these show them where they are known."""
    images, points = store.read(number, frames, pupils)
    y = draw_all(points, profile.data.image_size, profile.few_shot.landmark_images.line_width)
    return Frames(images, points[:, :68], to_tensor(images, device), to_tensor(y, device))


# -- cells ------------------------------------------------------------------------------------------
def cell_key(profile: Profile) -> str:
    """Changes with every section that generated frames depend on, and with the versions of the code."""
    section = profile.few_shot
    return digest(
        VERSION,
        fine_tuning.VERSION,
        baselines.VERSION,
        profile.seed,
        profile.data,
        section.landmark_images,
        section.networks,
        section.losses,
        section.optimiser,
        section.fine_tuning,
        section.pix2pixhd,
    )


def cells_in(folder: Path, store: Store, profile: Profile) -> Path:
    """The folder of the cells of these settings, identities, frames, feature networks and versions."""
    frames = [(t.identity, t.number, t.few_shot.tolist(), t.hold_out.tolist()) for t in tasks(store, profile)]
    extractors = [embedded_digest(name) for name in profile.few_shot.losses.extractors]
    return folder / digest(cell_key(profile), store.digest(), frames, extractors)


def run_cells(
    folder: Path,
    store: Store,
    profile: Profile,
    methods: Sequence[Method],
    shots: Sequence[int],
    device: torch.device,
    shard: Shard | None = None,
) -> list[Path]:
    """Compute what is missing below ``folder``, or of a shard of the cells; returns the files of all cells.

    A cell holds the true frames, a source frame, and of every method the frames, the losses of its
    fine-tuning and its key. Frames of another key are computed anew, and dropped at every other
    T; cells of other settings lie in another folder.
    """
    folder = cells_in(folder, store, profile)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*_seed*.npz"):
        if shard is None or shard.holds(*Cell.of(path)):
            drop_stale(path, methods)
    paths: list[Path] = []
    missing: list[tuple[Cell, Task, Method]] = []
    for seed in range(profile.protocol.seeds):
        for task in tasks(store, profile):
            for t in shots:
                cell = Cell(task.identity, task.number, t, seed)
                paths.append(folder / cell.file)
                if shard is None or shard.holds(*cell):
                    missing += [(cell, task, method) for method in missing_in(paths[-1], methods)]
    missing.sort(key=lambda item: -item[0].t)  # the longest first, so that no thread waits at the end
    progress = Progress("evaluating", len(missing), "sets of frames")
    lock = threading.Lock()

    def compute(item: tuple[Cell, Task, Method]) -> None:
        cell, task, method = item
        train = load(store, task.number, task.few_shot[: cell.t], profile, device)
        test = load(store, task.number, task.hold_out, profile, device)
        arrays = {
            "truth": test.images,
            "points": test.points,
            "source": train.images[0],
            "pose distance": pose_distance(train, test),
            **_arrays(method, train, test, cell.seed),
        }
        with lock:
            add_to_cell(folder / cell.file, arrays)
        progress.add(1)

    devices.in_threads(compute, missing, device)
    return paths


def _arrays(method: Method, train: Frames, test: Frames, seed: int) -> dict[str, np.ndarray]:
    """A method's arrays of a cell."""
    frames, rows = method.generate(train, test, seed)
    losses = [[row.get(name, np.nan) for name in LOSSES] for row in rows]
    return {
        method.name: frames,
        key_of(method.name): np.array(method.key),
        losses_of(method.name): np.array(losses, np.float32),
    }


def find_cells(folder: Path, store: Store, profile: Profile) -> list[Path]:
    """The cells of these settings and seeds that are there. Raises FileNotFoundError where there are none."""
    files = sorted(cells_in(folder, store, profile).glob("*_seed*.npz"))
    paths = [path for path in files if Cell.of(path).seed < profile.protocol.seeds]
    if not paths:
        raise FileNotFoundError(f"{folder}: no evaluated frames; run chapter 05_comparison first")
    return paths


def pose_distance(train: Frames, test: Frames) -> np.ndarray:
    """Distance (n,) of each held-out frame's landmarks to the nearest training frame's, over that between the
    eyes.
    """
    distances = np.linalg.norm(train.points[None] - test.points[:, None], axis=-1).mean(-1).min(1)
    return distances / interocular(test.points)


def other_videos(store: Store, profile: Profile) -> dict[str, list[np.ndarray]]:
    """Real frames of each of an evaluated identity's other videos, among which a fake is hidden.

    Raises ValueError where an identity has none.
    """
    chosen = tasks(store, profile)
    learned, videos = {task.number for task in chosen}, store.identities()
    frames = {}
    for task in chosen:
        numbers = [number for number in videos[task.identity] if number not in learned]
        if not numbers:
            raise ValueError(f"{task.identity}: has one video only; a triplet needs real frames of others")
        frames[task.identity] = [
            store.read(number, spread(store.frame_count(number), REAL_FRAMES))[0] for number in numbers
        ]
    return frames
