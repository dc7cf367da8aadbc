"""Batches by number, loaded ahead by worker processes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def batches(
    dataset: Dataset, first: int, end: int, workers: int = 0, device: str | torch.device = "cpu"
) -> Iterator[Any]:
    """Batches ``first`` to ``end`` - 1 of a dataset whose items are whole batches, in order.

    A batch depends on its number alone, so a training that resumes at ``first`` sees what it would have seen,
    with any number of workers.
    """
    pinned = torch.device(device).type == "cuda"
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=range(first, end),
            num_workers=workers,
            pin_memory=pinned,
            persistent_workers=False,
        )
    )
