"""A corpus folder between runs: who writes into it, what of it is kept, and what is to be prepared."""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import filelock

from ..files import write_text
from .sidecars import find_sidecar
from .sources import Unit, is_leftover
from .store import FRAME_FILES, MANIFEST, TRACK, read_manifest

VERSION = 2  # raised when the same sources and settings give other frames, landmarks or times
# files of the output folder that are no part of the corpus; the marker says that the folder is one
MARKER, LOCK, HOLDER = ".talking-heads-corpus", ".talking-heads-lock", ".talking-heads-lock-holder"
PARTIAL = ".talking-heads-partial-"


class Settings(NamedTuple):
    size: int
    frames_per_video: int  # 0 for all


def fingerprint(unit: Unit, settings: Settings) -> str:
    """Changes whenever a source, its landmarks, the settings or the meaning of a prepared video do."""
    files = [f for s in unit.sources for f in (s, find_sidecar(s)) if f and f.exists()]
    parts = [
        VERSION,
        *settings,
        *(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files),
        *(reason for _, reason in unit.left_out),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder, made where it is missing. Raises ValueError, saying who holds it, where
    another run does.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock, holder = filelock.FileLock(out / LOCK), out / HOLDER
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another run"
        raise ValueError(
            f"{out}: {who} prepares into this folder; wait for it, or prepare into another one"
        ) from error
    try:
        write_text(out / MARKER, "A corpus that 'python -m talking_heads prepare' writes.\n")
        write_text(
            holder,
            f"process {os.getpid()} on {socket.gethostname()}, started {time.strftime('%Y-%m-%d %H:%M:%S')},",
        )
        for left in out.glob(f"{PARTIAL}*"):
            if {f.name for f in left.iterdir()} <= {*FRAME_FILES, TRACK}:  # of a run that was killed
                shutil.rmtree(left)
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


class Plan(NamedTuple):
    """What of a corpus is kept and what is to be done."""

    kept: list[dict]  # lines of the manifest
    todo: list[Unit]


def plan(source: Path, units: list[Unit], out: Path, settings: Settings) -> Plan:
    """Compare a source's videos with what is prepared; what other sources left in the corpus is kept.

    Raises ValueError where the output folder is not a corpus, holds frames of another size, or holds another
    source's video of the same name.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder to prepare into")
    inside = {f.name for f in out.iterdir()} if out.exists() else set()
    old = read_manifest(out) if MANIFEST in inside else []
    strange = sorted(name for name in inside if not is_leftover(name))
    if strange and MARKER not in inside and not old:
        some = ", ".join(strange[:3])
        raise ValueError(f"{out}: holds files and no prepared corpus ({some}); give an empty or a new folder")
    lines: dict[tuple[str, str, str], list[dict]] = {}
    for line in old:
        lines.setdefault((line["split"], line["person"], line["video"]), []).append(line)
    kept, todo = [], []
    for unit in units:
        there = lines.pop(unit.key, [])
        paths = (*unit.sources, *(path for path, _ in unit.left_out))
        names = [path.name for path in paths]
        if (
            {line["key"] for line in there} == {fingerprint(unit, settings)}
            and [Path(line["source"]).name for line in there] == names
            and _is_written(out, there)
        ):
            kept += [
                {**line, "source": os.path.relpath(path, out)}
                for line, path in zip(there, paths, strict=True)
            ]
            continue
        others = [Path(os.path.normpath(out / line["source"])) for line in there]
        foreign = next((path for path in others if not path.is_relative_to(source)), None)
        if foreign:
            raise ValueError(
                f"{out}: video {unit.video!r} of {unit.person!r} is prepared from {foreign}; "
                f"prepare {source} into another folder, or put both below one folder"
            )
        todo.append(unit)
    for there in lines.values():  # of other sources, or of files that are gone from this one
        kept += [
            line for line in there if not Path(os.path.normpath(out / line["source"])).is_relative_to(source)
        ]
    if other := sorted({line["size"] for line in kept if line["frames"]} - {settings.size}):
        raise ValueError(
            f"{out}: holds frames of {other[0]}², not {settings.size}²; prepare into another folder"
        )
    return Plan(kept, todo)


def _is_written(out: Path, lines: list[dict]) -> bool:
    line = lines[0]
    return (
        not any(one["frames"] for one in lines)
        or (out / line["split"] / line["person"] / line["video"] / TRACK).exists()
    )


def refuse_overlap(source: Path, out: Path) -> None:
    """Raises ValueError where the output folder lies in the source, or the source in it."""
    if out == source or out.is_relative_to(source) or source.is_relative_to(out):
        raise ValueError(
            f"{out}: overlaps the source {source}, with which it would mix; give a folder beside it"
        )


def linked(units: list[Unit], source: Path) -> set[Path]:
    """The links that lead from a source to its files: files and folders."""
    paths = {path for unit in units for path in unit.sources}
    folders = {folder for parent in {path.parent for path in paths} for folder in (parent, *parent.parents)}
    return {
        path
        for path in paths | {f for f in folders if f.is_relative_to(source) and f != source}
        if path.is_symlink()
    }


def manifest_line(line: dict) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a name that is not UTF-8
        text = json.dumps(line)
    return text + "\n"
