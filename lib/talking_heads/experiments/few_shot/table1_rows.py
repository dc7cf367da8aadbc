"""The rows of Table 1: every metric of a method at one T, with its interval over identities."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from talking_heads.config import Profile
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.frame_metrics import Features, per_identity
from talking_heads.experiments.few_shot.paper_numbers import (
    corpus_name,
    is_comparable,
    paper_value,
    verdict,
)
from talking_heads.judges.faces import CSIM_JUDGE, similarity_metric
from talking_heads.metrics import distances, recogniser
from talking_heads.metrics.statistics import Estimate, correlation, jackknife, mean_estimate, per_seed

METRICS = [
    "FID",
    "SSIM",
    "CSIM",
    "USER",
    "FD-judge",
    "KD-judge x 1000",
    CSIM_JUDGE,
    recogniser.CSIM,
    "USER-proxy",
    "landmark error",
    "mouth correlation",
    "eyes correlation",
    "KID",
]
ONLY_DRAWN = ("FD-judge", "KD-judge x 1000", CSIM_JUDGE)  # metrics of procedural speakers
# the mean of a metric cannot lie outside; Student's interval of few identities can
BOUNDS: dict[str, tuple[float, float]] = {
    "USER-proxy": (0, 1),
    "landmark error": (0, np.inf),
    "SSIM": (-1, 1),
    "CSIM": (-1, 1),
    CSIM_JUDGE: (-1, 1),
    recogniser.CSIM: (-1, 1),
    "mouth correlation": (-1, 1),
    "eyes correlation": (-1, 1),
}
OPENINGS = ("mouth", "eyes")
# metrics of networks that are fetched, and the commands that fetch them
FETCH_COMMANDS = {
    "FID": "weights fetch inception",
    "KID": "weights fetch inception",
    "CSIM": "weights fetch arcface and pip install onnxruntime",
}
FACES_COMMAND = "./run_all.sh --with faces"  # of what dlib measures in real people
INCEPTION_FEATURES = 2048
NAN = float("nan")
NO_ESTIMATE = Estimate(NAN, NAN, NAN)


def metrics_of(profile: Profile) -> list[str]:
    """The metrics of Table 1, without those that do not apply to a profile's identities."""
    left_out = ONLY_DRAWN if profile.data.real else (recogniser.CSIM,)
    return [metric for metric in METRICS if metric not in left_out]


@dataclass
class Measured:
    """What Table 1 is computed from.

    ``frames`` and ``features`` are what :func:`frame_metrics.measure` returns, ``fetched`` what
    :meth:`paper_metrics.PaperMetrics.summary` returns: a number, or an array with one for each identity, by
    (method, T, metric). ``observed`` has columns method, T, identity and USER-proxy; ``users`` is what
    :func:`user_study.accuracy` returns.
    """

    frames: pd.DataFrame
    features: Mapping[tuple[str, int], Features]
    fetched: Mapping[tuple[str, int, str], float | np.ndarray] = field(default_factory=dict)
    observed: pd.DataFrame | None = None
    users: pd.DataFrame | None = None


@dataclass(frozen=True)
class Sample:
    """How much a number is computed from."""

    n_identities: int
    n_frames: int
    n_seeds: int


@dataclass(frozen=True)
class Row:
    """One metric of one method at one T."""

    method: str
    t: int
    metric: str
    sample: Sample
    estimate: Estimate = NO_ESTIMATE
    seed_sd: float = NAN  # standard deviation between fine-tuning seeds
    needs: str = ""  # what is missing where there is no value

    def record(self, profile: Profile, run_id: str) -> dict[str, Any]:
        """The row with the paper's number and the verdict, by column."""
        estimate = self._bounded_estimate()
        paper = paper_value(self.method, self.t, self.metric)
        size = methods.CORPUS.get(self.method, "")
        return {
            "corpus": f"{corpus_name(profile)}, {size}" if size else corpus_name(profile),
            "method": self.method,
            "T": self.t,
            "metric": self.metric,
            "value": estimate.value,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "n_identities": self.sample.n_identities,
            "n_frames": self.sample.n_frames,
            "n_seeds": self.sample.n_seeds,
            "seed_sd": self.seed_sd,
            "paper_value": paper,
            "verdict": verdict(self.metric, estimate, paper, is_comparable(profile, self.method)),
            "run_id": run_id,
            "needs": self.needs,
        }

    def _bounded_estimate(self) -> Estimate:
        """The estimate with its interval cut at the metric's bounds."""
        lowest, highest = BOUNDS.get(self.metric, (-np.inf, np.inf))
        low, high = np.clip([self.estimate.low, self.estimate.high], lowest, highest).tolist()
        return self.estimate._replace(low=low, high=high)


class MethodRows:
    """Builds the rows of one method at one T; a function for each family of metrics."""

    def __init__(self, measured: Measured, method: str, t: int):
        self.measured, self.method, self.t = measured, method, t
        self.frames = self._select(measured.frames)
        self.sample = Sample(
            self.frames["identity"].nunique(), len(self.frames), self.frames["seed"].nunique()
        )

    def build(self, profile: Profile) -> list[Row]:
        """Every row, in the order of the table. Without frames no row has a value."""
        if self.frames.empty:
            return self.missing(profile)
        return [
            *self.means(profile.data.real),
            *self.correlations(),
            *([] if profile.data.real else self.judge_distances()),
            *self.observer(),
            *self.fetched_networks(),
            *self.user_study(),
        ]

    def missing(self, profile: Profile) -> list[Row]:
        """Rows without values, because no frames were generated."""
        small = methods.CORPUS.get(self.method) == methods.SMALL
        if small and self.t not in profile.protocol.small_shots:
            needs = "profile laptop-full, or this T in protocol.small_shots"
        else:
            needs = "the method's weights"
        return [self._row(metric, needs=needs) for metric in metrics_of(profile)]

    def means(self, real: bool) -> list[Row]:
        """Means over identities."""
        rows = []
        for metric in ("SSIM", similarity_metric(real), "landmark error"):
            means = per_identity(self.frames, self.method, self.t, metric).to_numpy()
            if not len(means):
                rows.append(self._row(metric, needs=FACES_COMMAND))
                continue
            seed_means = self.frames.groupby("seed")[metric].mean()
            rows.append(self._row(metric, mean_estimate(means), seed_sd=float(seed_means.std())))
        return rows

    def correlations(self) -> list[Row]:
        """How well generated openings of mouth and eyes follow the true ones, over the pooled frames."""
        rows = []
        for opening in OPENINGS:
            columns = [opening, f"true {opening}"]
            if self.frames[opening].isna().all():
                rows.append(self._row(f"{opening} correlation", needs=FACES_COMMAND))
                continue
            by_identity = [part[columns].to_numpy() for _, part in self.frames.groupby("identity")]
            by_seed = [part[columns].to_numpy() for _, part in self.frames.groupby("seed")]
            estimate = pooled_estimate(correlation_of_columns, by_identity)
            seed_sd = standard_deviation([correlation_of_columns(part) for part in by_seed])
            needs = "" if np.isfinite(estimate.value) else "an opening that varies"
            rows.append(self._row(f"{opening} correlation", estimate, seed_sd, needs))
        return rows

    def judge_distances(self) -> list[Row]:
        """Distances between the judge's features of generated and true frames; means over seeds."""
        features = self.measured.features[self.method, self.t]
        needed = distances.fewest_samples(features.generated.shape[1])
        if distances.samples_of_a_seed(features.seed) < needed:
            return [self._row(metric, needs=f"{needed} frames") for metric in JUDGE_DISTANCES]
        has_interval = distances.samples_without_one(features.identity, features.seed) >= needed
        pairs = np.column_stack([features.generated, features.true])
        pairs_and_seed = np.column_stack([pairs, features.seed])  # the layout of per_seed
        identities, seeds = np.unique(features.identity), np.unique(features.seed)
        by_identity = [pairs_and_seed[features.identity == identity] for identity in identities]
        by_seed = [pairs[features.seed == seed] for seed in seeds]
        rows = []
        for metric, distance in JUDGE_DISTANCES.items():
            statistic = per_seed(distance)
            if has_interval:
                estimate = jackknife(statistic, by_identity)
            else:
                estimate = Estimate(statistic(pairs_and_seed), NAN, NAN)
            seed_sd = standard_deviation([distance(part) for part in by_seed])
            rows.append(self._row(metric, estimate, seed_sd))
        return rows

    def observer(self) -> list[Row]:
        """How often an observer network finds the fakes (see :mod:`metrics.observer`)."""
        observed = self._select(self.measured.observed)
        if observed.empty:
            return [self._row("USER-proxy", needs="an observer (protocol.observer_steps, as in laptop-full)")]
        return [self._row("USER-proxy", mean_estimate(observed["USER-proxy"].to_numpy()))]

    def fetched_networks(self) -> list[Row]:
        """FID and KID on Inception, CSIM on ArcFace."""
        measured_metrics = {metric for _, _, metric in self.measured.fetched}
        rows = []
        for metric, command in FETCH_COMMANDS.items():
            value = self.measured.fetched.get((self.method, self.t, metric), NAN)
            if isinstance(value, np.ndarray):
                rows.append(self._row(metric, mean_estimate(value)))
            elif np.isfinite(value):
                rows.append(self._row(metric, Estimate(value, NAN, NAN)))
            elif metric in measured_metrics:
                needed = distances.fewest_samples(INCEPTION_FEATURES)
                rows.append(self._row(metric, needs=f"{needed} frames"))
            else:
                rows.append(self._row(metric, needs=command))
        return rows

    def user_study(self) -> list[Row]:
        """How often raters find the fakes (see :mod:`metrics.user_study`)."""
        users = self._select(self.measured.users)
        if users.empty:
            return [self._row("USER", needs="answers of raters, see chapter 12")]
        score = users.iloc[0]
        estimate = Estimate(float(score["USER"]), float(score["ci_low"]), float(score["ci_high"]))
        sample = Sample(int(score["identities"]), int(score["answers"]), 1)
        return [Row(self.method, self.t, "USER", sample, estimate)]

    def _select(self, table: pd.DataFrame | None) -> pd.DataFrame:
        """The lines of this method at this T; an empty table for None."""
        if table is None:
            return pd.DataFrame()
        return table[(table["method"] == self.method) & (table["T"] == self.t)]

    def _row(
        self, metric: str, estimate: Estimate = NO_ESTIMATE, seed_sd: float = NAN, needs: str = ""
    ) -> Row:
        return Row(self.method, self.t, metric, self.sample, estimate, seed_sd, needs)


def pooled_estimate(statistic: Callable[[np.ndarray], float], parts: Sequence[np.ndarray]) -> Estimate:
    """:func:`statistics.jackknife` of identities' rows; of one identity alone without an interval."""
    return jackknife(statistic, parts) if len(parts) > 1 else Estimate(statistic(parts[0]), NAN, NAN)


def standard_deviation(values: Sequence[float]) -> float:
    """Standard deviation (n − 1 in the denominator); NaN of one value."""
    return float(pd.Series(values).std())


def correlation_of_columns(rows: np.ndarray) -> float:
    """Pearson's correlation of the two columns of rows (n, 2)."""
    return correlation(rows[:, 0], rows[:, 1])


def frechet_of_halves(rows: np.ndarray) -> float:
    """Fréchet distance between the generated and the true half of feature rows (n, 2d)."""
    generated, true = np.split(rows, 2, axis=1)
    return distances.frechet_distance(generated, true)


def kernel_of_halves(rows: np.ndarray) -> float:
    """1000 times the kernel distance between the generated and the true half of feature rows (n, 2d).

    The judge's features have length 1, while the kernel is made for components of size 1: they are scaled.
    """
    generated, true = np.split(rows, 2, axis=1)
    scale = generated.shape[1] ** 0.5
    return 1000 * distances.kernel_distance(generated * scale, true * scale, paired=True)


JUDGE_DISTANCES = {"FD-judge": frechet_of_halves, "KD-judge x 1000": kernel_of_halves}
