"""Which code trained which steps of a training: a file beside its checkpoint."""

import json
from pathlib import Path

import torch

from talking_heads.files import write_text
from talking_heads.provenance import commit

NOT_RECORDED = "not recorded"
LINEAGE = "lineage.json"


def slices(folder: Path) -> list[dict]:
    """Which code trained which steps: for every slice of a training its first step, its commit and its
    device.

    The first ones name their ``variant`` where the content steps are another's.
    """
    path = folder / LINEAGE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def begin_slice(folder: Path, step: int, device: torch.device) -> None:
    """Record which code goes on from a step; slices whose steps were all lost are not listed."""
    earlier = [piece for piece in slices(folder) if piece["from"] < step]
    if step and not earlier:
        earlier = [{"from": 0, "commit": NOT_RECORDED, "device": NOT_RECORDED}]
    current = {"from": step, "commit": commit(), "device": str(device)}
    write_text(folder / LINEAGE, json.dumps([*earlier, current]))
