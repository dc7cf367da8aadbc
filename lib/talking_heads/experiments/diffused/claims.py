"""What Stypułkowski et al. (2023) claim, and the comparisons that decide whether it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd

from talking_heads.experiments.claims import Claim, Part
from talking_heads.experiments.claims import evaluate as evaluate_claims
from talking_heads.experiments.diffused import ablations
from talking_heads.experiments.diffused.clip_metrics import HEARD, LMD, PER
from talking_heads.experiments.diffused.protocol import OTHER_SOUND, OURS, SDA
from talking_heads.experiments.diffused.tables import LOWER_IS_BETTER
from talking_heads.metrics.clip_observer import VOTES
from talking_heads.metrics.statistics import mean_estimate

VERSION = 1  # of the claims' statistics: raised when a statistic changes
FLOW_ERROR = "|log flow ratio|"  # of the head, generated to true: 0 where both move as much
SMALLER_IS_BETTER = LOWER_IS_BETTER | {FLOW_ERROR}
# how much worse still counts as "keeps": in interocular distances, and shares of 1
MARGINS = {LMD: 0.005, PER: 0.02, "SSIM": 0.01, "CSIM-judge": 0.02}
HEARD_MARGIN = 0.1  # of the correlation of the mouth with that of the clip that is heard
PROXY_MARGIN = 0.1  # of the share of votes *real*
LEAST_SPREAD = 0.5  # of head motion between seeds, as a share of that between true clips

Row = tuple[str, str]  # ablation and setting


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass
class Evidence:
    """The measurements that claims are decided on; what is empty was not run."""

    metrics: pd.DataFrame = field(default_factory=_empty)  # columns method, identity and metrics
    ablations: pd.DataFrame = field(default_factory=_empty)  # as ``ablation_metrics.csv``
    plain_ablations: pd.DataFrame = field(default_factory=_empty)  # the same on the plain corpus
    proxy: pd.DataFrame = field(default_factory=_empty)  # votes of :func:`turing.observe`
    spread: pd.DataFrame = field(default_factory=_empty)  # columns identity, "between seeds", "between clips"


# -- comparisons ------------------------------------------------------------------------------------
def with_flow_error(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the absolute logarithm of generated over true flow of the head."""
    ratio = rows["flow of the head"] / rows["true flow of the head"]
    return rows.assign(**{FLOW_ERROR: np.log(ratio).abs()})


def better(metric: str, values: pd.Series) -> pd.Series:
    """Values of a metric of which a larger one is better."""
    return -values if metric in SMALLER_IS_BETTER else values


def compare_settings(rows: pd.DataFrame, metric: str, first: Row, second: Row, margin: float = 0.0) -> Part:
    """How much better a setting of an ablation is than another one, plus a margin.

    Paired by seed and identity; the interval is over identities.
    """
    name = f"{metric}: {first[0]} {first[1]}, against {second[1]}"
    if first[0] != second[0]:
        name = f"{metric}: {' '.join(first)}, against {' '.join(second)}"
    if rows.empty:
        return Part(name, missing="the ablations")
    oriented = rows.assign(**{metric: better(metric, rows[metric])})
    differences = ablations.paired_differences(oriented, first, second, metric)
    return decide(name, differences, margin)


def compare_methods(evidence: Evidence, metric: str, first: str, second: str) -> Part:
    """How much better a method is than another one, paired by identity."""
    name, rows, means = f"{metric}: {first}, against {second}", evidence.metrics, []
    for method in (first, second):
        if rows.empty or metric not in rows or method not in set(rows["method"]):
            return Part(name, missing=f"{metric} of {method}")
        values = rows[rows["method"] == method].groupby("identity")[metric].mean()
        means.append(better(metric, values))
    return decide(name, (means[0] - means[1]).dropna().to_numpy())


def decide(name: str, differences: np.ndarray, margin: float = 0.0) -> Part:
    """A part from the differences of identities (n,), each plus a margin."""
    return Part(name + (f", plus {margin:g}" if margin else ""), mean_estimate(differences + margin))


def keeps(rows: pd.DataFrame, first: Row, second: Row, metrics: Sequence[str]) -> list[Part]:
    """Whether a setting is at most by a margin worse than another one, in each metric."""
    return [compare_settings(rows, metric, first, second, MARGINS[metric]) for metric in metrics]


# -- the parts of every claim -----------------------------------------------------------------------
def motion_frames_smooth(evidence: Evidence) -> list[Part]:
    """Section 5.4, Fig. 5: one motion frame against none, and two against one."""
    rows = evidence.ablations if evidence.ablations.empty else with_flow_error(evidence.ablations)
    pairs = pairwise((ablations.MOTION, str(count)) for count in (0, 1, 2))
    return [compare_settings(rows, FLOW_ERROR, more, fewer) for fewer, more in pairs]


def grey_helps_where_speakers_are_many(evidence: Evidence) -> list[Part]:
    """Section 5.4, Table 3: grey motion frames against coloured ones, and the reverse on the plain corpus."""
    pairs = [[(ablations.SOUND[grey], str(count)) for grey in (True, False)] for count in ablations.COUNTS]
    parts = [
        compare_settings(evidence.ablations, metric, grey, colour)
        for grey, colour in pairs
        for metric in (LMD, "SSIM")
    ]
    if evidence.plain_ablations.empty:
        return [
            *parts,
            Part("LMD on the plain corpus: in colour, against in grey", missing="the plain corpus"),
        ]
    grey, colour = pairs[2]
    return [*parts, compare_settings(evidence.plain_ablations, LMD, colour, grey, MARGINS[LMD])]


def two_embeddings_a_side_are_best(evidence: Evidence) -> list[Part]:
    """Section 5.4, Table 3: two motion audio embeddings on each side against other numbers, in grey."""
    rows = {count: (ablations.SOUND[True], str(count)) for count in ablations.COUNTS}
    return [
        compare_settings(evidence.ablations, metric, rows[2], rows[count])
        for count in (0, 1, 3)
        for metric in (LMD, "SSIM")
    ]


def lip_loss_helps_in_moderation(evidence: Evidence) -> list[Part]:
    """Section 5.4: λ_ls = 0.2 against 0, and against 1."""
    none, moderate, much = ((ablations.LIPS, weight) for weight in ("0", "0.2", "1"))
    return [
        *(compare_settings(evidence.ablations, metric, moderate, none) for metric in (LMD, PER)),
        *keeps(evidence.ablations, moderate, none, ["SSIM", "CSIM-judge"]),
        *(compare_settings(evidence.ablations, metric, moderate, much) for metric in ("SSIM", "CSIM-judge")),
    ]


def fewer_steps_keep_quality(evidence: Evidence) -> list[Part]:
    """Section 4.5: a fifth of the denoising steps against all."""
    many, few = ((ablations.STEPS, str(count)) for count in (50, 10))
    return keeps(evidence.ablations, few, many, list(MARGINS))


def no_mode_collapse(evidence: Evidence) -> list[Part]:
    """Section 5.2: head motion of the same identity and sound with two seeds, against that of true clips."""
    name = f"log of the distance of head tracks, between seeds over between clips, minus log {LEAST_SPREAD:g}"
    if evidence.spread.empty:
        return [Part(name, missing="clips with another seed")]
    ratio = evidence.spread["between seeds"] / evidence.spread["between clips"]
    return [decide(name, np.log(ratio / LEAST_SPREAD).to_numpy())]


def other_voices_are_followed(evidence: Evidence) -> list[Part]:
    """Section 5.5: lips against those of the clip that is heard, with another voice and with one's own."""
    rows, name = evidence.metrics, f"{HEARD}: {OTHER_SOUND}, against the own one"
    if rows.empty or HEARD not in rows:
        return [Part(name, missing=OTHER_SOUND)]
    other, own = (
        rows[rows["method"] == method].set_index("identity")[HEARD] for method in (OTHER_SOUND, OURS)
    )
    return [decide(name, (other - own).dropna().to_numpy(), HEARD_MARGIN)]


def quality_falls_on_longer_sequences(evidence: Evidence) -> list[Part]:
    """Section 5.6: identity similarity in the first second minus that in the last."""
    first, last = "CSIM-judge, first second", "CSIM-judge, last second"
    name = f"{first}, minus the last"
    if evidence.metrics.empty or first not in evidence.metrics:
        return [Part(name, missing="the evaluation")]
    ours = evidence.metrics[evidence.metrics["method"] == OURS]
    return [decide(name, (ours[first] - ours[last]).dropna().to_numpy())]


def clips_pass_for_real(evidence: Evidence) -> list[Part]:
    """Section 5.3, Table 2: votes *real* of observers on generated clips against those on true clips."""
    name = f"Turing-proxy: {OURS}, against true clips"
    if evidence.proxy.empty:
        return [Part(name, missing="the observers of clips")]
    ours = evidence.proxy[evidence.proxy["method"] == OURS]
    return [decide(name, (ours[VOTES] - ours["true clips"]).to_numpy(), PROXY_MARGIN)]


def diffusion_beats_the_gan(evidence: Evidence) -> list[Part]:
    """The title; section 5.3, Table 1: against SDA."""
    return [compare_methods(evidence, metric, OURS, SDA) for metric in (LMD, PER, "SSIM", "CSIM-judge")]


MEANS = "mean paired difference over identities"
SHORT_TRAININGS = f"{MEANS}, after equally long trainings from the same weights"
KEPT = '; "keeps" allows a margin, which the part states'
CLAIMS = (
    Claim(
        1,
        "Motion frames make motion smoother, from none to one to two",
        "5.4, Fig. 5",
        f"{SHORT_TRAININGS}: how close the flow of the head is to that of true clips",
        motion_frames_smooth,
    ),
    Claim(
        2,
        "Grey motion frames help on a diverse corpus, and not on a plain one",
        "5.4, Table 3",
        f"{SHORT_TRAININGS}: in grey minus in colour, LMD and SSIM, for every number of audio embeddings",
        grey_helps_where_speakers_are_many,
    ),
    Claim(
        3,
        "Two motion audio embeddings on each side are best",
        "5.4, Table 3",
        f"{SHORT_TRAININGS}, with grey motion frames: two minus every other number, LMD and SSIM",
        two_embeddings_a_side_are_best,
    ),
    Claim(
        4,
        "λ_ls = 0.2 improves the lips without harm, and values above 0.5 harm",
        "5.4",
        f"{SHORT_TRAININGS}: 0.2 minus 0, LMD and {PER}, and keeps SSIM and CSIM-judge; 0.2 minus 1, SSIM "
        f"and CSIM-judge{KEPT}",
        lip_loss_helps_in_moderation,
    ),
    Claim(
        5,
        "Five times fewer denoising steps keep the quality",
        "4.5",
        f"{MEANS}: 10 minus 50 steps, {', '.join(MARGINS)}{KEPT}",
        fewer_steps_keep_quality,
    ),
    Claim(
        6,
        "No mode collapse",
        "5.2",
        "mean over identities: head motion differs between two seeds at least half as much as between two "
        "true clips",
        no_mode_collapse,
    ),
    Claim(
        7,
        "Lips follow other voices",
        "5.5",
        f"{MEANS}: correlation of the mouth with that of the clip that is heard, another clip's sound minus "
        f"the own one{KEPT}",
        other_voices_are_followed,
    ),
    Claim(
        8,
        "Quality falls on longer sequences",
        "5.6",
        f"{MEANS}: identity similarity in the first second minus that in the last",
        quality_falls_on_longer_sequences,
    ),
    Claim(
        9,
        "Indistinguishable from real clips",
        "5.3, Table 2",
        f"{MEANS}: share of votes *real* of observers, generated minus true clips{KEPT}; people's votes are "
        "in Table 2",
        clips_pass_for_real,
    ),
    Claim(
        10,
        "Diffusion beats a GAN",
        "title, 5.3, Table 1",
        f"{MEANS}: {OURS} minus {SDA}, LMD, {PER}, SSIM and CSIM-judge",
        diffusion_beats_the_gan,
    ),
)


def evaluate(evidence: Evidence) -> pd.DataFrame:
    """The verdicts: see :func:`experiments.claims.evaluate`."""
    return evaluate_claims(CLAIMS, evidence)
