"""The embedding table W on disk, and its partition among ranks.

W has a row for every video, with two moments of Adam: 0.9 GB for VoxCeleb2. Only rows of videos that were
drawn change. So all rows are written now and then, into files beside the checkpoint, and the checkpoint holds
those that have changed since. The files are written while training goes on, so a checkpoint needs those that
an earlier one has begun.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talking_heads.training import distributed
from talking_heads.training.checkpoints import save_checkpoint

REWRITTEN = 1 / 8  # the share of changed rows from which on all are written
MOMENTS = ("exp_avg", "exp_avg_sq")


class VideoTable:
    """The rows of W of this rank: those of videos whose number leaves the remainder ``rank``."""

    def __init__(self, table: nn.Embedding, optimiser: torch.optim.SparseAdam, videos: int):
        self.weight, self.optimiser, self.videos = table.weight, optimiser, videos
        self.changed = torch.zeros(len(self.weight), dtype=torch.bool, device=self.weight.device)
        self.written = -1  # the step in which all rows were written; -1: they are those of the seed
        self.writing: tuple[int, Future] | None = None  # the same of the rows that are being written
        self.changed_since = torch.zeros_like(self.changed)  # that step
        self.executor = ThreadPoolExecutor(1, "table")
        self.needed: list[str] = []  # files of the checkpoint before

    def numbers(self) -> Tensor:
        """The numbers of the videos of the rows."""
        return torch.arange(distributed.rank(), self.videos, distributed.ranks())

    def mark(self, rows: Tensor) -> None:
        """Note that a step changes these rows. A GPU is not waited for."""
        for changed in (self.changed, self.changed_since):
            changed.index_fill_(0, rows.to(changed.device), True)

    def _values(self, rows: Tensor) -> Tensor:
        """Rows with their moments, (3, n, N)."""
        state = self.optimiser.state.get(self.weight, {})
        tensors = [self.weight, *(state.get(name, torch.zeros_like(self.weight)) for name in MOMENTS)]
        rows = rows.to(self.weight.device)
        return torch.stack([tensor.detach()[rows].cpu() for tensor in tensors])

    @torch.no_grad()
    def state(self, folder: Path, step: int) -> dict[str, Any]:
        """What a checkpoint has of W; begins to write all rows where many have changed. All ranks take part.

        The checkpoint before must be complete: files that it does not need are removed. Raises OSError where
        rows could not be written.
        """
        rank, ranks = distributed.rank(), distributed.ranks()
        if self.writing:
            self.written, result = self.writing
            result.result()
            self.changed.copy_(self.changed_since)
            self.writing = None
        distributed.gather(self.written)  # the rows of all ranks are there
        needed = {folder / file_name(self.written, part, ranks) for part in range(ranks)}
        if distributed.is_main():
            for path in set(folder.glob("table-*.pt")) - needed - {folder / name for name in self.needed}:
                path.unlink()
        if max(distributed.gather(float(self.changed.float().mean()))) >= REWRITTEN:
            values = self._values(torch.arange(len(self.weight)))
            state = {"step": step, "numbers": self.numbers(), "values": values}
            path = folder / file_name(step, rank, ranks)
            self.writing = step, self.executor.submit(save_checkpoint, path, state)
            self.changed_since.zero_()
        rows = self.changed.nonzero().ravel().cpu()
        state = {
            "videos": self.videos,
            "written": self.written,
            "ranks": ranks,
            "adam_step": self.optimiser.state.get(self.weight, {}).get("step", 0),
            "changes": distributed.gather((self.numbers()[rows], self._values(rows))),
        }
        self.needed = needed_files(state)
        return state

    @torch.no_grad()
    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Take the rows of this rank from a state of any number of ranks.

        Raises ValueError where a file of it is missing or damaged.
        """
        parts = [read_rows(folder / name) for name in needed_files(state)]
        moments = {name: torch.zeros_like(self.weight) for name in MOMENTS}
        for numbers, values in [*parts, *state["changes"]]:
            mine = numbers % distributed.ranks() == distributed.rank()
            rows = numbers[mine] // distributed.ranks()
            for tensor, value in zip((self.weight, *moments.values()), values[:, mine], strict=True):
                tensor[rows.to(tensor.device)] = value.to(tensor.device)
            self.mark(rows)
        if state["adam_step"]:
            self.optimiser.state[self.weight] = {"step": state["adam_step"], **moments}
        self.needed = needed_files(state)
        if state["ranks"] == distributed.ranks():
            self.written = state["written"]
            numbers = state["changes"][distributed.rank()][0]
            self.changed.zero_()
            self.mark(numbers // distributed.ranks())


def file_name(step: int, rank: int, ranks: int) -> str:
    """The file of all rows of a rank."""
    return f"table-step{step}-{rank}of{ranks}.pt"


def needed_files(state: dict[str, Any]) -> list[str]:
    """The files of all ranks that a state needs."""
    if state["written"] < 0:
        return []
    return [file_name(state["written"], rank, state["ranks"]) for rank in range(state["ranks"])]


def read_rows(path: Path) -> tuple[Tensor, Tensor]:
    """The numbers (n,) of videos and their rows and moments (3, n, N) in a file."""
    try:
        part = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(
            f"{path}: the checkpoint beside it needs this file, which cannot be read ({error}); "
            "bring it back, or move the folder away to train anew"
        ) from error
    return part["numbers"], part["values"]
