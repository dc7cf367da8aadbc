"""What talking heads of unseen identities must reach for their weights to be kept.

The criteria and their statistics were committed before the evaluation that decides. Means are over
identities; comparisons are paired, and hold where the interval of the difference does not contain zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from talking_heads.experiments.diffused.protocol import FROZEN, LMD, OTHER_SOUND, OURS, SECOND, Measured
from talking_heads.metrics.statistics import Estimate, identity_means, mean_estimate, paired

Estimator = Callable[[Measured], Estimate]


@dataclass(frozen=True)
class Criterion:
    """A statement about the evaluation clips, and the range in which its estimate must lie."""

    name: str
    estimate: Estimator
    least: float = -np.inf
    most: float = np.inf
    of_interval: bool = False  # whether the whole interval must lie in the range, or the value alone

    def holds(self, estimate: Estimate) -> bool:
        """Whether an estimate is in the range; one without a value or interval is not."""
        low, high = (estimate.low, estimate.high) if self.of_interval else (estimate.value, estimate.value)
        return bool(self.least <= low and high <= self.most)


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
    """CSIM-judge in the first two seconds."""
    return mean_estimate(_by_identity(measured, OURS, "CSIM-judge", 2 * SECOND))


def similarity_change(measured: Measured) -> Estimate:
    """CSIM-judge over the whole clip minus that in the first second."""
    return paired(*(_by_identity(measured, OURS, "CSIM-judge", frames) for frames in (None, SECOND)))


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
    Criterion(f"LMD, minus {FROZEN}", lmd_difference(FROZEN), most=0.0, of_interval=True),
    Criterion(f"LMD, minus {OTHER_SOUND}", lmd_difference(OTHER_SOUND), most=0.0, of_interval=True),
    Criterion("CSIM-judge, first two seconds", similarity, least=0.80),
    Criterion("CSIM-judge, whole clip minus first second", similarity_change, least=-0.10),
    Criterion("mouth closed in silence", of_clips("mouth closed in silence"), least=0.90),
    Criterion("blinks, relative to true clips", blink_ratio, least=0.5, most=2.0),
)


def check(measured: Measured) -> pd.DataFrame:
    """A row for each criterion: its name, value, interval, range, and whether it holds."""
    rows = []
    for criterion in CRITERIA:
        estimate = criterion.estimate(measured)
        rows.append(
            {
                "criterion": criterion.name,
                "value": estimate.value,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "least": criterion.least,
                "most": criterion.most,
                "holds": criterion.holds(estimate),
            }
        )
    return pd.DataFrame(rows)
