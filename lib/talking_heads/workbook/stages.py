"""Jobs and chapters, their outcomes and their state on disk."""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from talking_heads.files import write_text

STATUS, LOCK, OWNER = "status.json", ".lock", ".owner"


@dataclass(frozen=True)
class Stage:
    """A part of a run."""

    name: str
    description: str
    needs: tuple[str, ...] = ()
    promises: tuple[str, ...] = ()  # files below results/<profile>, or absolute ones
    minutes: float = 1.0  # on two cores with the default profile


@dataclass(frozen=True)
class Chapter(Stage):
    """A notebook that a run executes. It reads what jobs have left."""

    limit: float = 12 * 3600.0  # seconds
    reads: tuple[str, ...] = ()  # patterns of files below results/<profile> of other commands and of people
    alone: bool = False  # nothing may run beside it: it measures time, or uses all cores itself
    trained_by: tuple[str, ...] = ()  # chapters that train the weights it uses, where none are committed
    diffusion: bool = False  # needs weights of Diffused Heads, and is left out where there are none


@dataclass(frozen=True)
class Job(Stage):
    """A command that a run executes. It resumes, reports progress, and takes as long as it takes."""

    command: tuple[str, ...] = ()  # the words after python -m talking_heads
    shards: bool = False  # whether --shard and --merge divide it
    merges: bool = False  # whether shards are joined by --merge
    nodes: bool = False  # whether several machines can work on it at once
    local: bool = False  # whether it says something about the machine that shows it

    @property
    def alone(self) -> bool:
        """Nothing runs beside a job: it uses all cores, or all GPUs."""
        return True


@dataclass
class Outcome:
    """How a stage ended."""

    status: str  # ok | failed | running | stale
    seconds: float = 0.0
    key: str = ""
    error: str = ""


class Busy(RuntimeError):
    """Another run works in the same results folder."""


@contextmanager
def locked(results: Path, commands: Collection[str] = ()) -> Iterator[None]:
    """Only one run at a time in a results folder; the lock ends with the process.

    Raises :class:`Busy` for another run, and for chapters and jobs, of these ``commands``, that a killed run
    has left behind.
    """
    results.mkdir(parents=True, exist_ok=True)
    owner = results / OWNER
    try:
        with FileLock(results / LOCK, timeout=0):
            if left := left_behind(results, commands):
                raise Busy(
                    f"{results}: a chapter or job of an earlier run (process {left}) still works here; "
                    "wait for it or end it"
                )
            owner.write_text(str(os.getpid()), encoding="utf-8")
            yield
    except Timeout as error:
        process = owner.read_text(encoding="utf-8") if owner.exists() else "unknown"
        raise Busy(
            f"{results}: another run (process {process}) works here; wait for it or choose another --results"
        ) from error


def left_behind(results: Path, commands: Collection[str] = ()) -> int | None:
    """A process that executes a chapter or a job of this folder for a run that was killed, or None."""
    staged = f"{results.resolve() / 'notebooks'}{os.sep}."
    jobs = [["--results", str(results.resolve().parent), command] for command in commands]
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if "papermill" in words and any(word.startswith(staged) for word in words):
            return process.pid
        place = words.index("--results") if "--results" in words else len(words)
        if words[place : place + 3] in jobs and ["--profile", results.name] in map(list, pairwise(words)):
            return process.pid
    return None


def read_status(results: Path) -> dict[str, Outcome]:
    """Outcomes of earlier runs, by stage."""
    path = results / STATUS
    if not path.exists():
        return {}
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {name: Outcome(**entry) for name, entry in entries.items()}


def write_status(results: Path, outcomes: dict[str, Outcome]) -> None:
    """Write all outcomes; the file appears by rename."""
    entries = {name: asdict(outcome) for name, outcome in outcomes.items()}
    write_text(results / STATUS, json.dumps(entries, indent=1))
