"""Jobs as arrays of shards, through submitit's local executor."""

import os
import re
import signal
import threading
import time

import fake_slurm
import numpy as np
import psutil
import pytest
import torch
import yaml
from films import film
from processes import wait_for_rows
from talking_heads import config
from talking_heads.data import prepare
from talking_heads.data.planning import Settings
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.experiments.run import Options, Places, run_profile
from talking_heads.nn.weight_files import load_weights
from talking_heads.shards import Shard
from talking_heads.training import launch, loop
from talking_heads.workbook.cluster import (
    MINUTES,
    PORTS,
    ClusterCommands,
    Command,
    make_executor,
    parse_options,
    port_of,
)
from talking_heads.workbook.jobs import start
from talking_heads.workbook.stages import Job
from test_shards import assert_same_corpus

SLOW = Shard(2, 4)
QUICK = ("sizes", "--help")  # a command that succeeds at once


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Eight identities of a video; one of the third shard takes a second or two."""
    root, clip = (
        tmp_path_factory.mktemp("videos") / "mp4",
        make_clip(ClipSettings(3, 1, 0, 10, 12.5, 32), sound=False),
    )
    names = [f"id{number:05d}" for number in range(200)]
    slow = next(name for name in names if SLOW.holds(split_of(name), name, "a"))
    for name in {slow, *names[:8]}:
        (root / name / "a").mkdir(parents=True)
        count = 6000 if name == slow else 10
        frames, marks = (np.resize(part, (count, *part.shape[1:])) for part in (clip.frames, clip.landmarks))
        film(root / name / "a/00000.mp4", frames, np.arange(count) / 12.5)
        np.savez(root / name / "a/00000.npz", landmarks=marks)
    return root


def split_of(identity):
    from talking_heads.data.sources import split_of as of_source

    return of_source(identity, "", "voxceleb2")


def end_when_it_works(out, number, ended):
    """End the process of the slow shard once it has begun to prepare: kill it, or send SIGTERM to submitit's
    process around it, as a system does that preempts a job.
    """
    part, words = out / "manifest-2of4.jsonl", ["--shard", "2/4"]
    while not part.exists():
        time.sleep(0.01)
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-2:] == words and str(out) in process.info["cmdline"]:
            os.kill(process.pid if number == signal.SIGKILL else process.ppid(), number)
            ended.append(process.pid)


@pytest.mark.parametrize("number, word", [(signal.SIGKILL, "killed"), (signal.SIGTERM, "preempted")])
def test_four_shards_of_which_one_is_ended_are_the_corpus_of_one_run(source, tmp_path, number, word):
    settings, lines, ended = Settings(16, 4), [], []
    prepare.prepare(source, tmp_path / "whole", settings, "voxceleb2", workers=1, quiet=True)
    out = tmp_path / "out"
    command = ("prepare", str(source), str(out), "--size", "16", "--frames-per-video", "4")
    command += ("--layout", "voxceleb2", "--workers", "1", "--device", "cpu")
    job = Job("prepare", "", command=command, shards=True, merges=True)
    threading.Thread(target=end_when_it_works, args=(out, number, ended), daemon=True).start()
    assert ClusterCommands(folder=tmp_path / "logs").execute(job, lines.append) == ""
    assert len(ended) == 1 and f"  prepare --shard 2/4 was {word}, submitted again" in lines
    assert [line for line in lines if line.endswith("done")] == [
        f"  prepare {n}/4 done" for n in (1, 2, 3, 4)
    ]
    assert_same_corpus(out, tmp_path / "whole")


# -- SLURM -----------------------------------------------------------------------------------------
@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM of this machine; the folder of its scripts."""
    folder = tmp_path / "slurm"
    fake_slurm.install(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder
    fake_slurm.end_all(folder)


def test_slurm_gets_an_array_with_the_sites_options(slurm, tmp_path):
    site = parse_options("partition=gpu,gpus_per_node=8,cpus_per_task=64,nodes=2,account=lab")
    commands, lines = ClusterCommands(cluster="slurm", site=site, shards=3, folder=tmp_path / "logs"), []
    job = Job("evaluate", "", command=("evaluate", "--profile", "nowhere"), shards=True)
    error = commands.execute(job, lines.append)
    for shard in ("0/3", "1/3", "2/3"):
        assert f"--shard {shard}: error: unknown profile 'nowhere'" in error
    script = (slurm / "100.sbatch").read_text()
    options = {"array=0-2%3", "partition=gpu", "gpus-per-node=8", "cpus-per-task=64", "account=lab"}
    options |= {"signal=USR2@150", f"time={MINUTES}", "open-mode=append"}
    assert options <= set(re.findall(r"^#SBATCH --(\S+)$", script, re.M)) and "--nodes=1" in script
    assert commands.execute(Job("sizes", "", command=QUICK), lines.append) == ""
    assert lines == ["  sizes 1/1 done"] and "--array" not in (slurm / "101.sbatch").read_text()


LONG = {
    "base": "smoke",
    "description": "long enough for a signal",
    "few_shot": {"meta_learning": {"steps": 60}},
}
TRAINING = ("meta-learn", "--profile", "long", "--variant", "ft", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training that nothing disturbs, beside its corpus and its profile."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "profiles").mkdir()
    (folder / "profiles/long.yaml").write_text(yaml.safe_dump(LONG), encoding="utf-8")
    environment = {config.OWN_PROFILES: str(folder / "profiles"), "OMP_NUM_THREADS": "1"}
    words = ["--data", str(folder / "data"), "--results", str(folder / "whole"), *TRAINING]
    process = start(tuple(words), environment)
    assert process.wait() == 0, process.stdout.read()
    return folder, environment


@pytest.mark.parametrize("cluster, number", [("local", signal.SIGTERM), ("slurm", signal.SIGUSR2)])
def test_a_preempted_training_ends_as_one_that_nothing_disturbs(trained, slurm, tmp_path, cluster, number):
    """The signal saves the step; the job is queued again and goes on from it."""
    folder, environment = trained
    commands = ClusterCommands(cluster=cluster, folder=tmp_path / "logs", environment=environment)
    words = ("--data", str(folder / "data"), "--results", str(tmp_path / "parts"), *TRAINING)
    log, lines, ended = tmp_path / "parts/long/runs/meta-ft" / loop.LOG, [], []

    def preempt():
        wait_for_rows(log, 5)
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[-len(words) :] == list(words):
                os.kill(process.ppid(), number)  # submitit's process
                ended.append(len(log.read_text().splitlines()))

    thread = threading.Thread(target=preempt, daemon=True)
    thread.start()
    assert commands.execute(Job("train", "", command=words), lines.append) == ""
    thread.join()
    assert len(ended) == 1 and ended[0] < 60
    assert any("resumed at step" in path.read_text() for path in (tmp_path / "logs").rglob("*.out"))
    whole = folder / "whole/long/runs/meta-ft"
    assert log.read_text() == (whole / loop.LOG).read_text()
    weights = [load_weights(path / "weights.safetensors")[0] for path in (log.parent, whole)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_what_a_shard_says_ends_it_and_is_passed_on(tmp_path):
    job = Job("evaluate", "", command=("evaluate", "--profile", "nowhere"), shards=True)
    error = ClusterCommands(folder=tmp_path, shards=2).execute(job, lambda line: None)
    for shard in ("0/2", "1/2"):
        assert f"--shard {shard}: error: unknown profile 'nowhere'" in error
    assert f"logs in {tmp_path / 'evaluate'}" in error


def test_a_run_that_is_started_again_submits_what_is_missing(tmp_path):
    """Of two commands one ends with an error; the other one is submitted again for another key alone."""
    commands, lines = ClusterCommands(folder=tmp_path), []
    pair = [QUICK, ("sizes", "--profile", "nowhere")]
    counts = []
    for key in ("a", "a", "b"):
        assert "unknown profile 'nowhere'" in commands.run_array("sizes", pair, {}, lines.append, key)
        counts.append(len(list((tmp_path / "sizes").glob("*_submitted.pkl"))))
    assert counts == [2, 3, 5]
    assert lines.count("  sizes 1 of 2 submitted by an earlier run") == 1


def test_a_run_after_one_that_succeeded_submits_everything(tmp_path):
    commands = ClusterCommands(folder=tmp_path)
    for count in (1, 2):
        assert commands.run_array("sizes", [QUICK], {}, print, "a") == ""
        assert len(list((tmp_path / "sizes").glob("*_submitted.pkl"))) == count


def test_a_preempted_command_saves_its_state_and_is_queued_again(monkeypatch):
    """What submitit calls before the system ends a job."""
    ended = []
    monkeypatch.setattr("talking_heads.workbook.cluster.end", ended.append)
    command = Command(("meta-learn",), {"A": "b"})
    command.process = object()
    again = command.checkpoint()
    assert ended == [command.process]
    assert again.function == Command(("meta-learn",), {"A": "b"}) and not hasattr(again.function, "process")


def test_the_sites_options(tmp_path):
    options = parse_options("partition=gpu,gpus_per_node=8,timeout_min=60")
    assert options == {"partition": "gpu", "gpus_per_node": 8, "timeout_min": 60}
    make_executor("local", tmp_path, options)
    with pytest.raises(ValueError, match="'gpu' is no option; give name=value,name=value"):
        parse_options("gpu")
    with pytest.raises(ValueError, match="--cluster-options: "):
        make_executor("local", tmp_path, {"timeout_min": "soon", "nodes": "many"})


def test_a_run_checks_the_clusters_options_before_it_plans(tmp_path):
    places = Places(tmp_path / "data", tmp_path / "results")
    options = Options(cluster="local", cluster_options="x", dry_run=True, device="cpu")
    with pytest.raises(ValueError, match="'x' is no option"):
        run_profile(config.load("voxceleb1"), options, places)


def test_jobs_on_one_node_have_different_ports():
    assert port_of("1234567_3") in PORTS and port_of("") in PORTS
    assert len({port_of(f"{1234567 + number}") for number in range(100)}) == 100


def test_a_training_takes_all_visible_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    counts = [launch.rank_count(*arguments) for arguments in ((None, "auto"), (2, "cuda"), (None, "cpu"))]
    assert counts == [8, 2, 0]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert launch.rank_count(None, "cuda") == 0, "one trains in this process"


def test_several_nodes_meet_at_the_first_one(monkeypatch):
    assert launch.rendezvous() == ["--standalone"]
    monkeypatch.setenv("TALKING_HEADS_NODES", "2")
    monkeypatch.setenv("TALKING_HEADS_MEET", "node7:29500")
    words = launch.rendezvous()
    assert words[:2] == ["--nnodes", "2"] and words[words.index("--rdzv-endpoint") + 1] == "node7:29500"
    assert launch.rank_count(8, "cuda") == 8 and launch.rank_count(1, "cpu") == 1
