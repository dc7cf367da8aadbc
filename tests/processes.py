"""Processes of tests, and waiting for them."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

# its processes are forked from one that has imported what takes seconds
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["talking_heads.data.prepare", "talking_heads.few_shot.baselines.training", "talking_heads.training.loop"]
)


def start(target: Callable, *arguments: object) -> multiprocessing.Process:
    """A process that computes ``target(*arguments)``."""
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition is true; fails where it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def wait_for_rows(log: Path, count: int) -> None:
    """Wait until a training has logged so many steps."""
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= count, 180)
