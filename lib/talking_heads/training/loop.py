"""The training loop: it resumes, logs, reports progress, saves checkpoints and raises alarms."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from talking_heads.training.alarms import Alarm
from talking_heads.training.checkpoints import (
    CheckpointWriter,
    check_settings,
    cut_log,
    load_checkpoint,
    record_settings,
)

CHECKPOINT, CONTENT, LOG = "checkpoint.pt", "content.pt", "stats.jsonl"
SHOWN = ("cnt", "l1", "adv", "fm", "mch", "dsc", "simple", "lips", "vlb")  # losses in progress lines


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
    def state(self) -> dict: ...
    def restore(self, state: dict) -> None: ...


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
    ValueError as :func:`restore` does, and OSError where nothing can be saved.
    """
    restore(learner, folder)
    record_settings(folder, learner.variant, learner.key, learner.settings)
    cut_log(folder / LOG, learner.step)
    until = learner.total if until is None else until
    alarm = Alarm()
    first, start = learner.step, time.time()
    saved = reported = start
    with (folder / LOG).open("a", encoding="utf-8") as log, CheckpointWriter() as writer:
        while learner.step < until and time.time() - start < seconds:
            row = learner.train_step()
            if watch and learner.step % watch_every == 0:
                row |= watch(learner) or {}
            log.write(json.dumps({name: _rounded(value) for name, value in row.items()}) + "\n")
            alarm.check(row)
            now = time.time()
            if now - reported > 15 or learner.step == until:
                reported = now
                print(_progress(learner, row, until, (now - start) / (learner.step - first)), flush=True)
            if learner.step == learner.content_steps:
                writer.save(folder / CONTENT, learner.state())
            if now - saved > save_every:
                saved = now
                log.flush()
                writer.save(folder / CHECKPOINT, learner.state())
        log.flush()
        writer.save(folder / CHECKPOINT, learner.state())
    return learner


def restore(learner: Learner, folder: Path) -> None:
    """Go on where the training in a folder stopped, which is created where there is none.

    Raises ValueError where it has other settings, as :func:`check_settings` and :func:`load_checkpoint` do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, learner.key, learner.settings)
    if (folder / CHECKPOINT).exists():
        learner.restore(load_checkpoint(folder / CHECKPOINT, learner.key))
        print(f"  resumed at step {learner.step}", flush=True)


def saved_step(learner: Learner, folder: Path) -> int:
    """Steps of a learner that are saved in a folder. Raises as :func:`restore` does."""
    check_settings(folder, learner.key, learner.settings)
    path = folder / CHECKPOINT
    return load_checkpoint(path, learner.key, lazily=True)["step"] if path.exists() else 0


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _progress(learner: Learner, row: dict[str, float], until: int, pace: float) -> str:
    terms = ", ".join(f"{name} {row[name]:.3f}" for name in SHOWN if name in row)
    left = pace * (until - learner.step) / 60
    return (
        f"  {learner.variant} step {learner.step}/{until}, {terms}, {pace:.2f} s a step, {left:.0f} min left"
    )
