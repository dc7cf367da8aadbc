"""The claims' statistics on made-up evidence with a known answer, and that they were fixed before the reference run."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from talking_heads.evaluation import methods as m
from talking_heads.reproduce import claims, reasons, tables

ROOT = Path(__file__).parents[1]
STATISTICS = ("reproduce/claims.py", "reproduce/tables.py", "reproduce/trainings.py", "reproduce/paper_numbers.csv", "evaluation/statistics.py", "evaluation/metrics.py",
              "evaluation/protocol.py", "evaluation/observer.py", "evaluation/timing.py", "evaluation/inception.py", "evaluation/methods.py", "evaluation/judges.py",
              "profiles/laptop.yaml", "profiles/laptop-full.yaml", "judges/networks.py", "judges/lids.py")  # whatever decides a claim


def evidence(better: float = 0.1, noise: float = 0.005, people: int = 8) -> claims.Evidence:
    """Every method a level of its own; ``better`` separates what the paper says is better."""
    level = {m.MEAN: 0.2, m.NEAREST: 0.35, m.RANDOM_E: 0.2, m.RANDOM_PSI: 0.2, m.NORMAL_PSI: 0.2, m.NO_MATCH_ONE_SHOT: 0.5, m.NO_ADVERSARIAL: 0.6 - better,
             m.OURS_BEFORE: 0.4, m.OURS: 0.6, m.PIX2PIXHD: 0.5, m.X2FACE: 0.7, m.FEED_FORWARD: 0.75, m.BEFORE: 0.7 - better, m.AFTER: 0.7}
    rng, rows = np.random.default_rng(0), []
    for method, value in level.items():
        for t, extra in ((1, 0.0), (8, 0.1), (32, 0.2)):
            grows = extra if method == m.AFTER else extra / 4
            for person in range(people):
                for frame in range(4):
                    v = value + grows + noise * rng.standard_normal()
                    rows.append({"method": method, "T": t, "person": str(person), "video": 0, "seed": 0, "frame": frame, "SSIM": v, "CSIM-judge": v,
                                 "landmark error": 1 - v + 0.01 * frame, "reach": 0.01 * frame, "sharpness": 1.2 - v if method != m.NO_ADVERSARIAL else 0.1})
    timings = pd.DataFrame([(a, "few-shot learning", t, s) for t in (1, 8, 32) for a, s in (("Ours", 100.0), ("Ours-FF", 0.1))]
                           + [("Ours", "inference", 1, 0.2), ("Pix2pixHD", "inference", 1, 0.1)], columns=["method", "phase", "T", "seconds"])
    timings = timings.assign(size=64, low=0.9 * timings["seconds"], high=1.1 * timings["seconds"])
    far = {m.OURS_BEFORE: (0.7,) * 3, m.NO_MATCH_ONE_SHOT: (0.5,) * 3, m.RANDOM_E: (0.9,) * 3, m.RANDOM_PSI: (0.9,) * 3, m.NORMAL_PSI: (0.9,) * 3, m.PIX2PIXHD: (0.1, 0.1, 0.1), m.X2FACE: (0.4, 0.5, 0.6), m.OURS: (0.35, 0.3, 0.25), m.FEED_FORWARD: (0.2, 0.2, 0.2), m.AFTER: (0.3, 0.2, 0.1)}
    true, who = rng.standard_normal((16 * people, 4)), np.repeat([str(p) for p in range(people)], 16)
    seeds = np.zeros(len(who), int)
    features = {(method, t): (true + d, true, who, seeds) for method, ds in far.items() for t, d in zip((1, 8, 32), ds)}
    observed = pd.DataFrame([(a, t, str(p), s) for t in (1, 8, 32) for p in range(people) for a, s in ((m.OURS, 0.5), (m.X2FACE, 0.8), (m.PIX2PIXHD, 0.7))],
                            columns=["method", "T", "person", "USER-proxy"])
    stability = pd.DataFrame([(f, s, f == "without") for f in ("with", "without") for s in range(6)], columns=["feature_matching", "seed", "diverged"])
    return claims.Evidence(pd.DataFrame(rows), features, 8, observed, timings, stability)


CLEAR = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15)


def test_clear_evidence_gives_clear_answers():
    table = claims.judge(evidence())
    assert list(table.columns) == claims.COLUMNS and set(table["id"]) == set(range(1, 16))
    said = claims.short(table)
    assert {i: said[i] for i in CLEAR} == dict.fromkeys(CLEAR, "yes")
    assert (table["ci_low"] <= table["estimate"]).all() and (table["estimate"] <= table["ci_high"]).all()


def test_the_opposite_is_a_no_and_nothing_is_undecided():
    verdict = lambda *intervals: claims.verdict_of([claims.Part("", 0.0, *i) for i in intervals])
    assert claims.short(claims.judge(evidence(better=-0.1)))[1] == "no"
    assert claims.short(claims.judge(evidence(better=0.0)))[8] in ("undecided", "no")
    assert verdict((0.1, 0.2), (-0.1, 0.1)) == "undecided" and verdict((0.1, 0.2), (-0.2, -0.1)) == "no"


def test_what_was_not_run_is_said():
    e = evidence()
    e.frames = e.frames[e.frames["method"] != m.X2FACE]
    e.timings = None
    table = claims.judge(e)
    said = claims.short(table)
    assert said[9].startswith("not run: X2Face") and said[11] == "not run: timings"
    assert set(table[table["id"] == 9]["part holds"]) == {"yes", "not run: X2Face, T = 1", "not run: X2Face, T = 8", "not run: X2Face, T = 32"}, "what was run is told"
    e.frames.loc[(e.frames["method"] == m.OURS) & (e.frames["T"] == 8), "CSIM-judge"] = 0.0
    assert claims.short(claims.judge(e))[9] == "no", "a part below zero is enough"


def backing(e: claims.Evidence, apart: float = 0.1) -> reasons.Backing:
    """Fine-tunings of 40 steps: random starts higher by 2, down to the full model's beginning after ten; D' holds them ``apart``."""
    steps = np.arange(1, 41)
    losses = lambda start: pd.DataFrame({"step": steps, "cnt": np.maximum(0.4, start - 0.2 * (steps - 1)), "r_real": apart, "r_fake": 0.0})
    return reasons.Backing(e, {n: losses(3.0 if n in (m.RANDOM_E, m.RANDOM_PSI) else 1.0) for n in (m.OURS, *m.ABLATIONS)}, 0.035)


def test_every_no_and_undecided_has_a_paragraph_with_what_was_measured():
    e = evidence(better=-0.1, noise=0.1)
    for row, value in ((m.RANDOM_E, 0.9), (m.RANDOM_PSI, 0.9)):
        e.frames.loc[e.frames["method"] == row, "CSIM-judge"] = value
    table = claims.judge(e)
    said = reasons.explain(table, backing(e)).set_index("id")["why"]
    assert set(said.index) == {n for n, verdict in claims.short(table).items() if verdict in ("no", "undecided")} >= {1, 4, 5}
    assert "begins at 3.00, with the full model at 1.00. After 10 of 40 steps" in said[4]
    assert said[1].startswith("Parts: 2 as claimed, 2 the opposite, 2 open (")


def test_a_cause_that_does_not_show_is_not_named():
    e = evidence(better=0.0, noise=0.05)
    table = claims.judge(e)
    assert claims.short(table)[8] in ("no", "undecided")
    why = lambda b: reasons.explain(table, b).set_index("id").loc[8, "why"]
    assert "little to say" in why(backing(e)) and "little to say" not in why(backing(e, apart=2.0))


def test_an_open_race_is_told_in_seconds():
    e = evidence()
    e.timings.loc[e.timings["phase"] == "inference", ["seconds", "low", "high"]] = (0.1, 0.09, 0.11)
    said = reasons.explain(claims.judge(e), backing(e)).set_index("id")["why"]
    assert "at 64² a frame of Ours takes 0.1000 s [0.0900, 0.1100], one of Pix2pixHD" in said[11] and "by its interval's width: inference, T = 1, 64²" in said[11]


def test_every_claim_has_causes_to_look_for_and_says_where_none_shows():
    assert set(reasons.CAUSES) == {c.id for c in claims.CLAIMS}
    e = evidence(better=-0.1)
    said = reasons.explain(claims.judge(e), reasons.Backing(e, {}, 0.035)).set_index("id")["why"]
    assert said[1].endswith(reasons.NO_CAUSE)


def test_the_papers_networks_take_the_judges_place():
    e = evidence()
    seen = {key: {"person": who, "seed": seeds, "made": made + 1, "true": true} for key, (made, true, who, seeds) in e.features.items()}
    both = claims.with_the_papers_networks(e, seen)
    assert (both.distance, both.likeness) == ("FID", "CSIM-judge") and both.features[m.OURS, 8][0] == pytest.approx(e.features[m.OURS, 8][0] + 1)
    cosines = {(name, t): {"CSIM": np.full(len(part), 0.25)} for (name, t), part in e.frames.groupby(["method", "T"])}
    by_face = claims.with_the_papers_networks(e, cosines)
    assert by_face.likeness == "CSIM" and by_face.frames["CSIM"].eq(0.25).all() and claims.with_the_papers_networks(e, {}) == e
    assert any(name.startswith("FID: ") for name in claims.judge(both)["part"])


def test_a_distance_of_several_seeds_is_the_mean_of_theirs():
    e = evidence()
    made, true, who, seeds = e.features[m.OURS, 8]
    twice = (np.concatenate([made, made]), np.concatenate([true, true]), np.concatenate([who, who]), np.concatenate([seeds, seeds + 1]))
    one, two = (claims.nearer(dataclasses.replace(e, features={**e.features, (m.OURS, 8): f}), m.PIX2PIXHD, 8, m.OURS, 8) for f in (e.features[m.OURS, 8], twice))
    assert two[1:4] == pytest.approx(one[1:4])


def test_people_who_would_close_an_open_part():
    """Twice as wide as the estimate is high: four times as many people."""
    row = {"id": 1, "part holds": "undecided", "estimate": 0.1, "ci_low": -0.1, "ci_high": 0.3}
    assert "1 of 1 open ones on the paper's side of zero; were the estimates right, some 96 people would have an even chance of closing it, where 24 were asked" in reasons.parts_of(pd.DataFrame([row]), 24)
    assert "people" not in reasons.parts_of(pd.DataFrame([row | {"id": 13}]), 24)


def test_intervals_of_distances_hold_their_estimates():
    parts = [p for c in claims.CLAIMS for p in c.parts(evidence(noise=0.1)) if p[0].startswith("FD-judge")]
    assert len(parts) >= 10 and all(p.low <= p.estimate <= p.high for p in parts)


def test_statistics_were_committed_before_the_reference_run():
    """The files of statistics were last changed in the commit that the reference's claims were run on, or before it."""
    rows = [json.loads(line) for line in (ROOT / "results/reference/records.jsonl").read_text().splitlines()]
    ran = {r["commit"] for r in rows if r["name"].startswith("claim ")}
    if not ran:
        pytest.skip("no reference run of the claims yet")
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True)
    fixed = git("log", "-1", "--format=%H", "--", *(f"lib/talking_heads/{f}" for f in STATISTICS)).stdout.strip()
    if not fixed or git("rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        pytest.skip("a checkout without history")
    assert len(ran) == 1 and not (commit := ran.pop()).endswith("+"), "one clean run"
    assert git("merge-base", "--is-ancestor", fixed, commit).returncode == 0


def test_claims_and_rows_can_be_written_in_latex():
    """Nothing is left that LaTeX has no letter for, and nothing that it takes for a command."""
    names = [*m.TABLE1, *m.ABLATIONS, *(v for c in claims.CLAIMS for v in (c.text, c.where, c.statistic)), *claims.judge(evidence())["part"]]
    made = tables.latex(pd.DataFrame({"row & column": names}), "50 % of ê_NEW")
    assert made.isascii() and r"\caption{50 \% of $\hat e$\_NEW}" in made and r"row \& column" in made
