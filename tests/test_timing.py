"""Table 2: operations counted, times measured, the paper's beside them; and the smoke test of a profile."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.experiments.few_shot import timing as few_shot_timing
from talking_heads.experiments.few_shot.smoke_test import smoke_test
from talking_heads.experiments.few_shot.table2 import table2
from talking_heads.experiments.few_shot.tables import COLUMNS
from talking_heads.experiments.few_shot.timing import INFERENCE, LEARNING, METHODS, Case, Cases
from talking_heads.metrics import timing
from talking_heads.nn.perceptual import make_extractors

CPU = torch.device("cpu")


class Clock:
    """A clock that only ``sleep`` moves on, in place of the module ``time``."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


class Product:
    """A product of matrices, 30 n × 40 and 40 × 50, that counts its calls."""

    def __init__(self, n: int = 1):
        self.a, self.b, self.calls = torch.randn(30 * n, 40), torch.randn(40, 50), 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return self.a @ self.b

    @staticmethod
    def operations(n: int = 1) -> np.ndarray:
        """Operations and bytes (2,)."""
        return np.array([n * 2 * 30 * 40 * 50, 4 * (n * 30 * 40 + 40 * 50 + n * 30 * 50)], float)


@dataclass
class ProductCases:
    """Cases whose work is products, in place of those of a profile: 5 steps on at most 8 frames."""

    methods: tuple[str, ...] = ("X2Face", "Ours")
    shots: tuple[int, ...] = (1, 8, 32)
    device: torch.device = CPU

    def steps(self, t: int) -> int:
        return 5 * -(-t // 8)

    def batch(self, t: int) -> int:
        return min(t, 8)

    def __iter__(self) -> Iterator[Case]:
        for t in self.shots:
            batch = self.batch(t)
            yield Case("X2Face", LEARNING, t, 1, t, Product(t))
            yield Case("Ours", LEARNING, t, self.steps(t), batch, Product(batch), Product(t))
        for method in self.methods:
            yield Case(method, INFERENCE, 1, 1, 1, Product())


class SomeCases:
    """Cases that are given."""

    def __init__(self, *cases: Case):
        self.cases, self.device = cases, CPU

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def expect(self, seconds: float) -> pd.DataFrame:
        """Predictions of so many seconds for each."""
        rows = [(case.method, case.phase, case.t, case.steps, seconds) for case in self.cases]
        return pd.DataFrame(rows, columns=["method", "phase", "T", "steps", "predicted"])


# -- the prediction ---------------------------------------------------------------------------------
def test_operations_of_a_product():
    assert timing.operations(Product()) == tuple(Product.operations())
    assert timing.operations(Product(7)) == tuple(Product.operations(7))


def test_views_move_nothing_and_in_place_operations_write():
    x = torch.zeros(10, 10)
    assert timing.operations(lambda: x.view(4, 25).mT) == (0, 0)
    assert timing.operations(lambda: x.add_(1)) == (0, 2 * x.nbytes)


def test_prediction_adds_arithmetic_and_memory():
    assert timing.Machine(flops=10.0, bandwidth=4.0).predict(20.0, 8.0) == 4.0


def test_predictions_are_those_of_steps_and_of_what_comes_once():
    """Of a fine-tuned method several steps on a batch and what comes before, of others one on T frames."""
    machine = timing.Machine(flops=1000.0, bandwidth=500.0)
    table = few_shot_timing.predictions(ProductCases(), machine, few_shot_timing.count(ProductCases()))
    count = Product.operations
    expected = {
        ("X2Face", LEARNING, 1): count(1),
        ("X2Face", LEARNING, 8): count(8),
        ("X2Face", LEARNING, 32): count(32),
        ("X2Face", INFERENCE, 1): count(),
        ("Ours", LEARNING, 1): 5 * count(1) + count(1),
        ("Ours", LEARNING, 8): 5 * count(8) + count(8),
        ("Ours", LEARNING, 32): 20 * count(8) + count(32),
        ("Ours", INFERENCE, 1): count(),
    }
    rows = table.set_index(["method", "phase", "T"])
    assert list(rows.index) == list(expected)
    flops, moved_bytes = np.transpose(list(expected.values()))
    np.testing.assert_allclose(rows["operations"], flops)
    np.testing.assert_allclose(rows["bytes"], moved_bytes)
    np.testing.assert_allclose(rows["predicted"], flops / 1000 + moved_bytes / 500)
    np.testing.assert_allclose(rows["arithmetic"], flops / 1000 / rows["predicted"])


def test_predictions_of_networks_are_what_a_count_at_that_t_gives():
    """Counts on one frame and on two give those of a step on four, once optimisers have their state."""
    profile = config.load("smoke")
    cases = Cases(profile, make_extractors(profile), CPU, METHODS, (4,))
    machine, counts = timing.Machine(1e9, 1e9), few_shot_timing.count(cases)
    rows = few_shot_timing.predictions(cases, machine, counts).set_index(["method", "phase"])
    for case in cases:
        case.work()
        counts = case.steps * np.array(timing.operations(case.work))
        if case.once:
            counts += np.array(timing.operations(case.once))
        row = rows.loc[(case.method, case.phase)]
        np.testing.assert_allclose(row[["operations", "bytes"]].astype(float), counts, rtol=1e-3)


def test_states_of_optimisers_are_allocated_without_changing_a_weight():
    layer = torch.nn.Linear(4, 4)
    before = [parameter.clone() for parameter in layer.parameters()]
    optimiser = torch.optim.Adam(layer.parameters(), fused=True)
    few_shot_timing.allocate_states([optimiser])
    for parameter, value in zip(layer.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is None
        assert "exp_avg" in optimiser.state[parameter]


# -- the measurement --------------------------------------------------------------------------------
def test_a_measurement_has_quartiles_of_what_comes_after_the_warm_up(clock):
    durations = [100.0, 100.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    remaining = iter(durations)
    result = timing.measure(lambda: clock.sleep(next(remaining)), CPU, repetitions=5, warm_up=2)
    assert (result.low, result.median, result.high, result.repetitions) == (2.0, 3.0, 4.0, 5)
    assert result.memory > 0
    assert result.times(4) == timing.Timing(12.0, 8.0, 16.0, 5, result.memory)


@pytest.mark.parametrize("duration, repetitions", [(50.0, 3), (4.0, 5), (0.1, 100)])
def test_a_measurement_ends_after_its_seconds_but_has_three_repetitions(clock, duration, repetitions):
    result = timing.measure(lambda: clock.sleep(duration), CPU, repetitions=100, seconds=20.0)
    assert result.repetitions == repetitions


def test_measured_rows_are_steps_times_the_median_and_what_comes_once(clock):
    cases = SomeCases(
        Case("m", LEARNING, 8, 10, 8, lambda: clock.sleep(0.5), lambda: clock.sleep(2.0)),
        Case("m", INFERENCE, 1, 1, 1, lambda: clock.sleep(0.25)),
    )
    rows = few_shot_timing.measurements(cases, cases.expect(seconds=1.0), seconds=20.0)
    assert rows["seconds"].tolist() == rows["low"].tolist() == [10 * 0.5 + 2.0, 0.25]
    assert rows["note"].tolist() == ["10 times the median of 40 steps", ""]


def test_equal_steps_are_measured_once(clock):
    calls = []

    def work() -> None:
        calls.append(1)
        clock.sleep(10.0)

    cases = SomeCases(Case("m", LEARNING, 8, 5, 8, work), Case("m", LEARNING, 32, 20, 8, work))
    rows = few_shot_timing.measurements(cases, cases.expect(seconds=100.0), seconds=20.0)
    assert rows["seconds"].tolist() == [50.0, 200.0]
    assert len(calls) == 2 + 3, "two to warm up, three for the quartiles"


def test_slow_work_is_not_warmed_up_and_very_slow_work_done_once():
    work = Product()
    cases = SomeCases(Case("m", INFERENCE, 1, 1, 1, work))
    calls = {}
    for seconds in (1e9, 0.5, 0.0):
        work.calls = 0
        few_shot_timing.measurements(cases, cases.expect(seconds=1.0), seconds)
        calls[seconds] = work.calls
    assert calls == {1e9: 2 + 100, 0.5: 100, 0.0: 1}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak of memory")
def test_peak_memory_is_that_of_the_work_measured():
    def peak(numbers: int) -> int:
        return timing.measure(lambda: torch.ones(numbers).sum(), CPU, repetitions=3).memory

    assert 0.9 * 2**29 < peak(2**27) - peak(2**10) < 1.1 * 2**29


def test_slowness_is_relative_to_the_machine_of_the_stated_minutes(monkeypatch):
    for factor, slowness in ((0.5, 2.0), (1.0, 1.0), (3.0, 1.0)):
        machine = timing.Machine(factor * timing.MEASURED_AT, 1.0)
        monkeypatch.setattr(timing, "rates", lambda device, machine=machine: machine)
        assert timing.slowness(CPU) == slowness


@pytest.mark.timing
def test_a_measured_second_is_a_second():
    result = timing.measure(lambda: time.sleep(0.05), CPU, repetitions=10)
    assert 0.05 <= result.low <= result.median <= result.high < 0.07


@pytest.mark.timing
def test_measured_rates_predict_a_convolution_of_twice_the_frames():
    """Twice the frames take twice the time, within 30 %."""
    machine = timing.rates(CPU, "fp32")
    conv, x = torch.nn.Conv2d(128, 128, 3, padding=1), torch.randn(16, 128, 64, 64)
    work = few_shot_timing.without_gradients(lambda: conv(x))
    flops, _ = timing.operations(work)
    assert timing.measure(work, CPU, 10, 5.0).median == pytest.approx(flops / machine.flops, rel=0.3)


# -- Table 2 ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def measured_rows():
    """Table 2's rows at the smoke size."""
    profile = config.load("smoke")
    cases = Cases(profile, make_extractors(profile), CPU, METHODS, profile.protocol.shots)
    machine, counts = timing.Machine(flops=1e9, bandwidth=1e9), few_shot_timing.count(cases)
    expected = few_shot_timing.predictions(cases, machine, counts)
    return few_shot_timing.measurements(cases, expected, 0.1).assign(size=profile.data.image_size)


def test_every_method_learns_at_every_t_and_infers_once(measured_rows):
    shots = config.load("smoke").protocol.shots
    counts = measured_rows.groupby(["method", "phase"])["T"].apply(list).to_dict()
    assert counts == {
        (method, phase): list(shots) if phase == LEARNING else [1]
        for method in METHODS
        for phase in (LEARNING, INFERENCE)
    }
    assert (measured_rows["predicted"] > 0).all()
    assert (measured_rows["seconds"] > 0).all()
    assert measured_rows["arithmetic"].between(0, 1).all()


def test_what_is_extrapolated_is_noted(measured_rows):
    """Only fine-tuned methods have several steps: two epochs of one batch."""
    tuned = measured_rows["method"].isin(["Ours", "Pix2pixHD"]) & (measured_rows["phase"] == LEARNING)
    assert measured_rows["steps"].tolist() == tuned.map({True: 2, False: 1}).tolist()
    assert ((measured_rows["note"] != "") == tuned).all()


def test_our_predictions_grow_with_the_frames(measured_rows):
    learning = measured_rows[measured_rows["phase"] == LEARNING]
    for _, rows in learning.groupby("method"):
        operations = rows.sort_values("T")["operations"]
        assert (operations.diff().dropna() > 0).all()


def test_table_2_has_the_papers_times_beside_ours(measured_rows):
    table = table2(measured_rows, "a machine", "run")
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    one_shot = table[(table["T"] == 1) & (table["method"] == "Ours")].set_index("phase")
    assert one_shot.loc[LEARNING, "paper_value"] == 43.84
    assert one_shot.loc[INFERENCE, "paper_2080ti"] == 0.013
    assert table["verdict"].eq("not comparable").all()
    assert table["device"].eq("a machine").all()


def test_an_order_is_compared_with_the_papers(measured_rows):
    table = table2(measured_rows, "a machine", "run")
    assert table.groupby(["phase", "T"])["order holds"].nunique().le(1).all()
    assert set(table["rank"].dropna()) <= {1, 2, 3, 4}
    paper = table[["method", "phase", "T", "paper_value"]].dropna()
    rows = measured_rows.merge(paper).rename(columns={"seconds": "measured seconds"})
    same = rows.rename(columns={"paper_value": "seconds"})
    assert table2(same, "the paper's", "run")["order holds"].all()
    reverse = same.assign(seconds=1 / same["seconds"])
    assert not table2(reverse, "the reverse", "run")["order holds"].any()


def test_steps_of_the_paper():
    cases = Cases(config.load("voxceleb1"), [], CPU, METHODS, (1, 8, 32))
    assert [cases.steps(t) for t in (1, 8, 32)] == [40, 40, 160]


@pytest.mark.cuda
def test_table_2_on_a_gpu():
    profile, device = config.load("smoke"), torch.device("cuda")
    extractors = [extractor.to(device) for extractor in make_extractors(profile)]
    cases = Cases(profile, extractors, device, METHODS, (1, 4))
    expected = few_shot_timing.predictions(cases, timing.rates(device, size=16), few_shot_timing.count(cases))
    rows = few_shot_timing.measurements(cases, expected, 0.1)
    assert (rows["seconds"] > 0).all()
    assert (rows["memory [GiB]"] > 0).all()
    assert "multiprocessors" in timing.clocks(device)


# -- the smoke test of a profile --------------------------------------------------------------------
STAGES = [
    "prepare",
    "meta-learning step 1",
    "meta-learning step 2",
    "fine-tuning step",
    "evaluation and table",
]


def test_a_smoke_test_reaches_the_table(tmp_path):
    stages = smoke_test(config.load("smoke"), None, tmp_path, CPU)
    assert stages["stage"].tolist() == STAGES
    text = (tmp_path / "tables/table1.md").read_text()
    assert text.startswith("A smoke test of smoke")
    assert "Ours-FT before fine-tuning" in text


@pytest.mark.cuda
def test_a_smoke_test_on_a_gpu(tmp_path):
    assert smoke_test(config.load("smoke"), None, tmp_path, torch.device("cuda"))["stage"].tolist() == STAGES


def test_untrained_feature_networks_stand_in_for_those_that_were_not_fetched(monkeypatch, capsys):
    from talking_heads.experiments.few_shot import smoke_test as module

    def make(profile, random=False):
        if not random:
            raise FileNotFoundError("vgg19: not fetched")
        return [SimpleNamespace(to=lambda device: f"random on {device}")]

    monkeypatch.setattr(module, "make_extractors", make)
    assert module.available_extractors(config.load("smoke"), CPU) == ["random on cpu"]
    assert "vgg19: not fetched" in capsys.readouterr().out


def test_a_smoke_test_of_a_profile_that_does_not_exist(capsys):
    assert main(["smoke-test", "--profile", "nothing"]) == 2
    assert "unknown profile 'nothing'" in capsys.readouterr().err
