"""Table 2: operations counted, times measured, the paper's beside them; and the exercise of a profile."""

import sys

import pytest
import torch

from talking_heads import profiles
from talking_heads.evaluation import timing
from talking_heads.perceptual import make_extractors
from talking_heads.reproduce import tables
from talking_heads.reproduce.exercise import exercise

CPU = torch.device("cpu")


def test_operations_of_a_product():
    a, b = torch.randn(30, 40), torch.randn(40, 50)
    flops, moved = timing.operations(lambda: a @ b)
    assert flops == 2 * 30 * 40 * 50 and moved == 4 * (30 * 40 + 40 * 50 + 30 * 50)


def test_prediction_adds_arithmetic_and_memory():
    assert timing.Machine(flops=10.0, bandwidth=4.0).predict(20.0, 8.0) == 4.0


def test_measurement_warms_up_and_has_quartiles():
    calls = []
    t = timing.measure(lambda: calls.append(1), CPU, repetitions=10, warm_up=3)
    assert len(calls) == 13 and t.repetitions == 10 and t.low <= t.median <= t.high and t.memory > 0
    assert t.times(4).median == 4 * t.median


def test_slow_work_is_not_warmed_up(monkeypatch):
    calls, rows = [], {}
    monkeypatch.setattr(timing, "cases", lambda *_: [timing.Case("m", "inference", 1, 1, 1, lambda: calls.append(1))])
    expected = timing.predictions(None, [], CPU, timing.Machine(1.0, 1.0)).assign(predicted=1.0)
    for seconds in (1e9, 0.0):
        calls.clear()
        timing.table2(expected, None, [], CPU, seconds=seconds)
        rows[seconds] = len(calls)
    assert rows == {1e9: 2 + 100, 0.0: 3}, "quartiles need three"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak of memory")
def test_peak_memory_is_that_of_the_work_measured():
    large, small = (timing.measure(lambda: torch.ones(n).sum(), CPU, repetitions=3).memory for n in (2**27, 2**10))
    assert 0.9 * 2**29 < large - small < 1.1 * 2**29


def test_table_2_at_the_smoke_size():
    p = profiles.load("smoke")
    expected = timing.predictions(p, make_extractors(p), CPU, timing.rates(CPU, size=16), shots=p.shots)
    rows = timing.table2(expected, p, make_extractors(p), CPU, seconds=0.1).assign(size=p.image_size)
    assert expected["arithmetic"].between(0, 1).all() and (rows["note"] != "").eq(rows["steps"] > 1).all()
    learning = rows[rows["phase"] == "few-shot learning"]
    assert len(learning) == 4 * len(p.shots) and len(rows) == len(learning) + 4 and (rows["predicted"] > 0).all() and (rows["seconds"] > 0).all()
    tuned = learning[learning["method"].isin(["Ours", "Pix2pixHD"])]
    assert (tuned["steps"] == [timing.steps_of(p, t) for t in tuned["T"]]).all() and learning.query("method == 'Ours-FF'")["steps"].eq(1).all()
    both = tables.table2(rows, "a machine", "run")
    assert list(both.columns[:len(tables.COLUMNS)]) == tables.COLUMNS
    assert both.query("T == 1 and method == 'Ours' and phase == 'few-shot learning'")["paper_value"].item() == 43.84
    assert both.query("T == 1 and method == 'Ours' and phase == 'inference'")["paper_2080ti"].item() == 0.013
    assert both.groupby(["phase", "T"])["order holds"].nunique().le(1).all()
    right = rows.merge(both[["method", "phase", "T", "paper_value"]].dropna()).assign(seconds=lambda t: t["paper_value"])
    assert tables.table2(right.drop(columns="paper_value"), "the paper's", "run")["order holds"].all()
    assert both["verdict"].eq("not comparable").all() and set(both["rank"].dropna()) <= {1, 2, 3, 4}


def test_steps_of_the_paper():
    p = profiles.load("voxceleb1")
    assert [timing.steps_of(p, t) for t in (1, 8, 32)] == [40, 40, 160]


def test_an_exercise_goes_all_the_way(tmp_path):
    stages = exercise("smoke", None, tmp_path, "cpu")
    assert stages["stage"].tolist() == ["prepare", "meta-learning step 1", "meta-learning step 2", "fine-tuning step", "evaluation and table"]
    assert (tmp_path / "tables/table1.md").read_text().startswith("An exercise of smoke")


def test_exercise_of_a_profile_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="unknown profile"):
        exercise("nothing", None, tmp_path, "cpu")
