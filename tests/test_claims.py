"""The claims' statistics on made-up evidence with a known answer, and that they were fixed before the reference run."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from talking_heads.evaluation import methods as m
from talking_heads.reproduce import claims

ROOT = Path(__file__).parents[1]


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
                    rows.append({"method": method, "T": t, "person": str(person), "seed": 0, "frame": frame, "SSIM": v, "CSIM-judge": v,
                                 "landmark error": 1 - v + 0.01 * frame, "reach": 0.01 * frame, "sharpness": 1.2 - v if method != m.NO_ADVERSARIAL else 0.1})
    timings = pd.DataFrame([(a, "few-shot learning", t, s) for t in (1, 8, 32) for a, s in (("Ours", 100.0), ("Ours-FF", 0.1))]
                           + [("Ours", "inference", 1, 0.2), ("Pix2pixHD", "inference", 1, 0.1)], columns=["method", "phase", "T", "seconds"])
    observed = pd.DataFrame([(a, t, str(p), s) for t in (1, 8, 32) for p in range(people) for a, s in ((m.OURS, 0.5), (m.X2FACE, 0.8), (m.PIX2PIXHD, 0.7))],
                            columns=["method", "T", "person", "USER-proxy"])
    stability = pd.DataFrame([(f, s, f == "without") for f in ("with", "without") for s in range(3)], columns=["match_fm", "seed", "diverged"])
    return claims.Evidence(pd.DataFrame(rows), 8, observed, timings, stability)


def test_clear_evidence_gives_clear_answers():
    table = claims.judge(evidence())
    assert list(table.columns) == claims.COLUMNS and set(table["id"]) == set(range(1, 16))
    said = claims.short(table)
    assert {i: said[i] for i in (1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15)} == dict.fromkeys((1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15), "yes")
    assert (table["ci_low"] <= table["estimate"]).all() and (table["estimate"] <= table["ci_high"]).all()


def test_the_opposite_is_a_no_and_nothing_is_undecided():
    assert claims.short(claims.judge(evidence(better=-0.1)))[1] == "no"
    assert claims.short(claims.judge(evidence(better=0.0)))[8] in ("undecided", "no")
    assert claims.verdict_of([(0.1, 0.2), (-0.1, 0.1)]) == "undecided" and claims.verdict_of([(0.1, 0.2), (-0.2, -0.1)]) == "no"


def test_what_was_not_run_is_said():
    e = evidence()
    e.frames = e.frames[e.frames["method"] != m.X2FACE]
    e.timings = None
    said = claims.short(claims.judge(e))
    assert said[9].startswith("not run: X2Face") and said[11] == "not run: timings"


def test_statistics_were_committed_before_the_reference_run():
    """The file of statistics is an ancestor of the commit that the reference's claims name."""
    path = ROOT / "results/reference/tables/claims.csv"
    if not path.exists():
        pytest.skip("no reference run of the claims yet")
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True).stdout.split()
    fixed = git("log", "-1", "--format=%H", "--", "lib/talking_heads/reproduce/claims.py")
    kept = git("log", "-1", "--format=%H", "--", str(path.relative_to(ROOT)))
    if not fixed or not kept:
        pytest.skip("a checkout without history")
    assert fixed != kept and not subprocess.run(["git", "merge-base", "--is-ancestor", fixed[0], kept[0]], cwd=ROOT).returncode
