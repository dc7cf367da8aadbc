"""The committed reference results and weights."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd

from talking_heads.config import Profile
from talking_heads.files import write_text
from talking_heads.nn.weight_files import load_metadata
from talking_heads.training.loop import LOG

COMMITTED = Path(__file__).parents[3] / "results" / "reference"  # of this checkout, wherever results go
PLAIN = "plain"  # the folder of those of the plain corpus, among the others
EVERY = 20  # rows of a log of which one is kept
VALIDATION = {"validation", "mouth opening"}  # columns of the rows with results on validation identities


def is_plain(profile: Profile) -> bool:
    """Whether a profile's talking clips are rendered ones of the plain corpus."""
    return not profile.data.real and profile.diffused.clips.corpus == "plain"


def reference_folder(profile: Profile) -> Path:
    """The committed results of a profile's corpus: of the plain one, in a folder among them."""
    return COMMITTED / PLAIN if is_plain(profile) else COMMITTED


def reference_weights(name: str, results: Path, part: str = "") -> Path:
    """The committed weights of a network, or those in a ``part`` of the reference such as ``PLAIN``.

    An installed library brings no reference weights; they are looked for below ``results``, which may be that
    of a checkout. Raises FileNotFoundError where the file is not there.
    """
    folder = COMMITTED if COMMITTED.is_dir() else Path(results) / "reference"
    path = folder / part / "weights" / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{os.path.relpath(path)}: no {name} weights; reference weights lie in results/reference of a "
            "checkout: name its results with --results"
        )
    return path


def reference_table(name: str, otherwise: pd.DataFrame) -> pd.DataFrame:
    """A table of the reference results; ``otherwise`` where it is not there."""
    path = COMMITTED / "tables" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else otherwise


def measured_table(
    name: str, profile: Profile, results: Path, dtype: dict[str, type] | None = None
) -> pd.DataFrame:
    """A table of a profile's results; of procedural speakers that of the reference for their corpus, where
    there is none.

    Empty where neither has it. ``attrs["source"]`` is "here" or "reference".
    """
    folders = {"here": results / profile.name}
    if not profile.data.real:
        folders["reference"] = reference_folder(profile)
    for source, folder in folders.items():
        if (path := folder / "tables" / f"{name}.csv").exists():
            table = pd.read_csv(path, dtype=dtype)
            table.attrs["source"] = source
            return table
    return pd.DataFrame()


def thin(log: Path, every: int = EVERY) -> list[dict]:
    """One of ``every`` rows of a training's log, and all rows with results on validation identities."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [row for number, row in enumerate(rows) if number % every == 0 or VALIDATION & row.keys()]


def check_finished(folder: Path, command: str) -> None:
    """Raises FileNotFoundError where a training has not begun, ValueError where it is not at its end.

    ``command`` goes on with it.
    """
    metadata = load_metadata(folder / "weights.safetensors")
    if metadata["step"] < metadata["of"] and not metadata.get("collapsed"):
        raise ValueError(f"{folder}: step {metadata['step']} of {metadata['of']}; {command} goes on with it")


def keep_training(
    name: str, folder: Path, command: str, every: int = EVERY, reference: Path | None = None
) -> Path:
    """Copy a training's weights and its thinned log to the committed ones, or to another ``reference``.

    Raises what :func:`check_finished` does.
    """
    target = (reference or COMMITTED) / "weights" / f"{name}.safetensors"
    check_finished(folder, command)
    log = json.dumps(thin(folder / LOG, every))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "weights.safetensors", target)
    write_text(target.with_suffix(".json"), log)
    return target
