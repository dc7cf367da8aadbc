"""Batches one after the other, loaded ahead by worker processes and copied ahead to a GPU."""

import atexit
import signal
from collections.abc import Generator, Iterator
from itertools import count
from multiprocessing.util import Finalize
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from talking_heads.devices import cores


def worker_count(workers: int | None, device: torch.device, ranks: int = 1) -> int:
    """Processes that load batches for a rank: ``workers``, by default none for a CPU, which training needs.

    For GPUs the ranks share the cores.
    """
    if workers is not None:
        return workers
    return max(1, cores() // ranks - 1) if device.type == "cuda" else 0


class NoBatch(RuntimeError):
    """The next batch cannot be loaded."""


class Failure:
    """An error of a worker process; raised in the training's process without the worker's traceback."""

    def __init__(self, error: Exception):
        self.error = error


def describe(error: Exception) -> str:
    """An error in one line; unexpected ones with their type."""
    expected = isinstance(error, ValueError | OSError | RuntimeError | MemoryError)
    return str(error) if expected and str(error) else f"{type(error).__name__}: {error}"


class CatchErrors(Dataset):
    """A dataset whose items are batches, or a :class:`Failure`."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, number: int) -> Any:
        try:
            return self.dataset[number]
        except Exception as error:
            return Failure(error)


class Batches:
    """The batches of a dataset, whose items are whole batches with a method ``to``, on a device.

    A batch depends on its number alone, so a training that resumes sees what it would have seen, with any
    number of workers. Raises :class:`NoBatch` for an error of the dataset, and where a worker is killed.
    """

    def __init__(self, dataset: Dataset, device: str | torch.device = "cpu", workers: int = 0):
        self.dataset, self.device, self.workers = dataset, torch.device(device), workers
        self.number = 0  # of the next batch
        self._batches: Generator[Any] | None = None

    def seek(self, number: int) -> None:
        """Go on with this batch."""
        self.number, self._batches = number, None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = copy_ahead(self._load(self.number), self.device)
            if self.workers:  # which leave SIGTERM to this process, so that nothing else ends them
                atexit.register(self._batches.close)
                Finalize(self, self._batches.close, exitpriority=1)
        try:
            batch = next(self._batches)
        except NoBatch:
            self._batches = None
            raise
        self.number += 1
        return batch

    def take(self, count: int) -> list[Any]:
        """The next batches, all or none: those before one that cannot be loaded come again."""
        first = self.number
        try:
            return [next(self) for _ in range(count)]
        except NoBatch:
            self.seek(first)
            raise

    def _load(self, first: int) -> Iterator[Any]:
        """The batches from ``first`` on, in the memory of the host."""
        if self.workers:  # OpenCV's threads do not survive a fork: without them, workers may be forked
            cv2.setNumThreads(0)
        loader = DataLoader(
            CatchErrors(self.dataset),
            batch_size=None,
            sampler=count(first),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=prepare_worker,
        )
        try:
            for batch in loader:
                if isinstance(batch, Failure):
                    raise NoBatch(describe(batch.error)) from batch.error
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise NoBatch(
                "a process that loads batches was killed, probably because memory ran out; "
                "run the same command again, with fewer --workers"
            ) from error


def prepare_worker(number: int) -> None:
    """Leave signals, which whole process groups get, to the training's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def copy_ahead(batches: Iterator[Any], device: torch.device) -> Generator[Any]:
    """Batches on a device; a GPU copies the next one while it computes with the last."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copying = torch.cuda.Stream(device)

    def copy() -> Any:
        batch = next(batches)
        with torch.cuda.stream(copying):
            return batch.to(device)

    ahead = copy()
    while True:
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in ahead:
            tensor.record_stream(computing)
        current, ahead = ahead, copy()
        yield current
