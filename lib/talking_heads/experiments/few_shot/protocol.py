"""Self-reenactment (section 4): T frames of a video's first half to learn from, held-out frames of its second
half.

A *cell* is one identity at one T and one fine-tuning seed, for all methods on the same frames. Cells are
written as soon as they are computed, so an evaluation may be interrupted and goes on; metrics are computed
from them.
"""

import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from talking_heads import devices
from talking_heads.config import Profile, digest
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all, interocular, openings
from talking_heads.data.prepare_video import spread
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot.methods import (
    BEFORE,
    FAMILY,
    FEED_FORWARD,
    MEAN,
    NEAREST,
    OURS_BEFORE,
    TRIVIAL,
    X2FACE,
    Method,
)
from talking_heads.few_shot import fine_tuning
from talking_heads.few_shot.baselines import training as baselines
from talking_heads.files import replacing
from talking_heads.judges.faces import Face
from talking_heads.metrics import recogniser
from talking_heads.metrics.images import sharpness, ssim
from talking_heads.metrics.landmarks import landmark_error
from talking_heads.nn.perceptual import embedded_digest
from talking_heads.progress import Progress
from talking_heads.shards import Shard

VERSION = 1  # of the choice of frames: raised when the same corpus and settings give other frames
GAP = 1.0  # seconds between the last few-shot candidate and the first held-out frame of a clip
REAL_FRAMES = 32  # of every other video, at most
# methods whose frames do not depend on the fine-tuning seed
NOT_TUNED = (*TRIVIAL, X2FACE, OURS_BEFORE, BEFORE, FEED_FORWARD)
LOSSES = ("cnt", "adv", "fm", "dsc", "r_real", "r_fake", "grad_norm")


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


class Cell(NamedTuple):
    """What the name of a cell's file says."""

    identity: str
    video: int
    t: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.identity}_video{self.video}_T{self.t}_seed{self.seed}.npz"

    @classmethod
    def of(cls, path: Path) -> "Cell":
        """The cell of a file."""
        identity, video, t, seed = path.stem.rsplit("_", 3)
        return cls(identity, int(video.removeprefix("video")), int(t[1:]), int(seed.removeprefix("seed")))


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


def key_of(name: str) -> str:
    """The array of a cell that holds a method's key."""
    return f"weights of {name}"


def losses_of(name: str) -> str:
    """The array of a cell that holds a method's losses, a column for each of ``LOSSES``."""
    return f"losses of {name}"


@contextmanager
def opened_cell(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a cell. Raises ValueError, which names the file, where it is damaged."""
    remedy = "delete it and run the same command again, which computes it anew"
    try:
        opened = np.load(path)
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: a damaged cell of the evaluation ({error}); {remedy}") from error
    try:
        with opened as cell:
            yield cell
    except (BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: a damaged cell of the evaluation ({error}); {remedy}") from error


def add_to_cell(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to a cell, which is made if it is not there."""
    if path.exists():
        with opened_cell(path) as cell:
            arrays = {**cell, **arrays}
    save_cell(path, arrays)


def save_cell(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a cell; it appears by rename."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict[str, Any](arrays))


def drop_stale(path: Path, methods: Sequence[Method]) -> None:
    """Remove from a cell the frames of these methods that have another key."""
    with opened_cell(path) as cell:
        stale = {m.name for m in methods if key_of(m.name) in cell and str(cell[key_of(m.name)]) != m.key}
        if not stale:
            return
        kept = {name: cell[name] for name in cell if name.split(" of ", 1)[-1] not in stale}
    save_cell(path, kept)


def missing_in(path: Path, methods: Sequence[Method]) -> list[Method]:
    """The methods whose frames, of their present key, a cell does not hold."""
    if not path.exists():
        return list(methods)
    with opened_cell(path) as cell:
        return [m for m in methods if key_of(m.name) not in cell or str(cell[key_of(m.name)]) != m.key]


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


# -- metrics ----------------------------------------------------------------------------------------
class Judged(NamedTuple):
    """Frames (n, S, S, 3) uint8 with what is found in their faces."""

    images: np.ndarray
    face: Face

    @property
    def features(self) -> np.ndarray:
        """Identity features (n, d)."""
        assert self.face.features is not None
        return self.face.features

    @classmethod
    def of(
        cls, images: np.ndarray, points: np.ndarray, *, real: bool = False, device: str | torch.device = "cpu"
    ) -> "Judged":
        """Frames (n, S, S, 3) uint8 of faces at ``points`` (n, 68, 2), with NaN for what is found in ``real``
        people where dlib is missing.
        """
        if real and not recogniser.is_installed():
            return cls(images, Face.unknown(len(images)))
        return cls(images, Face.of(images, points, real=real, device=device))


def compare(generated: Judged, truth: Judged, points: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric (n,) of generated frames against true ones, whose landmarks are ``points`` (n, 68, 2):
    exact ones, or those that are found in the same way (:meth:`Face.true_points`).
    """
    return {
        "SSIM": np.array([ssim(a, b) for a, b in zip(generated.images, truth.images, strict=True)]),
        generated.face.similarity: generated.face.similarity_to(truth.face),
        "landmark error": landmark_error(generated.face.landmarks, points),
        "sharpness": sharpness(generated.images) / sharpness(truth.images),
    }


def scores(
    images: np.ndarray,
    truth: np.ndarray,
    points: np.ndarray,
    *,
    real: bool = False,
    device: str | torch.device = "cpu",
) -> dict[str, np.ndarray]:
    """:func:`compare` of frames (n, S, S, 3) uint8."""
    generated, true = (Judged.of(frames, points, real=real, device=device) for frames in (images, truth))
    return compare(generated, true, true.face.true_points(points))


class Features(NamedTuple):
    """Features (n, d) of generated and true frames, and the identity and fine-tuning seed (n,) of each."""

    generated: np.ndarray
    true: np.ndarray
    identity: np.ndarray
    seed: np.ndarray


def measured_in(cell: Mapping[str, np.ndarray], names: Sequence[str], seed: int) -> list[str]:
    """The methods of a cell that count: those that are not fine-tuned at the first seed alone."""
    return [name for name in names if name in cell and not (seed and name in NOT_TUNED)]


def measure(
    paths: Sequence[Path], names: Sequence[str], device: str | torch.device = "cpu", *, real: bool = False
) -> tuple[pd.DataFrame, dict[tuple[str, int], Features]]:
    """One row for every method, T, identity, video, seed and held-out frame; and the judge's features by
    (method, T), none of ``real`` people.

    Methods that do not depend on the seed are measured once, and so are true frames.
    """
    by_video: dict[tuple[str, int], list[Path]] = {}
    for path in paths:
        by_video.setdefault(Cell.of(path)[:2], []).append(path)

    def measure_video(cells: list[Path]) -> list[tuple[pd.DataFrame, Features]]:
        truth, results = None, []
        for path in cells:
            truth, measured = measure_cell(path, names, truth, device, real=real)
            results += measured
        return results

    measured = list(chain.from_iterable(devices.in_threads(measure_video, by_video.values(), device)))
    features: dict[tuple[str, int], list[Features]] = {}
    for rows, frame_features in () if real else measured:
        features.setdefault((rows["method"].iloc[0], rows["T"].iloc[0]), []).append(frame_features)
    frames = pd.concat([rows for rows, _ in measured], ignore_index=True)
    return frames, {key: concatenate(parts) for key, parts in features.items()}


def measure_cell(
    path: Path,
    names: Sequence[str],
    truth: Judged | None,
    device: str | torch.device = "cpu",
    *,
    real: bool = False,
) -> tuple[Judged, list[tuple[pd.DataFrame, Features]]]:
    """The true frames of a cell, and for every method its rows and features.

    ``truth`` are the true frames of another cell, and are used again where they are the same.
    """
    which, results = Cell.of(path), []
    with opened_cell(path) as cell:
        points = cell["points"]
        if truth is None or not np.array_equal(truth.images, cell["truth"]):
            truth = Judged.of(cell["truth"], points, real=real, device=device)
        true_points = truth.face.true_points(points)
        true_mouth, true_eyes = openings(true_points)
        for method in measured_in(cell, names, which.seed):
            generated = Judged.of(cell[method], points, real=real, device=device)
            mouth, eyes = openings(generated.face.landmarks)
            row = {
                "method": method,
                "T": which.t,
                "identity": which.identity,
                "video": which.video,
                "seed": which.seed,
                "frame": np.arange(len(points)),
                **compare(generated, truth, true_points),
                "pose distance": cell["pose distance"],
                "mouth": mouth,
                "true mouth": true_mouth,
                "eyes": eyes,
                "true eyes": true_eyes,
            }
            frame_features = Features(
                generated.features,
                truth.features,
                np.full(len(points), which.identity),
                np.full(len(points), which.seed),
            )
            results.append((pd.DataFrame(row), frame_features))
    return truth, results


def concatenate(parts: Sequence[Features]) -> Features:
    """Features of several cells."""
    return Features(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def tuning_logs(paths: Sequence[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Losses of the fine-tunings of cells, by method: a row for each step, identity, video and seed."""
    logs: dict[str, list[pd.DataFrame]] = {}
    for path in paths:
        which = Cell.of(path)
        with opened_cell(path) as cell:
            for name in names:
                if losses_of(name) not in cell or not len(cell[losses_of(name)]):
                    continue
                log = pd.DataFrame(cell[losses_of(name)], columns=list(LOSSES), dtype=float)
                log = log.assign(
                    step=log.index + 1, identity=which.identity, video=which.video, seed=which.seed
                )
                logs.setdefault(name, []).append(log)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in logs.items()}


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


def fakes(
    paths: Sequence[Path], names: Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Generated frames by "method@T" and identity, and the family of methods that each belongs to."""
    frames: dict[str, dict[str, np.ndarray]] = {}
    for path in paths:
        which = Cell.of(path)
        with opened_cell(path) as cell:
            for name in names:
                if name not in cell:
                    continue
                by_identity = frames.setdefault(f"{name}@{which.t}", {})
                earlier = [by_identity[which.identity]] if which.identity in by_identity else []
                by_identity[which.identity] = np.concatenate([*earlier, cell[name]])
    families = {label: FAMILY.get(label.split("@")[0], label.split("@")[0]) for label in frames}
    if f"{MEAN}@1" in frames:
        families[f"{MEAN}@1"] = NEAREST  # of one training frame both are that frame
    return frames, families


def per_identity(frames: pd.DataFrame, method: str, t: int, metric: str) -> pd.Series:
    """A metric's mean for each identity (over frames and seeds), sorted by identity; none where it was not
    measured.
    """
    rows = frames[(frames["method"] == method) & (frames["T"] == t) & frames[metric].notna()]
    return rows.groupby("identity")[metric].mean().sort_index()
