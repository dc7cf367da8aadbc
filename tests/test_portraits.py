"""Larger heads against smaller ones, at the size of the smaller."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from talking_heads import config
from talking_heads.data import corpora
from talking_heads.experiments.few_shot import portraits, trainings
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.nn.feature_networks import SIDE
from talking_heads.nn.perceptual import embedded_extractor

CPU = torch.device("cpu")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def test_the_profile_grows_by_one_level_from_the_one_that_it_names():
    profile = config.load("portrait")
    smaller = portraits.smaller_profile(profile)
    assert (profile.data.image_size, smaller.data.image_size) == (128, SIDE)
    assert profile.data.speakers == smaller.data.speakers, "the same identities and clips"
    for name in ("embedder_channels", "discriminator_channels"):
        assert getattr(profile.few_shot.networks, name)[2:] == getattr(smaller.few_shot.networks, name)[1:]
    start = trainings.start_weights(profile, "ft", "results")
    assert start == trainings.weights_path(config.load("laptop-full"), "ft", "reference", "results")
    assert trainings.start_weights(smaller, "ft", "results") is None


def test_frames_are_shrunk_by_area():
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    mean = image.reshape(1, 4, 2, 4, 2, 3).mean((2, 4))
    assert np.abs(portraits.shrink(image, 4).astype(float) - mean).max() <= 1


def test_the_enlarged_view_of_a_feature_network_is_the_frame_itself_at_twice_the_size():
    extractor = embedded_extractor("attributes@twice", 1.0)
    x = torch.rand(1, 3, 2 * SIDE, 2 * SIDE) * 2 - 1
    torch.testing.assert_close(extractor.prepare(x), x)
    assert extractor.prepare(x[:, :, :SIDE, :SIDE]).shape == x.shape


def test_heads_are_measured_at_the_size_of_the_smaller_ones(tmp_path):
    smaller = config.load("smoke")
    larger = smaller.override({"data.image_size": 2 * smaller.data.image_size})
    nets = build_networks(smaller.few_shot.networks, 1)
    for profile in (smaller, larger):
        corpora.ensure(profile, tmp_path)
    measured = [portraits.measure(profile, nets, smaller, tmp_path, CPU) for profile in (larger, smaller)]
    for table in measured:
        assert list(table.columns) == list(portraits.HIGHER_IS_BETTER) and len(table) == 2
        assert table.notna().all(axis=None)
    assert not measured[0].equals(measured[1])
    with pytest.raises(ValueError, match="other frames"):
        moved = smaller.override({"data.speakers.evaluation_fps": 12.0})
        corpora.ensure(moved, tmp_path)
        portraits.measure(larger, nets, moved, tmp_path, CPU)


@pytest.mark.timing
def test_the_first_chapter_shows_a_portrait_within_a_minute(tmp_path, slowness):
    """The whole chapter, from the start of its kernel, on two cores."""
    command = [sys.executable, "-m", "papermill", "00_start_here.ipynb", str(tmp_path / "00.ipynb")]
    places = ["-p", "data", str(tmp_path / "data"), "-p", "results", str(tmp_path / "results")]
    start = time.perf_counter()
    process = subprocess.run([*command, *places], cwd=NOTEBOOKS, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert time.perf_counter() - start < 60 * slowness
    assert list(tmp_path.glob("results/portrait/**/*.mp4"))


def test_gains_are_positive_where_larger_heads_are_better():
    smaller = pd.DataFrame({"SSIM": [0.7, 0.8], "CSIM-judge": [0.8, 0.9], "landmark error": [0.05, 0.07]})
    larger = smaller.add([0.1, -0.1, -0.01])
    table = portraits.compare(larger, smaller).set_index("metric")
    np.testing.assert_allclose(table["gain"], [0.1, -0.1, 0.01])
    assert table["no worse"].tolist() == [True, False, True]
