"""Observer networks in place of raters: trained, and cross-fitted over methods and identities."""

import json
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from talking_heads import devices
from talking_heads.files import write_text
from talking_heads.progress import Progress

FOLDS = 3  # of identities
LEARNING_RATE = 2e-3
SEED_LOCK = threading.Lock()  # initial weights come from PyTorch's global generator, which threads share

Network = TypeVar("Network", bound=nn.Module)
Test = Callable[[str, Sequence[str], Sequence[str]], list[tuple]]


def convolutional_body(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Pictures (B, channels, S, S) to features (B, 4 · the last width): convolutions that halve the side."""
    layers: list[nn.Module] = []
    for a, b in zip((channels, *widths[:-1]), widths, strict=True):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def fit(
    build: Callable[[], Network],
    batch_loss: Callable[[Network], Tensor],
    steps: int,
    seed: int,
    device: str | torch.device,
) -> Network:
    """A network after ``steps`` steps of AdamW on ``batch_loss(network)``, in eval mode.

    The learning rate has one cycle.
    """
    with SEED_LOCK:
        torch.manual_seed(seed)
        network = build().to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        loss = batch_loss(network)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def methods_by_group(groups: Mapping[str, str]) -> dict[str, list[str]]:
    """The methods of every group, from the group of every method."""
    methods: dict[str, list[str]] = {}
    for method, group in groups.items():
        methods.setdefault(group, []).append(method)
    return methods


def cross_fit(
    test: Test,
    groups: Iterable[str],
    test_only: Collection[str],
    identities: Iterable[str],
    device: str | torch.device,
    folder: Path | None = None,
) -> list[tuple]:
    """The rows of ``test(group, training_groups, identities)`` of all groups and folds of identities.

    Training groups are all others but those of ``test_only``. In a ``folder`` the rows of every group and
    fold are kept, and taken from there; progress is then reported. Raises ValueError for fewer than two
    groups to train on, or fewer than two identities.
    """
    names, ordered = list(dict.fromkeys(groups)), sorted(identities)
    trainable = [name for name in names if name not in test_only]
    folds = min(FOLDS, len(ordered))
    if len(trainable) < 2 or folds < 2:
        raise ValueError(
            f"cross-fitting needs two groups of methods and two identities, not {len(trainable)} and "
            f"{len(ordered)}"
        )

    parts = list(product(range(folds), names))
    progress = Progress("training observers", len(parts), "observers") if folder else None

    def test_part(part: tuple[int, str]) -> list[tuple]:
        fold, group = part
        path = folder / f"fold{fold}-group{names.index(group)}.json" if folder else None
        if path and path.exists():
            rows = [tuple(row) for row in json.loads(path.read_text(encoding="utf-8"))]
        else:
            rows = test(group, [name for name in trainable if name != group], ordered[fold::folds])
            if path:
                write_text(path, json.dumps(rows))
        if progress:
            progress.add(1)
        return rows

    return list(chain.from_iterable(devices.in_threads(test_part, parts, device)))
