"""Batches that worker processes load ahead: their order, their faults, and the files that they open."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import limited, start, wait_for_rows
from talking_heads.data.episodes import EpisodeDataset, EpisodeSettings
from talking_heads.data.loader import Batches, NoBatch
from talking_heads.data.store import Store
from talking_heads.few_shot.baselines.training import BaselineLearner
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.training import loop
from tiny_corpus import manifest_lines, write_manifest, write_videos
from torch.utils.data import Dataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
SETTINGS = EpisodeSettings(k_min=1, k_max=3, targets=2, batch=3, size=8, line_width=1.0)


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus/prepared"
    lines = manifest_lines("meta", 8, 2)
    write_manifest(root, lines)
    write_videos(root, lines)
    return root


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_the_same_with_any_number_of_workers_and_from_any_number_on(corpus, workers):
    dataset = EpisodeDataset(Store(corpus, "meta"), SETTINGS, seed=5)
    batches = Batches(dataset, workers=workers)
    batches.seek(4)
    for number in range(4, 9):
        assert batches.number == number
        assert equal(next(batches), dataset[number].to("cpu"))
    batches.seek(2)
    assert equal(next(batches), dataset[2].to("cpu"))


def test_the_ranks_draw_their_own_videos_with_one_k(corpus):
    store = Store(corpus, "meta")
    ranks = [EpisodeDataset(store, SETTINGS, 5, rank, 2) for rank in (0, 1)]
    assert ranks[0].batches_per_epoch == ranks[1].batches_per_epoch == 2
    for number in range(20):
        drawn = [dataset.draw(number) for dataset in ranks]
        assert [{video % 2 for video, _, _ in episodes} for episodes in drawn] == [{0}, {1}]
        assert len({len(few) for episodes in drawn for _, few, _ in episodes}) == 1
    assert any(
        not np.array_equal(a[1], b[1]) for a, b in zip(ranks[0].draw(0), ranks[1].draw(0), strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_vanishes_is_named_in_one_line(corpus, workers):
    store = Store(corpus, "meta")
    for number in range(len(store)):
        shutil.rmtree(store.folder(number))
    with pytest.raises(NoBatch, match=r"meta/p00.*damaged.*prepare again") as error:
        next(Batches(EpisodeDataset(store, SETTINGS, seed=0), workers=workers))
    assert "\n" not in str(error.value)


class Faulty(Dataset):
    def __getitem__(self, number):
        return {}["missing"]


def test_an_unexpected_error_is_stated_with_its_type():
    with pytest.raises(NoBatch, match="KeyError: 'missing'"):
        next(Batches(Faulty()))


class Deadly(Dataset):
    """Its worker is killed, as by a system that runs out of memory."""

    def __getitem__(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_reported_with_what_to_do():
    with pytest.raises(NoBatch, match=r"loads batches was killed.*with fewer --workers"):
        next(Batches(Deadly(), workers=1))


def test_few_files_are_open_at_any_number_of_videos(tmp_path):
    """2,000 videos, a worker, and at most 256 open files of a process."""
    root = tmp_path / "corpus/prepared"
    lines = manifest_lines("meta", 2_000, 2)
    write_manifest(root, lines)
    write_videos(root, lines)
    dataset = EpisodeDataset(Store(root, "meta"), SETTINGS, seed=0)
    with limited(resource.RLIMIT_NOFILE, 256):
        for workers, count in ((0, dataset.batches_per_epoch), (1, 20)):
            batches = Batches(dataset, workers=workers)
            videos = {video for _ in range(count) for video in next(batches).i.tolist()}
            assert len(videos) == min(len(dataset.videos), count * SETTINGS.batch)


# -- a training with workers --------------------------------------------------------------------------
def train_in_a_process(learner, profile, videos, extractors, folder, workers):
    torch.set_num_threads(1)
    variant = "ft" if learner is MetaLearner else "pix2pixhd"
    loop.train(learner(profile, variant, videos, extractors, workers=workers), folder, save_every=0)


@pytest.mark.parametrize("learner", [MetaLearner, BaselineLearner])
def test_a_killed_training_goes_on_with_another_number_of_workers(
    profile, videos, extractors, tmp_path, learner
):
    changes = {"few_shot.meta_learning.steps": 12, "few_shot.meta_learning.content_steps": 3}
    profile = profile.override(changes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        variant = "ft" if learner is MetaLearner else "pix2pixhd"
        whole = loop.train(learner(profile, variant, videos, extractors), tmp_path / "whole")
        arguments = (learner, profile, videos, extractors, tmp_path / "parts", 3)
        process, log = start(train_in_a_process, *arguments), tmp_path / "parts" / loop.LOG
        wait_for_rows(log, 5)
        process.kill()
        process.join()
        resumed = loop.train(learner(profile, variant, videos, extractors, workers=1), tmp_path / "parts")
    finally:
        torch.set_num_threads(threads)
    networks = [learner.state(tmp_path)["networks"] for learner in (whole, resumed)]
    for net, other in zip(*networks, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in net.items())
    assert (tmp_path / "whole" / loop.LOG).read_text() == log.read_text()


TRAIN = """
import sys
from pathlib import Path
import conftest, torch
from talking_heads import config
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.training import loop

torch.set_num_threads(1)
changes = {"few_shot.networks.precision": "fp32", "few_shot.meta_learning.steps": 2_000}
videos, extractors = conftest.RenderedVideos(32), [conftest.PlainExtractor()]
learner = MetaLearner(config.load("smoke", changes), "ft", videos, extractors, workers=1)
try:
    loop.train(learner, Path(sys.argv[1]))
except loop.Preempted as end:
    print(end)
"""


def test_sigterm_to_a_training_and_its_workers_saves_the_step(tmp_path):
    """As a cluster sends it: to all processes of a job."""
    command = [sys.executable, "-c", TRAIN, str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=Path(__file__).parent
    )
    log, deadline = tmp_path / loop.LOG, time.time() + 120
    while not (log.exists() and log.stat().st_size):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    steps = len(log.read_text().splitlines())
    assert steps > 0 and f"stopped by SIGTERM: step {steps} is saved" in output
