"""What the paper claims, and the comparisons (see :mod:`claim_parts`) that decide whether it holds."""

import pandas as pd

from talking_heads.experiments.claims import Claim, Part
from talking_heads.experiments.claims import evaluate as evaluate_claims
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.claim_parts import (
    Evidence,
    Setting,
    SpeedRatio,
    compare_distance,
    compare_divergence,
    compare_far_poses,
    compare_metric,
    compare_observer_rates,
    compare_quality,
    compare_seconds,
    compare_sharpness,
    correlate_with_sharpness,
    ordered_as_in_paper,
    settings_at,
    steps_of_t,
    worse_than_feed_forward,
)

VERSION = 1  # of the claims' statistics: raised when a statistic changes


# -- the parts of every claim -----------------------------------------------------------------------
def fine_tuning_closes_the_gap(evidence: Evidence) -> list[Part]:
    """Section 4, Fig. 4: after fine-tuning against before."""
    return [
        compare_metric(evidence, metric, Setting(methods.AFTER, t), Setting(methods.BEFORE, t))
        for t in evidence.shots
        for metric in (evidence.similarity_metric, "SSIM")
    ]


def more_frames_help(evidence: Evidence) -> list[Part]:
    """Section 4, Table 1: a larger T against the next smaller one."""
    parts = []
    for fewer, more in steps_of_t(evidence):
        parts += compare_quality(evidence, Setting(methods.OURS, more), Setting(methods.OURS, fewer))
    return parts


def feed_forward_leads_at_one_frame(evidence: Evidence) -> list[Part]:
    """Section 4, Table 1: of Ours-FF and Ours-FT, the one that leads in the paper against the other."""
    parts = []
    for t in (evidence.shots[0], evidence.shots[-1]):
        parts += [
            compare_metric(evidence, "SSIM", *ordered_as_in_paper("SSIM", t)),
            compare_metric(evidence, evidence.similarity_metric, *ordered_as_in_paper("CSIM", t)),
            compare_distance(evidence, *ordered_as_in_paper("FID", t)),
        ]
    return parts


def random_embedding_fails(evidence: Evidence) -> list[Part]:
    """Section A.2: feed-forward images, which the paper finds plausible, against a random ê."""
    return worse_than_feed_forward(evidence, methods.RANDOM_E)


def random_psi_fails(evidence: Evidence) -> list[Part]:
    """Section A.2: feed-forward images, which the paper finds plausible, against a random ψ̂."""
    rows = (methods.RANDOM_PSI, methods.NORMAL_PSI)
    return [part for row in rows for part in worse_than_feed_forward(evidence, row)]


def random_w_is_plausible_but_worse(evidence: Evidence) -> list[Part]:
    """Section A.2, Fig. 6: the full model against a random w′, and that against feed-forward images."""
    names = methods.OURS, methods.NO_MATCH_ONE_SHOT, methods.OURS_BEFORE
    full, row, feed_forward = settings_at(evidence.t, *names)
    return [
        *compare_quality(evidence, full, row, metrics=()),
        *compare_quality(evidence, row, feed_forward, metrics=("landmark error",)),
    ]


def generator_start_matters_more(evidence: Evidence) -> list[Part]:
    """Section A.2: a random start of D′ against a random start of G′."""
    pair = settings_at(evidence.t, methods.NO_MATCH_ONE_SHOT, methods.RANDOM_PSI)
    return [compare_metric(evidence, metric, *pair) for metric in (evidence.similarity_metric, "SSIM")]


def adversarial_term_sharpens(evidence: Evidence) -> list[Part]:
    """Section A.2, Fig. 6: the full model against fine-tuning without L′_ADV."""
    pair = settings_at(evidence.t, methods.OURS, methods.NO_ADVERSARIAL)
    return [
        compare_sharpness(evidence, *pair),
        compare_metric(evidence, "sharpness", *pair),
        compare_metric(evidence, "landmark error", *pair),
    ]


def baselines_lead_as_in_table_1(evidence: Evidence) -> list[Part]:
    """Section 4, Table 1: X2Face in SSIM, its FID by T, and Pix2pixHD in FID and CSIM."""
    parts = []
    for t in evidence.shots:
        x2face, pix2pixhd, ours = settings_at(t, methods.X2FACE, methods.PIX2PIXHD, methods.OURS)
        parts += [compare_metric(evidence, "SSIM", x2face, other) for other in (pix2pixhd, ours)]
    for fewer, more in steps_of_t(evidence):
        x2face_pair = Setting(methods.X2FACE, fewer), Setting(methods.X2FACE, more)
        parts.append(compare_distance(evidence, *x2face_pair))
    for t in evidence.shots:
        pix2pixhd, *others = settings_at(t, methods.PIX2PIXHD, methods.X2FACE, methods.OURS)
        parts += [compare_distance(evidence, pix2pixhd, other) for other in others]
    for t in evidence.shots:
        pix2pixhd, *others = settings_at(t, methods.PIX2PIXHD, methods.X2FACE, methods.OURS)
        parts += [compare_metric(evidence, evidence.similarity_metric, other, pix2pixhd) for other in others]
    return parts


def observers_find_ours_least(evidence: Evidence) -> list[Part]:
    """Section 4, Table 1: the observer's rates of the baselines against those of ours."""
    return [
        compare_observer_rates(evidence, Setting(methods.OURS, t), Setting(baseline, t))
        for t in evidence.shots
        for baseline in (methods.X2FACE, methods.PIX2PIXHD)
    ]


def feed_forward_learns_faster(evidence: Evidence) -> list[Part]:
    """Section A.1, Table 2: seconds of learning against Ours-FF, and seconds of a frame against Pix2pixHD."""
    learning = SpeedRatio("few-shot learning", slow="Ours", fast="Ours-FF", factor=100)
    inference = SpeedRatio("inference", slow="Ours", fast="Pix2pixHD", factor=1)
    parts = [part for t in evidence.shots for part in compare_seconds(evidence, learning, t)]
    return [*parts, *compare_seconds(evidence, inference, t=1)]


def larger_corpus_helps(evidence: Evidence) -> list[Part]:
    """Section 4, Table 1: the model of the large corpus against that of the small one."""
    parts = []
    for t in evidence.shots:
        parts += compare_quality(evidence, Setting(methods.AFTER, t), Setting(methods.OURS, t))
    return parts


def feature_matching_stabilises(evidence: Evidence) -> list[Part]:
    """Section 3.2: trainings without L_FM against trainings with it."""
    return [compare_divergence(evidence)]


def similarity_favours_blur(evidence: Evidence) -> list[Part]:
    """Section 4: identity similarity against sharpness."""
    return [correlate_with_sharpness(evidence)]


def heads_extrapolate(evidence: Evidence) -> list[Part]:
    """Section 3.3: fine-tuned heads against the nearest training frame, on far poses."""
    metrics = (evidence.similarity_metric, "SSIM", "landmark error")
    return [compare_far_poses(evidence, metric, methods.AFTER) for metric in metrics]


MEANS = "mean paired difference over identities"
DISTANCES = "difference of the Fréchet distance, jackknife over identities"
CLAIMS = (
    Claim(
        1,
        "Fine-tuning closes the identity gap",
        "4, Fig. 4",
        f"{MEANS}: after minus before fine-tuning, identity similarity and SSIM, every T",
        fine_tuning_closes_the_gap,
    ),
    Claim(
        2,
        "More frames help",
        "4, Table 1",
        f"{MEANS}: T = 8 minus 1 and 32 minus 8 for Ours, SSIM and identity similarity; {DISTANCES}",
        more_frames_help,
    ),
    Claim(
        3,
        "FF is better at T = 1 and FT at T = 32, metric by metric as in Table 1",
        "4, Table 1",
        f"{MEANS}: the one that leads in the paper minus the other, T = 1 and 32, SSIM and identity "
        f"similarity; {DISTANCES}",
        feed_forward_leads_at_one_frame,
    ),
    Claim(
        4,
        "Random initialisation of the embedding gives no plausible image",
        "A.2",
        f"{MEANS} at the middle T: the model before fine-tuning, whose images are plausible, minus this row, "
        f"landmark error and identity similarity; {DISTANCES}",
        random_embedding_fails,
    ),
    Claim(5, "Random initialisation of ψ̂ gives no plausible image", "A.2", "as claim 4", random_psi_fails),
    Claim(
        6,
        "Without L_MCH and with a random w′: plausible, but worse than the full model",
        "A.2, Fig. 6",
        f"{MEANS} at the middle T: the full model minus this row, identity similarity; this row minus the "
        f"model before fine-tuning, landmark error and identity similarity; {DISTANCES} for both",
        random_w_is_plausible_but_worse,
    ),
    Claim(
        7,
        "The generator's initialisation matters more than the discriminator's",
        "A.2",
        f"{MEANS} at the middle T: no L_MCH with a random w′ minus random ψ̂ with w′ of ê_NEW, identity "
        "similarity and SSIM",
        generator_start_matters_more,
    ),
    Claim(
        8,
        "The adversarial term makes fine-tuned images crisper, and better in pose",
        "A.2, Fig. 6",
        f"{MEANS} at the middle T: the full model minus no L′_ADV, sharpness (itself, and how close it is to "
        "the ground truth's) and landmark error",
        adversarial_term_sharpens,
    ),
    Claim(
        9,
        "X2Face leads in SSIM, and its FID gets worse with T; Pix2pixHD leads in FID and trails in CSIM",
        "4, Table 1",
        f"{MEANS}, every T, on the small corpus, SSIM and identity similarity; {DISTANCES}",
        baselines_lead_as_in_table_1,
    ),
    Claim(
        10,
        "Observers find our fakes least often",
        "4, Table 1",
        f"{MEANS}: the baselines' USER-proxy minus ours, every T",
        observers_find_ours_least,
    ),
    Claim(
        11,
        "FF learns an identity orders of magnitude faster than FT; inference is slower than Pix2pixHD's",
        "A.1, Table 2",
        "log10 of the ratio of seconds: above 2 for learning at every T, above 0 for inference, at this size "
        "and the paper's; between quartiles",
        feed_forward_learns_faster,
    ),
    Claim(
        12,
        "The larger corpus gives better heads than the smaller one",
        "4, Table 1",
        f"{MEANS}: Ours-FT minus Ours, SSIM and identity similarity, every T; {DISTANCES}",
        larger_corpus_helps,
    ),
    Claim(
        13,
        "L_FM stabilises training",
        "3.2",
        "share without L_FM among the seeds for which one of two trainings diverges, minus one half; exact",
        feature_matching_stabilises,
    ),
    Claim(
        14,
        "CSIM favours blurry images",
        "4",
        "minus the correlation over methods of identity similarity and sharpness at the middle T, mean over "
        "identities",
        similarity_favours_blur,
    ),
    Claim(
        15,
        "Fine-tuned heads extrapolate to poses far from the T frames",
        "3.3",
        f"{MEANS} at the middle T to the nearest training frame, on the half of the frames farthest from all "
        "training frames",
        heads_extrapolate,
    ),
)


def evaluate(evidence: Evidence) -> pd.DataFrame:
    """``claims.csv``: see :func:`experiments.claims.evaluate`."""
    return evaluate_claims(CLAIMS, evidence)
