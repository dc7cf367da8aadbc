"""The benchmark of a machine: its lines, and the days that it projects."""

import importlib.util
import re
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation.engines import INT8, ONNX, OPENVINO, OPENVINO_INT8
from talking_heads.data.sound import FPS
from talking_heads.data.store import Store
from talking_heads.experiments import benchmark
from talking_heads.experiments.projection import LARGE, VIDEOS, projections
from talking_heads.experiments.random_corpora import write_tiny_corpus
from talking_heads.metrics.timing import flops_of
from talking_heads.nn.precision import multiplies_bf16


def test_a_benchmark_measures_every_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.Bench, "seconds", 0.1)
    monkeypatch.setitem(VIDEOS, "voxceleb2", 5_000)
    assert main(
        ["--results", str(tmp_path), "benchmark", "--profile", "smoke", "--quick", "--device", "cpu"]
    ) in (0, None)
    table = pd.read_csv(tmp_path / "smoke/tables/benchmark.csv", keep_default_na=False)
    expected = {
        "loader": "episodes/s",
        "preparing": "clips/s",
        "opening the store": "s",
        "memory of the store": "MB",
        "first source of a video": "ms",
        "reading an episode": "ms",
        "peak arithmetic": "TFLOP/s",
        "meta-learning step": "s",
        "meta-learning": "steps/s",
        "meta-learning arithmetic": "TFLOP/s",
        "memory of meta-learning": "GiB",
        "step of no-match-one-shot": "s",
        "step of pix2pixhd": "s",
        "step of x2face": "s",
        "fine-tuning, T = 1": "s",
        "a frame, batch of 1": "ms",
        "a frame, batch of 32": "ms",
        "a frame, PyTorch, fp32": "ms",
        "memory of everything": "GiB",
        "talking head": "frames/s",
        "talking head, distilled": "frames/s",
    }
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("openvino"):
        rows, names = table.set_index("quantity"), (ONNX, INT8, OPENVINO, OPENVINO_INT8)
        for frame, name in product(("a frame", "a frame of 32"), names):
            expected[f"{frame}, {name}"] = "ms"
            row, eager = rows.loc[f"{frame}, {name}"], rows["value"][f"{frame}, PyTorch, fp32"]
            ratio = re.search(r"([\d.]+) times as fast as PyTorch in fp32", row["note"])[1]
            assert float(ratio) == pytest.approx(eager / row["value"], rel=0.05)
    measured = dict(zip(table["quantity"], table["unit"], strict=True))
    assert measured.items() >= expected.items() and (table["value"] > 0).all()
    step, notes = table.set_index("quantity")["value"], table.set_index("quantity")["note"]
    share = step["meta-learning arithmetic"] / step["peak arithmetic"]
    assert notes["meta-learning arithmetic"] == f"{share:.0%} of the peak"
    assert step["memory of the store"] < 200 * 5_000 / 145_569  # MB, in proportion to VoxCeleb2's size
    assert step["meta-learning"] == pytest.approx(1 / step["meta-learning step"], rel=1e-3)
    assert not table["unit"].eq("days").any(), "steps of other networks say nothing about the paper's"
    assert "meta-learning step: " in capsys.readouterr().out
    assert "quick" in (tmp_path / "smoke/tables/benchmark.md").read_text(encoding="utf-8")


def test_a_talking_head_is_timed_with_the_papers_audio_encoder(tmp_path):
    profile = config.load("smoke", {"diffused.audio_encoder.kind": "waveform"})
    rows = list(benchmark.Bench(profile, torch.device("cpu"), tmp_path, True).talking())
    assert [row.quantity for row in rows] == ["talking head", "talking head, distilled"]
    assert "DDIM, 1 steps" in rows[1].note and all(row.value > 0 for row in rows)


@pytest.mark.timing
@pytest.mark.skipif(not multiplies_bf16("cpu"), reason="real time is promised where bf16 is multiplied")
def test_two_steps_of_a_distilled_network_talk_in_real_time(tmp_path, slowness):
    """At 64², the best of three: others may use this machine, too."""
    bench = benchmark.Bench(config.load("laptop-full"), torch.device("cpu"), tmp_path, True)
    rates = [{row.quantity: row.value for row in bench.talking()} for _ in range(3)]
    assert max(rate["talking head, distilled"] for rate in rates) * slowness >= FPS


@pytest.mark.paper_size
def test_a_corpus_as_large_as_voxceleb2_is_opened(tmp_path):
    bench = benchmark.Bench(config.load("smoke"), torch.device("cpu"), tmp_path, quick=True)
    value = {row.quantity: row.value for row in bench.opening()}
    assert value["opening the store"] < 1
    assert value["memory of the store"] < 200 and value["first source of a video"] < 1
    assert value["reading an episode"] < 5


def test_the_large_corpus_has_frames_that_are_read(tmp_path):
    store = Store(write_tiny_corpus(tmp_path / "large/prepared", 60), "meta")
    assert len(store) == 60 and len(store.identities()) == 3
    frames, points = store.read(31, np.array([0, 83]))
    assert frames.shape == (2, 8, 8, 3) and points.shape == (2, 68, 2) and store.frame_count(31) == 84
    others, _ = store.read(32, np.array([0, 83]))
    assert not np.array_equal(frames, others)


ROOT = Path(__file__).parents[1]
STEPS = {"ft": 0.1, "no-match-one-shot": 0.05, "pix2pixhd": 0.3, "x2face": 0.2}  # seconds


def test_days_are_steps_times_seconds():
    """Of every training of the paper's profiles; Ours-FF takes twice as long, the small corpus a tenth."""
    rows = {(row.profile, row.variant): row for row in projections(config.load("voxceleb2-ft"), STEPS)}
    trainings = [(name, variant) for name in LARGE for variant in variants(name)]
    assert list(rows) == trainings and len(rows) == 5 + 1 + 1 + 7
    large, first, small = (75 * -(-videos // 2) for videos in (145_569, 22_496, 14_557))
    expected = {
        ("voxceleb2-ft", "ft"): large * 0.1,
        ("voxceleb2-ff", "ff"): 2 * large * 0.1,
        ("voxceleb1", "no-match"): first * 0.1,
        ("voxceleb1", "x2face"): first * 0.2,
        ("voxceleb2", "small"): small * 0.1,
        ("voxceleb2", "no-match-one-shot"): small * 0.05,
        ("voxceleb2", "pix2pixhd"): small * 0.3,
    }
    for key, seconds in expected.items():
        assert rows[key].days == pytest.approx(seconds / 86_400), key
    assert rows["voxceleb2-ft", "ft"].steps == large
    assert not list(projections(config.load("gpu").override({"data.image_size": 128}), STEPS))


def variants(name):
    return config.load(name).few_shot.trainings.variants


def test_the_table_has_a_column_for_eight_devices(tmp_path, monkeypatch):
    days = benchmark.Row("voxceleb1, small", 8.0, "days", "100 steps", 1.0)
    monkeypatch.setattr(
        benchmark.Bench, "rows", lambda bench: [benchmark.Row("loader", 2.0, "a second"), days]
    )
    benchmark.benchmark(config.load("smoke"), tmp_path, torch.device("cpu"), True)
    text = (tmp_path / "smoke/tables/benchmark.md").read_text(encoding="utf-8")
    assert "| loader | 2 | – | a second | – |" in text
    assert "| voxceleb1, small | 8 | 1 | days | 100 steps |" in text


def test_operations_of_work_with_sparse_gradients_are_counted():
    table = torch.nn.Embedding(8, 16, sparse=True)
    weight = torch.randn(16, 4)
    assert flops_of(lambda: (table(torch.arange(8)) @ weight).sum().backward()) == 2 * 2 * 8 * 16 * 4


@pytest.mark.parametrize("measured", [True, False])
def test_chapter_07_shows_the_table_of_its_profile(tmp_path, measured):
    cells = nbformat.read(ROOT / "notebooks/07_timing.ipynb", 4).cells
    (source,) = (cell.source for cell in cells if cell.cell_type == "code" and "benchmark.md" in cell.source)
    if measured:
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables/benchmark.md").write_text("Benchmark of profile smoke", encoding="utf-8")
    names = {"out": tmp_path, "p": config.load("smoke"), "Markdown": str}
    exec(source, names)
    expected = "Benchmark of profile smoke" if measured else "benchmark --profile smoke --quick"
    assert expected in names["text"]
