"""Metrics of frames (section 4), and those of the cells of an evaluation."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from talking_heads import devices
from talking_heads.data.landmarks import openings
from talking_heads.experiments.few_shot.cells import LOSSES, Cell, losses_of, opened_cell
from talking_heads.experiments.few_shot.methods import (
    BEFORE,
    FAMILY,
    FEED_FORWARD,
    MEAN,
    NEAREST,
    OURS_BEFORE,
    TRIVIAL,
    X2FACE,
)
from talking_heads.judges.faces import Face
from talking_heads.metrics import recogniser
from talking_heads.metrics.images import sharpness, ssim
from talking_heads.metrics.landmarks import landmark_error

# methods whose frames do not depend on the fine-tuning seed
NOT_TUNED = (*TRIVIAL, X2FACE, OURS_BEFORE, BEFORE, FEED_FORWARD)


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
