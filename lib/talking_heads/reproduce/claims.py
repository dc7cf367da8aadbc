"""What the paper claims, and the statistic that says whether it holds on what was run: fixed before the result is seen.

A statistic is a list of parts, mostly paired differences over people, each written so that the claim says "above zero"; a
claim holds where all its intervals lie above zero, fails where one lies below, and is undecided otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..evaluation import methods as m
from ..evaluation import protocol
from ..evaluation.metrics import FEWEST_SAMPLES, frechet_distance
from ..evaluation.statistics import holds, interval, jackknife_interval
from .tables import better

COLUMNS = ["id", "claim", "where", "statistic", "part", "estimate", "ci_low", "ci_high", "part holds", "holds"]


@dataclass
class Evidence:
    """What was run: measured frames of Table 1 and of the ablations (T of these: ``t``) with the judge's features, and the rest."""

    frames: pd.DataFrame
    features: Mapping[tuple[str, int], tuple[np.ndarray, ...]]
    t: int
    observed: pd.DataFrame | None = None
    timings: pd.DataFrame | None = None  # columns size, method, phase, T, seconds and their quartiles, low and high
    stability: pd.DataFrame | None = None  # columns feature_matching ("with", "without"), seed, diverged
    shots: tuple[int, ...] = (1, 8, 32)


Part = tuple[str, float, float, float]  # what is compared, the estimate, and its interval


@dataclass(frozen=True)
class Claim:
    id: int
    text: str
    where: str
    statistic: str
    parts: Callable[[Evidence], list[Part]]


class Missing(LookupError):
    """Something that a claim needs was not run; the message says what."""


def over(name: str, values: np.ndarray) -> Part:
    """The mean of values (n,), one for every person or seed; with one alone there is no interval."""
    return name, float(values.mean()), *(interval(values) if len(values) > 1 else (np.nan, np.nan))


def gain(e: Evidence, metric: str, a: str, ta: int, b: str, tb: int) -> Part:
    """How much better a at T = ta is than b at T = tb, for every person."""
    means = []
    for method, t in ((a, ta), (b, tb)):
        series = protocol.per_person(e.frames, method, t, metric)
        if not len(series):
            raise Missing(f"{method}, T = {t}")
        means.append(series)
    people = means[0].index.intersection(means[1].index)
    values = [better(metric, series[people].to_numpy()) for series in means]
    return over(f"{metric}: {a}, T = {ta}, against {b}, T = {tb}", values[0] - values[1])


def nearer(e: Evidence, a: str, ta: int, b: str, tb: int) -> Part:
    """How much smaller FD-judge is for a at T = ta than for b at T = tb, on the same people."""
    for method, t in ((a, ta), (b, tb)):
        if (method, t) not in e.features:
            raise Missing(f"{method}, T = {t}")
    (made_a, true_a, who), (made_b, true_b, same) = e.features[a, ta], e.features[b, tb]
    assert (who == same).all(), "two methods on the same frames"
    if len(who) < FEWEST_SAMPLES:
        raise Missing(f"{FEWEST_SAMPLES} frames of {a}, which a Fréchet distance needs")
    rows = np.concatenate([made_a, true_a, made_b, true_b], 1)
    distance = lambda r: (lambda q: frechet_distance(q[2], q[3]) - frechet_distance(q[0], q[1]))(np.split(r, 4, axis=1))
    name = f"FD-judge: {a}, T = {ta}, against {b}, T = {tb}"
    return name, distance(rows), *jackknife_interval(distance, [rows[who == p] for p in np.unique(who)])


def against_feed_forward(e: Evidence, row: str, sign: int = 1) -> list[Part]:
    """How much better than a row the model's own feed-forward images are, which the paper finds plausible; how much worse for ``sign`` -1."""
    pair = [(m.OURS_BEFORE, e.t), (row, e.t)][::sign]
    return [gain(e, metric, *pair[0], *pair[1]) for metric in ("CSIM-judge", "landmark error")]


def times(e: Evidence, phase: str, slow: str, quick: str, factor: float, t: int) -> list[Part]:
    """log10 of how many times longer ``slow`` takes than ``quick``, minus that of ``factor``, at every size; between quartiles."""
    if e.timings is None:
        raise Missing("timings")
    rows, out = e.timings[(e.timings["phase"] == phase) & (e.timings["T"] == t)].set_index("method"), []
    for size, part in rows.groupby("size"):
        if not {slow, quick} <= set(part.index):
            raise Missing(f"timings of {slow} and {quick}")
        ratio = lambda a, b: float(np.log10(part.loc[slow, a] / part.loc[quick, b] / factor))
        out.append((f"{phase}, T = {t}, {size}²: log10 of seconds of {slow} over {quick}, less log10 of {factor:g}",
                    ratio("seconds", "seconds"), ratio("low", "high"), ratio("high", "low")))
    return out


def found(e: Evidence, ours: str, other: str, t: int) -> Part:
    if e.observed is None:
        raise Missing("the observer")
    mean = lambda name: e.observed[(e.observed["method"] == name) & (e.observed["T"] == t)].groupby("person")["USER-proxy"].mean()
    if not (len(mean(ours)) and len(mean(other))):
        raise Missing(f"the observer on {ours} and {other}, T = {t}")
    return over(f"USER-proxy: {other} found more often than {ours}, T = {t}", (mean(other) - mean(ours)).to_numpy())


def far_poses(e: Evidence) -> list[Part]:
    """Frames whose landmarks are far from those of all training frames (the upper half of "reach") against the nearest frame."""
    out = []
    t, frame = e.shots[1], ["person", "video", "frame", "seed"]
    reach = e.frames[(e.frames["method"] == m.NEAREST) & (e.frames["T"] == t)].set_index(frame)["reach"]
    far = reach[reach > reach.groupby("person").transform("median")].index
    for metric in ("CSIM-judge", "SSIM", "landmark error"):
        of = lambda name: e.frames[(e.frames["method"] == name) & (e.frames["T"] == t)].set_index(frame)[metric].reindex(far).groupby("person").mean()
        if of(m.AFTER).isna().any():
            raise Missing(m.AFTER)
        out.append(over(f"{metric} on far poses: {m.AFTER} against {m.NEAREST}", better(metric, of(m.AFTER).to_numpy()) - better(metric, of(m.NEAREST).to_numpy())))
    return out


def diverged(e: Evidence) -> list[Part]:
    """Of the seeds with which exactly one of the two trainings diverges, the share where it is the one without L_FM; exact interval."""
    if e.stability is None or not len(e.stability):
        raise Missing("trainings without L_FM")
    ended = e.stability.pivot(index="seed", columns="feature_matching", values="diverged").astype(bool)
    one = ended[ended["with"] != ended["without"]]
    name = "share of seeds that diverge without L_FM, among those that diverge with or without it alone, less one half"
    if not len(one):
        return [(name, 0.0, -0.5, 0.5)]
    exact = binomtest(int(one["without"].sum()), len(one))
    low, high = exact.proportion_ci()
    return [(name, exact.statistic - 0.5, low - 0.5, high - 0.5)]


def blur(e: Evidence) -> list[Part]:
    """CSIM-judge against sharpness: per person, minus the correlation over the methods of Table 1."""
    part = e.frames[(e.frames["T"] == e.t) & e.frames["method"].isin([n for n in m.TABLE1 if n not in m.TRIVIAL])]
    means = part.groupby(["person", "method"])[["CSIM-judge", "sharpness"]].mean().reset_index()
    values = np.array([-np.corrcoef(g["CSIM-judge"], g["sharpness"])[0, 1] for _, g in means.groupby("person") if len(g) > 3])
    if not len(values := values[np.isfinite(values)]):
        raise Missing("more than three methods")
    return [over("minus the correlation of CSIM-judge and sharpness over methods", values)]


GAP = "mean paired difference over people"
NEARER = "difference of FD-judge, jackknife over people"
CLAIMS = (
    Claim(1, "Fine-tuning closes the identity gap", "4, Fig. 4", f"{GAP}: after less before, CSIM-judge and SSIM, every T",
          lambda e: [gain(e, metric, m.AFTER, t, m.BEFORE, t) for t in e.shots for metric in ("CSIM-judge", "SSIM")]),
    Claim(2, "More frames help", "4, Table 1", f"{GAP}: T = 8 less 1 and 32 less 8 for Ours, SSIM and CSIM-judge; {NEARER}",
          lambda e: [p for a, b in zip(e.shots, e.shots[1:]) for p in (*(gain(e, metric, m.OURS, b, m.OURS, a) for metric in ("SSIM", "CSIM-judge")), nearer(e, m.OURS, b, m.OURS, a))]),
    Claim(3, "FF is better at T = 1 and FT at T = 32", "4, Table 1", f"{GAP}: FF less FT at T = 1, FT less FF at T = 32, SSIM and CSIM-judge; {NEARER}",
          lambda e: [p for a, b, t in ((m.FEED_FORWARD, m.AFTER, e.shots[0]), (m.AFTER, m.FEED_FORWARD, e.shots[-1]))
                     for p in (*(gain(e, metric, a, t, b, t) for metric in ("SSIM", "CSIM-judge")), nearer(e, a, t, b, t))]),
    Claim(4, "Random initialisation of the embedding gives no plausible image", "A.2",
          f"{GAP}: the model before fine-tuning, which is plausible, less this row, CSIM-judge and landmark error",
          lambda e: against_feed_forward(e, m.RANDOM_E)),
    Claim(5, "Nor does random initialisation of ψ̂", "A.2", "as claim 4", lambda e: [p for row in (m.RANDOM_PSI, m.NORMAL_PSI) for p in against_feed_forward(e, row)]),
    Claim(6, "Without L_MCH and with a random w′: plausible, but worse than the full model", "A.2, Fig. 6",
          f"{GAP}: the full model less this row, CSIM-judge; this row less the model before fine-tuning, CSIM-judge and landmark error",
          lambda e: [gain(e, "CSIM-judge", m.OURS, e.t, m.NO_MATCH_ONE_SHOT, e.t)] + against_feed_forward(e, m.NO_MATCH_ONE_SHOT, -1)),
    Claim(7, "The generator's initialisation matters more than the discriminator's", "A.2",
          f"{GAP}: no L_MCH with random w′ less random ψ̂ (with w′ as it should be), CSIM-judge and SSIM",
          lambda e: [gain(e, metric, m.NO_MATCH_ONE_SHOT, e.t, m.RANDOM_PSI, e.t) for metric in ("CSIM-judge", "SSIM")]),
    Claim(8, "The adversarial term makes fine-tuned images crisper, and better in pose", "A.2, Fig. 6",
          f"{GAP}: the full model less no L′_ADV, sharpness (how near to the truth's) and landmark error",
          lambda e: [gain(e, metric, m.OURS, e.t, m.NO_ADVERSARIAL, e.t) for metric in ("sharpness", "landmark error")]),
    Claim(9, "X2Face leads in SSIM, and its FID gets worse with T; Pix2pixHD leads in FID and trails in CSIM", "4, Table 1",
          f"{GAP}, every T, on the small corpus; {NEARER}",
          lambda e: [gain(e, "SSIM", m.X2FACE, t, o, t) for t in e.shots for o in (m.PIX2PIXHD, m.OURS)]
          + [nearer(e, m.X2FACE, a, m.X2FACE, b) for a, b in zip(e.shots, e.shots[1:])]
          + [nearer(e, m.PIX2PIXHD, t, o, t) for t in e.shots for o in (m.X2FACE, m.OURS)]
          + [gain(e, "CSIM-judge", o, t, m.PIX2PIXHD, t) for t in e.shots for o in (m.X2FACE, m.OURS)]),
    Claim(10, "Observers find our fakes least often", "4, Table 1", f"{GAP}: the baselines' USER-proxy less ours, every T",
          lambda e: [found(e, m.OURS, o, t) for t in e.shots for o in (m.X2FACE, m.PIX2PIXHD)]),
    Claim(11, "FF learns a person orders of magnitude faster than fine-tuning; inference is slower than Pix2pixHD's", "A.1, Table 2",
          "log10 of the ratio of seconds: above 2 for learning at every T, above 0 for inference, at this size and the paper's; between quartiles",
          lambda e: [part for t in e.shots for part in times(e, "few-shot learning", "Ours", "Ours-FF", 100, t)] + times(e, "inference", "Ours", "Pix2pixHD", 1, 1)),
    Claim(12, "The larger corpus gives better heads than the smaller one", "4, Table 1", f"{GAP}: Ours-FT less Ours, CSIM-judge and SSIM, every T",
          lambda e: [gain(e, metric, m.AFTER, t, m.OURS, t) for t in e.shots for metric in ("CSIM-judge", "SSIM")]),
    Claim(13, "L_FM stabilises training", "3.2", "of the seeds that diverge with or without it alone, the share without, less one half; exact interval", diverged),
    Claim(14, "CSIM favours blurry images", "4", "minus the correlation over methods of a person's CSIM-judge and sharpness", blur),
    Claim(15, "Fine-tuned heads extrapolate to poses far from the T frames", "4", f"{GAP} to the nearest training frame, on the half of the frames farthest from all training frames", far_poses),
)


def judge(evidence: Evidence) -> pd.DataFrame:
    """``claims.csv``: a row for every part of every claim with its own yes, no or undecided; ``holds`` is the whole claim's.

    What was not run says so, and why.
    """
    rows: list[list[Any]] = []
    for claim in CLAIMS:
        fixed = [claim.id, claim.text, claim.where, claim.statistic]
        try:
            parts = claim.parts(evidence)
        except Missing as gap:
            rows.append([*fixed, "", np.nan, np.nan, np.nan, "not run", f"not run: {gap.args[0]}"])
            continue
        verdict = verdict_of([(low, high) for *_, low, high in parts])
        rows += [[*fixed, name, estimate, low, high, holds(low, high), verdict] for name, estimate, low, high in parts]
    return pd.DataFrame(rows, columns=COLUMNS)


def verdict_of(intervals: list[tuple[float, float]]) -> str:
    """yes where all intervals lie above zero, no where one lies below, else undecided."""
    if any(high < 0 for _, high in intervals):
        return "no"
    return "yes" if all(low > 0 for low, _ in intervals) else "undecided"


def short(table: pd.DataFrame) -> Mapping[int, str]:
    """Claim -> its verdict."""
    return table.groupby("id")["holds"].first().to_dict()
