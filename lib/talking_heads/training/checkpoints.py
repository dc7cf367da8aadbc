"""Checkpoints, settings and logs of a training on disk."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from talking_heads.config import digest
from talking_heads.files import replacing, write_text
from talking_heads.sections.common import Section

CONFIGURATION = "config.json"
BLOCK = 4096  # bytes of a log that are read row by row


class NamedVideos(Protocol):
    """Videos with the names by which a checkpoint recognises them."""

    def __len__(self) -> int: ...
    def identity(self, video: int) -> str: ...
    def name(self, video: int) -> str: ...


# -- settings ---------------------------------------------------------------------------------------
def key_of(settings: dict[str, Any]) -> str:
    """The key of a training: a digest of everything that it depends on, which ``settings`` has by name."""
    return digest(*settings.values())


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON types."""
    return {k: v.model_dump(mode="json") if isinstance(v, Section) else v for k, v in settings.items()}


def recorded_key(folder: Path) -> str:
    """The key of the training in a folder, "" where there is none."""
    path = folder / CONFIGURATION
    return json.loads(path.read_text(encoding="utf-8"))["key"] if path.exists() else ""


def record_settings(folder: Path, variant: str, key: str, settings: dict[str, Any]) -> None:
    """Record the settings of the training in a folder."""
    configuration = {"key": key, "variant": variant, "settings": plain(settings)}
    write_text(folder / CONFIGURATION, json.dumps(configuration, indent=1))


def check_settings(folder: Path, key: str, settings: dict[str, Any]) -> None:
    """Raises ValueError where a folder has a training of other settings; the message names them."""
    if recorded_key(folder) in ("", key):
        return
    recorded = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8")).get("settings", {})
    changes = list(differences(recorded, plain(settings))) if recorded else []
    names = f": {'; '.join(changes)}" if changes else " or another version"
    raise ValueError(
        f"{folder}: has a training of other settings{names}. Undo the change to go on with it, "
        "or move the folder away to train anew"
    )


def differences(recorded: Any, current: Any, name: str = "") -> Iterator[str]:
    """What differs between two settings, as "name is 2, was 1" for every value."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        for key in {**recorded, **current}:
            inner = f"{name}.{key}" if name else key
            yield from differences(recorded.get(key, "absent"), current.get(key, "absent"), inner)
    elif recorded != current:
        yield f"{name} is {current}, was {recorded}"


# -- checkpoints ------------------------------------------------------------------------------------
def save_checkpoint(path: Path, state: dict) -> None:
    """Write a learner's state; the file appears by rename.

    Raises OSError, which states what to do, where it cannot be written; the previous file remains.
    """
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # a checkpoint that a crash of the machine empties replaces none
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError where the disk is full
            cause = getattr(error, "strerror", None) or "is the disk full?"
            raise OSError(
                f"{path}: step {state['step']} cannot be saved ({cause}); make room and run the same command "
                "again: it goes on from the checkpoint before"
            ) from error


class CheckpointWriter:
    """Writes checkpoints in a background thread while training goes on, one after the other.

    As a context, it waits until everything is written.
    """

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self.executor.shutdown()

    def save(self, path: Path, state: dict) -> None:
        """Write a copy of a state. Raises what the write before raised, as :func:`save_checkpoint` does."""
        self.wait()
        self.pending = self.executor.submit(save_checkpoint, path, on_host(state))

    def wait(self) -> None:
        """Wait until everything is written. Raises as :func:`save_checkpoint` does."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()


def on_host(state: Any) -> Any:
    """A copy of a state whose tensors are in the memory of the host, and do not change any more."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: on_host(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(on_host(value) for value in state)
    return state


def load_checkpoint(path: Path, key: str, lazily: bool = False) -> dict:
    """A learner's state; ``lazily``, its tensors are read from the file where they are used.

    Raises ValueError where the file belongs to other settings or cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(
            f"{path}: a damaged checkpoint ({error}); delete it, and the training starts anew"
        ) from error
    if state["key"] != key:
        raise ValueError(f"{path}: belongs to other settings or another version; move it away to train anew")
    return state


def check_videos(trained_on: int, videos: int, trained_names: str | None, names: str) -> None:
    """Raises ValueError for a checkpoint that was trained on other videos, by their number and names.

    The names are given as :func:`names_digest`, None for checkpoints that do not have it.
    """
    if trained_on != videos:
        difference = f"{trained_on} videos, these are {videos}"
    elif trained_names not in (None, names):
        difference = f"{trained_on} videos of other names"
    else:
        return
    raise ValueError(
        f"the checkpoint was trained on {difference}; prepare those videos again to go on with it, or move "
        "it away to train anew"
    )


def names_digest(videos: NamedVideos) -> str:
    """A digest of the names of videos, in their order."""
    hashed = hashlib.sha256()
    for number in range(len(videos)):
        hashed.update(os.fsencode(f"{videos.identity(number)}/{videos.name(number)}\n"))
    return hashed.hexdigest()[:16]


# -- logs -------------------------------------------------------------------------------------------
def cut_log(log: Path, step: int) -> None:
    """Remove the rows of a step and of later ones from the end of a log, and an incomplete last row.

    Only a few rows are read, however long the log is: steps rise, so they are found by bisection.
    """
    log.touch()
    with log.open("rb+") as file:
        low, high = 0, log.stat().st_size  # a row before the step begins at low, unless it is 0
        while high - low > BLOCK:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline()  # the end of a row
            start = file.tell()
            if _step_of(file.readline()) < step:
                low = start
            else:
                high = middle
        file.seek(low)
        end = low
        for line in file:
            if _step_of(line) >= step:
                break
            end += len(line)
        file.truncate(end)


def _step_of(row: bytes) -> float:
    """The step of a row of a log, infinite where the row is incomplete."""
    try:
        return json.loads(row)["step"] if row.endswith(b"\n") else math.inf
    except ValueError:
        return math.inf
