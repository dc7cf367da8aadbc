"""What talking heads of unseen identities should reach.

The criteria and their statistics were committed before the evaluation that decides. Means are over
identities. Comparisons with another row are paired, and hold where the whole interval of the difference is
below zero. Fewer than ``IDENTITIES`` or clips shorter than ``SECONDS`` decide nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from talking_heads.experiments.diffused.clip_metrics import LMD
from talking_heads.experiments.diffused.protocol import FROZEN, OTHER_SOUND, OURS, Measured
from talking_heads.judges.faces import CSIM_JUDGE, similarity_in
from talking_heads.metrics.lip_sync import SECOND
from talking_heads.metrics.statistics import Estimate, identity_means, mean_estimate, paired

Estimator = Callable[[Measured], Estimate]
IDENTITIES, SECONDS = 24, 6
ROWS = (OURS, OTHER_SOUND, FROZEN)  # that the criteria read


@dataclass(frozen=True)
class Criterion:
    """A statement about the evaluation clips, and the range in which its estimate must lie."""

    name: str
    estimate: Estimator
    least: float = -np.inf
    most: float = np.inf

    def holds(self, estimate: Estimate) -> bool:
        """Whether the value is in the range; NaN is not."""
        return bool(self.least <= estimate.value <= self.most)


@dataclass(frozen=True)
class Comparison(Criterion):
    """A statement that a difference is certainly below zero."""

    most: float = 0.0

    def holds(self, estimate: Estimate) -> bool:
        """Whether the whole interval is below zero."""
        return estimate.high < 0


def of_clips(metric: str, method: str = OURS) -> Estimator:
    """The mean of a metric of whole clips."""

    def estimate(measured: Measured) -> Estimate:
        rows = measured.clips[measured.clips["method"] == method]
        return mean_estimate(rows[metric].dropna().to_numpy(float))

    return estimate


def lmd_difference(method: str) -> Estimator:
    """LMD of our row minus that of another one."""

    def estimate(measured: Measured) -> Estimate:
        return paired(*(_by_identity(measured, row, LMD) for row in (OURS, method)))

    return estimate


def similarity(measured: Measured) -> Estimate:
    """Identity similarity in the first two seconds."""
    metric = similarity_in(measured.frames)
    return mean_estimate(_by_identity(measured, OURS, metric, 2 * SECOND))


def similarity_change(measured: Measured) -> Estimate:
    """Identity similarity over the whole clip minus that in the first second."""
    metric = similarity_in(measured.frames)
    return paired(*(_by_identity(measured, OURS, metric, frames) for frames in (None, SECOND)))


def blink_ratio(measured: Measured) -> Estimate:
    """Blinks in generated clips for each one in true clips; without an interval."""
    rows = measured.clips[measured.clips["method"] == OURS]
    true = rows["true blinks a second"].sum()
    ratio = rows["blinks a second"].sum() / true if true else np.nan
    return Estimate(float(ratio), float("nan"), float("nan"))


def _by_identity(measured: Measured, method: str, metric: str, frames: int | None = None) -> np.ndarray:
    """Means of a metric by identity, of the first ``frames`` frames of a clip."""
    rows = measured.frames[measured.frames["method"] == method]
    if frames is not None:
        rows = rows[rows["frame"] <= frames]
    return identity_means(rows[metric].to_numpy(float), rows["identity"].to_numpy())


CRITERIA = (
    Criterion("correlation of mouth opening", of_clips("mouth opening"), least=0.7),
    Criterion("correlation of mouth width", of_clips("mouth width"), least=0.4),
    Criterion(f"mouth opening, {OTHER_SOUND}", of_clips("mouth opening", OTHER_SOUND), -0.1, 0.1),
    Criterion(f"mouth width, {OTHER_SOUND}", of_clips("mouth width", OTHER_SOUND), -0.1, 0.1),
    Comparison(f"LMD, minus {FROZEN}", lmd_difference(FROZEN)),
    Comparison(f"LMD, minus {OTHER_SOUND}", lmd_difference(OTHER_SOUND)),
    Criterion(f"{CSIM_JUDGE}, first two seconds", similarity, least=0.80),
    Criterion(f"{CSIM_JUDGE}, whole clip minus first second", similarity_change, least=-0.10),
    Criterion("mouth closed in silence", of_clips("mouth closed in silence"), least=0.90),
    Criterion("blinks, relative to true clips", blink_ratio, least=0.5, most=2.0),
)


def check(measured: Measured) -> pd.DataFrame:
    """A row for each criterion: its name, value, interval, range, number of identities, and whether it holds:
    "yes", "no" or "undecided".
    """
    ours = measured.frames[measured.frames["method"] == OURS]
    identities, frames = ours["identity"].nunique(), ours["frame"].max() + 1
    decisive = identities >= IDENTITIES and frames >= SECONDS * SECOND
    rows = []
    for criterion in CRITERIA:
        estimate = criterion.estimate(measured)
        rows.append(
            {
                "criterion": criterion.name.replace(CSIM_JUDGE, similarity_in(measured.frames)),
                "value": estimate.value,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "least": criterion.least,
                "most": criterion.most,
                "n_identities": identities,
                "holds": ("yes" if criterion.holds(estimate) else "no") if decisive else "undecided",
            }
        )
    return pd.DataFrame(rows)
