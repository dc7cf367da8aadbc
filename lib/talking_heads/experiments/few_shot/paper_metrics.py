"""FID, KID and CSIM of evaluated frames, where Inception and ArcFace have been fetched."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from talking_heads.experiments.few_shot.cells import Cell, opened_cell
from talking_heads.experiments.few_shot.frame_metrics import Features, concatenate, measured_in
from talking_heads.metrics import distances, inception
from talking_heads.metrics.statistics import identity_means, per_seed

Key = tuple[str, int]  # method, T
ARCFACE_CSIM = "CSIM"
DISTANCES = {"FID": distances.frechet_distance, "KID": distances.kernel_distance}


@dataclass
class PaperMetrics:
    """Inception's features and ArcFace's similarities of every frame, by (method, T); empty where a network
    is missing.

    Frames come in the order of :func:`frame_metrics.measure`.
    """

    inception: dict[Key, Features] = field(default_factory=dict)
    csim: dict[Key, np.ndarray] = field(default_factory=dict)
    identities: dict[Key, np.ndarray] = field(default_factory=dict)

    def summary(self) -> dict[tuple[str, int, str], float | np.ndarray]:
        """FID, KID (means over seeds) and every identity's CSIM by (method, T, metric)."""
        values: dict[tuple[str, int, str], float | np.ndarray] = {}
        for (method, t), features in self.inception.items():
            rows = np.column_stack([features.generated, features.true, features.seed])
            needed = distances.fewest_samples(features.true.shape[1])
            enough = distances.samples_of_a_seed(features.seed) >= needed
            for metric in DISTANCES:
                values[method, t, metric] = per_seed(_of_halves(metric))(rows) if enough else float("nan")
        for (method, t), csim in self.csim.items():
            values[method, t, ARCFACE_CSIM] = identity_means(csim, self.identities[method, t])
        return values


def _of_halves(metric: str):
    """A distance between the two halves of the columns of rows (n, 2d)."""
    distance = DISTANCES[metric]
    return lambda rows: distance(*np.split(rows, 2, axis=1))


def _network(load: Any, device: str | torch.device) -> Any:
    """A fetched network, or None and a line about what is missing."""
    try:
        return load(device)
    except (FileNotFoundError, ValueError) as error:
        print(f"  not measured: {error}")
        return None


def arcface_session(device: str | torch.device = "cpu") -> Any:
    """ArcFace where it has been fetched, else None and a line about what is missing."""
    return _network(inception.arcface, device)


def measure(paths: Sequence[Path], names: Sequence[str], device: str | torch.device = "cpu") -> PaperMetrics:
    """The paper's own metrics of cells; features of true frames are computed once."""
    network, session = _network(inception.inception, device), arcface_session(device)
    features: dict[Key, list[Features]] = {}
    similarities: dict[Key, list[np.ndarray]] = {}
    identities: dict[Key, list[np.ndarray]] = {}
    true: dict[tuple[str, int], tuple[np.ndarray, Any, Any]] = {}
    for path in paths if network or session else ():
        which = Cell.of(path)
        with opened_cell(path) as cell:
            truth, points, video = cell["truth"], cell["points"], (which.identity, which.video)
            if video not in true or not np.array_equal(true[video][0], truth):
                true_inception = inception.inception_features(truth, network) if network else None
                true_arcface = inception.arcface_features(truth, points, session) if session else None
                true[video] = truth, true_inception, true_arcface
            _, true_inception, true_arcface = true[video]
            for method in measured_in(cell, names, which.seed):
                key, images = (method, which.t), cell[method]
                who = np.full(len(truth), which.identity)
                identities.setdefault(key, []).append(who)
                if network:
                    generated = inception.inception_features(images, network)
                    seeds = np.full(len(truth), which.seed)
                    features.setdefault(key, []).append(Features(generated, true_inception, who, seeds))
                if session:
                    generated = inception.arcface_features(images, points, session)
                    similarities.setdefault(key, []).append(distances.cosine(generated, true_arcface))
    return PaperMetrics(
        {key: concatenate(parts) for key, parts in features.items()},
        {key: np.concatenate(parts) for key, parts in similarities.items()},
        {key: np.concatenate(parts) for key, parts in identities.items()},
    )
