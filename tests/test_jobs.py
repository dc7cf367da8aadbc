"""Jobs: commands that a run executes before the chapters, which read what they left."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from processes import wait_until
from talking_heads import config
from talking_heads.__main__ import arguments, main
from talking_heads.experiments.chapters import CHAPTERS
from talking_heads.experiments.few_shot import timing, timing_job
from talking_heads.experiments.few_shot.evaluation import Evaluation
from talking_heads.experiments.run import Places, chapters_of, make_run
from talking_heads.metrics import observer
from talking_heads.workbook import runner
from talking_heads.workbook.jobs import Commands, fault
from talking_heads.workbook.stages import Busy, Job

ROOT = Path(__file__).parents[1]
SMOKE = ("--profile", "smoke", "--device", "cpu")


def run_of(name, folder, weights="scratch", **overrides):
    profile = config.load(name, overrides)
    return make_run(profile, weights, "cpu", Places(folder / "data", folder / "results", ROOT / "notebooks"))


def test_a_large_profile_prepares_trains_evaluates_and_measures_in_jobs(tmp_path):
    run = run_of("voxceleb2", tmp_path)
    names = [job.name for job in run.work]
    trained = [f"meta-learn-{variant}" for variant in run.profile.few_shot.trainings.variants]
    expected = ["prepare", *trained, "stability", "evaluate", "observe", "measure"]
    assert names == expected and len(trained) == 7
    steps = {step.stage.name: step.stage for step in runner.plan(run)}
    assert list(steps)[: len(names)] == names, "jobs come before the chapters"
    assert all(steps[name].needs == ("prepare",) for name in trained)
    assert set(steps["evaluate"].needs) == {"prepare", *trained}
    assert not any(chapter.startswith("2") for chapter in steps), "Diffused Heads has its own corpora"
    assert {"evaluate", "observe"} <= set(steps["05_comparison"].needs)
    assert steps["observe"].needs == ("evaluate",) and "measure" in steps["07_timing"].needs
    assert "stability" in steps["06_ablations"].needs, "no chapter trains for hours"
    assert not hasattr(steps["prepare"], "limit"), "a job takes as long as it takes"
    only = [step.stage.name for step in runner.plan(run, ["05"])]
    assert set(only) >= {"prepare", "evaluate", *trained} and "measure" not in only


@pytest.mark.parametrize("name", config.names())
def test_the_jobs_of_every_profile_are_commands_that_exist(tmp_path, name):
    run = run_of(name, tmp_path)
    assert bool(run.work) == run.profile.protocol.jobs
    for job in run.work:
        words = [*run.commands.options, *job.command]
        for more in [[]] + [["--shard", "1/4"]] * job.shards + [["--merge"]] * job.merges:
            assert arguments([*words, *more]).profile == name


def test_the_default_profiles_do_everything_in_chapters(tmp_path):
    for name in ("smoke", "laptop", "laptop-full"):
        run = run_of(name, tmp_path)
        assert run.work == () and [chapter.name for chapter in run.chapters] == [c.name for c in CHAPTERS]


def test_chapters_wait_for_those_that_train_their_weights(tmp_path):
    """Committed weights are there before any chapter."""
    for weights, waiting in (("scratch", {"04", "05", "09", "10", "11"}), ("reference", set())):
        run = run_of("laptop", tmp_path, weights)
        found = {chapter.name[:2] for chapter in run.chapters if "03_meta_learning" in chapter.needs}
        assert found == waiting
        assert ("21_sound_and_motion" in run.chapters[-1].needs) == (weights == "scratch")
        alone = {chapter.name[:2] for chapter in run.chapters if chapter.alone}
        assert alone == {"05", "06", "07", "22", "24"} | ({"03", "21"} if weights == "scratch" else set())


def test_corpora_of_talking_clips_train_diffused_heads_alone(tmp_path):
    for name in ("crema", "lrw"):
        run = run_of(name, tmp_path)
        assert [job.name for job in run.work] == ["prepare", "audio-encoder", "train-diffusion", "evaluate"]
        assert "audio-encoder" in run.chapters[0].needs, "no chapter trains it"
        assert "evaluate" in {chapter.name: chapter.needs for chapter in run.chapters}["22_talking"]
        assert [chapter.name.split("_")[0] for chapter in run.chapters] == [
            "20",
            "21",
            "22",
            "23",
            "24",
            "25",
        ]
        without_jobs = config.load(name, {"protocol.jobs": False})
        assert chapters_of(without_jobs) == chapters_of(run.profile)


# -- executed ---------------------------------------------------------------------------------------
def test_a_job_that_fails_says_why_and_stops_those_that_need_it(tmp_path):
    run = run_of("voxceleb1", tmp_path)
    run = dataclasses.replace(run, chapters=())
    outcomes = runner.run_chapters(run, ["evaluate"], report=lambda line: None)
    assert outcomes["prepare"].status == "failed"
    assert (
        outcomes["prepare"].error.startswith("error: ")
        and "expects your copy of voxceleb1" in outcomes["prepare"].error
    )
    assert outcomes["evaluate"].error.startswith("needs prepare")


BEGIN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM: step 3 is saved"))
print("  begun", flush=True)
time.sleep(300)
"""


def test_a_job_that_is_ended_may_save_its_state(monkeypatch):
    def start(words, environment):
        command = [sys.executable, "-c", BEGIN]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    monkeypatch.setattr("talking_heads.workbook.jobs.start", start)
    commands, lines, results = Commands(), [], []
    job = Job("long", "")
    thread = threading.Thread(target=lambda: results.append(commands.execute(job, lines.append)))
    thread.start()
    deadline = time.time() + 30
    while not lines and time.time() < deadline:
        time.sleep(0.05)
    commands.end()
    thread.join(30)
    assert lines == ["  long begun"] and results == ["stopped by SIGTERM: step 3 is saved"]


@pytest.mark.parametrize(
    "lines, status, message",
    [
        (["  step 3", "error: no room"], 2, "error: no room"),
        (["one", "two"], 1, "one\ntwo"),
        ([], 3, "exit status 3"),
        (["  step 3"], -signal.SIGKILL, "ended by SIGKILL"),
    ],
)
def test_the_error_of_a_job(lines, status, message):
    assert fault(lines, status) == message


def test_shards_of_an_evaluation_compute_all_cells(tmp_path):
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main([*places, "meta-learn", *SMOKE, "--variant", "ft"]) == 0
    cells = tmp_path / "results/smoke/runs/cells"
    counts = []
    for shard in ("0/3", "1/3", "2/3"):
        main([*places, "evaluate", *SMOKE, "--shard", shard])
        counts.append(len(list(cells.glob("*/*.npz"))))
    assert counts[0] > 0 and counts == sorted(set(counts))
    times = {path: path.stat().st_mtime_ns for path in cells.rglob("*.npz")}
    main([*places, "evaluate", *SMOKE])
    assert {path: path.stat().st_mtime_ns for path in cells.rglob("*.npz")} == times


def interrupted(train_observer, trained, most):
    """Training of observers that is interrupted once there are so many ``trained`` ones."""

    def train(*arguments):
        if len(trained) == most:
            raise KeyboardInterrupt
        trained.append(train_observer(*arguments))
        return trained[-1]

    return train


def test_rates_of_observers_are_kept_as_long_as_frames_and_methods_are_the_same(
    tmp_path, monkeypatch, capsys, one_thread
):
    """Also where no job trains them; a new time of a file changes nothing. An interrupted job goes on."""
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main([*places, "meta-learn", *SMOKE, "--variant", "ft"]) == 0
    profile = config.load("smoke", {"protocol.shots": [1, 4], "protocol.small_shots": [1]})
    where = tmp_path / "data", tmp_path / "results", torch.device("cpu")
    evaluation = Evaluation.of_profile(profile, "scratch", *where)
    folder = tmp_path / "results/smoke/runs/observers"
    trained = []
    with monkeypatch.context() as patch:
        patch.setattr(observer, "train_observer", interrupted(observer.train_observer, trained, 2))
        with pytest.raises(KeyboardInterrupt):
            evaluation.observer_rates()
        for thread in threading.enumerate():  # one may have begun another observer
            if thread.name.startswith("item"):
                thread.join()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(observer, "train_observer", interrupted(observer.train_observer, trained, 99))
        first = evaluation.observer_rates()
    assert re.search(r"  training observers: 6/6 observers, .* min left", capsys.readouterr().out)
    assert len(trained) == 6, "none of them twice"
    assert len(list(folder.iterdir())) == 1, "nothing of single observers"
    for cell in evaluation.table1():
        cell.touch()
    pd.testing.assert_frame_equal(evaluation.observer_rates(), first, check_dtype=False)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(observer, "VERSION", observer.VERSION + 1)
    again = evaluation.observer_rates()
    pd.testing.assert_frame_equal(again, first)
    assert len(list(folder.iterdir())) == 2


def test_evaluating_without_weights_says_what_to_do(tmp_path, capsys):
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main([*places, "evaluate", *SMOKE]) == 2
    assert (
        "no weights to evaluate; python -m talking_heads meta-learn --profile smoke"
        in capsys.readouterr().err
    )


def test_a_job_that_a_killed_run_left_behind_keeps_others_out(tmp_path):
    run = run_of("voxceleb1", tmp_path)
    words = ["-c", "import time; time.sleep(600)", *run.commands.options, *run.work[0].command]
    with subprocess.Popen([sys.executable, *words]) as process:
        wait_until(lambda: psutil.Process(process.pid).cmdline()[1:] == words)
        try:
            with pytest.raises(Busy, match=rf"a chapter or job of an earlier run \(process {process.pid}\)"):
                runner.run_chapters(run, ["prepare"], report=lambda line: None)
            other = run_of("voxceleb2", tmp_path)
            runner.run_chapters(other, ["prepare"], report=lambda line: None)  # works in another folder
        finally:
            process.kill()
    assert runner.run_chapters(run, ["prepare"], report=lambda line: None)["prepare"].status == "failed"


def test_status_names_jobs(tmp_path):
    run = dataclasses.replace(run_of("voxceleb1", tmp_path), chapters=())
    runner.run_chapters(run, ["prepare"], report=lambda line: None)
    status = json.loads((run.results / "status.json").read_text())
    assert status["prepare"]["status"] == "failed"


@pytest.mark.parametrize("jobs_measure, expected", [(False, [2, 2, 2]), (True, [2, 1, 0])])
def test_rows_that_a_job_measured_are_read_on_the_same_machine(tmp_path, monkeypatch, jobs_measure, expected):
    """A job goes on after the row at which it was interrupted; chapters that measure always measure all."""
    predicted = pd.DataFrame({"method": ["Ours", "Ours-FF"], "phase": "inference", "T": 1, "predicted": 2.0})
    counts = []

    def measured_rows(cases, predicted, seconds, done=()):
        for case in predicted[timing.CASE].itertuples(index=False):
            if tuple(case) not in done:
                counts[-1] += 1
                if len(counts) == 1 and case.method == "Ours-FF":
                    raise KeyboardInterrupt
                yield {**case._asdict(), "seconds": 1.5, "note": "40 times"}

    for module in (timing, timing_job):
        monkeypatch.setattr(module, "measured_rows", measured_rows)
    profile = config.load("smoke", {"protocol.jobs": jobs_measure})
    cases = timing.Cases(profile, [], torch.device("cpu"), timing.METHODS, (1,))
    for number in range(3):
        counts.append(0)
        with pytest.raises(KeyboardInterrupt) if number == 0 else nullcontext():
            table = timing_job.measured_once(cases, predicted, 1.0, tmp_path)
            assert table["seconds"].tolist() == [1.5, 1.5] and set(table["note"]) == {"40 times"}
    assert counts == expected


@pytest.mark.parametrize("jobs_measure, expected", [(False, 2), (True, 1)])
def test_operations_that_a_job_counted_are_read(tmp_path, monkeypatch, jobs_measure, expected):
    counted = []

    def count(cases):
        counted.append(cases.methods)
        return {("Ours", timing.LEARNING, 1): timing.Count(np.array([3e12, 2.5]), np.array([0.0, 1.0]))}

    monkeypatch.setattr(timing_job, "count", count)
    profile = config.load("smoke", {"protocol.jobs": jobs_measure})
    cases = timing.Cases(profile, [], torch.device("cpu"), timing.METHODS, (1,))
    first, again = (timing_job.counted_once(cases, tmp_path) for _ in range(2))
    assert len(counted) == expected and first.keys() == again.keys()
    for case, numbers in first.items():
        assert all(map(np.array_equal, numbers, again[case]))
