"""Where to compute."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose(device: str) -> "torch.device":
    """The named device; "auto" is a GPU where there is one. Raises ValueError for one that is not there."""
    import torch  # processes that only count cores do without it

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: unknown; give auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine has no usable GPU; use --device cpu")
    return chosen


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
