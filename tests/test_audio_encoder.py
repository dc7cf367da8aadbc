"""The pretrained audio encoder: what it hears of voices that it was not trained on."""

import json

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.diffused import audio_pretraining
from talking_heads.diffused.audio_pretraining import (
    MOUTH,
    NAMES,
    AudioLearner,
    Speech,
    encoder_path,
    load_reader,
    measure_reader,
    train_encoder,
)
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import loop

SECTION = config.load("laptop").diffused.audio_encoder


def test_utterances_have_their_phonemes_and_mouths():
    """Windows are cut around an instant, whose phoneme and mouth they belong to."""
    speech = Speech.of(5_000_000, 2, 2.0)
    voices, instants = np.array([0, 1, 1]), np.array([0.5, 0.7, 1.5])
    sound, phonemes, mouth = speech.windows(voices, instants)
    assert sound.shape == (3, 1, 3200) and mouth.shape == (3, 4) and sound.abs().max() <= 1
    first = round(0.7 * 16_000) - 1600
    assert np.array_equal((sound[1, 0] * 32768).numpy().astype(int), speech.sound[1, first : first + 3200])
    wider = speech.windows(voices, instants, each_side=2)[0]
    assert wider.shape == (3, 5, 3200) and torch.equal(wider[:, 2], sound[:, 0])
    assert torch.equal(wider[1, 3, :-640], wider[1, 2, 640:])
    number = int((speech.edges[1] <= 0.7).sum())
    assert NAMES[phonemes[1]] == NAMES[speech.phonemes[1][number]]


def test_the_committed_encoder_hears_unheard_voices():
    """Phonemes in 97 of 100 frames, and the shape of the mouth at a correlation of 0.97."""
    result = measure_reader(load_reader(SECTION))
    assert result["phoneme accuracy"] >= 0.97
    assert min(result[f"correlation of {name}"] for name in MOUTH) >= 0.97, result
    metadata = load_weights(encoder_path(SECTION))[1]
    assert metadata["command"].startswith("python -m talking_heads audio-encoder")
    assert metadata["result"] == pytest.approx(result, abs=0.005)


@pytest.mark.parametrize(
    "profile, device",
    [("laptop", "cpu"), ("crema", "cpu"), pytest.param("crema", "cuda", marks=pytest.mark.cuda)],
)
def test_an_encoder_is_trained_for_a_profile(profile, device, tmp_path, monkeypatch):
    """Also the paper's, which is recurrent over the windows of a frame."""
    for name, value in {"TEST_VOICES": 1, "BATCH": 4}.items():
        monkeypatch.setattr(audio_pretraining, name, value)
    section = config.load(profile).diffused.audio_encoder
    few = {"steps": 2, "voices": 2}
    result = train_encoder(section, tmp_path / "a", tmp_path / "run", "the command", device, **few)
    assert 0 <= result["phoneme accuracy"] <= 1
    assert load_weights(tmp_path / "a")[1]["command"] == "the command"


def test_a_training_learns_and_is_reproducible(tmp_path, monkeypatch):
    """A few steps on a few voices are better than chance, and give the same weights again, also where they
    are interrupted."""
    monkeypatch.setattr(audio_pretraining, "TEST_VOICES", 4)
    few = {"steps": 60, "voices": 12}
    loop.train(AudioLearner(SECTION, **few), tmp_path / "run-b", until=20)  # interrupted
    results = [train_encoder(SECTION, tmp_path / name, tmp_path / f"run-{name}", **few) for name in "ab"]
    assert results[0] == results[1] and results[0]["phoneme accuracy"] > 0.3
    first, second = (load_weights(tmp_path / name)[0] for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.dumps(load_weights(tmp_path / "a")[1]["result"]) == json.dumps(results[0])
