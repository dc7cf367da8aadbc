"""What the explanations of verdicts are based on: metrics, losses and distances, as numbers and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from talking_heads.experiments.explanations import NotShown, interval_text
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.cells import Cell, opened_cell
from talking_heads.experiments.few_shot.claim_parts import (
    Evidence,
    Setting,
    compare_metric,
    far_frames,
    frame_means,
    mean_distance,
)
from talking_heads.experiments.few_shot.frame_metrics import per_identity, tuning_logs
from talking_heads.judges import use as judges
from talking_heads.metrics.distances import fewest_samples, samples_of_a_seed
from talking_heads.metrics.landmarks import landmark_error

LAST_STEPS = 5  # of a fine-tuning: their mean is its end


class NearAndFar(NamedTuple):
    """Means of a metric on the half of the frames near to the training frames, and on the other half."""

    near: float
    far: float


@dataclass
class Measurements:
    """The evidence, the losses of the fine-tunings at the middle T, and the error of the landmark judge.

    Methods without a ``t`` refer to the middle T. They raise NotShown for what was not run.
    """

    evidence: Evidence
    losses: Mapping[str, pd.DataFrame]  # as of :func:`frame_metrics.tuning_logs`
    judge_error: float  # landmark error of the judge on true frames; NaN of real people

    @property
    def similarity(self) -> str:
        """The name of the identity similarity."""
        return self.evidence.similarity_metric

    def mean(self, method: str, metric: str, t: int | None = None) -> float:
        """Mean of a metric over identities."""
        values = per_identity(self.evidence.frames, method, t or self.evidence.t, metric)
        if values.empty:
            raise NotShown(method)
        return float(values.mean())

    def difference(self, metric: str, first: str, second: str, t: int | None = None) -> str:
        """How much better ``first`` is than ``second`` at one T, with the interval, as text."""
        t = t or self.evidence.t
        return self._difference(metric, Setting(first, t), Setting(second, t))

    def gain_by_frames(self, metric: str, method: str, fewer: int, more: int) -> str:
        """How much better a method is at the larger T, with the interval, as text."""
        return self._difference(metric, Setting(method, more), Setting(method, fewer))

    def _difference(self, metric: str, first: Setting, second: Setting) -> str:
        part = compare_metric(self.evidence, metric, first, second)
        if part.missing:
            raise NotShown(part.missing)
        return interval_text(part.estimate.value, part.estimate.low, part.estimate.high)

    def loss(self, method: str, name: str) -> "pd.Series[float]":
        """A loss of a method's fine-tunings by step, mean over identities and seeds."""
        if method not in self.losses or self.losses[method][name].isna().all():
            raise NotShown(f"losses of {method}")
        return self.losses[method].groupby("step")[name].mean()

    def score_gap(self, method: str) -> "pd.Series[float]":
        """By how much D′ scores true frames above generated ones in a method's fine-tunings, by step."""
        return self.loss(method, "r_real") - self.loss(method, "r_fake")

    def distance(self, method: str, t: int | None = None) -> float:
        """The Fréchet distance, mean over seeds; too few frames count as not run."""
        features = self.evidence.features.get((method, t or self.evidence.t))
        if features is None or samples_of_a_seed(features.seed) < fewest_samples(features.true.shape[1]):
            raise NotShown(method)
        return mean_distance(np.column_stack([features.generated, features.true, features.seed]))

    def by_pose_distance(self, method: str, metric: str) -> NearAndFar:
        """Means of a metric over frames near to the training frames and far from them."""
        means = frame_means(self.evidence, method)
        if means.empty:
            raise NotShown(method)
        far = far_frames(means)
        return NearAndFar(float(means[metric][~far].mean()), float(means[metric][far].mean()))

    def observer_rates(self, method: str) -> "pd.Series[float]":
        """How often the observer finds a method's fakes, by identity."""
        rates = self.evidence.observer_rates
        if rates is None or rates.empty:
            raise NotShown("the observer")
        by_identity = per_identity(rates, method, self.evidence.t, "USER-proxy")
        if by_identity.empty:
            raise NotShown(f"the observer on {method}")
        return by_identity


def end_of(loss: "pd.Series[float]") -> float:
    """Mean of a loss over the last steps."""
    return float(loss.iloc[-LAST_STEPS:].mean())


def collect(
    evidence: Evidence, cells: Sequence[Path], device: str | torch.device = "cpu", *, real: bool = False
) -> Measurements:
    """Read from the cells of the middle T what the explanations need."""
    paths = [path for path in cells if Cell.of(path).t == evidence.t]
    errors = []
    for path in paths:
        if Cell.of(path).seed == 0 and not real:
            with opened_cell(path) as cell:
                landmarks = judges.find_landmarks(cell["truth"], device)
                errors.append(landmark_error(landmarks, cell["points"]).mean())
    fine_tuned = (methods.AFTER, methods.OURS, *methods.ABLATIONS)
    return Measurements(
        evidence, tuning_logs(paths, fine_tuned), float(np.mean(errors)) if errors else np.nan
    )
