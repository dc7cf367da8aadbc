"""The training loop: it resumes, logs, reports progress, saves checkpoints and raises alarms.

Of several ranks all run it, and rank 0 writes.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from talking_heads.data.loader import NoBatch
from talking_heads.files import SIGTERM_STATUS, Interrupted, stating_full_disks
from talking_heads.training import distributed
from talking_heads.training.alarms import Alarm
from talking_heads.training.checkpoints import (
    CheckpointWriter,
    check_settings,
    cut_log,
    load_checkpoint,
    record_settings,
)

CHECKPOINT, CONTENT, LOG = "checkpoint.pt", "content.pt", "stats.jsonl"
# losses in progress lines
SHOWN = ("cnt", "l1", "adv", "fm", "mch", "dsc", "simple", "lips", "vlb", "phonemes", "mouth")


class Learner(Protocol):
    """The interface of a training."""

    variant: str
    settings: dict[str, Any]  # everything that the training depends on, by name
    step: int  # number of finished steps
    total: int
    content_steps: int  # after which a second checkpoint is written, for other variants; 0 for none

    @property
    def key(self) -> str: ...  # of the checkpoint: a digest of the settings
    def train_step(self) -> dict[str, float]: ...
    def state(self, folder: Path) -> dict: ...
    def steps_left(self, state: dict) -> int: ...  # of a saved training, on the present ranks
    def restore(self, state: dict, folder: Path) -> None: ...


AnyLearner = TypeVar("AnyLearner", bound=Learner)


def train(
    learner: AnyLearner,
    folder: Path,
    *,
    until: int | None = None,
    seconds: float = math.inf,
    save_every: float = 120.0,
    watch: Callable[[AnyLearner], dict[str, float] | None] | None = None,
    watch_every: int = 100,
) -> AnyLearner:
    """Train to step ``until`` (the learner's last one by default) or for ``seconds``; call again to resume.

    Writes ``config.json`` (the settings), ``checkpoint.pt`` (every ``save_every`` seconds and at the end),
    ``content.pt`` (after the content steps) and ``stats.jsonl`` (a row for each step) to ``folder``. Every
    ``watch_every`` steps the row also holds what ``watch(learner)`` returns. Raises :class:`Collapsed`,
    ValueError as :func:`restore` does, OSError where nothing can be saved, and :class:`Preempted` after
    SIGTERM. Where a batch cannot be loaded, in one of the ranks, the last step is saved before
    :class:`NoBatch` is raised.
    """
    restore(learner, folder)
    main = distributed.is_main()
    if main:
        record_settings(folder, learner.variant, learner.key, learner.settings)
        cut_log(folder / LOG, learner.step)
    until = learner.total if until is None else until
    alarm = Alarm()
    first, start = learner.step, time.time()
    saved = reported = start
    stop, terminated = seconds <= 0, False
    with (
        stating_full_disks(folder),
        noticing_termination() as termination,  # until everything is written
        (folder / LOG if main else Path(os.devnull)).open("a", encoding="utf-8") as log,
        CheckpointWriter() as writer,
    ):
        while learner.step < until and not stop:
            try:
                row = learner.train_step()
            except NoBatch:  # in all ranks at once
                save(learner, folder, CHECKPOINT, writer)
                raise
            if main and watch and learner.step % watch_every == 0:
                row |= watch(learner) or {}
            now = time.time()
            flags = (now - start >= seconds, now - saved > save_every, termination.requested)
            rows, all_flags = zip(*distributed.gather((row, flags)), strict=True)
            row, agreed = distributed.mean_row(rows), [any(flag) for flag in zip(*all_flags, strict=True)]
            late, due, terminated = agreed
            stop = late or terminated
            log.write(json.dumps({name: _rounded(value) for name, value in row.items()}) + "\n")
            alarm.check(row)
            if main and (now - reported > 15 or learner.step == until):
                reported = now
                print(_progress(learner, row, until, (now - start) / (learner.step - first)), flush=True)
            if learner.step == learner.content_steps:
                save(learner, folder, CONTENT, writer)
            if due:
                saved = now
                log.flush()
                save(learner, folder, CHECKPOINT, writer)
        log.flush()
        save(learner, folder, CHECKPOINT, writer)
        writer.wait()
        distributed.gather(learner.step)  # no rank ends, and torchrun the others, before rank 0 has written
    if terminated:
        raise Preempted(
            f"stopped by SIGTERM: step {learner.step} is saved in {folder}; the same command goes on there"
        )
    return learner


class Preempted(Interrupted):
    """The system ended the training; its last step is saved."""

    status = SIGTERM_STATUS


@dataclass
class Termination:
    """Whether the system has asked for an end."""

    requested: bool = False

    def request(self, *_: object) -> None:
        self.requested = True


@contextmanager
def noticing_termination() -> Iterator[Termination]:
    """Notices SIGTERM, which a cluster sends before it ends a job, in place of dying of it."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():  # only the main one gets signals
        yield termination
        return
    before = signal.signal(signal.SIGTERM, termination.request)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)


def save(learner: Learner, folder: Path, name: str, writer: CheckpointWriter) -> None:
    """Save the state of a learner once the checkpoint before is complete. All ranks take part."""
    writer.wait()
    state = learner.state(folder)
    if distributed.is_main():
        writer.save(folder / name, state)


def restore(learner: Learner, folder: Path) -> None:
    """Go on where the training in a folder stopped, which is created where there is none.

    Raises ValueError where it has other settings, as :func:`check_settings` and :func:`load_checkpoint` do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, learner.key, learner.settings)
    if (folder / CHECKPOINT).exists():
        learner.restore(load_checkpoint(folder / CHECKPOINT, learner.key), folder)
        if distributed.is_main():
            print(f"  resumed at step {learner.step}", flush=True)


def saved_step(learner: Learner, folder: Path) -> int:
    """Steps of a learner that are saved in a folder. Raises as :func:`restore` does."""
    state = _saved_state(learner, folder)
    return state["step"] if state else 0


def is_finished(learner: Learner, folder: Path) -> bool:
    """Whether the training of a learner is at its end, on any number of ranks. Raises as :func:`restore`."""
    state = _saved_state(learner, folder)
    return state is not None and learner.steps_left(state) == 0


def _saved_state(learner: Learner, folder: Path) -> dict | None:
    check_settings(folder, learner.key, learner.settings)
    path = folder / CHECKPOINT
    return load_checkpoint(path, learner.key, lazily=True) if path.exists() else None


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _progress(learner: Learner, row: dict[str, float], until: int, pace: float) -> str:
    terms = ", ".join(f"{name} {row[name]:.3f}" for name in SHOWN if name in row)
    left = pace * (until - learner.step) / 60
    return (
        f"  {learner.variant} step {learner.step}/{until}, {terms}, {pace:.2f} s a step, {left:.0f} min left"
    )
