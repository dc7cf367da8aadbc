"""Jobs on a cluster: arrays of shards that SLURM runs, through submitit, or the same on this machine.

A job that SLURM preempts gets SIGTERM, saves its state and is queued again. A shard that was killed is
submitted again; the others are not. What was submitted is on disk, so that a run that is started again waits
for what still works and leaves out what is done.
"""

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from talking_heads.devices import cores
from talking_heads.files import SIGKILL_STATUS, SIGTERM_STATUS, write_text
from talking_heads.workbook.jobs import PATIENCE, Commands, Report, end, fault, start
from talking_heads.workbook.stages import Job

ATTEMPTS = 3  # submissions of a shard that is killed
MINUTES = 7 * 24 * 60  # of a job, unless the site's options say less
POLL = 1.0  # seconds
AGAIN = "preempted"
SUBMITTED = "submitted.json"
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
        # submitit ignores it, and the system's signal need not reach the command's own session
        before = signal.signal(signal.SIGTERM, lambda *_: self.process.terminate())
        try:
            for line in self.process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
            status = self.process.wait()
        except BaseException:
            end(self.process)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
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

    def execute(self, job: Job, report: Report, key: str = "") -> str:
        """Run a job to its end, in shards where it has them; "" if it succeeded, else its error."""
        if job.local:
            return super().execute(job, report)
        words = (*self.options, *job.command)
        site = {name: value for name, value in self.site.items() if job.nodes or name != "nodes"}
        if not job.shards or self.shards == 1:
            return self.run_array(job.name, [words], site, report, key)
        shards = [(*words, "--shard", f"{number}/{self.shards}") for number in range(self.shards)]
        error = self.run_array(job.name, shards, site, report, key)
        if error or not job.merges:
            return error
        merge = Job(job.name, "", command=(*job.command, "--merge"))
        return super().execute(merge, report)

    def end(self) -> None:
        """Cancel everything that was submitted."""
        self.stopped = True
        super().end()

    def run_array(
        self,
        name: str,
        commands: Sequence[tuple[str, ...]],
        site: dict[str, str | int],
        report: Report,
        key: str = "",
    ) -> str:
        """Submit commands, and those that are killed again; "" if all succeed, else their errors.

        Commands that an earlier run of the same ``key`` has submitted are waited for, or done.
        """
        executor = make_executor(self.cluster, self.folder / name, site)
        submissions = Submissions(self.folder / name, self.cluster, [key, *map(list, commands)])
        running = {number: job for number, job in submissions.jobs.items() if not failed(job)}
        waiting, attempts = [n for n in range(len(commands)) if n not in running], [0] * len(commands)
        if running:
            report(f"  {name} {len(running)} of {len(commands)} submitted by an earlier run")
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
                    submissions.record(running)
                    for number in chosen:
                        attempts[number] += 1
                for number in [number for number, job in running.items() if job.done()]:
                    job, which = running.pop(number), " ".join(commands[number][-2:])
                    killed = any(task.exception() is not None for task in tasks_of(job))
                    answers = [] if killed else [task.result() for task in tasks_of(job) if task.result()]
                    if AGAIN in answers and "CANCELLED" in str(getattr(job, "state", "")):
                        errors.append(f"{which}: cancelled")
                    elif AGAIN in answers or (killed and attempts[number] < ATTEMPTS):
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
        if self.stopped:
            return "interrupted"
        if not errors:
            submissions.forget()
        return "; ".join(errors)


class Submissions:
    """The jobs of an array as they are recorded on disk, by the numbers of their commands.

    A record of other commands is ignored.
    """

    def __init__(self, folder: Path, cluster: str, commands: list):
        self.path, self.commands, self.jobs = folder / SUBMITTED, commands, {}
        recorded = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        if recorded.get("commands") == commands:
            for number, (identifier, tasks) in recorded["jobs"].items():
                self.jobs[int(number)] = job_of(cluster, folder, identifier, tasks)

    def record(self, jobs: dict[int, Any]) -> None:
        """Add jobs to the record, in the place of earlier ones of the same numbers."""
        self.jobs |= jobs
        identifiers = {number: [job.job_id, job.num_tasks] for number, job in self.jobs.items()}
        write_text(self.path, json.dumps({"commands": self.commands, "jobs": identifiers}))

    def forget(self) -> None:
        """Remove the record: the next run submits everything."""
        self.path.unlink(missing_ok=True)


def job_of(cluster: str, folder: Path, identifier: str, tasks: int) -> Any:
    """A job that was submitted before."""
    import submitit

    kind = submitit.SlurmJob if cluster == "slurm" else submitit.LocalJob
    return kind(folder=folder, job_id=identifier, tasks=list(range(tasks)))


def failed(job: Any) -> bool:
    """Whether a job has ended without success."""
    return job.done() and any(task.exception() is not None or task.result() for task in tasks_of(job))


def tasks_of(job: Any) -> list[Any]:
    """The tasks of a job, one for each of its nodes."""
    return [job.task(number) for number in range(job.num_tasks)] if job.num_tasks > 1 else [job]
