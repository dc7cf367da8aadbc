"""Executes jobs and chapters, each in its own process, and records how each ended."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from talking_heads.config import Profile
from talking_heads.devices import cores
from talking_heads.files import sha256
from talking_heads.workbook.executed import find_fault, publish
from talking_heads.workbook.executed import stage as stage_notebook
from talking_heads.workbook.jobs import Commands, Report
from talking_heads.workbook.stages import Chapter, Job, Outcome, Stage, locked, read_status, write_status

NO_KERNEL = "Kernel died before replying"  # two kernels that start at once may choose the same free port


@dataclass
class Run:
    """The jobs and chapters of a profile, their parameters, and all that their results depend on."""

    profile: Profile
    parameters: dict[str, Any]  # of every notebook, plain JSON values
    notebooks: Path
    results: Path  # results/<profile>
    chapters: tuple[Chapter, ...]
    versions: dict[str, int] = field(default_factory=dict)  # of the code, by what it computes
    inputs: tuple[Path, ...] = ()  # further files whose content counts, such as reference weights
    inputs_of: dict[str, tuple[Path, ...]] = field(default_factory=dict)  # those of some chapters alone
    fetched: tuple[str, ...] = ()  # names of the pretrained networks that are there
    environment: dict[str, str] = field(default_factory=dict)
    jobs: int = 1  # chapters at once, unless one is to be alone
    work: tuple[Job, ...] = ()  # jobs before the chapters
    commands: Commands = field(default_factory=Commands)
    processes: set[subprocess.Popen] = field(default_factory=set)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (*self.work, *self.chapters)

    def key(self, stage: Stage, keys: dict[str, str]) -> str:
        """Changes with the notebook or command, the profile, the parameters, the versions, the inputs and the
        stages needed.
        """
        read: list[Path] = []
        if isinstance(stage, Chapter):
            notebook = nbformat.read(self.notebooks / f"{stage.name}.ipynb", 4)
            content: list[Any] = [[cell.cell_type, cell.source] for cell in notebook.cells]
            read = sorted(path for pattern in stage.reads for path in self.results.glob(pattern))
        else:
            content = list(stage.command) if isinstance(stage, Job) else []
        inputs = (*self.inputs, *self.inputs_of.get(stage.name, ()))
        parts = [
            content,
            self.profile.model_dump(mode="json"),
            self.parameters,
            self.versions,
            self.fetched,
            [sha256(path) if path.exists() else "absent" for path in inputs],
            [[path.name, sha256(path)] for path in read],
            [keys.get(name, "") for name in stage.needs],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def threads(self, stage: Chapter | Job) -> int:
        """The threads of PyTorch in a stage: its share of the cores, at most ``OMP_NUM_THREADS``."""
        share = max(1, cores() // (1 if stage.alone else self.jobs))
        limit = os.environ.get("OMP_NUM_THREADS", "")
        return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


class Step(NamedTuple):
    """A stage in a plan: ``due`` if it is to be executed, and its content key."""

    stage: Chapter | Job
    due: bool
    key: str


def plan(run: Run, only: list[str] | None = None, rerun: bool = False) -> list[Step]:
    """What a run would do, in order.

    ``only`` names chapters, whole or by their number; what they need comes along if it is not ok. With
    ``rerun`` the chapters that are named (all by default) are due even if they are ok. Raises ValueError for
    a name that does not exist.
    """
    stages: tuple[Chapter | Job, ...] = (*run.work, *run.chapters)
    named = _select(stages, only)
    selected = set(named)
    for stage in reversed(stages):
        if stage.name in selected:
            selected.update(stage.needs)
    outcomes, steps = read_status(run.results), []
    keys: dict[str, str] = {}
    for stage in stages:
        keys[stage.name] = run.key(stage, keys)
        if stage.name not in selected:
            continue
        outcome = outcomes.get(stage.name)
        fresh = (
            outcome is not None
            and outcome.status == "ok"
            and outcome.key == keys[stage.name]
            and all((run.results / promise).exists() for promise in stage.promises)
        )
        due = not fresh or (rerun and stage.name in named)
        steps.append(Step(stage, due, keys[stage.name]))
    return steps


def _select(stages: tuple[Chapter | Job, ...], only: list[str] | None) -> set[str]:
    names = [stage.name for stage in stages]
    if not only:
        return set(names)
    selected: set[str] = set()
    for word in only:
        matches = [name for name in names if word in (name, name.split("_")[0])]
        if not matches:
            raise ValueError(f"unknown chapter or job {word!r}; there are: {', '.join(names)}")
        selected.update(matches)
    return selected


# -- one chapter ------------------------------------------------------------------------------------
def execute(chapter: Chapter, run: Run, report: Report) -> str:
    """Run one notebook; "" if it ran to its end and wrote what it promises, else why not."""
    folder = run.results / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    staged, executed, log = (folder / f".{chapter.name}.{end}" for end in ("in.ipynb", "out.ipynb", "log"))
    try:
        stage_notebook(run.notebooks / f"{chapter.name}.ipynb", staged, run.parameters)
    except ValueError as error:
        return str(error)
    start = time.time()
    process = _start(run, run.threads(chapter), staged, executed, log)
    run.processes.add(process)
    try:
        stderr = _follow(process, log, chapter, report)
        fault = find_fault(executed, process.returncode, stderr)
    except TimeoutError:
        fault = f"ran past its limit of {chapter.limit:g} s and was stopped"
    except BaseException:
        _kill(process)
        raise
    finally:
        run.processes.discard(process)
        staged.unlink(missing_ok=True)
    lost = [promise for promise in chapter.promises if not _is_new(run.results / promise, start)]
    if not fault and lost:
        fault = f"did not write what it promised: {', '.join(lost)}"
    if executed.exists():
        publish(executed, folder, chapter.name)
    return fault


def _start(run: Run, threads: int, staged: Path, executed: Path, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "papermill", str(staged.resolve()), str(executed.resolve())]
    command += ["--cwd", str(run.notebooks), "-k", "python3", "--no-progress-bar", "--log-output"]
    command += ["--stdout-file", str(log.resolve()), "-y", json.dumps(run.parameters)]
    log.unlink(missing_ok=True)
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **run.environment, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
    )


def _follow(process: subprocess.Popen, log: Path, chapter: Chapter, report: Report) -> str:
    """Wait for the process, passing on progress lines of the library with the chapter's number; its stderr.

    Raises TimeoutError past the chapter's limit.
    """
    passed, deadline = 0, time.time() + chapter.limit
    while True:
        stderr: str | None = None
        with suppress(subprocess.TimeoutExpired):
            _, stderr = process.communicate(timeout=1.0)
        ended = stderr is not None
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        complete = len(text) if ended else text.rfind("\n") + 1
        for line in text[passed:complete].splitlines():
            if line.startswith("  ") and line.strip():
                report(f"  {chapter.name.split('_')[0]} {line.strip()}")
        passed = max(passed, complete)
        if stderr is not None:
            log.unlink(missing_ok=True)
            return stderr
        if time.time() > deadline:
            _kill(process)
            raise TimeoutError


def _kill(process: subprocess.Popen) -> None:
    """End papermill and its kernel."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_new(path: Path, start: float) -> bool:
    return path.exists() and path.stat().st_mtime >= start - 1


# -- all chapters -----------------------------------------------------------------------------------
@dataclass
class Schedule:
    """What is waiting and what is running, and the outcomes so far."""

    run: Run
    steps: dict[str, Step]
    outcomes: dict[str, Outcome]
    report: Report
    running: dict[str, Future] = field(default_factory=dict)

    def __post_init__(self):
        self.waiting = list(self.steps)

    def start_ready(self, executor: ThreadPoolExecutor) -> None:
        """Start the chapters that may run now; those that need a failed one fail.

        Where several run at once, the longest is the first: none then runs on alone at the end.
        """
        ready = list(self.waiting)
        if self.run.jobs > 1:
            ready.sort(key=lambda name: -self.steps[name].stage.minutes)
        for name in ready:
            stage, _, key = self.steps[name]
            broken = [need for need in stage.needs if self._failed(need)]
            if broken:
                error = f"needs {', '.join(broken)}, which failed"
                self.outcomes[name] = Outcome("failed", key=key, error=error)
                self.report(f"{name}: not run, needs {', '.join(broken)}")
                self.waiting.remove(name)
            elif len(self.running) < self.run.jobs and self._may_run(stage):
                self.outcomes[name] = Outcome("running", key=key)
                self.report(f"{name}: {stage.description}")
                self.running[name] = executor.submit(self._execute, stage)
                self.waiting.remove(name)

    def _failed(self, name: str) -> bool:
        return name not in self.outcomes or self.outcomes[name].status == "failed"

    def _may_run(self, stage: Chapter | Job) -> bool:
        pending = {*self.waiting, *self.running}
        alone = any(self.steps[name].stage.alone for name in self.running)
        return not (alone or (stage.alone and self.running) or pending & set(stage.needs))

    def _execute(self, stage: Chapter | Job) -> tuple[str, float]:
        start = time.time()
        try:
            if isinstance(stage, Job):
                key = self.steps[stage.name].key
                return self.run.commands.execute(stage, self.report, key), time.time() - start
            error = execute(stage, self.run, self.report)
            if NO_KERNEL in error:
                error = execute(stage, self.run, self.report)
        except Exception as failure:  # of the runner itself; the stage has failed, the others go on
            error = f"{type(failure).__name__}: {failure}"
        return error, time.time() - start

    def collect_finished(self) -> None:
        """Wait for a chapter to end, and take in the outcomes of all that have ended."""
        finished = wait(self.running.values(), return_when=FIRST_COMPLETED)[0]
        for name in [name for name, future in self.running.items() if future in finished]:
            error, seconds = self.running.pop(name).result()
            status = "failed" if error else "ok"
            self.outcomes[name] = Outcome(status, round(seconds, 1), self.steps[name].key, error)
            self.report(f"{name}: {status} after {seconds:.0f} s" + (f"\n{error}" if error else ""))


def run_chapters(
    run: Run,
    only: list[str] | None = None,
    report: Report = print,
    rerun: bool = False,
) -> dict[str, Outcome]:
    """Execute what is due; a stage that fails stops only those that need it. Returns all outcomes.

    Raises :class:`Busy` where another run holds the results folder.
    """
    with locked(run.results, {job.command[0] for job in run.work}):
        outcomes = read_status(run.results)
        steps = {step.stage.name: step for step in plan(run, only, rerun) if step.due}
        for name in outcomes.keys() - {stage.name for stage in run.stages}:
            outcomes[name] = Outcome("stale", key=outcomes[name].key)  # of a run that did not leave it out
        for stage, due, _ in plan(run):  # stages that are not selected may be stale too
            earlier = outcomes.get(stage.name)
            if stage.name in steps or (due and earlier is not None and earlier.status == "ok"):
                outcomes[stage.name] = Outcome("stale", key=earlier.key if earlier else "")
        schedule = Schedule(run, steps, outcomes, report)
        with ThreadPoolExecutor(run.jobs) as executor, _ending_chapters(run):
            while schedule.waiting or schedule.running:
                schedule.start_ready(executor)
                write_status(run.results, outcomes)
                if schedule.running:
                    schedule.collect_finished()
        write_status(run.results, outcomes)
        return outcomes


@contextmanager
def _ending_chapters(run: Run) -> Iterator[None]:
    """An interrupt ends running stages too; the next run goes on from what they have saved."""
    try:
        yield
    except BaseException:
        for process in list(run.processes):
            _kill(process)
        run.commands.end()
        raise
