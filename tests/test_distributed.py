"""Training in two processes: equal to one with the doubled batch, resumed exactly; and torchrun."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from ranks import RANKS, assert_close, free_port, run, train, whole_table
from talking_heads import config
from talking_heads.data import corpora
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.speakers.talking import talking_pool
from talking_heads.data.windows import WindowDataset
from talking_heads.diffused import training as diffusion_training
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.baselines.training import LandmarkLearner, SdaLearner
from talking_heads.diffused.training import DiffusionLearner, step_seed
from talking_heads.experiments.few_shot import trainings
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import distributed, launch, loop


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


# -- the command ------------------------------------------------------------------------------------
def meta_learn(data, results, ranks, **variables):
    """The command in a process."""
    places = ["--data", str(data), "--results", str(results)]
    options = ["--profile", "smoke", "--variant", "ft", "--device", "cpu", "--ranks", str(ranks)]
    return subprocess.Popen(
        [sys.executable, "-m", "talking_heads", *places, "meta-learn", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """A folder with a corpus and the results of two ranks, and what their command wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    process = meta_learn(folder / "data", folder / "results", 2)
    output = process.communicate()
    assert process.returncode == 0, output
    return folder, output


def test_meta_learn_starts_torchrun(two_ranks):
    """And trains on the profile's own corpus, which chapters read."""
    folder, (stdout, stderr) = two_ranks
    assert stdout.count("weights in") == 1 and stderr == "", "rank 0 alone reports"
    _, metadata = load_weights(folder / "results/smoke/runs/meta-ft/weights.safetensors")
    assert metadata["step"] == metadata["of"] == 6 and metadata["people"]["corpus"].startswith("speakers-")


def test_two_nodes_train_as_two_ranks_of_one(two_ranks, tmp_path):
    """Two agents of torchrun that meet at a port; a node starts one rank."""
    data = two_ranks[0] / "data"
    variables = {"TALKING_HEADS_NODES": "2", "TALKING_HEADS_MEET": f"localhost:{free_port()}"}
    nodes = [meta_learn(data, tmp_path, 1, **variables) for _ in range(2)]
    outputs = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert sum(stdout.count("weights in") for stdout, _ in outputs) == 1, "rank 0 alone reports"
    logs = [
        (results / "smoke/runs/meta-ft" / loop.LOG).read_text()
        for results in (tmp_path, two_ranks[0] / "results")
    ]
    assert logs[0] == logs[1]


def test_a_rank_ends_without_shutting_its_interpreter_down():
    """With its output and its status."""
    code = (
        "import atexit, talking_heads.__main__ as main; atexit.register(print, 'shut down'); main.program()"
    )
    for variables, shut_down in (({}, True), ({"RANK": "0"}, False)):
        for profile, status in (("smoke", 0), ("unknown", 2)):
            command = [sys.executable, "-X", "utf8", "-c", code, "sizes", "--profile", profile]
            run = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
            assert run.returncode == status and (run.stdout if status == 0 else run.stderr)
            assert ("shut down" in run.stdout) == shut_down


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
        (
            ["traceback : Signal 9 (SIGKILL) received by PID 12"],
            f"{KILLED.replace('killed', 'killed by SIGKILL')}\n"
            "traceback : Signal 9 (SIGKILL) received by PID 12",
            137,
        ),
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
    rendered = name in ("laptop", "laptop-full", "laptop-plain", "portrait")
    assert profile.few_shot.trainings.pool == rendered
    if rendered:
        assert set(read) == {"pool"} and "corpus" not in data.origin
    else:
        assert read == [corpora.folder(profile, tmp_path)] and data.origin["corpus"] == read[0].name
