"""Rows of a training's log."""

from collections.abc import Mapping

import torch
from torch import Tensor


def read_row(row: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Replace a row's scalar tensors with numbers, in one transfer from the device.

    A transfer waits for all work before it, so a step reads its row once, at its end.
    """
    tensors = {name: value for name, value in row.items() if isinstance(value, Tensor)}
    if not tensors:
        return dict(row)
    values = torch.stack([value.detach().float() for value in tensors.values()]).tolist()
    numbers = dict(zip(tensors, values, strict=True))
    return {name: numbers.get(name, value) for name, value in row.items()}
