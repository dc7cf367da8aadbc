"""Metrics of any folder of talking videos against references, so that outputs of other code become rows."""

import time
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from talking_heads.data.sources import discover, unusable, walk
from talking_heads.data.video import VIDEO_SUFFIXES
from talking_heads.experiments.diffused.scorer import FACES, Pair, Scorer
from talking_heads.files import check_outputs, replacing
from talking_heads.metrics.statistics import identity_means, mean_estimate
from talking_heads.progress import Progress

WRITTEN_EVERY = 5.0  # seconds
EXAMPLES = 3  # of files without a counterpart that are printed
COLUMNS = ("method", "identity", "clip", "frames", FACES, "note", "key")


def videos_below(folder: Path) -> dict[str, Path]:
    """The videos of a folder by their paths below it, without endings. Raises ValueError for two of one
    name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path, problem in walk(folder):
        if problem or path.suffix.lower() not in VIDEO_SUFFIXES or unusable(path):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{path} and {found[name]}: two videos of one name; move one of them away")
        found[name] = path
    return found


def find_pairs(generated: Path, reference: Path, layout: str = "folder") -> tuple[list[Pair], list[str]]:
    """Every generated video with the reference of the same path, or of the same name where that is unique;
    and what has no counterpart.

    Raises ValueError where nothing matches, and as :func:`videos_below` does.
    """
    outputs, references = videos_below(generated), videos_below(reference)
    by_name: dict[str, list[str]] = {}
    for clip in references:
        by_name.setdefault(Path(clip).name, []).append(clip)
    matches: dict[str, Path] = {}
    unmatched = []
    for name, path in outputs.items():
        same_name = by_name.get(Path(name).name, [])
        if name in references:
            same_name = [name]
        if len(same_name) != 1:
            reason = f"{len(same_name)} references have this name, and none this path"
            unmatched.append(f"{path}: {reason if same_name else 'no reference has this name'}")
        elif same_name[0] in matches:
            both = f"{path} and {matches[same_name[0]]}"
            raise ValueError(f"{both}: both match {references[same_name[0]]}; move one of them away")
        else:
            matches[same_name[0]] = path
    if not matches:
        example = f" ({unmatched[0]})" if unmatched else ""
        raise ValueError(
            f"{generated}: none of its {len(outputs)} videos matches one of the {len(references)} in "
            f"{reference}{example}; give generated videos the names of their references"
        )
    identity_of = {path: unit.person for unit in discover(reference, layout) for path in unit.sources}
    pairs = []
    for clip, path in sorted(matches.items()):
        source = reference.resolve() / references[clip].relative_to(reference)
        pairs.append(Pair(identity_of.get(source, clip), clip, path, references[clip]))
    unmatched += [f"{references[clip]}: not generated" for clip in references if clip not in matches]
    return pairs, unmatched


def score(
    generated: Path, reference: Path, out: Path, method: str, scorer: Scorer, layout: str = "folder"
) -> pd.DataFrame:
    """Score a folder of videos: a row for each clip in ``out`` (CSV), which is written on the way.

    Rows that are there already are computed again only where a video has changed. Columns method, identity,
    clip, the metrics, frames, frames with faces, note and key. A clip that cannot be compared has a note and
    no metrics. Raises ValueError as :func:`find_pairs` does, for a file ``out`` that is no table of this
    method, and where no clip can be compared.
    """
    pairs, unmatched = find_pairs(generated, reference, layout)
    check_outputs({"--out": out}, [path for pair in pairs for path in (pair.generated, pair.reference)])
    report_unmatched(unmatched)
    earlier = read_scores(out, method) if out.exists() else {}
    rows, progress = dict(earlier), Progress("scoring", len(pairs), "clips")
    written = time.time()
    try:
        for pair in pairs:
            row = score_pair(pair, scorer, earlier.get(pair.clip, {}))
            rows[pair.clip] = {"method": method, "identity": pair.identity, "clip": pair.clip, **row}
            progress.add(1)
            if time.time() - written > WRITTEN_EVERY:
                write_scores(out, list(rows.values()))
                written = time.time()
    finally:
        write_scores(out, list(rows.values()))
    table = pd.DataFrame([rows[pair.clip] for pair in pairs])
    write_scores(out, list(table.to_dict("records")))  # without clips that are not there any more
    if "MSE" not in table or table["MSE"].isna().all():
        raise ValueError(f"{generated}: no clip could be compared; {table['note'].iloc[0]}")
    return table


def score_pair(pair: Pair, scorer: Scorer, earlier: dict[str, Any]) -> dict[str, Any]:
    """The row of a clip: the earlier one where nothing has changed, or else one with a note and no metrics
    where it cannot be compared. What may be possible later has no key, and is tried again by the next run.
    """
    key = ""
    try:
        key = scorer.key(pair)
        if earlier.get("key") == key:
            return {k: v for k, v in earlier.items() if k not in ("method", "identity", "clip")}
        return {**scorer.score(pair), "key": key}
    except (ValueError, RuntimeError) as error:  # also UnreadableVideo, Rejected and DetectionFailed
        cause = str(error)
    except OSError as error:
        cause, key = f"cannot be read ({error.strerror or error})", ""
    except MemoryError:
        cause, key = "memory ran out; close other programs", ""
    note = cause if str(pair.generated) in cause else f"{pair.generated} or {pair.reference}: {cause}"
    print(f"  left out: {note}", flush=True)
    return {"note": note, "key": key}


def report_unmatched(lines: list[str]) -> None:
    """Print what has no counterpart, a few examples of each kind."""
    for missing in (True, False):
        kind = [line for line in lines if line.endswith("not generated") == missing]
        for line in kind[:EXAMPLES]:
            print(f"  left out: {line}", flush=True)
        if len(kind) > EXAMPLES:
            what = "references that were not generated" if missing else "videos without a reference"
            print(f"  ... and {len(kind) - EXAMPLES} more {what}", flush=True)


def read_table(path: Path) -> pd.DataFrame:
    """A table of :func:`score`. Raises ValueError for another file."""
    text = dict.fromkeys(("method", "identity", "clip", "note", "key"), str)
    try:
        table = pd.read_csv(path, dtype=text)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error})") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{path}: is no table of scores ({missing[0]} is missing)")
    return table.fillna(dict.fromkeys(text, ""))


def read_scores(path: Path, method: str) -> dict[str, dict[str, Any]]:
    """The rows of a table of :func:`score`, by clip. Raises ValueError for another file."""
    try:
        table = read_table(path)
        if others := set(table["method"]) - {method}:
            raise ValueError(f"{path}: is the table of {', '.join(others)}")
    except ValueError as error:
        raise ValueError(f"{error}; choose another --out") from error
    return {row["clip"]: row for row in table.to_dict("records")}


def write_scores(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a table; it appears by rename."""
    table = pd.DataFrame(rows, columns=list(dict.fromkeys((*COLUMNS[:3], *chain(*rows), *COLUMNS[3:]))))
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The means of a table of :func:`score` over identities, with intervals: a row for each metric, and for
    the share of frames with faces.
    """
    shares = table[FACES] / table["frames"]
    table = table.assign(**{f"share of {FACES}": shares})
    rows = []
    for name in [name for name in table if name not in COLUMNS]:
        values = table[table[name].notna()]
        if len(values):
            means = identity_means(values[name].to_numpy(float), values["identity"].to_numpy())
            estimate = mean_estimate(means)
            rows.append((name, estimate.value, estimate.low, estimate.high, len(means), len(values)))
    return pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high", "n_identities", "n_clips"])
