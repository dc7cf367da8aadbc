"""The committed reference results and weights."""

import os
from pathlib import Path

COMMITTED = Path(__file__).parents[3] / "results" / "reference"  # of this checkout, wherever results go


def reference_weights(name: str, results: Path) -> Path:
    """The committed weights of a network.

    An installed library brings no reference weights; they are looked for below ``results``, which may be that
    of a checkout. Raises FileNotFoundError where the file is not there.
    """
    folder = COMMITTED if COMMITTED.is_dir() else Path(results) / "reference"
    path = folder / "weights" / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{os.path.relpath(path)}: no {name} weights; reference weights lie in results/reference of a "
            "checkout: name its results with --results"
        )
    return path
