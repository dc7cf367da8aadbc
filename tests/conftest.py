"""What several tests share: the smoke profile, a few rendered people, networks that compute in fp32, all chapters executed once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from talking_heads import profiles
from talking_heads.corpus.episodes import to_tensor
from talking_heads.corpus.landmarks import draw_all
from talking_heads.corpus.speakers.clips import make_clip
from talking_heads.evaluation import timing
from talking_heads.evaluation.methods import Frames


def pytest_addoption(parser):
    parser.addoption("--paper-size", action="store_true", help="also exercise the paper's own sizes: minutes for each profile, up to 24 GiB")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--paper-size"):
        for item in items:
            if "paper_size" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="on request: ./run_all.sh test --paper-size"))


class RenderedVideos:
    """Four videos of two people, in memory."""

    def __init__(self, size: int):
        self.clips = [make_clip(5, person, video, 7, 2.5, size, sound=False) for person in (1, 2) for video in (0, 1)]

    def __len__(self):
        return len(self.clips)

    def frame_count(self, video):
        return len(self.clips[video].frames)

    def person(self, video):
        return str(video // 2)

    def read(self, video, frames, pupils=False):
        clip = self.clips[video]
        return clip.frames[frames], np.concatenate([clip.landmarks, clip.pupils], 1)[frames, :70 if pupils else 68]


@pytest.fixture(scope="session")
def profile():
    return profiles.load("smoke", precision="fp32")


@pytest.fixture(scope="session")
def videos(profile):
    return RenderedVideos(profile.image_size)


@pytest.fixture(scope="session")
def few(profile, videos) -> Frames:
    """Four training frames of one person."""
    images, points = videos.read(0, np.arange(4))
    return Frames(images, points, to_tensor(images), to_tensor(draw_all(points, profile.image_size, profile.line_width)))


@pytest.fixture
def slowness():
    """How much slower than where our speeds were measured this machine is now; 1 at least."""
    return timing.slowness(torch.device("cpu"))


class PlainExtractor(torch.nn.Module):
    """Stands in for a feature network: the pixels and their averages, frozen by nature."""

    weight, gains, scale, embedded = 1.0, (1.0, 1.0), 2.0, True

    def forward(self, x):
        return [x, torch.nn.functional.avg_pool2d(x, 4)]


@pytest.fixture(scope="session")
def extractors():
    return [PlainExtractor()]


@pytest.fixture(scope="session")
def pools() -> Path:
    """The folder of rendered people with the judges' test people in it; made once and kept."""
    from talking_heads.judges.training import pool
    folder = Path(__file__).parents[1] / "data" / "pools"
    pool("verification_test", folder)
    return folder


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, pools):
    """All chapters at the smoke profile, through the command that run_all.sh calls."""
    out = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "talking_heads", "--data", str(out / "data"), "--results", str(out / "results"),
               "run", "--profile", "smoke", "--device", "cpu", "--jobs", "2"]
    (out / "data").mkdir()
    (out / "data/pools").symlink_to(pools)
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    return out / "results" / "smoke", done, command
