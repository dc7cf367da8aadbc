"""What Stypułkowski et al. (2023) claim, and the comparisons that decide whether it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from talking_heads.config import Profile, load
from talking_heads.experiments.claims import Claim, Part
from talking_heads.experiments.claims import evaluate as evaluate_claims
from talking_heads.experiments.diffused import ablation_settings as settings
from talking_heads.experiments.diffused import generalisation, length
from talking_heads.experiments.diffused.ablation_settings import SettingName
from talking_heads.experiments.diffused.ablation_table import measurements, paired_differences
from talking_heads.experiments.diffused.clip_metrics import LMD, PER, SOUND_CORRELATION
from talking_heads.experiments.diffused.length import FLOW
from talking_heads.experiments.diffused.protocol import OTHER_SOUND, OURS, SDA
from talking_heads.experiments.diffused.tables import COMPARED, LOWER_IS_BETTER, PLAIN_PROFILE
from talking_heads.experiments.reference import measured_table
from talking_heads.judges.faces import SIMILARITIES, similarity_in
from talking_heads.metrics.clip_observer import VOTES
from talking_heads.metrics.statistics import mean_estimate, normal_estimate
from talking_heads.metrics.turing_test import TRUE_CLIPS

VERSION = 6  # of the claims' statistics: raised when a statistic changes
ON_PLAIN = ", on the plain corpus"  # the end of the names of its parts
SMALLER_IS_BETTER = LOWER_IS_BETTER | {FLOW}  # here: motion without motion frames jitters
# how much worse still counts as "keeps": in interocular distances, and shares of 1
MARGINS = {LMD: 0.005, PER: 0.02, "SSIM": 0.01, **dict.fromkeys(SIMILARITIES, 0.02)}
SOUND_MARGIN = 0.1  # of the correlation of the mouth with that of the clip that is heard
LEAST_VOICES = 3  # that can be compared, for claim 12
PEOPLE = "votes of people"  # the beginning of the name of their part
PROXY_MARGIN = 0.1  # of the share of votes *real*
LEAST_SPREAD = 0.5  # of head motion between seeds, as a share of that between true clips


@dataclass
class Evidence:
    """The measurements that claims are decided on; what is empty was not run."""

    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)  # columns method, identity and metrics
    ablations: pd.DataFrame = field(default_factory=pd.DataFrame)  # as ``ablation_metrics.csv``
    length: pd.DataFrame = field(default_factory=pd.DataFrame)  # as ``length_metrics.csv``
    proxy: pd.DataFrame = field(default_factory=pd.DataFrame)  # votes of :func:`turing.observe`
    people: pd.DataFrame = field(default_factory=pd.DataFrame)  # rows of :func:`turing.table2` from here
    spread: pd.DataFrame = field(default_factory=pd.DataFrame)  # of :func:`diversity.spread`
    voices: pd.DataFrame = field(default_factory=pd.DataFrame)  # of :func:`generalisation.measure`
    faces: pd.DataFrame = field(default_factory=pd.DataFrame)  # of :func:`generalisation.measure_faces`
    # as metrics and ablations, on the plain corpus
    plain_metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    plain_ablations: pd.DataFrame = field(default_factory=pd.DataFrame)


def plain_measurements(profile: Profile, results: Path) -> dict[str, pd.DataFrame]:
    """Measurements on the plain corpus, by the names of :class:`Evidence`: those of ``results/laptop-plain``,
    or of the committed reference. None for a profile of your own videos.
    """
    if profile.data.real:
        return {}
    plain = load(PLAIN_PROFILE)
    metrics = measured_table(COMPARED, plain, results)
    return {"plain_metrics": metrics, "plain_ablations": measurements(plain, results)}


# -- comparisons ------------------------------------------------------------------------------------
def better(metric: str, values: pd.Series) -> pd.Series:
    """Values of a metric of which a larger one is better."""
    return -values if metric in SMALLER_IS_BETTER else values


def compare_settings(
    rows: pd.DataFrame, metric: str, first: SettingName, second: SettingName, margin: float = 0.0
) -> Part:
    """How much better a setting of an ablation is than another one, plus a margin.

    Paired by seed and identity; the interval is over identities.
    """
    name = f"{metric}: {first[0]} {first[1]}, against {second[1]}"
    if first[0] != second[0]:
        name = f"{metric}: {' '.join(first)}, against {' '.join(second)}"
    if metric not in rows:
        return Part(name, missing=f"ablations with {metric}")
    oriented = rows.assign(**{metric: better(metric, rows[metric])})
    return decide(name, paired_differences(oriented, first, second, metric), margin)


def means(rows: pd.DataFrame, method: str, metric: str) -> pd.Series:
    """A method's values of a metric by identity; empty where it was not measured."""
    if metric not in rows:
        return pd.Series(dtype=float)
    return rows[rows["method"] == method].groupby("identity")[metric].mean()


def compare_methods(rows: pd.DataFrame, metric: str, first: str, second: str) -> Part:
    """How much better a method is than another one, paired by identity."""
    values = [better(metric, means(rows, method, metric)) for method in (first, second)]
    return decide(f"{metric}: {first}, against {second}", values[0] - values[1])


def name_plain_corpus(parts: Sequence[Part]) -> list[Part]:
    """The parts, with the plain corpus in their names."""
    return [Part(p.name + ON_PLAIN, p.estimate, p.missing + ON_PLAIN if p.missing else "") for p in parts]


def decide(name: str, differences: pd.Series | np.ndarray, margin: float = 0.0) -> Part:
    """A part from the differences of identities, each plus a margin; "not run" where there are none."""
    values = np.asarray(differences, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return Part(name, missing=name)
    return Part(name + (f", plus {margin:g}" if margin else ""), mean_estimate(values + margin))


def keeps(rows: pd.DataFrame, first: SettingName, second: SettingName, metrics: Sequence[str]) -> list[Part]:
    """Whether a setting is at most by a margin worse than another one, in each metric."""
    return [compare_settings(rows, metric, first, second, MARGINS[metric]) for metric in metrics]


# -- the parts of every claim -----------------------------------------------------------------------
def motion_frames_smooth(evidence: Evidence) -> list[Part]:
    """Section 5.4, Fig. 5: one motion frame against none, and two against one."""
    pairs = pairwise((settings.MOTION, str(count)) for count in (0, 1, 2))
    return [compare_settings(evidence.ablations, FLOW, more, fewer) for fewer, more in pairs]


def grey_helps_where_speakers_are_many(evidence: Evidence) -> list[Part]:
    """Section 5.4, Table 3: grey motion frames against coloured ones; on the plain corpus, coloured ones keep
    what is reached in grey.
    """
    pairs = [[(settings.SOUND[grey], str(count)) for grey in (True, False)] for count in settings.COUNTS]
    parts = [
        compare_settings(evidence.ablations, metric, grey, colour)
        for grey, colour in pairs
        for metric in (LMD, "SSIM")
    ]
    plain = [keeps(evidence.plain_ablations, colour, grey, [LMD, "SSIM"]) for grey, colour in pairs]
    return [*parts, *name_plain_corpus(list(chain.from_iterable(plain)))]


def two_embeddings_per_side_are_best(evidence: Evidence) -> list[Part]:
    """Section 5.4, Table 3: two motion audio embeddings on each side against other numbers, in grey."""
    rows = {count: (settings.SOUND[True], str(count)) for count in settings.COUNTS}
    return [
        compare_settings(evidence.ablations, metric, rows[2], rows[count])
        for count in (0, 1, 3)
        for metric in (LMD, "SSIM")
    ]


def lip_loss_helps_in_moderation(evidence: Evidence) -> list[Part]:
    """Section 5.4: λ_ls = 0.2 against 0, and against 1."""
    none, moderate, much = ((settings.LIPS, weight) for weight in ("0", "0.2", "1"))
    quality = ["SSIM", similarity_in(evidence.metrics)]
    return [
        *(compare_settings(evidence.ablations, metric, moderate, none) for metric in (LMD, PER)),
        *keeps(evidence.ablations, moderate, none, quality),
        *(compare_settings(evidence.ablations, metric, moderate, much) for metric in quality),
    ]


def fewer_steps_keep_quality(evidence: Evidence) -> list[Part]:
    """Section 4.5: 10 denoising steps against 50."""
    many, few = ((settings.STEPS, str(count)) for count in (50, 10))
    return keeps(evidence.ablations, few, many, [LMD, PER, "SSIM", similarity_in(evidence.metrics)])


def no_mode_collapse(evidence: Evidence) -> list[Part]:
    """Section 5.2: head motion of the same identity and sound with two seeds, against that of true clips."""
    name, spread = (
        f"distance of head tracks: between seeds minus {LEAST_SPREAD:g} times between clips",
        evidence.spread,
    )
    if spread.empty:
        return [Part(name, missing="clips with another seed")]
    return [decide(name, spread["between seeds"] - LEAST_SPREAD * spread["between clips"])]


def other_voices_are_followed(evidence: Evidence) -> list[Part]:
    """Section 5.5: with another clip's sound, lips against those of that clip and of one's own."""
    other, own = (means(evidence.metrics, method, SOUND_CORRELATION) for method in (OTHER_SOUND, OURS))
    own_mouth = means(evidence.metrics, OTHER_SOUND, "mouth opening")
    return [
        decide(f"{SOUND_CORRELATION}: {OTHER_SOUND}, against its own", other - own, SOUND_MARGIN),
        decide(f"{OTHER_SOUND}: {SOUND_CORRELATION}, against that of its own clip", other - own_mouth),
    ]


def other_languages_are_followed(evidence: Evidence) -> list[Part]:
    """Section 5.5, Fig. 6: lips with a voice of another language, against one of the corpus."""
    metric, name = generalisation.METRICS[0], "mouth opening: {}, against a voice of the corpus"
    if evidence.voices.empty or evidence.voices["voice"].nunique() == 1:
        return [Part(name.format("other languages"), missing="espeak-ng")]
    by_voice = evidence.voices.pivot_table(index="identity", columns="voice", values=metric, sort=False)
    corpus = by_voice.pop(generalisation.CORPUS)
    return [decide(name.format(voice), by_voice[voice] - corpus, SOUND_MARGIN) for voice in by_voice]


def outside_faces_are_animated(evidence: Evidence) -> list[Part]:
    """Section 5.5, Fig. 6: lips of a face from outside the corpus, against faces of the corpus with the same
    voice; over the voices with which dlib reads the mouths of true clips and faces of the corpus follow.
    """
    rows, name = evidence.faces, "mouth opening: {}, against faces of the corpus"
    if rows.empty:
        return [Part(name.format("faces from outside"), missing="faces from outside, which need dlib")]
    metric, voices = generalisation.ANIMATED, generalisation.comparable_voices(rows)
    rows = rows[rows["voice"].isin(voices) & ~rows["true clip"]]
    corpus = rows[~rows["outside"]].groupby("voice")[metric].mean()
    parts = []
    for face in evidence.faces.query("outside")["identity"].unique():
        differences = rows[rows["identity"] == face].set_index("voice")[metric] - corpus
        enough = len(voices) >= LEAST_VOICES
        parts.append(
            decide(name.format(face), differences, SOUND_MARGIN) if enough else Part(name.format(face))
        )
    return parts


def quality_falls_on_longer_sequences(evidence: Evidence) -> list[Part]:
    """Section 5.6: identity similarity in the first part of a long clip minus that in the last."""
    similarity = similarity_in(evidence.metrics)
    name = f"{similarity}: first ten seconds of a minute, against the last"
    if evidence.length.empty:
        return [Part(name, missing="long clips")]
    rows = evidence.length[evidence.length["remedy"] == length.NONE]
    parts = rows.pivot(index="identity", columns="part", values=similarity)
    return [decide(name, parts[0] - parts[length.PARTS - 1])]


def clips_pass_for_real(evidence: Evidence) -> list[Part]:
    """Section 5.3, Table 2: votes *real* of observers on generated clips against those on true clips.

    Observers that find no fakes at all, also not of methods that they have learned, decide nothing.
    """
    if evidence.proxy.empty:
        return [Part(f"Turing-proxy: {OURS}, against true clips", missing="the observers of clips")]
    ours = evidence.proxy[evidence.proxy["method"] == OURS]
    return [
        decide(f"Turing-proxy: {OURS}, against true clips", ours[VOTES] - ours["true clips"], PROXY_MARGIN),
        decide(
            "Turing-proxy: true clips, against fakes that were learned", ours["true clips"] - ours["control"]
        ),
        *votes_of_people(evidence.people),
    ]


def votes_of_people(votes: pd.DataFrame) -> list[Part]:
    """Votes *real* of people on generated clips against those on true clips, plus a margin; no part without
    votes.

    The two rows' intervals, over raters and identities, are combined as of independent estimates.
    """
    rows = votes.set_index("method") if len(votes) else votes
    if not {OURS, TRUE_CLIPS} <= set(rows.index):
        return []
    ours, true = (
        rows.loc[name, ["real", "ci_low", "ci_high"]].astype(float) / 100 for name in (OURS, TRUE_CLIPS)
    )
    value = ours["real"] - true["real"] + PROXY_MARGIN
    half = np.hypot(*((row["ci_high"] - row["ci_low"]) / 2 for row in (ours, true)))
    name = f"{PEOPLE}: {OURS}, against true clips, plus {PROXY_MARGIN:g}"
    return [Part(name, normal_estimate(float(value), float(half)))]


def diffusion_beats_the_gan(evidence: Evidence) -> list[Part]:
    """The title; section 5.3, Table 1: against SDA, on the corpora on which it has been trained."""

    def compare(rows: pd.DataFrame) -> list[Part]:
        names = (LMD, PER, "SSIM", similarity_in(rows)) if means(rows, SDA, LMD).size else ()
        return [compare_methods(rows, metric, OURS, SDA) for metric in names]

    parts = [*compare(evidence.metrics), *name_plain_corpus(compare(evidence.plain_metrics))]
    return parts or [Part(f"{OURS}, against {SDA}", missing=SDA)]


MEANS = "mean paired difference over identities"
SHORT_TRAININGS = f"{MEANS}, after equally long training runs from the same weights"
MARGIN_NOTE = '; "keeps" allows a margin, which the part states'
CLAIMS = (
    Claim(
        1,
        "Motion frames make motion smoother, from none to one to two",
        "5.4, Fig. 5",
        f"{SHORT_TRAININGS}: less optical flow of the head",
        motion_frames_smooth,
    ),
    Claim(
        2,
        "Grey motion frames help on a corpus of many speakers, and not on one of few",
        "5.4, Table 3",
        f"{SHORT_TRAININGS}: in grey minus in colour, LMD and SSIM, for every number of audio embeddings; on "
        f"the plain corpus, in colour keeps what in grey reaches{MARGIN_NOTE}",
        grey_helps_where_speakers_are_many,
    ),
    Claim(
        3,
        "Two motion audio embeddings on each side are best",
        "5.4, Table 3",
        f"{SHORT_TRAININGS}, with grey motion frames: two minus every other number, LMD and SSIM",
        two_embeddings_per_side_are_best,
    ),
    Claim(
        4,
        "λ_ls = 0.2 improves the lips without harm, and values above 0.5 harm",
        "5.4",
        f"{SHORT_TRAININGS}: 0.2 minus 0, LMD and {PER}, and keeps SSIM and identity similarity; 0.2 minus "
        f"1, SSIM and identity similarity{MARGIN_NOTE}",
        lip_loss_helps_in_moderation,
    ),
    Claim(
        5,
        "Five times fewer denoising steps keep the quality",
        "4.5",
        f"{MEANS}: 10 denoising steps minus 50; keeps LMD, {PER}, SSIM and identity similarity{MARGIN_NOTE}",
        fewer_steps_keep_quality,
    ),
    Claim(
        6,
        "No mode collapse",
        "5.2",
        f"mean over identities, distance of head tracks: between two seeds minus {LEAST_SPREAD:g} times that "
        "between two true clips",
        no_mode_collapse,
    ),
    Claim(
        7,
        "Lips follow other voices",
        "5.5",
        f"{MEANS}, correlation of the mouth: with that of the clip that is heard, another clip's sound minus "
        f"its own, plus {SOUND_MARGIN:g}; with another clip's sound, with that clip's mouth minus its own "
        "clip's",
        other_voices_are_followed,
    ),
    Claim(
        8,
        "Quality falls on longer sequences",
        "5.6",
        f"{MEANS}: identity similarity in the first ten seconds of a minute minus that in the last ten, "
        "without any remedy",
        quality_falls_on_longer_sequences,
    ),
    Claim(
        9,
        "Indistinguishable from real clips",
        "5.3, Table 2",
        f"{MEANS}, share of votes *real* of observers: generated minus true clips, plus {PROXY_MARGIN:g}; "
        "true clips minus fakes of methods that they have learned; the same of people where they have voted",
        clips_pass_for_real,
    ),
    Claim(
        10,
        "Diffusion beats a GAN",
        "title, 5.3, Table 1",
        f"{MEANS}: {OURS} minus {SDA}, LMD, {PER}, SSIM and identity similarity, on the corpora on which "
        f"{SDA} has been trained",
        diffusion_beats_the_gan,
    ),
    Claim(
        11,
        "Lips follow other languages",
        "5.5, Fig. 6",
        f"{MEANS}, correlation of the mouth's opening with that of a speaker who says the same: with a voice "
        f"of another language minus one of the corpus, plus {SOUND_MARGIN:g}",
        other_languages_are_followed,
    ),
    Claim(
        12,
        "Faces from outside the training data are animated",
        "5.5, Fig. 6",
        "mean over voices, correlation of the mouth's opening (by dlib) with the jaw of what is said: a face "
        f"from outside minus the faces of the corpus, plus {SOUND_MARGIN:g}; of the voices for which it is "
        f"{generalisation.READABLE:g} or more in true clips and {generalisation.FOLLOWED:g} or more in "
        f"generated faces of the corpus, at least {LEAST_VOICES}",
        outside_faces_are_animated,
    ),
)


def evaluate(evidence: Evidence) -> pd.DataFrame:
    """The verdicts: see :func:`experiments.claims.evaluate`."""
    return evaluate_claims(CLAIMS, evidence)
