"""The files of cells: the frames of one identity at one T and one fine-tuning seed, of all methods."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from talking_heads.experiments.few_shot.methods import Method
from talking_heads.files import replacing

LOSSES = ("cnt", "adv", "fm", "dsc", "r_real", "r_fake", "grad_norm")


class Cell(NamedTuple):
    """What the name of a cell's file says."""

    identity: str
    video: int
    t: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.identity}_video{self.video}_T{self.t}_seed{self.seed}.npz"

    @classmethod
    def of(cls, path: Path) -> "Cell":
        """The cell of a file."""
        identity, video, t, seed = path.stem.rsplit("_", 3)
        return cls(identity, int(video.removeprefix("video")), int(t[1:]), int(seed.removeprefix("seed")))


def key_of(name: str) -> str:
    """The array of a cell that holds a method's key."""
    return f"weights of {name}"


def losses_of(name: str) -> str:
    """The array of a cell that holds a method's losses, a column for each of ``LOSSES``."""
    return f"losses of {name}"


@contextmanager
def opened_cell(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a cell. Raises ValueError, which names the file, where it is damaged."""
    remedy = "delete it and run the same command again, which computes it anew"
    try:
        opened = np.load(path)
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: a damaged cell of the evaluation ({error}); {remedy}") from error
    try:
        with opened as cell:
            yield cell
    except (BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: a damaged cell of the evaluation ({error}); {remedy}") from error


def add_to_cell(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to a cell, which is made if it is not there."""
    if path.exists():
        with opened_cell(path) as cell:
            arrays = {**cell, **arrays}
    save_cell(path, arrays)


def save_cell(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a cell; it appears by rename."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict[str, Any](arrays))


def drop_stale(path: Path, methods: Sequence[Method]) -> None:
    """Remove from a cell the frames of these methods that have another key."""
    with opened_cell(path) as cell:
        stale = {m.name for m in methods if key_of(m.name) in cell and str(cell[key_of(m.name)]) != m.key}
        if not stale:
            return
        kept = {name: cell[name] for name in cell if name.split(" of ", 1)[-1] not in stale}
    save_cell(path, kept)


def missing_in(path: Path, methods: Sequence[Method]) -> list[Method]:
    """The methods whose frames, of their present key, a cell does not hold."""
    if not path.exists():
        return list(methods)
    with opened_cell(path) as cell:
        return [m for m in methods if key_of(m.name) not in cell or str(cell[key_of(m.name)]) != m.key]
