"""The comparisons that claims consist of: positive where the claim holds, with an interval and a p-value.

Differences are paired by identity. The identity similarity is CSIM where ArcFace is available; elsewhere it
is CSIM-judge, or CSIM-dlib of real people. The Fréchet distance is FID where Inception is available and
FD-judge elsewhere; real people have no other. The name of a part states what was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from talking_heads.experiments.claims import Part
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.frame_metrics import Features, per_identity
from talking_heads.experiments.few_shot.paper_metrics import PaperMetrics
from talking_heads.experiments.few_shot.paper_numbers import orient, paper_value
from talking_heads.experiments.few_shot.table1_rows import FACES_COMMAND, frechet_of_halves
from talking_heads.judges.faces import CSIM_JUDGE, similarity_metric
from talking_heads.metrics.distances import fewest_samples, samples_of_a_seed, samples_without_one
from talking_heads.metrics.statistics import (
    Estimate,
    correlation,
    jackknife,
    mean_estimate,
    paired,
    per_seed,
)

FEWEST_METHODS = 4  # that a correlation over methods needs
# a Fréchet distance of this many features takes seconds: its jackknife leaves out groups of identities
SLOW_DIMENSION = 500
JACKKNIFE_GROUPS = 12


@dataclass
class Evidence:
    """The measurements of a run.

    ``frames`` and ``features`` are those of :func:`frame_metrics.measure`, of Table 1 and of the ablations.
    """

    frames: pd.DataFrame
    features: Mapping[tuple[str, int], Features]  # by (method, T)
    t: int  # the middle T, at which the ablations were run
    observer_rates: pd.DataFrame | None = None  # columns method, T, identity, USER-proxy
    # columns size, method, phase, T, seconds (median), low and high (quartiles)
    timings: pd.DataFrame | None = None
    stability: pd.DataFrame | None = None  # as of :func:`stability.stability`
    shots: tuple[int, ...] = (1, 8, 32)
    similarity_metric: str = CSIM_JUDGE  # a column of ``frames``
    distance_metric: str = "FD-judge"  # the name of the Fréchet distance of ``features``


def metric_names(real: bool) -> tuple[str, str]:
    """The identity similarity and the Fréchet distance of procedural speakers, or of ``real`` people, before
    :func:`use_paper_metrics`.
    """
    return similarity_metric(real), "FID" if real else "FD-judge"


class Setting(NamedTuple):
    """A method at one T."""

    method: str
    t: int

    def __str__(self) -> str:
        return f"{self.method}, T = {self.t}"


def settings_at(t: int, *names: str) -> list[Setting]:
    """Methods at the same T."""
    return [Setting(name, t) for name in names]


def steps_of_t(evidence: Evidence) -> list[tuple[int, int]]:
    """Every T of the run with the next larger one."""
    return list(zip(evidence.shots[:-1], evidence.shots[1:], strict=True))


def use_paper_metrics(evidence: Evidence, paper: PaperMetrics) -> Evidence:
    """The evidence with CSIM as identity similarity and FID as Fréchet distance.

    Each replaces the other metric only where it was measured for every method and T of the frames.
    """
    keys = set(zip(evidence.frames["method"], evidence.frames["T"], strict=True))
    if keys <= set(paper.csim):
        frames = evidence.frames.copy()
        for method, t in keys:
            rows = (frames["method"] == method) & (frames["T"] == t)
            frames.loc[rows, "CSIM"] = paper.csim[method, t]
        evidence = replace(evidence, frames=frames, similarity_metric="CSIM")
    if keys <= set(paper.inception):
        evidence = replace(evidence, features=paper.inception, distance_metric="FID")
    return evidence


def missing_measurement(evidence: Evidence, metric: str, setting: Setting) -> str:
    """Why a metric of a setting has no values: dlib is missing, so that it was measured nowhere, or the
    setting was not run.
    """
    return FACES_COMMAND if evidence.frames[metric].isna().all() else str(setting)


# -- paired differences -----------------------------------------------------------------------------
def paired_by_identity(first: pd.Series, second: pd.Series) -> Estimate:
    """Mean of first minus second over the identities that both have; both are indexed by identity."""
    identities = first.index.intersection(second.index)
    return paired(first[identities].to_numpy(), second[identities].to_numpy())


def compare_metric(evidence: Evidence, metric: str, first: Setting, second: Setting) -> Part:
    """How much better ``first`` is than ``second`` in a metric, paired by identity."""
    name, means = f"{metric}: {first}, against {second}", []
    for setting in (first, second):
        values = per_identity(evidence.frames, setting.method, setting.t, metric)
        if values.empty:
            return Part(name, missing=missing_measurement(evidence, metric, setting))
        means.append(pd.Series(orient(metric, values.to_numpy()), values.index))
    return Part(name, paired_by_identity(*means))


def compare_sharpness(evidence: Evidence, first: Setting, second: Setting) -> Part:
    """How much sharper ``first`` is than ``second``, relative to the ground truth, paired by identity."""
    name, means = f"sharpness itself: {first.method} minus {second}", []
    for setting in (first, second):
        means.append(per_identity(evidence.frames, setting.method, setting.t, "sharpness"))
        if means[-1].empty:
            return Part(name, missing=str(setting))
    return Part(name, paired_by_identity(*means))


def compare_observer_rates(evidence: Evidence, ours: Setting, other: Setting) -> Part:
    """How much more often the observer finds fakes of ``other`` than of ``ours``, paired by identity."""
    name = f"USER-proxy: {other.method} found more often than {ours}"
    rates = evidence.observer_rates
    if rates is None or rates.empty:
        return Part(name, missing="the observer")
    means = [per_identity(rates, setting.method, setting.t, "USER-proxy") for setting in (other, ours)]
    if any(values.empty for values in means):
        return Part(name, missing=f"the observer on {ours.method} and {other}")
    return Part(name, paired_by_identity(*means))


# -- Fréchet distances ------------------------------------------------------------------------------
mean_distance = per_seed(frechet_of_halves)  # of rows (n, 2d + 1): generated and true features, seed


def distance_difference(rows: np.ndarray) -> float:
    """How much smaller the distance of the first setting is than that of the second, means over seeds.

    Rows (n, 2d + 2) hold generated features, true features, seed and setting (0 or 1).
    """
    first, second = (rows[rows[:, -1] == setting, :-1] for setting in (0, 1))
    return mean_distance(second) - mean_distance(first)


def compare_distance(evidence: Evidence, first: Setting, second: Setting) -> Part:
    """How much smaller the Fréchet distance of ``first`` is than that of ``second``.

    The interval is the jackknife's over identities. Too few frames for it give a part that states how many
    are needed.
    """
    name = f"{evidence.distance_metric}: {first}, against {second}"
    for setting in (first, second):
        if setting not in evidence.features:
            return Part(name, missing=str(setting) if evidence.features else "Inception's features")
    pair = [evidence.features[first], evidence.features[second]]
    groups = jackknife_groups(pair)
    dimension = pair[0].true.shape[1]
    for setting, features, group in zip((first, second), pair, groups, strict=True):
        needed = fewest_samples(dimension)
        if samples_of_a_seed(features.seed) < needed:
            return Part(name, missing=f"{needed} frames of {setting}, for each seed")
        needed = fewest_samples(dimension, without_group=True)
        if samples_without_one(group, features.seed) < needed:
            unit = "identity" if dimension < SLOW_DIMENSION else "group of identities"
            return Part(name, missing=f"{needed} frames of {setting} without one {unit}, for each seed")
    rows = np.concatenate([tagged_rows(features, setting) for setting, features in enumerate(pair)])
    labels = np.concatenate(groups)
    return Part(name, jackknife(distance_difference, [rows[labels == label] for label in np.unique(labels)]))


def tagged_rows(features: Features, setting: int) -> np.ndarray:
    """Rows (n, 2d + 2) for :func:`distance_difference`."""
    tag = np.full(len(features.seed), setting)
    return np.column_stack([features.generated, features.true, features.seed, tag])


def jackknife_groups(pair: Sequence[Features]) -> list[np.ndarray]:
    """What the jackknife leaves out together: for each of the features a label of every frame (n,).

    Each identity is one group; identities share ``JACKKNIFE_GROUPS`` groups where a distance is slow.
    """
    identities = np.unique(np.concatenate([features.identity for features in pair]))
    labels = [np.searchsorted(identities, features.identity) for features in pair]
    if pair[0].true.shape[1] < SLOW_DIMENSION:
        return labels
    return [label % JACKKNIFE_GROUPS for label in labels]


def compare_quality(
    evidence: Evidence, first: Setting, second: Setting, metrics: Sequence[str] = ("SSIM",)
) -> list[Part]:
    """How much better ``first`` is than ``second`` in ``metrics``, similarity and Fréchet distance."""
    names = (*metrics, evidence.similarity_metric)
    parts = [compare_metric(evidence, metric, first, second) for metric in names]
    return [*parts, compare_distance(evidence, first, second)]


def worse_than_feed_forward(evidence: Evidence, row: str) -> list[Part]:
    """How much worse an ablation is than the same model's feed-forward images, at the middle T."""
    feed_forward, ablation = settings_at(evidence.t, methods.OURS_BEFORE, row)
    return compare_quality(evidence, feed_forward, ablation, metrics=("landmark error",))


def ordered_as_in_paper(metric: str, t: int) -> tuple[Setting, Setting]:
    """Ours-FF and Ours-FT at T, the one that leads in a metric of the paper's Table 1 first."""
    feed_forward, fine_tuned = settings_at(t, methods.FEED_FORWARD, methods.AFTER)
    paper = np.array([paper_value(method, t, metric) for method, t in (feed_forward, fine_tuned)])
    score_feed_forward, score_fine_tuned = orient(metric, paper)
    if score_feed_forward > score_fine_tuned:
        return feed_forward, fine_tuned
    return fine_tuned, feed_forward


# -- other statistics -------------------------------------------------------------------------------
class SpeedRatio(NamedTuple):
    """``slow`` takes more than ``factor`` times as long as ``fast`` in a phase of Table 2."""

    phase: str
    slow: str
    fast: str
    factor: float


def compare_seconds(evidence: Evidence, ratio: SpeedRatio, t: int) -> list[Part]:
    """log10 of the ratio of seconds minus log10 of the claimed factor, a part for every image size.

    The interval is that of the quartiles: it has no p-value.
    """
    statistic = f"log10 of seconds of {ratio.slow} over {ratio.fast}, minus log10 of {ratio.factor:g}"
    if evidence.timings is None:
        return [Part(f"{ratio.phase}, T = {t}: {statistic}", missing="timings")]
    parts = []
    for size, timings in evidence.timings.groupby("size"):
        name = f"{ratio.phase}, T = {t}, {size}²: {statistic}"
        rows = timings[(timings["phase"] == ratio.phase) & (timings["T"] == t)].set_index("method")
        if ratio.slow not in rows.index or ratio.fast not in rows.index:
            parts.append(Part(name, missing=f"timings of {ratio.slow} and {ratio.fast}"))
            continue
        slow, fast = rows.loc[ratio.slow], rows.loc[ratio.fast]
        ratios = (slow["seconds"] / fast["seconds"], slow["low"] / fast["high"], slow["high"] / fast["low"])
        parts.append(Part(name, Estimate(*(float(np.log10(value / ratio.factor)) for value in ratios))))
    return parts


def frame_means(evidence: Evidence, method: str) -> pd.DataFrame:
    """Metrics of a method's frames at the middle T, means over seeds, by (identity, video, frame)."""
    rows = evidence.frames[(evidence.frames["T"] == evidence.t) & (evidence.frames["method"] == method)]
    return rows.groupby(["identity", "video", "frame"]).mean(numeric_only=True)


def far_frames(means: pd.DataFrame) -> pd.Series:
    """Whether each frame of :func:`frame_means` has a pose distance above the median of its identity."""
    distance = means["pose distance"]
    return distance > distance.groupby("identity").transform("median")


def compare_far_poses(evidence: Evidence, metric: str, method: str) -> Part:
    """How much better a method is than the nearest training frame on far poses at the middle T.

    Far poses are the half of an identity's frames that differ most from all training frames. Differences are
    paired by identity.
    """
    name, means = f"{metric} on far poses: {method} against {methods.NEAREST}", []
    far = far_frames(frame_means(evidence, methods.NEAREST))
    for setting in settings_at(evidence.t, method, methods.NEAREST):
        values = frame_means(evidence, setting.method)[metric].dropna()
        if values.empty:
            return Part(name, missing=missing_measurement(evidence, metric, setting))
        by_identity = values.reindex(far.index[far]).groupby("identity").mean()
        means.append(pd.Series(orient(metric, by_identity.to_numpy()), by_identity.index))
    return Part(name, paired_by_identity(*means))


def correlate_with_sharpness(evidence: Evidence) -> Part:
    """Minus the correlation of identity similarity and sharpness over the methods of Table 1.

    Trivial baselines are left out. The estimate is the mean over identities.
    """
    metric = evidence.similarity_metric
    name = f"minus the correlation of {metric} and sharpness over methods, T = {evidence.t}"
    names = [method for method in methods.TABLE1 if method not in methods.TRIVIAL]
    rows = evidence.frames[(evidence.frames["T"] == evidence.t) & evidence.frames["method"].isin(names)]
    means = rows.groupby(["identity", "method"])[[metric, "sharpness"]].mean()
    tables = [table for _, table in means.groupby("identity") if len(table) >= FEWEST_METHODS]
    correlations = np.array([correlation(*table.to_numpy().T) for table in tables])
    correlations = correlations[np.isfinite(correlations)]
    if not len(correlations):
        unmeasured = evidence.frames[metric].isna().all()
        return Part(name, missing=FACES_COMMAND if unmeasured else f"{FEWEST_METHODS} methods")
    return Part(name, mean_estimate(-correlations))


def compare_divergence(evidence: Evidence) -> Part:
    """Among the seeds for which exactly one of two trainings diverges, the share without L_FM minus one half.

    The interval and the p-value are the exact ones of a binomial share.
    """
    name = "share without L_FM among the seeds for which one of two trainings diverges, minus one half"
    table = evidence.stability
    if table is None or table["feature_matching"].nunique() < 2:
        return Part(name, missing="trainings without L_FM")
    diverged = table.pivot(index="seed", columns="feature_matching", values="diverged").dropna().astype(bool)
    decisive = diverged[diverged["with"] != diverged["without"]]
    if decisive.empty:
        return Part(name, Estimate(0.0, -0.5, 0.5, 1.0))
    test = binomtest(int(decisive["without"].sum()), len(decisive))
    interval = test.proportion_ci()
    estimate = Estimate(test.statistic - 0.5, interval.low - 0.5, interval.high - 0.5, float(test.pvalue))
    return Part(name, estimate)
