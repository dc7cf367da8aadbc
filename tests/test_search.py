"""The search for fine-tuning rates: one row for every choice, on validation people, and nothing twice."""

import dataclasses

import pytest
import torch

from talking_heads import profiles
from talking_heads.baselines.training import BaselineLearner, build_pix2pixhd
from talking_heads.corpus import build
from talking_heads.evaluation import protocol
from talking_heads.meta_learning import build as build_networks
from talking_heads.reproduce import search as module
from talking_heads.reproduce.reference import Loaded


def test_an_interrupted_search_goes_on(monkeypatch, tmp_path, extractors):
    profile = profiles.load("smoke")
    networks, begun = build_networks(profile, 1), []

    def fine_tune(tuning, *args, **kwargs):
        begun.append(tuning)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(tuning, *args, **kwargs)

    real = module.fine_tune
    choices = {"ours": [{"tune_rate": rate, "tune_discriminator_rate": 1e-4} for rate in (1e-4, 1e-3)]}
    for name, value in {"load_all": lambda *_: Loaded({"ft": networks}, {"ft": "test"}, {}, ""), "make_extractors": lambda _: extractors,
                        "CHOICES": choices, "EPOCHS": (0, 2), "PEOPLE": 1, "fine_tune": fine_tune}.items():
        monkeypatch.setattr(module, name, value)
    search = lambda: module.search("smoke", "ours", 1, tmp_path, tmp_path / "results", "cpu")
    with pytest.raises(KeyboardInterrupt):
        search()
    table = search()
    assert len(begun) == 3, "the first head is not tuned again"
    assert sorted(zip(table["tune_rate"], table["epochs"])) == [(1e-4, 0), (1e-4, 2), (1e-3, 0), (1e-3, 2)]
    best = table[list(module.WANTED)].mean(axis=1).tolist()
    assert best == sorted(best, reverse=True) and (tmp_path / "results/smoke/tables/tuning_search_ours_T1.csv").exists()
    validation = {t.person for t in protocol.tasks(build.store(profile, tmp_path, "validation"), profile, 1)}
    tests = set(build.store(profile, tmp_path, "test").people())
    log = next((tmp_path / "results/smoke/runs").glob("search_ours_T1_*.jsonl")).read_text()
    assert all(person in log for person in validation) and not any(f'"{person}"' in log for person in tests)


def test_pix2pixhd_is_searched_too(monkeypatch, tmp_path, extractors):
    """Every rate once, after all epochs; without weights it says so before any work."""
    profile = profiles.load("smoke")
    for name, value in {"make_extractors": lambda _: extractors, "EPOCHS": (0, 2), "PEOPLE": 1,
                        "load_all": lambda *_: Loaded({"pix2pixhd": build_pix2pixhd(profile)}, {"pix2pixhd": "test"}, {}, "")}.items():
        monkeypatch.setattr(module, name, value)
    table = module.search("smoke", "pix2pixhd", 1, tmp_path, tmp_path / "results", "cpu")
    assert sorted(table["pix2pixhd_tune_rate"]) == [2e-4, 5e-4, 1e-3, 2e-3] and set(table["epochs"]) == {2}
    monkeypatch.setattr(module, "load_all", lambda *_: Loaded({}, {}, {}, "pix2pixhd weights: not there"))
    with pytest.raises(FileNotFoundError, match="pix2pixhd weights: not there"):
        module.search("smoke", "pix2pixhd", 1, tmp_path, tmp_path / "other", "cpu")
    assert not (tmp_path / "other").exists()


def test_pretrainings_of_several_lengths_are_compared(monkeypatch, tmp_path, videos, extractors):
    """Each with its own weights and schedule, in order, the reference's among them."""
    profile, lengths = profiles.load("smoke"), []

    def trained(p, name, *_):
        lengths.append(p.small_steps)
        path = tmp_path / f"{p.small_steps}.safetensors"
        torch.manual_seed(p.small_steps)
        BaselineLearner(dataclasses.replace(p, seed=p.small_steps), name, videos, []).export(path, {})
        return path

    for name, value in {"make_extractors": lambda _: extractors, "EPOCHS": (0, 2), "PEOPLE": 1, "train_on_pools": trained,
                        "weights_path": lambda p, *_: trained(p, "pix2pixhd")}.items():
        monkeypatch.setattr(module, name, value)
    table = module.pretraining("smoke", [2, 1], 1, tmp_path, tmp_path / "results", "cpu")
    assert table["pretraining"].tolist() == lengths == [1, 2, profile.small_steps] and table["weights"].nunique() == 3 and table["SSIM"].nunique() == 3
    assert (tmp_path / "results/smoke/tables/pretraining_pix2pixhd_T1.csv").exists()
