"""Which code trained which steps of a training: a file beside its checkpoint."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from talking_heads.files import write_text
from talking_heads.provenance import commit
from talking_heads.training import distributed

NOT_RECORDED = "not recorded"
LINEAGE = "lineage.json"


def slices(folder: Path) -> list[dict]:
    """Which code trained which steps: for every slice of a training its first step, its commit and its
    device.

    The first ones name their ``variant`` where the content steps are another's.
    """
    path = folder / LINEAGE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


@contextmanager
def training_in(folder: Path, step: int, device: torch.device) -> Iterator[None]:
    """A slice of a training, from a step on: one process, or the ranks of one, train in a folder at a time.

    Raises ValueError where another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not distributed.is_main():
        yield
        return
    try:
        with FileLock(folder / ".lock", timeout=0):
            begin_slice(folder, step, device)
            yield
    except Timeout as error:
        raise ValueError(f"{folder}: another process trains here; wait for it") from error


def begin_slice(folder: Path, step: int, device: torch.device) -> None:
    """Record which code goes on from a step; slices whose steps were all lost are not listed."""
    earlier = [piece for piece in slices(folder) if piece["from"] < step]
    if step and not earlier:
        earlier = [{"from": 0, "commit": NOT_RECORDED, "device": NOT_RECORDED}]
    current = {"from": step, "commit": commit(), "device": str(device)}
    write_text(folder / LINEAGE, json.dumps([*earlier, current]))
