"""Which code trained which steps of a training, and with which settings: files beside its checkpoint."""

import json
from itertools import count
from pathlib import Path

import torch

from talking_heads.config import Profile
from talking_heads.files import write_text
from talking_heads.provenance import commit
from talking_heads.training import loop

NOT_RECORDED = "not recorded"
LINEAGE, CONFIGURATION = "lineage.json", "config.json"


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


def recorded_key(folder: Path) -> str:
    """The key of the training in a folder. "unknown" without a configuration, as of an earlier version."""
    path = folder / CONFIGURATION
    return json.loads(path.read_text(encoding="utf-8"))["key"] if path.exists() else "unknown"


def record_configuration(folder: Path, key: str, variant: str, profile: Profile) -> None:
    """Record the key of a training and the profile that it follows from."""
    configuration = {"key": key, "variant": variant, "profile": profile.model_dump(mode="json")}
    write_text(folder / CONFIGURATION, json.dumps(configuration, indent=1))


def put_aside(folder: Path, key: str) -> bool:
    """Rename a training's folder unless it is empty or of ``key``; whether that was done."""
    other = recorded_key(folder)
    if other == key or not any((folder / name).exists() for name in (CONFIGURATION, loop.CHECKPOINT)):
        return False
    names = (folder.with_name(f"{folder.name}-{other}-{n}") for n in count(1))
    target = next(name for name in names if not name.exists())
    reason = "of other settings or another version"
    print(f"  {folder.name}: {reason}, kept as {target.name}; trains anew", flush=True)
    folder.rename(target)
    return True
