"""Jobs on a cluster: arrays of shards that SLURM runs, through submitit, or the same on this machine.

A job that SLURM preempts gets SIGTERM, saves its state and is queued again. A shard that was killed is
submitted again; the others are not.
"""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from talking_heads.devices import cores
from talking_heads.files import SIGKILL_STATUS, SIGTERM_STATUS
from talking_heads.workbook.jobs import PATIENCE, Commands, Report, end, fault, start
from talking_heads.workbook.stages import Job

ATTEMPTS = 3  # submissions of a shard that is killed
MINUTES = 7 * 24 * 60  # of a job, unless the site's options say less
POLL = 1.0  # seconds
AGAIN = "preempted"
PORTS = range(29_500, 39_500)  # at which processes of several nodes meet, one for each job
OWN_OPTIONS = ("timeout_min", "gpus_per_node", "nodes", "cpus_per_task", "mem_gb", "tasks_per_node", "name")


@dataclass
class Command:
    """A command line as submitit runs it, and queues it again after a preemption.

    Returns "" if the command succeeded, else what it says.
    """

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> str:
        import submitit

        lines = []
        place, environment = submitit.JobEnvironment(), dict(self.environment)
        if place.num_nodes > 1:
            environment["TALKING_HEADS_NODES"] = str(place.num_nodes)
            environment["TALKING_HEADS_MEET"] = f"{place.hostnames[0]}:{port_of(place.job_id)}"
        self.process = start(self.words, environment)
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
            status = self.process.wait()
        except BaseException:
            end(self.process)
            raise
        if status in (SIGTERM_STATUS, -signal.SIGTERM):
            return AGAIN
        if status < 0 or status == SIGKILL_STATUS:  # killed: it may be submitted again
            raise RuntimeError(fault(lines, status))
        return fault(lines, status) if status else ""

    def checkpoint(self) -> Any:
        """Called by submitit before a job is ended: the command saves its state."""
        import submitit

        end(self.process)
        return submitit.helpers.DelayedSubmission(Command(self.words, self.environment))


def port_of(job: str) -> int:
    """The port of a job, by its number, so that jobs that share a node do not meet each other."""
    digits = "".join(filter(str.isdecimal, job))
    return PORTS[int(digits or 0) % len(PORTS)]


def parse_options(text: str) -> dict[str, str | int]:
    """The site's options from text such as "partition=gpu,gpus_per_node=8". Raises ValueError."""
    options: dict[str, str | int] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{part!r} is no option; give name=value,name=value")
        options[name] = int(value) if value.isdecimal() else value
    return options


def make_executor(cluster: str, folder: Path, options: dict[str, str | int]) -> Any:
    """submitit's executor. Raises ImportError, which names the package, and ValueError for an option."""
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--cluster needs the package submitit: pip install submitit") from error
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=1_000)
    named = {name if name in OWN_OPTIONS else f"slurm_{name}": value for name, value in options.items()}
    try:
        delay = round(PATIENCE) + 30  # in which a command saves its state
        executor.update_parameters(**{"timeout_min": MINUTES, "slurm_signal_delay_s": delay} | named)
    except (TypeError, NameError, ValueError, AssertionError) as error:  # of submitit's checks
        raise ValueError(f"--cluster-options: {error}") from error
    return executor


@dataclass
class ClusterCommands(Commands):
    """Commands that a cluster runs; those that can be divided are arrays of ``shards``."""

    cluster: Literal["slurm", "local"] = "local"
    site: dict[str, str | int] = field(default_factory=dict)
    shards: int = 4
    folder: Path = Path("results/cluster")  # submitit's logs
    stopped: bool = False

    def execute(self, job: Job, report: Report) -> str:
        """Run a job to its end, in shards where it has them; "" if it succeeded, else its error."""
        if job.local:
            return super().execute(job, report)
        words = (*self.options, *job.command)
        site = {name: value for name, value in self.site.items() if job.nodes or name != "nodes"}
        if not job.shards or self.shards == 1:
            return self.run_array(job.name, [words], site, report)
        shards = [(*words, "--shard", f"{number}/{self.shards}") for number in range(self.shards)]
        error = self.run_array(job.name, shards, site, report)
        if error or not job.merges:
            return error
        merge = Job(job.name, "", command=(*job.command, "--merge"))
        return super().execute(merge, report)

    def end(self) -> None:
        """Cancel everything that was submitted."""
        self.stopped = True
        super().end()

    def run_array(
        self, name: str, commands: Sequence[tuple[str, ...]], site: dict[str, str | int], report: Report
    ) -> str:
        """Submit commands, and those that are killed again; "" if all succeed, else their errors."""
        executor = make_executor(self.cluster, self.folder / name, site)
        waiting, attempts = list(range(len(commands))), [0] * len(commands)
        running: dict[int, Any] = {}
        errors: list[str] = []
        done = 0
        try:
            while (waiting or running) and not self.stopped:
                room = len(waiting) if self.cluster == "slurm" else cores() - len(running)
                if chosen := waiting[: max(0, room)]:
                    waiting = waiting[len(chosen) :]
                    with executor.batch():
                        jobs = [executor.submit(Command(commands[n], self.environment)) for n in chosen]
                    running |= dict(zip(chosen, jobs, strict=True))
                    for number in chosen:
                        attempts[number] += 1
                for number in [number for number, job in running.items() if job.done()]:
                    job, which = running.pop(number), " ".join(commands[number][-2:])
                    killed = any(task.exception() is not None for task in tasks_of(job))
                    answers = [] if killed else [task.result() for task in tasks_of(job) if task.result()]
                    if AGAIN in answers or (killed and attempts[number] < ATTEMPTS):
                        attempts[number] -= AGAIN in answers
                        report(f"  {name} {which} was {AGAIN if answers else 'killed'}, submitted again")
                        waiting.append(number)
                    elif error := f"killed {ATTEMPTS} times" if killed else "; ".join(answers):
                        errors.append(f"{which}: {error}; logs in {self.folder / name}")
                    else:
                        done += 1
                        report(f"  {name} {done}/{len(commands)} done")
                if running:
                    time.sleep(POLL)
        finally:
            for job in running.values():
                job.cancel()
        return "interrupted" if self.stopped else "; ".join(errors)


def tasks_of(job: Any) -> list[Any]:
    """The tasks of a job, one for each of its nodes."""
    return [job.task(number) for number in range(job.num_tasks)] if job.num_tasks > 1 else [job]
