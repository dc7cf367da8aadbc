"""The claims' statistics on synthetic evidence with known answers, and the explanations of verdicts."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from talking_heads.experiments import explanations
from talking_heads.experiments.claims import (
    ALPHA,
    COLUMNS,
    Part,
    adjusted_p_values,
    claim_verdict,
    part_verdict,
    verdicts,
)
from talking_heads.experiments.few_shot import claim_causes, claim_parts, claims, methods
from talking_heads.experiments.few_shot.claim_measurements import Measurements
from talking_heads.experiments.few_shot.claim_parts import Evidence, Setting
from talking_heads.experiments.few_shot.frame_metrics import Features
from talking_heads.experiments.few_shot.paper_metrics import PaperMetrics
from talking_heads.metrics.statistics import Estimate, holm, jackknife, mean_estimate
from talking_heads.workbook import write_table

ROOT = Path(__file__).parents[1]
SHOTS = (1, 8, 32)
FRAMES = 4  # of an identity
GAIN_BY_T = {1: 0.0, 8: 0.1, 32: 0.2}
# distance of features to the true ones for every T; the smaller, the better
FEATURE_OFFSETS = {
    methods.OURS_BEFORE: (0.7, 0.7, 0.7),
    methods.NO_MATCH_ONE_SHOT: (0.5, 0.5, 0.5),
    methods.RANDOM_E: (0.9, 0.9, 0.9),
    methods.RANDOM_PSI: (0.9, 0.9, 0.9),
    methods.NORMAL_PSI: (0.9, 0.9, 0.9),
    methods.PIX2PIXHD: (0.1, 0.1, 0.1),
    methods.X2FACE: (0.4, 0.5, 0.6),
    methods.OURS: (0.35, 0.3, 0.25),
    methods.FEED_FORWARD: (0.2, 0.2, 0.2),
    methods.AFTER: (0.3, 0.2, 0.1),
}
# claims that all parts of the synthetic evidence support
SUPPORTED = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15)


def make_scores(better: float) -> dict[str, float]:
    """A score for every method; ``better`` separates what the paper claims to be better."""
    return {
        methods.MEAN: 0.2,
        methods.NEAREST: 0.35,
        methods.RANDOM_E: 0.2,
        methods.RANDOM_PSI: 0.2,
        methods.NORMAL_PSI: 0.2,
        methods.NO_MATCH_ONE_SHOT: 0.5,
        methods.NO_ADVERSARIAL: 0.6 - better,
        methods.OURS_BEFORE: 0.4,
        methods.OURS: 0.6,
        methods.PIX2PIXHD: 0.5,
        methods.X2FACE: 0.7,
        methods.FEED_FORWARD: 0.75,
        methods.BEFORE: 0.7 - better,
        methods.AFTER: 0.7,
    }


def make_frames(better: float, noise: float, n_identities: int, rng: np.random.Generator) -> pd.DataFrame:
    """Measured frames of every method at every T."""
    rows = []
    for method, score in make_scores(better).items():
        for t in SHOTS:
            gain = GAIN_BY_T[t] if method == methods.AFTER else GAIN_BY_T[t] / 4
            for identity in range(n_identities):
                for frame in range(FRAMES):
                    value = score + gain + noise * rng.standard_normal()
                    row = {
                        "method": method,
                        "T": t,
                        "identity": str(identity),
                        "video": 0,
                        "seed": 0,
                        "frame": frame,
                        "SSIM": value,
                        "CSIM-judge": value,
                        "landmark error": 1 - value + 0.01 * frame,
                        "pose distance": 0.01 * frame,
                        "sharpness": 0.1 if method == methods.NO_ADVERSARIAL else 1.2 - value,
                    }
                    rows.append(row)
    return pd.DataFrame(rows)


def make_features(n_identities: int, rng: np.random.Generator) -> dict[tuple[str, int], Features]:
    """Features (16 per identity, 4) of every method at every T."""
    true = rng.standard_normal((16 * n_identities, 4))
    identity = np.repeat([str(i) for i in range(n_identities)], 16)
    seed = np.zeros(len(identity), int)
    return {
        (method, t): Features(true + offset, true, identity, seed)
        for method, offsets in FEATURE_OFFSETS.items()
        for t, offset in zip(SHOTS, offsets, strict=True)
    }


def make_timings() -> pd.DataFrame:
    """Fine-tuning takes 1000 times as long as Ours-FF, a frame of ours twice as long as Pix2pixHD's."""
    columns = ["method", "phase", "T", "seconds"]
    learning = [("Ours", "few-shot learning", t, 100.0) for t in SHOTS]
    learning += [("Ours-FF", "few-shot learning", t, 0.1) for t in SHOTS]
    inference = [("Ours", "inference", 1, 0.2), ("Pix2pixHD", "inference", 1, 0.1)]
    table = pd.DataFrame([*learning, *inference], columns=columns)
    return table.assign(size=64, low=0.9 * table["seconds"], high=1.1 * table["seconds"])


def make_evidence(better: float = 0.1, noise: float = 0.005, n_identities: int = 8) -> Evidence:
    """Evidence that supports the claims for a positive ``better`` and little ``noise``."""
    rng = np.random.default_rng(0)
    frames = make_frames(better, noise, n_identities, rng)
    features = make_features(n_identities, rng)
    rates = {methods.OURS: 0.5, methods.X2FACE: 0.8, methods.PIX2PIXHD: 0.7}
    observer_rates = pd.DataFrame(
        [(m, t, str(i), rate) for t in SHOTS for i in range(n_identities) for m, rate in rates.items()],
        columns=["method", "T", "identity", "USER-proxy"],
    )
    stability = pd.DataFrame(
        [(name, seed, name == "without") for name in ("with", "without") for seed in range(6)],
        columns=["feature_matching", "seed", "diverged"],
    )
    return Evidence(frames, features, 8, observer_rates, make_timings(), stability)


def make_measurements(evidence: Evidence, score_gap: float = 0.1) -> Measurements:
    """Fine-tunings of 40 steps: random starts reach the start of the full model after ten steps."""
    steps = np.arange(1, 41)
    losses = {}
    for method in (methods.OURS, *methods.ABLATIONS):
        start = 3.0 if method in (methods.RANDOM_E, methods.RANDOM_PSI) else 1.0
        content = np.maximum(0.4, start - 0.2 * (steps - 1))
        log = {"step": steps, "cnt": content, "r_real": score_gap, "r_fake": 0.0}
        losses[method] = pd.DataFrame(log)
    return Measurements(evidence, losses, judge_error=0.035)


def explain(evidence: Evidence, measurements: Measurements | None = None) -> pd.Series:
    """The explanations of an evidence's verdicts, by id."""
    table = claims.evaluate(evidence)
    return claim_causes.explain(table, measurements or make_measurements(evidence)).set_index("id")["why"]


def part_verdicts(parts: list[Part]) -> list[str]:
    """The verdicts of the parts of one claim."""
    p_values = adjusted_p_values(parts)
    return [part_verdict(part, p) for part, p in zip(parts, p_values, strict=True)]


def verdict_of(parts: list[Part]) -> str:
    """The verdict of a claim of these parts."""
    return claim_verdict(part_verdicts(parts))


# -- verdicts ---------------------------------------------------------------------------------------
def test_clear_evidence_gives_clear_answers():
    table = claims.evaluate(make_evidence())
    assert list(table.columns) == COLUMNS
    assert list(table["id"].unique()) == list(range(1, 16))
    by_id = verdicts(table)
    assert {number: by_id[number] for number in SUPPORTED} == dict.fromkeys(SUPPORTED, "yes")
    assert (table["ci_low"] <= table["estimate"]).all() and (table["estimate"] <= table["ci_high"]).all()


def test_the_opposite_of_a_claim_is_no():
    assert verdicts(claims.evaluate(make_evidence(better=-0.1)))[1] == "no"


def test_no_difference_is_not_yes():
    assert verdicts(claims.evaluate(make_evidence(better=0.0)))[8] in ("undecided", "no")


def test_missing_evidence_is_named_part_by_part():
    evidence = make_evidence()
    evidence.frames = evidence.frames[evidence.frames["method"] != methods.X2FACE]
    evidence.timings = None
    table = claims.evaluate(evidence)
    by_id = verdicts(table)
    assert by_id[9].startswith("not run: X2Face") and by_id[11] == "not run: timings"
    missing = {f"not run: X2Face, T = {t}" for t in SHOTS}
    assert set(table[table["id"] == 9]["part holds"]) == {"yes", *missing}


def test_a_part_below_zero_outweighs_missing_parts():
    evidence = make_evidence()
    evidence.frames = evidence.frames[evidence.frames["method"] != methods.X2FACE]
    at_middle = (evidence.frames["method"] == methods.OURS) & (evidence.frames["T"] == 8)
    evidence.frames.loc[at_middle, "CSIM-judge"] = 0.0
    assert verdicts(claims.evaluate(evidence))[9] == "no"


def test_one_identity_decides_nothing():
    """No interval, no p-value; the distances need more identities."""
    table = claims.evaluate(make_evidence(n_identities=1))
    compared = table[table["part"].str.startswith(("SSIM", "CSIM-judge", "landmark error"))]
    assert set(compared["part holds"]) == {"undecided"}
    assert compared[["ci_low", "ci_high", "p (Holm)"]].isna().all(axis=None)


# -- family-wise error ------------------------------------------------------------------------------
def test_holm_on_a_worked_example():
    """0.005 · 4, 0.01 · 3, 0.03 · 2, 0.04 · 1, each at least as large as the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9, 0.5]), [1.0, 1.0, 1.0])


def test_family_wise_error_of_null_claims_is_held():
    """Of 2000 claims of nine parts without any difference, 5 % have a decided part; without Holm, 37 %."""
    samples = np.random.default_rng(0).standard_normal((2000, 9, 12))
    p_values, means = stats.ttest_1samp(samples, 0, axis=-1).pvalue, samples.mean(-1)
    families = [
        [
            Part("", Estimate(mean, np.nan, np.nan, p))
            for mean, p in zip(means_of_claim, p_of_claim, strict=True)
        ]
        for means_of_claim, p_of_claim in zip(means, p_values, strict=True)
    ]
    decided = [set(part_verdicts(parts)) != {"undecided"} for parts in families]
    assert np.mean(decided) == pytest.approx(0.05, abs=0.015)
    assert (p_values < ALPHA).any(1).mean() > 0.3


def test_claims_with_all_differences_are_supported():
    """Holm's correction leaves power: differences of two standard deviations in nine parts are all found."""
    samples = np.random.default_rng(0).normal(2.0, 1.0, (9, 12))
    assert verdict_of([Part("", mean_estimate(means)) for means in samples]) == "yes"
    assert verdict_of([Part("", mean_estimate(-means)) for means in samples]) == "no"


def test_adjusted_p_values_decide_in_both_directions():
    positive, negative = Part("", Estimate(0.2, 0.1, 0.3, 0.001)), Part("", Estimate(-0.2, -0.3, -0.1, 0.001))
    weak = Part("", Estimate(0.2, 0.01, 0.39, 0.04))
    assert verdict_of([positive, positive]) == "yes"
    assert verdict_of([positive, negative]) == "no"
    assert verdict_of([weak]) == "yes"
    assert verdict_of([weak, weak]) == "undecided", "2 · 0.04 is more than 0.05"
    assert verdict_of([positive, Part("", missing="X2Face")]) == "not run: X2Face"
    assert verdict_of([negative, Part("", missing="X2Face")]) == "no"


def test_parts_without_a_p_value_are_decided_by_their_interval_and_not_counted():
    above, across = Part("", Estimate(0.2, 0.1, 0.3)), Part("", Estimate(0.2, -0.1, 0.5))
    weak = Part("", Estimate(0.2, 0.01, 0.39, 0.04))
    assert verdict_of([above, above]) == "yes" and verdict_of([above, across]) == "undecided"
    np.testing.assert_equal(adjusted_p_values([above, weak, across]), [np.nan, 0.04, np.nan])


def test_share_of_diverged_trainings_has_the_binomial_p_value():
    """Six of six seeds: 2 · 0.5⁶; five are too few, and no decisive seed leaves everything possible."""
    evidence = make_evidence()
    part = claim_parts.compare_divergence(evidence)
    assert part.estimate.p == pytest.approx(2 * 0.5**6) and part.estimate.value == 0.5
    evidence.stability = evidence.stability[evidence.stability["seed"] < 5]
    assert verdict_of([claim_parts.compare_divergence(evidence)]) == "undecided"
    evidence.stability = evidence.stability.assign(diverged=False)
    assert claim_parts.compare_divergence(evidence).estimate == Estimate(0.0, -0.5, 0.5, 1.0)


# -- comparisons ------------------------------------------------------------------------------------
def test_intervals_of_distances_contain_their_estimates():
    evidence = make_evidence(noise=0.1)
    parts = [part for claim in claims.CLAIMS for part in claim.parts(evidence)]
    distances = [part.estimate for part in parts if part.name.startswith("FD-judge")]
    assert len(distances) >= 10
    assert all(low <= value <= high for value, low, high, _ in distances)


def test_a_distance_of_several_seeds_is_the_mean_of_theirs():
    evidence = make_evidence()
    key, other = Setting(methods.OURS, 8), Setting(methods.PIX2PIXHD, 8)
    features = evidence.features[key]
    doubled = Features(*(np.concatenate([values, values]) for values in features))
    doubled = doubled._replace(seed=np.repeat([0, 1], len(features.seed)))
    two_seeds = dataclasses.replace(evidence, features={**evidence.features, key: doubled})
    one, two = (claim_parts.compare_distance(e, other, key).estimate for e in (evidence, two_seeds))
    assert two == pytest.approx(one)


def test_too_few_frames_for_a_distance_state_how_many_are_needed():
    """Four features need five frames; without the first identity three are left."""
    evidence, key = make_evidence(n_identities=2), Setting(methods.OURS, 8)
    features = evidence.features[key]
    rows = [0, 1, 2, 3, 4, 16, 17, 18]
    few = Features(*(values[rows] for values in features))
    evidence = dataclasses.replace(evidence, features={**evidence.features, key: few})
    part = claim_parts.compare_distance(evidence, key, Setting(methods.PIX2PIXHD, 8))
    assert part.missing == "5 frames of Ours, T = 8 without one identity, for each seed"


def test_slow_distances_leave_out_groups_of_identities(monkeypatch):
    """As the jackknife with groups; too few frames are counted without a group, not without an identity."""
    evidence = make_evidence(n_identities=24)
    pair = Setting(methods.OURS, 8), Setting(methods.X2FACE, 8)
    monkeypatch.setattr(claim_parts, "SLOW_DIMENSION", 4)
    part = claim_parts.compare_distance(evidence, *pair)
    features = [evidence.features[setting] for setting in pair]
    rows = np.concatenate([claim_parts.tagged_rows(values, number) for number, values in enumerate(features)])
    identity = np.concatenate([values.identity for values in features])
    by_identity = [rows[identity == i] for i in np.unique(identity)]
    assert part.estimate == pytest.approx(jackknife(claim_parts.distance_difference, by_identity, groups=12))
    monkeypatch.setattr(claim_parts, "fewest_samples", lambda dimension, without_group=False: 23 * 16)
    missing = claim_parts.compare_distance(evidence, *pair).missing
    assert missing == "368 frames of Ours, T = 8 without one group of identities, for each seed"


def test_metrics_of_the_paper_replace_those_of_the_judges():
    evidence = make_evidence()
    keys = [key for key, _ in evidence.frames.groupby(["method", "T"])]
    moved = {key: evidence.features.get(key, evidence.features[methods.OURS, 8]) for key in keys}
    moved = {key: features._replace(generated=features.generated + 1) for key, features in moved.items()}
    with_inception = claim_parts.use_paper_metrics(evidence, PaperMetrics(inception=moved))
    assert (with_inception.distance_metric, with_inception.similarity_metric) == ("FID", "CSIM-judge")
    assert with_inception.features == moved
    assert claims.evaluate(with_inception)["part"].str.startswith("FID: ").any()
    csim = {key: np.full(len(rows), 0.25) for key, rows in evidence.frames.groupby(["method", "T"])}
    with_arcface = claim_parts.use_paper_metrics(evidence, PaperMetrics(csim=csim))
    assert (with_arcface.distance_metric, with_arcface.similarity_metric) == ("FD-judge", "CSIM")
    assert with_arcface.frames["CSIM"].eq(0.25).all() and "CSIM" not in evidence.frames


def test_metrics_of_the_paper_are_not_mixed_with_those_of_the_judges():
    """Where one method at one T lacks a metric, all keep the judges'."""
    evidence = make_evidence()
    assert claim_parts.use_paper_metrics(evidence, PaperMetrics()) is evidence
    csim = {key: np.full(len(rows), 0.25) for key, rows in evidence.frames.groupby(["method", "T"])}
    csim.popitem()
    partial = PaperMetrics(inception=dict(evidence.features), csim=csim)
    assert claim_parts.use_paper_metrics(evidence, partial) is evidence


def test_claims_and_rows_can_be_written_in_latex():
    """Every character has a LaTeX form, and none is read as a command."""
    texts = [text for claim in claims.CLAIMS for text in (claim.text, claim.where, claim.statistic)]
    parts = claims.evaluate(make_evidence())["part"]
    names = [*methods.TABLE1, *methods.ABLATIONS, *texts, *parts]
    table = write_table.latex(pd.DataFrame({"row & column": names}), "50 % of ê_NEW")
    assert table.isascii()
    assert r"\caption{50 \% of $\hat e$\_NEW}" in table and r"row \& column" in table


# -- explanations -----------------------------------------------------------------------------------
def test_every_no_and_undecided_is_explained():
    evidence = make_evidence(better=-0.1, noise=0.1)
    for row in (methods.RANDOM_E, methods.RANDOM_PSI):
        evidence.frames.loc[evidence.frames["method"] == row, "CSIM-judge"] = 0.9
    by_id = verdicts(claims.evaluate(evidence))
    why = explain(evidence)
    assert set(why.index) == {number for number, verdict in by_id.items() if verdict in ("no", "undecided")}
    assert set(why.index) >= {1, 4, 5}
    assert "starts at 3.00, with the full model at 1.00. After 10 of 40 steps" in why[4]
    assert why[1].startswith("Parts: 2 the opposite, 4 undecided. Undecided estimates above zero")


def test_the_summary_has_a_row_for_every_claim():
    table = claims.evaluate(make_evidence(better=-0.1, noise=0.1))
    rows = explanations.summary(table).set_index("id")
    assert list(rows.index) == sorted(verdicts(table)) and rows["verdict"].to_dict() == verdicts(table)
    parts = table[table["id"] == 1]
    assert rows.loc[1, "here: parts"] == "no 2, undecided 4 of 6 parts"
    weakest = parts.set_index("part").loc[rows.loc[1, "weakest part"]]
    assert rows.loc[1, "its estimate"].startswith(f"{weakest['estimate']:+.3f} [{weakest['ci_low']:+.3f}")
    line = explanations.result_line(parts)
    assert all(rows.loc[1, column] in line for column in rows.columns)


def test_every_cause_describes_what_was_measured():
    """Each cause gives a paragraph or raises NotShown, on evidence with every measurement."""
    evidence = make_evidence(better=-0.1, noise=0.1)
    rng = np.random.default_rng(0)
    trainings = evidence.stability.assign(start=2.4, end=1.8, apart=0.1)
    rates = evidence.observer_rates
    nearest = rates[rates["method"] == methods.OURS].assign(method=methods.NEAREST)
    rates = pd.concat([rates, nearest], ignore_index=True)
    rates["USER-proxy"] += 0.5 * rng.standard_normal(len(rates))
    evidence = dataclasses.replace(evidence, stability=trainings, observer_rates=rates)
    data = make_measurements(evidence)
    data.losses = {**data.losses, methods.AFTER: data.losses[methods.OURS]}
    texts = {number: explanations.find_causes(causes, data) for number, causes in claim_causes.CAUSES.items()}
    assert "standard deviation over identities" in texts[10][0]
    assert texts[13][0].startswith("With L_FM 0 of 6 trainings diverged, L_CNT changed from 2.40 to 1.80")
    assert "Without L_FM 6 of 6 trainings diverged" in texts[13][0]
    assert all(text.endswith(".") and "nan" not in text for causes in texts.values() for text in causes)


def test_a_cause_that_is_not_shown_is_left_out():
    evidence = make_evidence(better=0.0, noise=0.05)
    small_gap, large_gap = make_measurements(evidence, 0.1), make_measurements(evidence, 2.0)
    assert any(
        "contributes little" in text for text in explanations.find_causes(claim_causes.CAUSES[8], small_gap)
    )
    assert not any(
        "contributes little" in text for text in explanations.find_causes(claim_causes.CAUSES[8], large_gap)
    )


def test_close_inference_times_are_given_in_seconds():
    evidence = make_evidence()
    inference = evidence.timings["phase"] == "inference"
    evidence.timings.loc[inference, ["seconds", "low", "high"]] = (0.1, 0.09, 0.11)
    why = explain(evidence)[11]
    assert "at 64² a frame of Ours takes 0.1000 s [0.0900, 0.1100], one of Pix2pixHD takes" in why
    assert "Weakest part, relative to the width of its interval: inference, T = 1, 64²" in why


def test_every_claim_has_causes_and_an_explanation_without_them():
    assert list(claim_causes.CAUSES) == [claim.id for claim in claims.CLAIMS]
    evidence = make_evidence(better=-0.1)
    why = explain(evidence, Measurements(evidence, {}, judge_error=0.035))
    assert why[1].endswith(explanations.NO_CAUSE)


def test_identities_that_an_undecided_part_needs():
    """An interval whose half width is twice the estimate needs four times as many identities."""
    row = {"id": 1, "part holds": "undecided", "estimate": 0.1, "ci_low": -0.1, "ci_high": 0.3}
    text = explanations.describe_parts(pd.DataFrame([row]), [24])
    assert "Undecided estimates above zero, as the paper claims: 1 of 1." in text
    assert (
        "intervals over about 96 identities have an even chance of excluding zero; 24 were measured." in text
    )
    assert "identities" not in explanations.describe_parts(pd.DataFrame([row]), [None])
    both = explanations.describe_parts(pd.DataFrame([row, row]), [24, 12])
    assert "about 48 to 96 identities" in both and "12 to 24 were measured" in both


def test_a_part_that_only_holms_correction_leaves_undecided_needs_no_more_identities():
    row = {"id": 1, "part holds": "undecided", "estimate": 0.2, "ci_low": 0.01, "ci_high": 0.39}
    text = explanations.describe_parts(pd.DataFrame([row]), [24])
    assert text.endswith("Undecided only because of Holm's correction: 1.")


# -- gates of the committed reference ---------------------------------------------------------------
def test_reference_has_the_same_claims():
    table = pd.read_csv(ROOT / "results/reference/tables/claims.csv")
    assert set(table["id"]) == {claim.id for claim in claims.CLAIMS}
