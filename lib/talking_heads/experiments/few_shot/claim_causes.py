"""Causes of *no* and *undecided* verdicts: each describes what the measurements of a run show.

A cause raises NotShown where it was not measured, or where the measurements do not show it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from talking_heads.experiments import explanations
from talking_heads.experiments.explanations import NotShown, only_if
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.claim_measurements import LAST_STEPS, Measurements, end_of
from talking_heads.metrics.statistics import correlation


def training_frames_are_overfitted(data: Measurements) -> str:
    """Claim 1: fine-tuning fits the training frames more than it improves held-out frames."""
    loss = data.loss(methods.AFTER, "cnt")
    only_if(loss.iloc[-1] < loss.iloc[0])
    pair, t = (methods.AFTER, methods.BEFORE), data.evidence.shots[0]
    return (
        f"At T = {data.evidence.t} fine-tuning lowers L′_CNT on the training frames from {loss.iloc[0]:.2f} "
        f"to {loss.iloc[-1]:.2f}. On held-out frames it gains {data.difference(data.similarity, *pair)} in "
        f"{data.similarity} and {data.difference('SSIM', *pair)} in SSIM; at T = {t} it gains "
        f"{data.difference(data.similarity, *pair, t)} and {data.difference('SSIM', *pair, t)}."
    )


def gains_diminish_with_t(data: Measurements) -> str:
    """Claim 2: additional frames contribute less at a larger T."""
    few, middle, many = data.evidence.shots
    at_few, at_middle, at_many = (data.mean(methods.OURS, data.similarity, t) for t in data.evidence.shots)
    only_if(at_many - at_middle < at_middle - at_few)
    sentences = ["Additional frames contribute less at a larger T."]
    for metric in (data.similarity, "SSIM"):
        first = data.gain_by_frames(metric, methods.OURS, few, middle)
        second = data.gain_by_frames(metric, methods.OURS, middle, many)
        sentences.append(
            f"{metric} gains {first} from T = {few} to {middle} and {second} from T = {middle} to {many}."
        )
    return " ".join(sentences)


def fine_tuning_outweighs_longer_training(data: Measurements) -> str:
    """Claim 3: at the smallest T, FT is behind FF before fine-tuning and ahead after it."""
    few, many = data.evidence.shots[0], data.evidence.shots[-1]
    before = data.mean(methods.BEFORE, data.similarity, few)
    fine_tuned = [data.mean(methods.AFTER, data.similarity, t) for t in (few, many)]
    feed_forward = [data.mean(methods.FEED_FORWARD, data.similarity, t) for t in (few, many)]
    only_if(fine_tuned[0] > feed_forward[0] > before)
    return (
        f"Between T = {few} and {many} the {data.similarity} of FF changes from {feed_forward[0]:.3f} to "
        f"{feed_forward[1]:.3f}, that of FT from {fine_tuned[0]:.3f} to {fine_tuned[1]:.3f}. At T = {few} "
        f"FT has {before:.3f} before fine-tuning, below FF, and is above FF after it: already on the fewest "
        "frames fine-tuning gains more than FF's other training, which is longer and without L_MCH."
    )


def random_embedding_is_repaired(data: Measurements) -> str:
    """Claim 4: fine-tuning makes up for a random ê."""
    return repaired_by_fine_tuning(data, methods.RANDOM_E)


def random_psi_is_repaired(data: Measurements) -> str:
    """Claims 5 and 7: fine-tuning makes up for a random ψ̂."""
    return repaired_by_fine_tuning(data, methods.RANDOM_PSI)


def repaired_by_fine_tuning(data: Measurements, row: str) -> str:
    """How far fine-tuning makes up for a random start; it must remove half of the gap in L′_CNT."""
    full, ablation = data.loss(methods.OURS, "cnt"), data.loss(row, "cnt")
    gap_at_start, gap_at_end = ablation.iloc[0] - full.iloc[0], end_of(ablation) - end_of(full)
    steps = ablation.index[ablation <= full.iloc[0]]
    only_if(len(steps) > 0 and gap_at_start > 2 * gap_at_end)
    return (
        f"With {row} L′_CNT starts at {ablation.iloc[0]:.2f}, with the full model at {full.iloc[0]:.2f}. "
        f"After {steps[0] - 1} of {ablation.index[-1]} steps it reaches the start of the full model; the "
        f"mean of its last {LAST_STEPS} steps is {end_of(ablation):.2f} against {end_of(full):.2f}. "
        f"Fine-tuning adapts all of G′, not only ψ′, and removes {1 - gap_at_end / gap_at_start:.0%} of the "
        "difference at the start. What remains of it to the full model is "
        f"{data.difference(data.similarity, row, methods.OURS)} in {data.similarity} and "
        f"{data.difference('SSIM', row, methods.OURS)} in SSIM."
    )


def feed_forward_images_are_poor(data: Measurements) -> str:
    """Claim 4: the images before fine-tuning are less similar than another frame of the identity."""
    feed_forward = data.mean(methods.OURS_BEFORE, data.similarity)
    nearest = data.mean(methods.NEAREST, data.similarity)
    only_if(feed_forward < nearest)
    return (
        "The claim compares with weak images, those of the small corpus's model before fine-tuning: their "
        f"{data.similarity} is {feed_forward:.2f}, where a training frame of the same identity in another "
        f"pose has {nearest:.2f}."
    )


def normal_psi_breaks_the_pose(data: Measurements) -> str:
    """Claim 5: a ψ̂ of the wrong scale fails in pose, although its identity similarity is high enough."""
    error, full_error = (data.mean(name, "landmark error") for name in (methods.NORMAL_PSI, methods.OURS))
    ssim, full_ssim = (data.mean(name, "SSIM") for name in (methods.NORMAL_PSI, methods.OURS))
    similarity, full_similarity = (
        data.mean(name, data.similarity) for name in (methods.NORMAL_PSI, methods.OURS)
    )
    only_if(error > 1.5 * full_error and similarity > data.mean(methods.OURS_BEFORE, data.similarity))
    return (
        f"The row {methods.NORMAL_PSI}, which has the wrong scale, is not repaired: its landmark error is "
        f"{error:.3f} against {full_error:.3f} of the full model, its SSIM {ssim:.2f} against "
        f"{full_ssim:.2f}. Its {data.similarity}, {similarity:.2f} against {full_similarity:.2f}, is "
        f"nevertheless above that of the images before fine-tuning: {data.similarity} alone does not measure "
        "plausibility."
    )


def weak_separation(data: Measurements, method: str) -> str:
    """How little D′ of a method separates; no cause where it separates by 1 or more."""
    gap = data.score_gap(method)
    only_if(end_of(gap) < 1)
    return (
        f"scores true frames above generated ones by {gap.iloc[0]:+.2f} at the first step and "
        f"{end_of(gap):+.2f} over the last five, where L′_DSC asks for 2."
    )


def discriminator_barely_separates(data: Measurements) -> str:
    """Claim 8: D′ scores true and generated frames almost alike, so that L′_ADV has little effect."""
    return f"D′ contributes little to these fine-tunings: it {weak_separation(data, methods.OURS)}"


def discriminator_start_has_little_effect(data: Measurements) -> str:
    """Claims 6 and 7: D′ separates little from a random w′ on, and L′_ADV as a whole changes little."""
    change = data.difference(data.similarity, methods.NO_ADVERSARIAL, methods.OURS)
    return (
        f"With a random w′, D′ {weak_separation(data, methods.NO_MATCH_ONE_SHOT)} Fine-tuning without "
        f"L′_ADV changes {data.similarity} by {change}; the start of D′ has an effect through this term "
        "alone."
    )


def pose_is_limited_by_the_judge(data: Measurements) -> str:
    """Claim 8: the landmark error is close to the error of the judge that measures it."""
    error, without = (data.mean(name, "landmark error") for name in (methods.OURS, methods.NO_ADVERSARIAL))
    only_if(error < 1.5 * data.judge_error)
    return (
        f"Relative to the ground truth, sharpness is {data.mean(methods.OURS, 'sharpness'):.3f} with the "
        f"term and {data.mean(methods.NO_ADVERSARIAL, 'sharpness'):.3f} without. The landmark error is "
        f"{error:.4f} with the term and {without:.4f} without, and the judge's own error on true frames is "
        f"{data.judge_error:.4f}: little is left to gain in pose."
    )


def x2face_trails_on_near_poses(data: Measurements) -> str:
    """Claim 9: X2Face trails ours in SSIM on near poses, too, and is less sharp and less exact in pose."""
    x2face, ours = (data.by_pose_distance(name, "SSIM") for name in (methods.X2FACE, methods.OURS))
    sharpness, our_sharpness = (data.mean(name, "sharpness") for name in (methods.X2FACE, methods.OURS))
    error, our_error = (data.mean(name, "landmark error") for name in (methods.X2FACE, methods.OURS))
    only_if(x2face.near < ours.near and sharpness < our_sharpness and error > our_error)
    return (
        f"X2Face's SSIM minus ours is {x2face.near - ours.near:+.3f} on the half of the frames nearest to "
        f"the T frames and {x2face.far - ours.far:+.3f} on the other half: missing source pixels are "
        f"not its only cause. X2Face is less sharp ({sharpness:.2f} against {our_sharpness:.2f}) and "
        f"less exact in pose (landmark error {error:.3f} against {our_error:.3f})."
    )


def x2face_does_not_degrade_with_t(data: Measurements) -> str:
    """Claim 9: X2Face's Fréchet distance does not rise with T."""
    shots = data.evidence.shots
    distances = [data.distance(methods.X2FACE, t) for t in shots]
    only_if(distances[-1] <= distances[0])
    sharpness = [data.mean(methods.X2FACE, "sharpness", t) for t in shots]
    errors = [data.mean(methods.X2FACE, "landmark error", t) for t in shots]
    return (
        f"For T = {', '.join(map(str, shots))} X2Face's {data.evidence.distance_metric} is "
        f"{list_text(distances)}, its sharpness {list_text(sharpness)} and its landmark error "
        f"{list_text(errors)}: averaging more sources by their confidence does not degrade its frames here."
    )


def distance_follows_similarity(data: Measurements) -> str:
    """Claims 3 and 9: over the methods of Table 1, FD-judge ranks by identity similarity."""
    distance_metric, similarity_metric = data.evidence.distance_metric, data.evidence.similarity_metric
    only_if(distance_metric == "FD-judge")  # on features that are trained to separate identities
    pairs = []
    for name in methods.TABLE1:
        if name not in methods.TRIVIAL:
            with suppress(NotShown):
                pairs.append((data.distance(name), data.mean(name, similarity_metric)))
    only_if(len(pairs) > 3)
    distances, similarities = np.array(pairs).T
    coefficient = correlation(distances, similarities)
    only_if(coefficient < -0.7)
    return (
        f"Over {len(pairs)} rows of Table 1, {distance_metric} and {similarity_metric} have a correlation of "
        f"{coefficient:+.2f}: a distance of features that separate identities ranks methods by identity "
        f"similarity. {distance_metric}: Pix2pixHD {data.distance(methods.PIX2PIXHD):.3f}, ours "
        f"{data.distance(methods.OURS):.3f}."
    )


def pix2pixhd_has_no_embedder(data: Measurements) -> str:
    """Claim 9: Pix2pixHD learns an identity from the T frames only."""
    few, many = data.evidence.shots[0], data.evidence.shots[-1]
    pix2pixhd = [data.mean(methods.PIX2PIXHD, data.similarity, t) for t in (few, many)]
    ours = [data.mean(methods.OURS, data.similarity, t) for t in (few, many)]
    only_if(pix2pixhd[0] < ours[0])
    return (
        "Pix2pixHD has no embedder: it learns an identity from the T frames only, with more steps per "
        f"epoch at a larger T. Its {data.similarity} is {pix2pixhd[0]:.3f} (ours {ours[0]:.3f}) at T = {few} "
        f"and {pix2pixhd[1]:.3f} (ours {ours[1]:.3f}) at T = {many}."
    )


def observer_varies_between_identities(data: Measurements) -> str:
    """Claim 10: the observer's rates vary more between identities than between methods."""
    ours, nearest = data.observer_rates(methods.OURS), data.observer_rates(methods.NEAREST)
    differences = {name: data.observer_rates(name) - ours for name in (methods.X2FACE, methods.PIX2PIXHD)}
    only_if(any(values.std() > abs(values.mean()) for values in differences.values()))
    texts = [
        f"{name} by {values.mean():+.2f} (standard deviation over identities {values.std():.2f})"
        for name, values in differences.items()
    ]
    return (
        f"At T = {data.evidence.t} the observer finds ours in {ours.mean():.2f} of the triplets, where "
        f"chance is 0.33; in {nearest.mean():.2f} it chooses a real image, the nearest training frame. "
        f"Compared with ours, its rate differs for {' and for '.join(texts)}: it depends on the identity as "
        "much as on the method."
    )


def inference_times_are_close(data: Measurements) -> str:
    """Claim 11: a frame of ours takes about as long as one of Pix2pixHD."""
    if data.evidence.timings is None:
        raise NotShown("timings")
    inference = data.evidence.timings.query("phase == 'inference'")
    ours, pix2pixhd = (
        inference[inference["method"] == name].set_index("size")[["seconds", "low", "high"]]
        for name in (methods.OURS, methods.PIX2PIXHD)
    )
    ratios = ours["seconds"] / pix2pixhd["seconds"]
    sizes = ratios.index[np.abs(np.log(ratios)) < 0.1]
    only_if(len(sizes) > 0)
    texts = [
        f"at {size}² a frame of {methods.OURS} takes {seconds_text(ours.loc[size])}, one of "
        f"{methods.PIX2PIXHD} takes {seconds_text(pix2pixhd.loc[size])}"
        for size in sizes
    ]
    return (
        f"Medians and quartiles: {'; '.join(texts)}. The order of methods within a tenth of each other "
        "depends on the machine and varies between runs."
    )


def fine_tuning_evens_out_corpora(data: Measurements) -> str:
    """Claim 12: the lead of the large corpus shrinks with fine-tuning."""
    before, ours_before = (data.mean(name, data.similarity) for name in (methods.BEFORE, methods.OURS_BEFORE))
    after, ours = (data.mean(name, data.similarity) for name in (methods.AFTER, methods.OURS))
    only_if(before - ours_before > after - ours)
    return (
        f"The model of the large corpus leads in {data.similarity} by "
        f"{data.difference(data.similarity, methods.BEFORE, methods.OURS_BEFORE)} before fine-tuning and by "
        f"{data.difference(data.similarity, methods.AFTER, methods.OURS)} after it: fine-tuning reduces the "
        "effect of the corpus."
    )


def discriminator_barely_separates_in_short_trainings(data: Measurements) -> str:
    """Claim 13: D hardly separates true from generated frames in the trainings with and without L_FM."""
    table = data.evidence.stability
    if table is None or table.empty:
        raise NotShown("trainings without L_FM")
    only_if(table["apart"].mean() < 1)
    sentences = []
    for name, trainings in table.groupby("feature_matching"):
        means = trainings[["start", "end", "apart"]].mean()
        sentences.append(
            f"{str(name).capitalize()} L_FM {trainings['diverged'].sum()} of {len(trainings)} trainings "
            f"diverged, L_CNT changed from {means['start']:.2f} to {means['end']:.2f}, and over the last "
            f"steps D scored true frames above generated ones by {means['apart']:+.2f}."
        )
    return (
        f"{' '.join(sentences)} A D that hardly separates them has little effect on G, with or without L_FM."
    )


def sharpness_and_similarity_by_method(data: Measurements) -> str:
    """Claim 14: both metrics, method by method."""
    baselines = (methods.X2FACE, methods.PIX2PIXHD)
    ours = (methods.OURS_BEFORE, methods.OURS, methods.FEED_FORWARD, methods.AFTER)
    texts = [
        f"{name} {data.mean(name, 'sharpness'):.2f}, {data.mean(name, data.similarity):.3f}"
        for name in (*baselines, *ours)
    ]
    return f"Sharpness and {data.similarity} by method: {'; '.join(texts)}."


def far_poses_are_harder(data: Measurements) -> str:
    """Claim 15: the fine-tuned model is worse on far poses than on near ones."""
    head, frame = (data.by_pose_distance(name, data.similarity) for name in (methods.AFTER, methods.NEAREST))
    only_if(head.far < head.near)
    return (
        f"{data.similarity} on frames near to the T frames and far from them: {methods.AFTER} "
        f"{head.near:.3f} and {head.far:.3f}; {methods.NEAREST} {frame.near:.3f} and {frame.far:.3f}."
    )


def list_text(values: Sequence[float]) -> str:
    """Numbers separated by commas."""
    return ", ".join(f"{value:.3f}" for value in values)


def seconds_text(row: pd.Series) -> str:
    """A median of seconds with its quartiles."""
    return f"{row['seconds']:.4f} s [{row['low']:.4f}, {row['high']:.4f}]"


CAUSES: dict[int, tuple[Callable[[Measurements], str], ...]] = {
    1: (training_frames_are_overfitted,),
    2: (gains_diminish_with_t,),
    3: (fine_tuning_outweighs_longer_training, distance_follows_similarity),
    4: (random_embedding_is_repaired, feed_forward_images_are_poor),
    5: (random_psi_is_repaired, normal_psi_breaks_the_pose),
    6: (discriminator_start_has_little_effect,),
    7: (random_psi_is_repaired, discriminator_start_has_little_effect),
    8: (pose_is_limited_by_the_judge, discriminator_barely_separates),
    9: (
        x2face_trails_on_near_poses,
        x2face_does_not_degrade_with_t,
        distance_follows_similarity,
        pix2pixhd_has_no_embedder,
    ),
    10: (observer_varies_between_identities,),
    11: (inference_times_are_close,),
    12: (fine_tuning_evens_out_corpora,),
    13: (discriminator_barely_separates_in_short_trainings,),
    14: (sharpness_and_similarity_by_method,),
    15: (far_poses_are_harder,),
}
OTHER_UNITS = (11, 13)  # claims whose intervals are over repeated timings, and over seeds


def explain(table: pd.DataFrame, data: Measurements) -> pd.DataFrame:
    """See :func:`explanations.explain`."""
    count = data.evidence.frames["identity"].nunique()
    return explanations.explain(
        table, CAUSES, data, lambda claim, part: None if claim in OTHER_UNITS else count
    )
