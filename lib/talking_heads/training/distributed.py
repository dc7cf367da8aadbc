"""Training in several processes, one for each GPU, that torchrun starts.

Every rank computes the gradients of its own batch and has the same parameters; without torchrun there is one
rank, and nothing here does anything. Checkpoints and logs are written by rank 0.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 2**23  # elements of gradients that are sent at once
TIMEOUT = timedelta(minutes=30)  # for the slowest rank, such as rank 0 while it generates samples


class RankLost(RuntimeError):
    """Another process of the training has ended; the message states what to do."""


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started; yields the device of this one. Only rank 0 prints."""
    if not started_by_torchrun():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    silence = nullcontext() if is_main() else redirect_stdout(io.StringIO())
    try:
        with silence:
            yield device
    finally:
        dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return "RANK" in os.environ


def rank() -> int:
    """The number of this process, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """The number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def scaled(batches: int, before: int) -> int:
    """How many batches of the present ranks have the content of ``batches`` of ``before`` ranks, at least."""
    return -(-batches * before // ranks())


@contextmanager
def _losing_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.distributed has no other error for a closed connection
        raise RankLost(
            "another process of this training has ended; its last checkpoint is kept: "
            "run the same command again"
        ) from error


def share(batch: int, section: str) -> int:
    """A rank's share of the batch of a profile's section. Raises ValueError where it cannot be divided."""
    if batch % ranks():
        raise ValueError(
            f"section {section}: batch is {batch}, which {ranks()} processes cannot share equally; "
            "change it, or --ranks"
        )
    return batch // ranks()


def average_statistics(nets: Iterable[nn.Module]) -> None:
    """Average the running statistics of batch normalisation, of which every rank has its own."""
    average(buffer for net in nets for buffer in net.buffers() if buffer.is_floating_point())


@torch.no_grad()
def average_gradients(shared: Iterable[nn.Parameter], local: Iterable[nn.Parameter] = ()) -> None:
    """Average the gradients of parameters over the ranks.

    Those of ``local``, which no other rank has, are divided by the number of ranks, because the loss is the
    mean over the batches of all. Raises :class:`RankLost`.
    """
    if ranks() == 1:
        return
    for bucket in _buckets([p.grad for p in shared if p.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        with _losing_ranks():
            dist.all_reduce(flat)
        parts = (flat / ranks()).split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for parameter in local:
        if parameter.grad is not None:
            parameter.grad = parameter.grad / ranks()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in groups of at most ``BUCKET`` elements, or of a single larger one."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Average tensors over the ranks, in place. Raises :class:`RankLost`."""
    if ranks() == 1:
        return
    for tensor in tensors:
        with _losing_ranks():
            dist.all_reduce(tensor)
        tensor.div_(ranks())


def gather(value: Any) -> list[Any]:
    """A value of every rank, in their order. Raises :class:`RankLost`."""
    if ranks() == 1:
        return [value]
    values: list[Any] = [None] * ranks()
    with _losing_ranks():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 does something before the others do, who find it done. Raises :class:`RankLost`."""
    if not is_main():
        gather(None)
    yield
    if is_main():
        gather(None)


def mean_row(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row of a log that averages those of all ranks, each name over the ranks that have it."""
    if len(rows) == 1:
        return rows[0]
    names = {name: None for row in rows for name in row}
    means = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        means[name] = values[0] if isinstance(values[0], int) else sum(values) / len(values)
    return means
