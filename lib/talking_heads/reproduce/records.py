"""Every number with its provenance, a JSON line each."""

import json
import math
import platform
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..profiles import Profile
from .git import commit


@lru_cache
def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def record(results: Path, profile: Profile, name: str, value: float, unit: str = "", *, run_id: str, method: str = "",
           t: int | None = None, corpus: str = "", seed: int | None = None, n_people: int | None = None,
           n_frames: int | None = None, seconds: float | None = None, **parameters: Any) -> dict:
    """Append one number to ``<results>/<profile>/records.jsonl`` and return the line."""
    known = lambda number: None if isinstance(number, float) and math.isnan(number) else number  # JSON has no NaN
    line = {"name": name, "value": known(value), "unit": unit, "method": method, "T": t, "corpus": corpus,
            "seed": profile.seed if seed is None else seed, "n_people": n_people, "n_frames": n_frames, "profile": profile.name,
            "device": machine(), "torch": torch.__version__, "commit": commit(), "parameters": {k: known(v) for k, v in parameters.items()}, "seconds": seconds,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "run_id": run_id}
    path = Path(results) / profile.name / "records.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as out:
        out.write(json.dumps(line) + "\n")
    return line
