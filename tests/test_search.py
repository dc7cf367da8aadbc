"""The search for fine-tuning rates: one row for every choice, on validation identities, and nothing twice."""

from pathlib import Path

import pytest
import torch
from talking_heads import config
from talking_heads.data import corpora
from talking_heads.experiments.few_shot import protocol, search
from talking_heads.experiments.few_shot.search import D_RATE, RATE
from talking_heads.experiments.few_shot.trainings import TrainingData
from talking_heads.experiments.few_shot.weights import LoadedWeights
from talking_heads.few_shot.baselines.training import BaselineLearner, build_pix2pixhd
from talking_heads.few_shot.networks.build import build_networks

CPU = torch.device("cpu")
PROFILE = config.load("smoke")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with the profile's corpus."""
    folder = tmp_path_factory.mktemp("data")
    corpora.ensure(PROFILE, folder)
    return folder


@pytest.fixture
def small_search(monkeypatch, extractors):
    """Searches over one identity and two numbers of epochs."""
    monkeypatch.setattr(search, "make_extractors", lambda _: extractors)
    monkeypatch.setattr(search, "EPOCHS", (0, 2))
    monkeypatch.setattr(search, "IDENTITIES", 1)


def load_only(monkeypatch, loaded: LoadedWeights) -> None:
    """The reference weights are these."""
    monkeypatch.setattr(search, "load_all", lambda *_: loaded)


def test_an_interrupted_search_continues(monkeypatch, tmp_path, data, small_search):
    networks = build_networks(PROFILE.few_shot.networks, 1)
    load_only(monkeypatch, LoadedWeights({"ft": networks}, {"ft": "test"}, {}))
    choices = [{RATE: rate, D_RATE: 1e-4} for rate in (1e-4, 1e-3)]
    monkeypatch.setattr(search, "CHOICES", {"ours": choices})
    fine_tune, rates = search.fine_tune, []

    def interrupted_fine_tune(tuning, *args, **kwargs):
        rates.append(tuning.profile.few_shot.fine_tuning.learning_rate)
        if len(rates) == 2:
            raise KeyboardInterrupt
        return fine_tune(tuning, *args, **kwargs)

    monkeypatch.setattr(search, "fine_tune", interrupted_fine_tune)
    results = tmp_path / "results"
    with pytest.raises(KeyboardInterrupt):
        search.search(PROFILE, "ours", 1, data, results, CPU)
    table = search.search(PROFILE, "ours", 1, data, results, CPU)
    assert rates == [1e-4, 1e-3, 1e-3], "the first head is not fine-tuned again"
    rows = zip(table["tune_rate"], table["epochs"], strict=True)
    assert sorted(rows) == [(1e-4, 0), (1e-4, 2), (1e-3, 0), (1e-3, 2)]
    best = table[list(search.SELECTED_BY)].mean(axis=1).tolist()
    assert best == sorted(best, reverse=True)
    assert (results / "smoke/tables/tuning_search_ours_T1.csv").exists()

    validation = corpora.store(PROFILE, data, "validation")
    evaluation = corpora.store(PROFILE, data, "test")
    (log,) = (results / "smoke/runs").glob("search_ours_T1_*.jsonl")
    text = log.read_text()
    assert all(f'"{task.identity}"' in text for task in protocol.tasks(validation, PROFILE, 1))
    assert not any(f'"{identity}"' in text for identity in evaluation.identities())


def test_pix2pixhd_is_searched_too(monkeypatch, tmp_path, data, small_search):
    """Every rate once, after all epochs."""
    loaded = LoadedWeights({"pix2pixhd": build_pix2pixhd(PROFILE)}, {"pix2pixhd": "test"}, {})
    load_only(monkeypatch, loaded)
    table = search.search(PROFILE, "pix2pixhd", 1, data, tmp_path / "results", CPU)
    assert sorted(table["pix2pixhd_tune_rate"]) == [2e-4, 5e-4, 1e-3, 2e-3]
    assert set(table["epochs"]) == {2}


def test_a_search_without_weights_ends_before_any_work(monkeypatch, tmp_path):
    load_only(monkeypatch, LoadedWeights({}, {}, {}, "pix2pixhd weights: not there"))
    with pytest.raises(FileNotFoundError, match="pix2pixhd weights: not there"):
        search.search(PROFILE, "pix2pixhd", 1, tmp_path, tmp_path / "results", CPU)
    assert not list(tmp_path.iterdir())


def test_pretrainings_of_several_lengths_are_compared(monkeypatch, tmp_path, data, videos, small_search):
    """Each has its own weights and schedule; they come in order, the reference's among them."""
    lengths = []

    def export_untrained(profile: config.Profile) -> Path:
        steps = profile.few_shot.trainings.small_steps
        lengths.append(steps)
        path = tmp_path / f"{steps}.safetensors"
        torch.manual_seed(steps)
        BaselineLearner(profile.override({"seed": steps}), "pix2pixhd", videos, []).export(path, {})
        return path

    class UntrainedRun:
        def __init__(self, profile, name, *_):
            self.profile = profile

    monkeypatch.setattr(search, "reference_data", lambda *_: TrainingData(videos, videos, {}))
    monkeypatch.setattr(search, "TrainingRun", UntrainedRun)
    monkeypatch.setattr(search, "train", lambda run: export_untrained(run.profile))
    monkeypatch.setattr(search, "weights_path", lambda profile, *_: export_untrained(profile))
    table = search.pretraining(PROFILE, [2, 1], 1, data, tmp_path / "results", CPU)
    assert table["pretraining"].tolist() == lengths == [1, 2, PROFILE.few_shot.trainings.small_steps]
    assert table["weights"].nunique() == 3
    assert table["SSIM"].nunique() == 3
    assert (tmp_path / "results/smoke/tables/pretraining_pix2pixhd_T1.csv").exists()
