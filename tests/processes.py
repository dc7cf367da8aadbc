"""Processes of tests, waiting for them, and limits of what they may use."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from talking_heads.processes import PRELOAD

# processes are forked from one that has imported what takes seconds, also those of the library
PRELOAD.extend(
    [
        "pytest",
        "torch._dynamo",  # which the first optimiser imports
        "talking_heads.data.prepare",
        "talking_heads.experiments.few_shot.trainings",
        "talking_heads.experiments.diffused.trainings",
    ]
)
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOAD)


def start(target: Callable, *arguments: object) -> multiprocessing.Process:
    """A process that computes ``target(*arguments)``."""
    process = context.Process(target=_compute, args=(target, arguments))
    process.start()
    return process


def _compute(target: Callable, arguments: tuple) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of its workers, as in a process that a user starts
    target(*arguments)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition is true; fails where it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def wait_for_rows(log: Path, count: int) -> None:
    """Wait until a training has logged so many steps."""
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= count, 180)


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """At most so much of a resource of this process, as ``resource.RLIMIT_FSIZE``: the bytes of a file."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
