"""Possible causes of *no* and *undecided* verdicts on Diffused Heads, as far as measurements show them.

A cause raises NotShown where it was not measured, or where the measurements do not show it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from talking_heads.experiments import explanations
from talking_heads.experiments.diffused import ablation_settings as settings
from talking_heads.experiments.diffused import claims, generalisation, length
from talking_heads.experiments.diffused.ablation_settings import SettingName
from talking_heads.experiments.diffused.ablation_table import of_first_seed, paired_differences, rows_of
from talking_heads.experiments.diffused.claims import Evidence
from talking_heads.experiments.diffused.clip_metrics import LMD, SOUND_CORRELATION
from talking_heads.experiments.diffused.length import FLOW
from talking_heads.experiments.diffused.protocol import FROZEN, OTHER_SOUND, OURS, SDA, TRUE_MOTION
from talking_heads.experiments.explanations import NotShown, interval_text, only_if
from talking_heads.judges.faces import CSIM_JUDGE, similarity_in
from talking_heads.metrics.statistics import mean_estimate

TRUE_FLOW = f"true {FLOW}"
STILLNESS = (FROZEN, OURS, SDA)
# of two training runs, in standard deviations between seeds; smaller differences may be chance
LEAST_DIFFERENCE = float(stats.t.ppf(0.975, settings.SEEDS - 1)) * 2**0.5
STEPS = [str(count) for count in settings.DENOISING_STEPS]
LIP_WEIGHTS = [f"{weight:g}" for weight in settings.LIP_WEIGHTS]


# -- measurements -----------------------------------------------------------------------------------
def level(data: Evidence, ablation: str, setting: str, metric: str) -> float:
    """The mean of a metric over the identities of a setting. Raises NotShown where it was not measured."""
    if metric not in data.ablations or rows_of(data.ablations, (ablation, setting)).empty:
        raise NotShown(f"{ablation} {setting}: {metric}")
    return float(of_first_seed(rows_of(data.ablations, (ablation, setting)))[metric].mean())


def change(data: Evidence, metric: str, first: SettingName, second: SettingName) -> np.ndarray:
    """A setting minus another one in a metric, by identity (n,). Raises NotShown as :func:`level` does."""
    for name in (first, second):
        level(data, *name, metric)
    return paired_differences(data.ablations, first, second, metric)


def of_method(data: Evidence, method: str, metric: str) -> "pd.Series[float]":
    """A method's values of a metric by identity. Raises NotShown where it was not measured."""
    values = claims.means(data.metrics, method, metric) if len(data.metrics) else pd.Series(dtype=float)
    if values.dropna().empty:
        raise NotShown(f"{method}: {metric}")
    return values


def seed_deviation(data: Evidence, metric: str) -> float:
    """The largest standard deviation between trainings of one setting. Raises NotShown where none was
    trained with several seeds.
    """
    if metric not in data.ablations:
        raise NotShown(f"ablations with {metric}")
    by_seed = data.ablations.groupby(["ablation", "setting", "seed"])[metric].mean()
    deviation = by_seed.groupby(["ablation", "setting"]).std().max()
    only_if(np.isfinite(deviation))
    return float(deviation)


def text_of(differences: np.ndarray) -> str:
    """The mean of differences with its interval."""
    return interval_text(*mean_estimate(differences)[:3])


def levels_text(data: Evidence, ablation: str, names: Sequence[str], metric: str) -> str:
    """The means of a metric in several settings."""
    return ", ".join(f"{level(data, ablation, name, metric):.3f} ({name})" for name in names)


# -- causes -----------------------------------------------------------------------------------------
def one_motion_frame_is_smooth_already(data: Evidence) -> str:
    """Claim 1: with one motion frame, heads move no more than true ones do."""
    one, true = (level(data, settings.MOTION, "1", metric) for metric in (FLOW, TRUE_FLOW))
    only_if(one <= true)
    flows = levels_text(data, settings.MOTION, ("0", "1", "2"), FLOW)
    return (
        f"The flow of the head, by motion frames, is {flows} pixels a frame, and {true:.3f} in true clips: "
        "with one motion frame heads already move no more than true ones, so a further decrease would not "
        "bring them closer to true clips."
    )


def grey_frames_lose_the_face(data: Evidence) -> str:
    """Claim 2: without the colours of the motion frames, less of the identity is kept."""
    names = [(settings.SOUND[grey], str(count)) for count in settings.COUNTS for grey in (True, False)]
    pairs = zip(names[::2], names[1::2], strict=True)
    similarity = similarity_in(data.ablations)
    differences = np.concatenate([change(data, similarity, grey, colour) for grey, colour in pairs])
    only_if(differences.mean() < 0)
    chance = ""
    with suppress(NotShown):
        deviation = seed_deviation(data, similarity)
        chance = f" (between seeds, training runs have a standard deviation of {deviation:.3f})"
    return (
        f"With grey motion frames {similarity} changes by {differences.mean():+.3f}, averaged over all "
        f"numbers of embeddings{chance}: the network may take part of the face from their colours. "
        "The common start was trained in colour, which also puts grey at a disadvantage."
    )


def settings_differ_no_more_than_seeds(data: Evidence, ablation: str, names: Sequence[str]) -> str:
    """Claims 3 and 4: settings differ in LMD no more than training runs of one setting with other seeds."""
    deviation = seed_deviation(data, LMD)
    values = [level(data, ablation, name, LMD) for name in names]
    only_if(max(values) - min(values) < LEAST_DIFFERENCE * deviation)
    return (
        f"Between seeds, LMD of training runs has a standard deviation of up to {deviation:.4f}. "
        f"By {ablation}, LMD ranges from {min(values):.4f} to {max(values):.4f}. One training run of "
        "each setting cannot rank them."
    )


def more_sound_loses_the_face(data: Evidence) -> str:
    """Claim 3: with more motion audio embeddings SSIM falls with identity similarity, not with the lips."""
    names, similarity = [str(count) for count in settings.COUNTS], similarity_in(data.ablations)
    frames, faces = (
        [level(data, settings.SOUND[True], name, metric) for name in names] for metric in ("SSIM", similarity)
    )
    only_if(np.argmax(frames) == np.argmax(faces) != names.index("2"))
    metrics = ("SSIM", similarity, LMD)
    texts = [f"{metric} {levels_text(data, settings.SOUND[True], names, metric)}" for metric in metrics]
    return f"By the number of embeddings: {'; '.join(texts)}. SSIM is highest where {similarity} is."


def lips_are_not_best_at_the_papers_weight(data: Evidence) -> str:
    """Claim 4: what every weight of the lip loss reaches."""
    best = min(LIP_WEIGHTS, key=lambda name: level(data, settings.LIPS, name, LMD))
    only_if(best != "0.2")
    similarity = similarity_in(data.ablations)
    lips, faces = (levels_text(data, settings.LIPS, LIP_WEIGHTS, metric) for metric in (LMD, similarity))
    return f"By λ_ls, LMD is {lips}, lowest at {best}, and {similarity} {faces}."


def more_steps_change_the_face(data: Evidence) -> str:
    """Claim 5: identity similarity and lips for every number of denoising steps; without a condition."""
    only_if(len(data.ablations))
    of_steps = {name: rows_of(data.ablations, (settings.STEPS, name)) for name in STEPS}
    measured = {name: rows for name, rows in of_steps.items() if len(rows)}
    only_if(measured)
    shared = set.intersection(*(set(rows["identity"]) for rows in measured.values()))
    common = data.ablations[data.ablations["identity"].isin(shared)]
    on_shared, similarity = dataclasses.replace(data, ablations=common), similarity_in(common)
    lips, faces = (
        levels_text(on_shared, settings.STEPS, list(measured), metric) for metric in (LMD, similarity)
    )
    return f"By denoising steps, on {len(shared)} identities, {similarity} is {faces}, and LMD {lips}."


def heads_move_less_than_true_ones(data: Evidence) -> str:
    """Claim 6: generated heads move less, with any seed."""
    ours, true = (of_method(data, OURS, metric).mean() for metric in (FLOW, TRUE_FLOW))
    only_if(ours < true and len(data.spread) > 0)
    seeds, clips = (data.spread[name].mean() for name in ("between seeds", "between clips"))
    return (
        f"Head tracks with two seeds are {seeds:.3f} interocular distances apart, those of two true clips "
        f"{clips:.3f}. Generated heads move less: the flow of the head is {ours:.3f} pixels a frame, that of "
        f"true clips {true:.3f}."
    )


def other_sound_is_followed_less(data: Evidence) -> str:
    """Claim 7: how closely lips follow one's own sound and another clip's."""
    own, other = (of_method(data, method, SOUND_CORRELATION).mean() for method in (OURS, OTHER_SOUND))
    only_if(other < own)
    return (
        "The correlation of the generated mouth with the true mouth of the clip that supplies the sound is "
        f"{own:.3f} for the clip's own sound and {other:.3f} for another clip's."
    )


def the_first_seconds_lose_most(data: Evidence) -> str:
    """Claim 8: more identity similarity is lost within the first ten seconds than after them."""
    similarity = similarity_in(data.metrics)
    true = of_method(data, TRUE_MOTION, similarity).mean()
    if data.length.empty:
        raise NotShown("long clips")
    plain = data.length[data.length["remedy"] == length.NONE].groupby("part")[similarity].mean()
    only_if(true - plain.iloc[0] > plain.iloc[0] - plain.iloc[-1])
    return (
        f"With true motion frames {similarity} is {true:.3f}; with generated ones it is {plain.iloc[0]:.3f} "
        f"in the first ten seconds and {plain.iloc[-1]:.3f} in the last: the larger "
        "part of the loss occurs early."
    )


def observers_see_more_than_people(data: Evidence) -> str:
    """Claim 9: observers tell generated clips from true ones, and how often they are right."""
    if data.proxy.empty:
        raise NotShown("the observers of clips")
    ours = data.proxy[data.proxy["method"] == OURS]
    real, true, control = (ours[name].mean() for name in (claims.VOTES, "true clips", "control"))
    only_if(real < true)
    return (
        f"Observers vote real for {real:.0%} of the generated clips, {true:.0%} of the true ones and "
        f"{control:.0%} of the fakes that they learned from."
    )


def drawing_gives_clips_away(data: Evidence) -> str:
    """Claim 9: clips after true motion frames, which move as true ones do, are found, too."""
    if data.proxy.empty:
        raise NotShown("the observers of clips")
    votes = data.proxy.groupby("method")[claims.VOTES].mean()
    if TRUE_MOTION not in votes:
        raise NotShown(f"votes on {TRUE_MOTION}")
    true = data.proxy.loc[data.proxy["method"] == TRUE_MOTION, "true clips"].mean()
    only_if(votes[TRUE_MOTION] < true)
    return (
        f"With {TRUE_MOTION}, where heads move as in the true clips and errors cannot accumulate, observers "
        f"vote real for {votes[TRUE_MOTION]:.0%} of the clips. So neither drift nor the motion of heads "
        "is needed to give clips away: how single frames are drawn, or how they flicker, is enough."
    )


def observers_have_learned_nothing(data: Evidence) -> str:
    """Claim 9: observers do not tell the fakes that they have learned from true clips."""
    if data.proxy.empty:
        raise NotShown("the observers of clips")
    ours = data.proxy[data.proxy["method"] == OURS]
    true, control = (ours[name].mean() for name in ("true clips", "control"))
    only_if(control >= true)
    return (
        f"Observers vote real for {control:.0%} of the fakes that they learned from and for {true:.0%} of "
        "the true clips: they have learned nothing that generalises to new identities."
    )


def still_heads_score_well(data: Evidence) -> str:
    """Claim 10: a picture that does not move is closer to the true clip than a head that moves otherwise."""
    texts = []
    for corpus, rows in (("diverse", data.metrics), ("plain", data.plain_metrics)):
        if not len(rows) or claims.means(rows, SDA, LMD).empty:
            continue
        similarity, flow = (
            [claims.means(rows, m, name).mean() for m in STILLNESS] for name in ("SSIM", FLOW)
        )
        if similarity[0] > similarity[1] and flow[2] < flow[1]:
            true = claims.means(rows, OURS, TRUE_FLOW).mean()
            texts.append(
                f"On the {corpus} corpus the frozen identity frame reaches SSIM {similarity[0]:.3f}, {OURS} "
                f"{similarity[1]:.3f} and {SDA} {similarity[2]:.3f}, whose heads move less: their flow is "
                f"{flow[2]:.3f} pixels a frame, ours {flow[1]:.3f}, that of true clips {true:.3f}."
            )
    only_if(texts)
    return " ".join(texts)


def our_network_has_not_seen_the_corpus(data: Evidence) -> str:
    """Claim 10: on the plain corpus our network is that of the diverse one; a short training changes much."""
    trained = (settings.SOUND[False], "2")  # the profile's own setting
    if data.plain_ablations.empty or rows_of(data.plain_ablations, trained).empty:
        raise NotShown("a short training on the plain corpus")
    rows, texts = of_first_seed(rows_of(data.plain_ablations, trained)), []
    for metric in ("SSIM", CSIM_JUDGE):
        ours, sda = (claims.means(data.plain_metrics, method, metric).mean() for method in (OURS, SDA))
        only_if(rows[metric].mean() > ours)
        texts.append(f"{metric} from {ours:.3f} to {rows[metric].mean():.3f} ({SDA}: {sda:.3f})")
    return (
        "Our network was trained on the diverse corpus alone. The short training of an ablation, on the "
        f"plain corpus, changes {' and '.join(texts)}."
    )


def other_languages_are_misheard(data: Evidence) -> str:
    """Claim 11: the jaw is predicted less well from other voices than from those of the pretraining."""
    if data.voices.empty:
        raise NotShown("other voices")
    heard = data.voices.groupby("voice", sort=False)[generalisation.HEARD].mean()
    others = heard.drop(generalisation.CORPUS)
    only_if(len(others) > 0 and others.max() < heard[generalisation.CORPUS])
    levels = ", ".join(f"{value:.2f} ({voice})" for voice, value in others.items())
    return (
        "The correlation of the jaw opening predicted from the audio embeddings with the true one is "
        f"{heard[generalisation.CORPUS]:.2f} for a voice of the corpus, on which it was pretrained, and "
        f"{levels}. Lips can hardly follow motion that the embeddings do not represent."
    )


def few_voices_are_comparable(data: Evidence) -> str:
    """Claim 12: how well dlib reads the mouths of true clips, and generated faces of the corpus follow."""
    if data.faces.empty:
        raise NotShown("faces from outside")
    true, metric = data.faces[data.faces["true clip"]], generalisation.ANIMATED
    readable = generalisation.readable_voices(data.faces)
    comparable = generalisation.comparable_voices(data.faces)
    by_voice = true.groupby("voice", sort=False)[metric].mean()
    only_if(len(comparable) < len(by_voice))
    return (
        "On true clips of the corpus, the correlation of dlib's opening of the mouth with the jaw is "
        f"{by_voice.mean():.2f} on average, and {generalisation.READABLE:g} or more for {len(readable)} "
        f"of {len(by_voice)} voices, although these mouths move as they should. On generated faces of the "
        f"corpus it is {generalisation.FOLLOWED:g} or more for {len(comparable)} of these. With other voices "
        "there is nothing to compare with."
    )


def outside_faces_move_otherwise(data: Evidence) -> str:
    """Claim 12: how closely each face follows what is said, and in how many frames a face is found."""
    if data.faces.empty:
        raise NotShown("faces from outside")
    generated, metric = data.faces[~data.faces["true clip"]], generalisation.ANIMATED
    means = generated.groupby(["outside", "identity"], sort=False)[[metric, "found"]].mean()
    outside, corpus = means.loc[True], means.loc[False].mean()
    only_if(outside[metric].min() < corpus[metric])
    levels = ", ".join(
        f"{row[metric]:.2f} ({face}; a face in {row['found']:.0%} of the frames)"
        for face, row in outside.iterrows()
    )
    return (
        f"The correlation of the mouth's opening with the jaw of what is said is {levels}, and "
        f"{corpus[metric]:.2f} on faces of the corpus. The network was trained on rendered faces alone."
    )


CAUSES: dict[int, tuple[Callable[[Evidence], str], ...]] = {
    1: (one_motion_frame_is_smooth_already,),
    2: (grey_frames_lose_the_face,),
    3: (
        partial(
            settings_differ_no_more_than_seeds,
            ablation=settings.SOUND[True],
            names=[str(count) for count in settings.COUNTS],
        ),
        more_sound_loses_the_face,
    ),
    4: (
        lips_are_not_best_at_the_papers_weight,
        partial(settings_differ_no_more_than_seeds, ablation=settings.LIPS, names=LIP_WEIGHTS),
    ),
    5: (more_steps_change_the_face,),
    6: (heads_move_less_than_true_ones,),
    7: (other_sound_is_followed_less,),
    8: (the_first_seconds_lose_most,),
    9: (observers_see_more_than_people, drawing_gives_clips_away, observers_have_learned_nothing),
    10: (still_heads_score_well, our_network_has_not_seen_the_corpus),
    11: (other_languages_are_misheard,),
    12: (few_voices_are_comparable, outside_faces_move_otherwise),
}
# by claim, the measurements in Evidence that decide it; "plain_" and the name for parts on the plain corpus
DECIDED_ON = {
    **dict.fromkeys((1, 2, 3, 4, 5), "ablations"),
    6: "spread",
    7: "metrics",
    8: "length",
    9: "proxy",
    10: "metrics",
    11: "voices",
    12: "faces",
}


OTHER_INTERVALS = {"people", "faces"}  # measurements whose intervals are not over identities


def decided_on(claim: int, part: str) -> str:
    """The name in Evidence of the measurements that decide a part of a claim."""
    if part.startswith(claims.PEOPLE):
        return "people"
    return ("plain_" if part.endswith(claims.ON_PLAIN) else "") + DECIDED_ON[claim]


def explain(table: pd.DataFrame, data: Evidence) -> pd.DataFrame:
    """See :func:`explanations.explain`."""

    def n_identities(claim: int, part: str) -> int | None:
        name = decided_on(claim, part)
        rows = pd.DataFrame() if name in OTHER_INTERVALS else getattr(data, name)
        return rows["identity"].nunique() if len(rows) else None

    return explanations.explain(table, CAUSES, data, n_identities)
