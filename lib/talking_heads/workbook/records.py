"""Every number with its provenance, a JSON line each."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from talking_heads.config import Profile
from talking_heads.provenance import commit, device_name


@dataclass
class Record:
    """A number and what it is of; ``n_identities`` and ``n_frames`` are the samples behind it."""

    name: str
    value: float
    unit: str = ""
    method: str = ""
    T: int | None = None
    corpus: str = ""
    seed: int | None = None  # the profile's by default
    n_identities: int | None = None
    n_frames: int | None = None
    seconds: float | None = None


@dataclass
class Recorder:
    """Appends numbers to ``<results>/<profile>/records.jsonl``.

    ``run_id`` names the weights that the numbers are about, ``device`` the one that computes them.
    """

    results: Path
    profile: Profile
    run_id: str
    device: str | torch.device

    def record(self, record: Record, **parameters: Any) -> dict:
        """Append a number; returns the line."""
        line = {name: _json(value) for name, value in asdict(record).items()}
        line |= {
            "seed": self.profile.seed if record.seed is None else record.seed,
            "profile": self.profile.name,
            "device": device_name(self.device),
            "torch": torch.__version__,
            "commit": commit(),
            "parameters": {name: _json(value) for name, value in parameters.items()},
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "run_id": self.run_id,
        }
        path = Path(self.results) / self.profile.name / "records.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line


def _json(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
