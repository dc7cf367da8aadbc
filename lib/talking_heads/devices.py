"""Where to compute."""

import torch


def choose(device: str) -> torch.device:
    """"auto" is a GPU where there is one. Raises ValueError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine has no usable GPU; use --device cpu")
    return chosen
