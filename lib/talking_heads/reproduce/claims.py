"""What the paper claims, and the statistic that says whether it holds on what was run: fixed before the result is seen.

A statistic is a list of parts, mostly paired differences over people, each written so that the claim says "above zero"; a
claim holds where all its intervals lie above zero, fails where one lies below, and is undecided otherwise. Likeness is CSIM
where ArcFace was fetched and CSIM-judge elsewhere, the Fréchet distance FID or FD-judge: every part names what was measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..evaluation import methods as m
from ..evaluation import protocol
from ..evaluation.metrics import FEWEST_SAMPLES, frechet_distance, samples_without_one
from ..evaluation.statistics import FEW, holds, interval, jackknife_interval, per_seed
from .tables import better, paper_value

COLUMNS = ["id", "claim", "where", "statistic", "part", "estimate", "ci_low", "ci_high", "part holds", "holds"]


@dataclass
class Evidence:
    """What was run: measured frames of Table 1 and of the ablations (T of these: ``t``) with their features, and the rest."""

    frames: pd.DataFrame
    features: Mapping[tuple[str, int], tuple[np.ndarray, ...]]  # as protocol.measure returns them
    t: int
    observed: pd.DataFrame | None = None
    timings: pd.DataFrame | None = None  # columns size, method, phase, T, seconds and their quartiles, low and high
    stability: pd.DataFrame | None = None  # columns feature_matching ("with", "without"), seed, diverged
    shots: tuple[int, ...] = (1, 8, 32)
    likeness: str = "CSIM-judge"  # column of ``frames``
    distance: str = "FD-judge"  # what the Fréchet distance of ``features`` is called


def with_the_papers_networks(evidence: Evidence, seen: Mapping[tuple[str, int], Mapping[str, np.ndarray]]) -> Evidence:
    """The evidence with CSIM for likeness and FID for the Fréchet distance, each where :func:`inception.look` saw it in every frame."""
    frames, has = evidence.frames.copy(), lambda column: bool(seen) and all(column in part for part in seen.values())
    if has("CSIM"):
        for (method, t), part in seen.items():
            frames.loc[(frames["method"] == method) & (frames["T"] == t), "CSIM"] = part["CSIM"]
        evidence = replace(evidence, frames=frames, likeness="CSIM")
    if has("made"):
        features = {key: (part["made"], part["true"], part["person"], part["seed"]) for key, part in seen.items()}
        evidence = replace(evidence, features=features, distance="FID")
    return evidence


class Part(NamedTuple):
    """What is compared, the estimate and its interval; or what is ``missing`` to compare it."""

    name: str
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    missing: str = ""


@dataclass(frozen=True)
class Claim:
    id: int
    text: str
    where: str
    statistic: str
    parts: Callable[[Evidence], list[Part]]


def over(name: str, values: np.ndarray) -> Part:
    """The mean of values (n,), one for every person or seed; with one alone there is no interval."""
    return Part(name, float(values.mean()), *(interval(values) if len(values) > 1 else (np.nan, np.nan)))


def gain(e: Evidence, metric: str, a: str, ta: int, b: str, tb: int) -> Part:
    """How much better a at T = ta is than b at T = tb, for every person."""
    name, pair = f"{metric}: {a}, T = {ta}, against {b}, T = {tb}", ((a, ta), (b, tb))
    means = [protocol.per_person(e.frames, method, t, metric) for method, t in pair]
    for (method, t), series in zip(pair, means):
        if not len(series):
            return Part(name, missing=f"{method}, T = {t}")
    people = means[0].index.intersection(means[1].index)
    values = [better(metric, series[people].to_numpy()) for series in means]
    return over(name, values[0] - values[1])


def nearer(e: Evidence, a: str, ta: int, b: str, tb: int) -> Part:
    """How much smaller the Fréchet distance is for a at T = ta than for b at T = tb, on the same people; means over seeds."""
    name, pair = f"{e.distance}: {a}, T = {ta}, against {b}, T = {tb}", ((a, ta), (b, tb))
    tagged, whose = [], []
    for tag, (method, t) in enumerate(pair):
        if (method, t) not in e.features:
            return Part(name, missing=f"{method}, T = {t}")
        made, true, who, seed = e.features[method, t]
        if samples_without_one(who, seed) < FEWEST_SAMPLES:
            return Part(name, missing=f"{FEWEST_SAMPLES} frames of {method} without one person, which the interval of a Fréchet distance needs")
        tagged.append(np.column_stack([made, true, seed, np.full(len(who), tag)]))
        whose.append(who)
    of = per_seed(lambda rows: frechet_distance(*np.split(rows, 2, axis=1)))
    distance = lambda rows: of(rows[rows[:, -1] == 1, :-1]) - of(rows[rows[:, -1] == 0, :-1])
    rows, who = np.concatenate(tagged), np.concatenate(whose)
    groups = 0 if rows.shape[1] < 1000 else FEW  # on Inception's features a distance takes seconds
    return Part(name, distance(rows), *jackknife_interval(distance, [rows[who == p] for p in np.unique(who)], groups=groups))


def all_three(e: Evidence, a: str, ta: int, b: str, tb: int, metrics: Sequence[str] = ("SSIM",)) -> list[Part]:
    """How much better a is than b in ``metrics``, in likeness and in the Fréchet distance."""
    return [*(gain(e, metric, a, ta, b, tb) for metric in (*metrics, e.likeness)), nearer(e, a, ta, b, tb)]


def against_feed_forward(e: Evidence, row: str, sign: int = 1) -> list[Part]:
    """How much better than a row the model's own feed-forward images are, which the paper finds plausible; how much worse for ``sign`` -1."""
    pair = [(m.OURS_BEFORE, e.t), (row, e.t)][::sign]
    return all_three(e, *pair[0], *pair[1], metrics=("landmark error",))


def as_the_paper_has_it(e: Evidence, t: int) -> list[Part]:
    """FF against FT, metric by metric: whoever leads in Table 1 of the paper at this T is asked to lead."""
    led = lambda metric: np.diff(better(metric, np.array([paper_value(name, t, metric) for name in (m.AFTER, m.FEED_FORWARD)])))[0] > 0
    pair = lambda metric: (m.FEED_FORWARD, t, m.AFTER, t) if led(metric) else (m.AFTER, t, m.FEED_FORWARD, t)
    return [gain(e, "SSIM", *pair("SSIM")), gain(e, e.likeness, *pair("CSIM")), nearer(e, *pair("FID"))]


def times(e: Evidence, phase: str, slow: str, quick: str, factor: float, t: int) -> list[Part]:
    """log10 of how many times longer ``slow`` takes than ``quick``, minus that of ``factor``, at every size; between quartiles."""
    name = f"log10 of seconds of {slow} over {quick}, less log10 of {factor:g}"
    if e.timings is None:
        return [Part(f"{phase}, T = {t}: {name}", missing="timings")]
    out = []
    for size, rows in e.timings.groupby("size"):
        part, named = rows[(rows["phase"] == phase) & (rows["T"] == t)].set_index("method"), f"{phase}, T = {t}, {size}²: {name}"
        if {slow, quick} <= set(part.index):
            ratio = lambda a, b: float(np.log10(part.loc[slow, a] / part.loc[quick, b] / factor))
            out.append(Part(named, ratio("seconds", "seconds"), ratio("low", "high"), ratio("high", "low")))
        else:
            out.append(Part(named, missing=f"timings of {slow} and {quick}"))
    return out


def found(e: Evidence, ours: str, other: str, t: int) -> Part:
    name = f"USER-proxy: {other} found more often than {ours}, T = {t}"
    if e.observed is None:
        return Part(name, missing="the observer")
    mean = lambda method: e.observed[(e.observed["method"] == method) & (e.observed["T"] == t)].groupby("person")["USER-proxy"].mean()
    if not (len(mean(ours)) and len(mean(other))):
        return Part(name, missing=f"the observer on {ours} and {other}, T = {t}")
    return over(name, (mean(other) - mean(ours)).to_numpy())


def far_poses(e: Evidence) -> list[Part]:
    """Frames whose landmarks are far from those of all training frames (the upper half of "reach") against the nearest frame."""
    part = e.frames[e.frames["T"] == e.t]
    of = {name: part[part["method"] == name].groupby(["person", "video", "frame"]).mean(numeric_only=True) for name in (m.AFTER, m.NEAREST)}
    reach = of[m.NEAREST]["reach"]
    far = reach[reach > reach.groupby("person").transform("median")].index
    names = {metric: f"{metric} on far poses: {m.AFTER} against {m.NEAREST}" for metric in (e.likeness, "SSIM", "landmark error")}
    if not all(map(len, of.values())):
        return [Part(name, missing=f"{m.AFTER}, T = {e.t}") for name in names.values()]
    mean = lambda name, metric: better(metric, of[name][metric].reindex(far).groupby("person").mean().to_numpy())
    return [over(name, mean(m.AFTER, metric) - mean(m.NEAREST, metric)) for metric, name in names.items()]


def diverged(e: Evidence) -> list[Part]:
    """Of the seeds with which exactly one of the two trainings diverges, the share where it is the one without L_FM; exact interval."""
    name = "share of seeds that diverge without L_FM, among those that diverge with or without it alone, less one half"
    if e.stability is None or e.stability["feature_matching"].nunique() < 2:
        return [Part(name, missing="trainings without L_FM")]
    ended = e.stability.pivot(index="seed", columns="feature_matching", values="diverged").dropna().astype(bool)
    one = ended[ended["with"] != ended["without"]]
    if not len(one):
        return [Part(name, 0.0, -0.5, 0.5)]
    exact = binomtest(int(one["without"].sum()), len(one))
    low, high = exact.proportion_ci()
    return [Part(name, exact.statistic - 0.5, low - 0.5, high - 0.5)]


def blur(e: Evidence) -> list[Part]:
    """Likeness against sharpness: per person, minus the correlation over the methods of Table 1."""
    name = f"minus the correlation of {e.likeness} and sharpness over methods, T = {e.t}"
    part = e.frames[(e.frames["T"] == e.t) & e.frames["method"].isin([n for n in m.TABLE1 if n not in m.TRIVIAL])]
    means = part.groupby(["person", "method"])[[e.likeness, "sharpness"]].mean().reset_index()
    values = np.array([-np.corrcoef(g[e.likeness], g["sharpness"])[0, 1] for _, g in means.groupby("person") if len(g) > 3])
    if not len(values := values[np.isfinite(values)]):
        return [Part(name, missing="more than three methods")]
    return [over(name, values)]


def crisper(e: Evidence) -> Part:
    """How much more of the truth's sharpness the full model has than the one without L′_ADV."""
    name = f"sharpness itself: {m.OURS} less {m.NO_ADVERSARIAL}, T = {e.t}"
    means = [protocol.per_person(e.frames, n, e.t, "sharpness") for n in (m.OURS, m.NO_ADVERSARIAL)]
    return over(name, (means[0] - means[1]).to_numpy()) if all(map(len, means)) else Part(name, missing=f"{m.NO_ADVERSARIAL}, T = {e.t}")


GAP = "mean paired difference over people"
NEARER = "difference of the Fréchet distance, jackknife over people"
AT_T = "at the middle T"
PAIRS = lambda e: list(zip(e.shots, e.shots[1:]))
CLAIMS = (
    Claim(1, "Fine-tuning closes the identity gap", "4, Fig. 4", f"{GAP}: after less before, likeness and SSIM, every T",
          lambda e: [gain(e, metric, m.AFTER, t, m.BEFORE, t) for t in e.shots for metric in (e.likeness, "SSIM")]),
    Claim(2, "More frames help", "4, Table 1", f"{GAP}: T = 8 less 1 and 32 less 8 for Ours, SSIM and likeness; {NEARER}",
          lambda e: [p for a, b in PAIRS(e) for p in all_three(e, m.OURS, b, m.OURS, a)]),
    Claim(3, "FF is better at T = 1 and FT at T = 32, metric by metric as Table 1 has it", "4, Table 1",
          f"{GAP}: whoever leads in the paper less the other, T = 1 and 32, SSIM and likeness; {NEARER}",
          lambda e: [p for t in (e.shots[0], e.shots[-1]) for p in as_the_paper_has_it(e, t)]),
    Claim(4, "Random initialisation of the embedding gives no plausible image", "A.2",
          f"{GAP} {AT_T}: the model before fine-tuning, which is plausible, less this row, landmark error and likeness; {NEARER}",
          lambda e: against_feed_forward(e, m.RANDOM_E)),
    Claim(5, "Nor does random initialisation of ψ̂", "A.2", "as claim 4", lambda e: [p for row in (m.RANDOM_PSI, m.NORMAL_PSI) for p in against_feed_forward(e, row)]),
    Claim(6, "Without L_MCH and with a random w′: plausible, but worse than the full model", "A.2, Fig. 6",
          f"{GAP} {AT_T}: the full model less this row, likeness; this row less the model before fine-tuning, landmark error and likeness; {NEARER} for both",
          lambda e: all_three(e, m.OURS, e.t, m.NO_MATCH_ONE_SHOT, e.t, metrics=()) + against_feed_forward(e, m.NO_MATCH_ONE_SHOT, -1)),
    Claim(7, "The generator's initialisation matters more than the discriminator's", "A.2",
          f"{GAP} {AT_T}: no L_MCH with random w′ less random ψ̂ (with w′ as it should be), likeness and SSIM",
          lambda e: [gain(e, metric, m.NO_MATCH_ONE_SHOT, e.t, m.RANDOM_PSI, e.t) for metric in (e.likeness, "SSIM")]),
    Claim(8, "The adversarial term makes fine-tuned images crisper, and better in pose", "A.2, Fig. 6",
          f"{GAP} {AT_T}: the full model less no L′_ADV, sharpness (itself, and how near to the truth's) and landmark error",
          lambda e: [crisper(e), *(gain(e, metric, m.OURS, e.t, m.NO_ADVERSARIAL, e.t) for metric in ("sharpness", "landmark error"))]),
    Claim(9, "X2Face leads in SSIM, and its FID gets worse with T; Pix2pixHD leads in FID and trails in CSIM", "4, Table 1",
          f"{GAP}, every T, on the small corpus, SSIM and likeness; {NEARER}",
          lambda e: [gain(e, "SSIM", m.X2FACE, t, o, t) for t in e.shots for o in (m.PIX2PIXHD, m.OURS)]
          + [nearer(e, m.X2FACE, a, m.X2FACE, b) for a, b in PAIRS(e)]
          + [nearer(e, m.PIX2PIXHD, t, o, t) for t in e.shots for o in (m.X2FACE, m.OURS)]
          + [gain(e, e.likeness, o, t, m.PIX2PIXHD, t) for t in e.shots for o in (m.X2FACE, m.OURS)]),
    Claim(10, "Observers find our fakes least often", "4, Table 1", f"{GAP}: the baselines' USER-proxy less ours, every T",
          lambda e: [found(e, m.OURS, o, t) for t in e.shots for o in (m.X2FACE, m.PIX2PIXHD)]),
    Claim(11, "FF learns a person orders of magnitude faster than fine-tuning; inference is slower than Pix2pixHD's", "A.1, Table 2",
          "log10 of the ratio of seconds: above 2 for learning at every T, above 0 for inference, at this size and the paper's; between quartiles",
          lambda e: [part for t in e.shots for part in times(e, "few-shot learning", "Ours", "Ours-FF", 100, t)] + times(e, "inference", "Ours", "Pix2pixHD", 1, 1)),
    Claim(12, "The larger corpus gives better heads than the smaller one", "4, Table 1", f"{GAP}: Ours-FT less Ours, SSIM and likeness, every T; {NEARER}",
          lambda e: [p for t in e.shots for p in all_three(e, m.AFTER, t, m.OURS, t)]),
    Claim(13, "L_FM stabilises training", "3.2", "of the seeds that diverge with or without it alone, the share without, less one half; exact interval", diverged),
    Claim(14, "CSIM favours blurry images", "4", f"minus the correlation over methods of a person's likeness and sharpness, {AT_T}", blur),
    Claim(15, "Fine-tuned heads extrapolate to poses far from the T frames", "3.3",
          f"{GAP} {AT_T} to the nearest training frame, on the half of the frames farthest from all training frames", far_poses),
)


def judge(evidence: Evidence) -> pd.DataFrame:
    """``claims.csv``: a row for every part of every claim with its own yes, no or undecided; ``holds`` is the whole claim's.

    What was not run says so, and what is missing.
    """
    rows: list[list[Any]] = []
    for claim in CLAIMS:
        parts = claim.parts(evidence)
        said = verdict_of(parts)
        rows += [[claim.id, claim.text, claim.where, claim.statistic, p.name, p.estimate, p.low, p.high,
                  f"not run: {p.missing}" if p.missing else holds(p.low, p.high), said] for p in parts]
    return pd.DataFrame(rows, columns=COLUMNS)


def verdict_of(parts: Sequence[Part]) -> str:
    """no where an interval lies below zero; else what was not run, if anything; else yes where all lie above zero, or undecided."""
    if any(p.high < 0 for p in parts):
        return "no"
    if missing := next((p.missing for p in parts if p.missing), ""):
        return f"not run: {missing}"
    return "yes" if all(p.low > 0 for p in parts) else "undecided"


def short(table: pd.DataFrame) -> Mapping[int, str]:
    """Claim -> its verdict."""
    return table.groupby("id")["holds"].first().to_dict()
