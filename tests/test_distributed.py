"""Training in two processes: equal to one with the doubled batch, resumed on as many and on fewer ranks."""

import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from processes import context, start, wait_for_rows
from talking_heads import config
from talking_heads.data import corpora
from talking_heads.data.episodes import EpisodeImages, PoolVideos
from talking_heads.data.loader import Batches
from talking_heads.data.speakers.talking import talking_pool
from talking_heads.data.windows import WindowDataset
from talking_heads.diffused import training as diffusion_training
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.baselines.training import LandmarkLearner, SdaLearner
from talking_heads.diffused.training import DiffusionLearner, step_seed
from talking_heads.experiments.few_shot import trainings
from talking_heads.few_shot.baselines.training import BaselineLearner
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import distributed, launch, loop
from talking_heads.training.alarms import Collapsed
from torch.utils.data import Dataset

RANKS = 2


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_rank(rank, port, ranks, work, arguments, results):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with distributed.process_group(torch.device("cpu")):
            content = io.BytesIO()
            torch.save(work(*arguments), content)
            results.put((rank, content.getvalue()))
    except BaseException as error:
        results.put((rank, f"{type(error).__name__}: {error}"))


def start_ranks(work, *arguments, ranks=RANKS):
    """Processes of ranks that compute ``work(*arguments)``, and the queue of their results."""
    results, port = context.Queue(), free_port()
    return [start(run_rank, rank, port, ranks, work, arguments, results) for rank in range(ranks)], results


def run(work, *arguments, ranks=RANKS):
    """The results of all ranks."""
    processes, results = start_ranks(work, *arguments, ranks=ranks)
    values = dict(results.get(timeout=240) for _ in processes)
    for process in processes:
        process.join()
    return [torch.load(io.BytesIO(values[rank]), weights_only=True) for rank in range(ranks)]


class Joined(Dataset):
    """The batches of all ranks, one after the other, as one batch."""

    def __init__(self, dataset):
        self.parts = [type(dataset)(dataset.videos, dataset.settings, dataset.seed, r, RANKS) for r in (0, 1)]

    def __getitem__(self, number):
        parts = [dataset[number] for dataset in self.parts]
        videos = torch.cat([RANKS * part.videos + rank for rank, part in enumerate(parts)])
        frames, lines = (torch.cat([part[n] for part in parts]) for n in (0, 1))
        return EpisodeImages(frames, lines, parts[0].k, videos)


def learner_of(variant):
    return BaselineLearner if variant in ("pix2pixhd", "x2face") else MetaLearner


def train(profile, variant, videos, extractors, folder, until, joined=False):
    """Train to a step; returns the state of the networks, the averaged ones among them, and W, which rank 0
    has.
    """
    learner = learner_of(variant)(profile, variant, videos, extractors)
    if joined:
        learner.episodes = Batches(Joined(learner.dataset))
    loop.train(learner, folder, until=until)
    learner.export(folder / "weights.safetensors", {})
    state = learner.state(folder)
    networks = [{k: v.clone() for k, v in net.items()} for net in state["networks"] + state.get("ema", [])]
    table = None
    if variant == "ft":
        table = distributed.gather(learner.nets.discriminator.table.weight.detach().clone())
    return networks, table, learner.total


def whole_table(parts):
    """W of the rows of two ranks."""
    table = torch.empty(sum(map(len, parts)), parts[0].shape[1])
    table[0::2], table[1::2] = parts
    return table


def assert_close(networks, others, tolerance):
    for net, other in zip(networks, others, strict=True):
        for name, value in net.items():
            torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture
def few_steps(profile):
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


@pytest.mark.parametrize("variant", ["ft", "pix2pixhd"])
def test_two_ranks_are_one_process_with_the_doubled_batch(few_steps, videos, extractors, tmp_path, variant):
    """Over ten steps with D; also the columns of W, which no rank sends.

    Biases before Pix2pixHD's instance normalisation have no effect and random gradients: its losses agree.
    """
    arguments = (few_steps, variant, videos, extractors)
    ranks = run(train, *arguments, tmp_path / "two", 12)
    networks, table, _ = train(*arguments, tmp_path / "one", 12, joined=True)
    assert_close(ranks[0][0], ranks[1][0], 0)
    if variant == "ft":
        assert_close(ranks[0][0], networks, 1e-4)
        torch.testing.assert_close(whole_table(ranks[0][1]), table[0], rtol=1e-3, atol=1e-4)
        exported = [load_weights(tmp_path / name / "weights.safetensors")[0] for name in ("one", "two")]
        for name in ("w.mean", "w.std", "d.w0"):
            torch.testing.assert_close(exported[0][name], exported[1][name], rtol=1e-2, atol=1e-3)
    logs = [(tmp_path / name / loop.LOG).read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(*(map(json.loads, log) for log in logs), strict=True):
        compared = set(one) - {"e_between", "output_spread"}  # within the batch of a rank
        assert {name: two[name] for name in compared} == pytest.approx(
            {name: one[name] for name in compared}, rel=1e-2, abs=1e-4
        )


def train_diffusion(profile, clips, encoder, folder, learner=DiffusionLearner):
    diffusion_training.CLIP = 1e-3  # every gradient is clipped
    learner = learner(profile, clips, encoder)
    loop.train(learner, folder)
    return [{k: v.clone() for k, v in net.state_dict().items()} for net in (learner.unet, learner.ema)]


class BothRanks(DiffusionLearner):
    """One process that draws the batches of both ranks."""

    def backward(self, windows, generator):
        rows, settings = [], dataclasses.replace(self.dataset.settings, batch=len(windows.x_0) // RANKS)
        for rank in range(RANKS):
            dataset = WindowDataset(self.dataset.clips, settings, self.seed, rank)
            draws = torch.Generator().manual_seed(step_seed(self.seed, rank, self.step))
            rows.append(super().backward(dataset[self.step], draws))
        for parameter in self.unet.parameters():
            parameter.grad /= RANKS
        return rows[0]


def test_ranks_of_a_diffusion_training_share_its_batch(profile, tmp_path, monkeypatch):
    """Over ten steps they are one process with the whole batch, whose gradients are clipped."""
    monkeypatch.setattr(diffusion_training, "CLIP", diffusion_training.CLIP)  # is restored
    section = {"steps": 10, "batch": 4, "micro_batch": 4, "learning_rate": 1e-4}
    profile = profile.override({f"diffused.training.{name}": value for name, value in section.items()})
    clips = PoolVideos(talking_pool("training", profile.diffused, tmp_path / "pools"))
    encoder = build_encoder(profile.diffused.audio_encoder)
    first, second = run(train_diffusion, profile, clips, encoder, tmp_path / "two")
    one = train_diffusion(profile, clips, encoder, tmp_path / "one", BothRanks)
    assert_close(first, second, 0)
    assert_close(first, one, 1e-4)


def train_talking_baseline(profile, kind, clips, encoder, folder, until=None):
    learner = kind(profile, clips, encoder)
    loop.train(learner, folder, until=until)
    state = learner.state(folder)
    return [{k: v.clone() for k, v in state[name].items()} for name in sorted(NETWORKS & set(state))]


NETWORKS = {"generator", "discriminators", "predictor"}


@pytest.mark.parametrize("kind", [SdaLearner, LandmarkLearner])
def test_ranks_of_a_talking_baseline_agree_and_resume(profile, tmp_path, kind):
    """Also in the running statistics that are saved."""
    clips = PoolVideos(talking_pool("training", profile.diffused, tmp_path / "pools"))
    arguments = (profile, kind, clips, build_encoder(profile.diffused.audio_encoder))
    first, second = run(train_talking_baseline, *arguments, tmp_path / "whole")
    assert_close(first, second, 0)
    run(train_talking_baseline, *arguments, tmp_path / "parts", 2)
    parts = run(train_talking_baseline, *arguments, tmp_path / "parts")
    assert_close(first, parts[0], 1e-5)


def test_a_batch_that_ranks_cannot_share_is_refused(profile, videos, monkeypatch):
    monkeypatch.setattr(distributed, "ranks", lambda: 3)
    odd = profile.override({"diffused.training.batch": 4})
    with pytest.raises(ValueError, match="batch is 4, which 3 processes cannot share equally"):
        DiffusionLearner(odd, videos, build_encoder(odd.diffused.audio_encoder))


@pytest.mark.parametrize("variant", ["ft", "x2face"])
def test_a_training_resumes_on_as_many_ranks_exactly(few_steps, videos, extractors, tmp_path, variant):
    arguments = (few_steps, variant, videos, extractors)
    whole = run(train, *arguments, tmp_path / "whole", 6)
    run(train, *arguments, tmp_path / "parts", 4)
    parts = run(train, *arguments, tmp_path / "parts", 6)
    # running statistics of X2Face's batch normalisation are averaged whenever they are saved
    assert_close(whole[0][0], parts[0][0], 0 if variant == "ft" else 1e-6)
    if variant == "ft":
        assert torch.equal(whole_table(whole[0][1]), whole_table(parts[0][1]))


def test_a_training_goes_on_with_fewer_ranks(few_steps, videos, extractors, tmp_path):
    """With W of both, and with as many episodes as are left: two ranks take half as many steps."""
    epochs = few_steps.override({"few_shot.meta_learning.epochs": 4})
    arguments = (epochs, "ft", videos, extractors, tmp_path)
    networks, table, total = run(train, *arguments, 4)[0]
    assert total == 8
    learner = MetaLearner(epochs, "ft", videos, extractors)
    loop.restore(learner, tmp_path)
    state = learner.state(tmp_path / "other")
    assert_close(networks, state["networks"] + state["ema"], 0)
    assert torch.equal(learner.nets.discriminator.table.weight, whole_table(table))
    assert (learner.step, learner.total) == (4, 12)
    assert learner.episodes.number == 2 * 4, "both ranks drew a batch in every step"
    assert train(*arguments, 6)[2] == 12
    resumed = MetaLearner(epochs, "ft", videos, extractors)
    loop.restore(resumed, tmp_path)
    assert resumed.step == 6
    assert {path.name for path in tmp_path.glob("table-*.pt")} <= {"table-step6-0of1.pt"}, "no others"


class Diverging(MetaLearner):
    """One of its ranks has a loss that is not finite."""

    def train_step(self):
        row = super().train_step()
        return row | ({"cnt": float("nan")} if distributed.rank() == 1 and self.step == 3 else {})


def train_diverging(*arguments):
    try:
        loop.train(Diverging(*arguments[:-1]), arguments[-1])
    except Collapsed as alarm:
        return str(alarm)


def test_an_alarm_ends_all_ranks(few_steps, videos, extractors, tmp_path):
    messages = run(train_diverging, few_steps, "ft", videos, extractors, tmp_path)
    assert messages[0] == messages[1] == "step 2: cnt not finite"


def train_a_limited_time(profile, videos, extractors, folder):
    seconds = 1e-3 if distributed.rank() == 1 else 1e9
    return loop.train(MetaLearner(profile, "ft", videos, extractors), folder, seconds=seconds).step


def test_ranks_stop_in_the_same_step(few_steps, videos, extractors, tmp_path):
    assert run(train_a_limited_time, few_steps, videos, extractors, tmp_path) == [1, 1]


def train_long(profile, videos, extractors, folder):
    loop.train(MetaLearner(profile, "ft", videos, extractors), folder, save_every=0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_ends_is_noticed_and_the_training_goes_on(
    few_steps, videos, extractors, tmp_path, number
):
    """Killed, the others say so; asked to end, all save their step. Two go on from there exactly."""
    long = few_steps.override({"few_shot.meta_learning.steps": 500})
    processes, results = start_ranks(train_long, long, videos, extractors, tmp_path)
    log = tmp_path / loop.LOG
    wait_for_rows(log, 6)
    os.kill(processes[1].pid, number)
    _, message = results.get(timeout=60)
    if number == signal.SIGKILL:
        ended = "another process of this training has ended"
        assert message == f"RankLost: {ended}; its last checkpoint is kept: run the same command again"
    else:
        assert message.startswith("Preempted: stopped by SIGTERM: step ") and "is saved in" in message
    for process in processes:
        process.join(60)
    learner = MetaLearner(long, "ft", videos, extractors)
    loop.restore(learner, tmp_path)
    assert learner.step >= 4
    steps = learner.step + 2
    resumed, undisturbed = (
        run(train, long, "ft", videos, extractors, folder, steps) for folder in (tmp_path, tmp_path / "whole")
    )
    assert_close(resumed[0][0], undisturbed[0][0], 0)
    assert torch.equal(whole_table(resumed[0][1]), whole_table(undisturbed[0][1]))
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()] == list(range(steps))


# -- the command ------------------------------------------------------------------------------------
def test_meta_learn_starts_torchrun(tmp_path):
    """And trains on the profile's own corpus, which chapters read."""
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    options = ["--profile", "smoke", "--variant", "ft", "--device", "cpu"]
    command = [sys.executable, "-m", "talking_heads", *places, "meta-learn", *options, "--ranks", "2"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("weights in") == 1 and ended.stderr == "", "rank 0 alone reports"
    _, metadata = load_weights(tmp_path / "results/smoke/runs/meta-ft/weights.safetensors")
    assert metadata["step"] == metadata["of"] == 6 and metadata["people"]["corpus"].startswith("speakers-")


KILLED = "error: a process of this training was killed; run the same command again"
LOST = "error: another process of this training has ended; its last checkpoint is kept"


@pytest.mark.parametrize(
    "lines, printed, status",
    [
        (
            ["W0101 torchrun says much", LOST, "error: no room", "error: no room", "Traceback"],
            "error: no room",
            2,
        ),
        (["E0101 exitcode -9", LOST, LOST], LOST, 137),
        (["stopped by SIGTERM: step 3 is saved", LOST], "stopped by SIGTERM: step 3 is saved", 143),
        (["Segmentation fault"], f"{KILLED}\nSegmentation fault", 137),
    ],
)
def test_of_all_that_processes_write_the_cause_is_printed_once(capsys, lines, printed, status):
    assert launch.report(lines) == status
    assert capsys.readouterr().err == f"{printed}\n"


@pytest.mark.parametrize("name", config.names())
def test_meta_learn_takes_the_corpus_that_the_profile_names(monkeypatch, tmp_path, name):
    """Rendered pools for laptop and what is based on it; else the profile's own, rendered or your videos."""
    profile, read = config.load(name), []
    monkeypatch.setattr(trainings, "pool", lambda *_: read.append("pool"))
    monkeypatch.setattr(trainings, "PoolVideos", lambda pool: [])
    monkeypatch.setattr(corpora, "ensure", lambda profile, *_: read.append(corpora.folder(profile, tmp_path)))
    monkeypatch.setattr(corpora, "store", lambda *_: [])
    data = trainings.training_data(profile, tmp_path, torch.device("cpu"))
    if name in ("laptop", "laptop-full", "laptop-plain", "portrait"):
        assert set(read) == {"pool"} and "corpus" not in data.origin
    else:
        assert read == [corpora.folder(profile, tmp_path)] and data.origin["corpus"] == read[0].name
