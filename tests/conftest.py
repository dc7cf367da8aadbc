"""Shared fixtures: the smoke profile in fp32, rendered videos, and one execution of all chapters.

Options and markers: tests marked ``paper_size`` run with ``--paper-size``, tests marked ``timing`` with
``--timing``, tests marked ``cuda`` where a GPU is available.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.talking import talking_pool
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.judges.pools import pool
from talking_heads.metrics import recogniser, timing
from talking_heads.nn import pretrained
from torch.nn import functional as F
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--paper-size",
        action="store_true",
        help="also run the tests at the paper's own sizes: minutes for each profile, up to 24 GiB",
    )
    parser.addoption(
        "--all-in-jupyterlab",
        action="store_true",
        help="also run every chapter in JupyterLab, not only those whose output needs it: 10 minutes more",
    )
    parser.addoption(
        "--timing",
        action="store_true",
        help="also run the tests that measure time; they need a machine that does nothing else",
    )


class ByFile(LoadFileScheduling):
    """Each process runs whole files; the chapters are executed in one of them."""

    def _split_scope(self, nodeid):
        path = super()._split_scope(nodeid)
        return "executed chapters" if Path(path).stem in ("test_browser", "test_notebooks") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(config, items):
    skips = {}
    if not config.getoption("--paper-size"):
        skips["paper_size"] = "on request: ./run_all.sh test --paper-size"
    if not config.getoption("--timing"):
        skips["timing"] = "on request: ./run_all.sh test --timing"
    if not torch.cuda.is_available():
        skips["cuda"] = "no GPU"
    for item in items:
        for marker, reason in skips.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


class RenderedVideos:
    """Four videos of two identities, in memory; 7 frames each."""

    def __init__(self, size: int):
        speakers = [(identity, video) for identity in (1, 2) for video in (0, 1)]
        self.clips = [make_clip(ClipSettings(5, *numbers, 7, 2.5, size), sound=False) for numbers in speakers]

    def __len__(self):
        return len(self.clips)

    def frame_count(self, video):
        return len(self.clips[video].frames)

    def identity(self, video):
        return str(video // 2)

    def name(self, video):
        return str(video % 2)

    def read(self, video, frames, pupils=False):
        clip = self.clips[video]
        points = np.concatenate([clip.landmarks, clip.pupils], 1)
        return clip.frames[frames], points[frames, : 70 if pupils else 68]


@pytest.fixture(scope="session")
def profile():
    return config.load("smoke", {"few_shot.networks.precision": "fp32"})


@pytest.fixture
def few_steps(profile):
    """For trainings in two processes, over a dozen steps."""
    return profile.override(
        {
            "few_shot.meta_learning.steps": 12,
            "few_shot.meta_learning.content_steps": 2,
            "few_shot.meta_learning.batch_videos": 1,
            "few_shot.losses.match_pulls": "both",
            "few_shot.meta_learning.learning_rate": 5e-5,  # the paper's, with which differences grow slowly
            "few_shot.meta_learning.discriminator_learning_rate": 2e-4,
            "few_shot.meta_learning.table_learning_rate": 2e-4,
        }
    )


@pytest.fixture(scope="session")
def videos(profile):
    return RenderedVideos(profile.data.image_size)


@pytest.fixture(scope="session")
def few(profile, videos) -> Frames:
    """Four training frames of one identity."""
    images, points = videos.read(0, np.arange(4))
    line_width = profile.few_shot.landmark_images.line_width
    y = to_tensor(draw_all(points, profile.data.image_size, line_width))
    return Frames(images, points, to_tensor(images), y)


@pytest.fixture(scope="session")
def untrained_head(profile, few) -> Head:
    """The head of these frames, by networks that were not trained."""
    torch.manual_seed(0)
    nets = build_networks(profile.few_shot.networks, 1)
    with torch.no_grad():
        return Head(nets.generator, nets.embedder.embed(few.x[None], few.y[None])).eval()


@pytest.fixture(autouse=True)
def without_dlib(monkeypatch, request):
    """As where the optional packages are not installed, but for tests marked ``dlib``."""
    recogniser.recogniser.cache_clear()
    recogniser.landmark_network.cache_clear()
    if "dlib" not in request.keywords:
        for name in (pretrained.DLIB_FILE, pretrained.DLIB_RECOGNISER):
            hidden = dataclasses.replace(pretrained.PRETRAINED[name], package="not_installed")
            monkeypatch.setitem(pretrained.PRETRAINED, name, hidden)


@pytest.fixture
def bf16(monkeypatch):
    """A CPU that multiplies bf16 in hardware; others compute the same, slowly."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def with_threads(count):
    """This many threads of PyTorch, whatever the tests run with."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads():
    yield from with_threads(2)


@pytest.fixture
def one_thread():
    """One item is computed at a time, in order."""
    yield from with_threads(1)


@pytest.fixture
def slowness():
    """The time of this machine over that of the reference machine, at least 1."""
    return timing.slowness(torch.device("cpu"))


class PlainExtractor(torch.nn.Module):
    """A feature network without parameters: the pixels and their averages."""

    weight, gains, scale, embedded = 1.0, (1.0, 1.0), 2.0, True

    def forward(self, x):
        return [x, F.avg_pool2d(x, 4)]


@pytest.fixture(scope="session")
def extractors():
    return [PlainExtractor()]


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """The training clips of the smoke profile, with sound."""
    section = config.load("smoke").diffused
    return PoolVideos(talking_pool("training", section, tmp_path_factory.mktemp("pools")))


@pytest.fixture
def talking_command(tmp_path):
    """Words of a command on a finished smoke training of the denoising network, by the command's name."""
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    profile = ["--profile", "smoke", "--device", "cpu"]
    assert main([*places, "train-diffusion", *profile]) == 0

    def words(name: str) -> list[str]:
        return [*places, name, *profile, "--weights", "scratch"]

    return words


@pytest.fixture(scope="session")
def pools() -> Path:
    """The folder of rendered speakers, with the test identities of the judges; rendered once and kept."""
    folder = ROOT / "data" / "pools"
    pool("verification_test", folder)
    return folder


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, pools):
    """All chapters of the smoke profile, run by the command of run_all.sh: results, process, command."""
    out = tmp_path_factory.mktemp("smoke")
    (out / "data").mkdir()
    (out / "data/pools").symlink_to(pools)
    folders = ["--data", str(out / "data"), "--results", str(out / "results")]
    options = ["--profile", "smoke", "--device", "cpu", "--jobs", "2"]
    command = [sys.executable, "-m", "talking_heads", *folders, "run", *options]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return out / "results" / "smoke", process, command
