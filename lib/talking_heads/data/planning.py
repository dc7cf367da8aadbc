"""The state of a corpus folder: which run writes to it, what it keeps, and what is left to prepare."""

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import filelock

from talking_heads.config import digest
from talking_heads.data.frame_files import PREPARED_FILES, TRACK
from talking_heads.data.manifest import MANIFEST, read_manifest
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sources import Unit, is_leftover
from talking_heads.files import write_text
from talking_heads.shards import Shard

VERSION = 3  # raised when the same sources and settings give different frames, landmarks or times
# files of the output folder that hold no data; the marker identifies the folder as a corpus
MARKER, LOCK, HOLDER = ".talking-heads-corpus", ".talking-heads-lock", ".talking-heads-lock-holder"
PARTIAL = ".talking-heads-partial-"
COMPLETE = ".talking-heads-complete"  # with the settings, once everything of a source is prepared
LOOK = 2.0  # seconds in which other shards that begin have looked at a lock, too


class Settings(NamedTuple):
    """How a corpus is prepared."""

    size: int  # side of the prepared frames in pixels
    frames_per_video: int  # at most, 0 for all; of each clip where they are talking
    talking: str = ""  # consecutive frames with their sound, in this alignment; "" for frames without sound


def fingerprint(unit: Unit, settings: Settings) -> str:
    """Twelve hex digits that change with a video's sources, their landmarks, the settings and ``VERSION``."""
    files = [file for source in unit.sources for file in (source, find_sidecar(source))]
    parts = [
        VERSION,
        *(settings if settings.talking else settings[:2]),  # corpora without sound keep their fingerprints
        *(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files if f and f.exists()),
        *(reason for _, reason in unit.left_out),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def mark_complete(out: Path, settings: Settings, complete: bool) -> None:
    """Mark a corpus as complete, or as one that is being prepared."""
    if complete:
        write_text(out / COMPLETE, digest(VERSION, settings))
    else:
        (out / COMPLETE).unlink(missing_ok=True)


def is_complete(out: Path, settings: Settings) -> bool:
    """Whether the last preparation of a corpus, with these settings, came to its end."""
    path = out / COMPLETE
    return path.exists() and path.read_text(encoding="utf-8") == digest(VERSION, settings)


def part_name(shard: Shard) -> str:
    """The manifest of a shard."""
    return f"manifest-{shard.number}of{shard.total}.jsonl"


def shard_of(part: Path) -> Shard:
    """The shard of a manifest."""
    number, total = part.stem.removeprefix("manifest-").split("of")
    return Shard(int(number), int(total))


def parts(out: Path) -> list[Path]:
    """The manifests of the shards in a folder."""
    return sorted(out.glob("manifest-*of*.jsonl"))


def manifest_state(out: Path) -> list[tuple[str, int, int]]:
    """Changes whenever a manifest in a folder does."""
    statuses = [(path.name, path.stat()) for path in (out / MANIFEST, *parts(out)) if path.exists()]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in statuses]


@contextmanager
def locked(out: Path, shard: Shard | None = None) -> Iterator[None]:
    """Create the output folder where it is missing, and lock it, or a shard of it.

    Raises ValueError where another run has the same lock, or the whole folder is locked and a shard is
    wanted, or the other way round; the message names that run.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = f"{LOCK}-{shard.number}of{shard.total}" if shard else LOCK
    with _one_run(out, name):
        for other in [out / LOCK] if shard else sorted(out.glob(f"{LOCK}-*of*")):
            with _one_run(out, other.name, hold=False):
                pass
        write_text(out / MARKER, "A corpus that 'python -m talking_heads prepare' writes.\n")
        if shard is None:
            for partial in out.glob(f"{PARTIAL}*"):  # left by a run that was killed
                if {file.name for file in partial.iterdir()} <= PREPARED_FILES:
                    shutil.rmtree(partial)
        yield


@contextmanager
def _one_run(out: Path, name: str, hold: bool = True) -> Iterator[None]:
    """Hold a lock, and say who does. Raises ValueError, which names the run that holds it already."""
    lock, holder = filelock.FileLock(out / name), out / name.replace(LOCK, HOLDER)
    try:
        lock.acquire(timeout=0 if hold else LOOK)
    except filelock.Timeout as error:
        run = holder.read_text(encoding="utf-8") if holder.exists() else "another run"
        raise ValueError(
            f"{out}: {run} prepares into this folder; wait for it, or prepare into another one"
        ) from error
    try:
        if hold:
            start = time.strftime("%Y-%m-%d %H:%M:%S")
            write_text(holder, f"process {os.getpid()} on {socket.gethostname()}, started {start},")
        yield
    finally:
        if hold:
            holder.unlink(missing_ok=True)
        lock.release()


class Plan(NamedTuple):
    """The state of a corpus before a run."""

    manifest: list[dict]  # lines of the videos that need no preparation
    todo: list[Unit]
    of_units: list[dict]  # of these lines, those of the videos that were asked for


Key = tuple[str, str, str]  # split, identity and video


def plan(source: Path, units: list[Unit], keys: dict[Key, str], out: Path, settings: Settings) -> Plan:
    """Compare the videos of a source, by their fingerprints, with the corpus.

    Videos of other sources are kept. Raises ValueError where the output folder is not a corpus, has frames of
    another size, or has a video of the same name from another source.
    """
    by_video = _read_corpus(out)
    current, todo = [], []
    for unit in units:
        prepared = by_video.pop(unit.key, [])
        if _is_current(unit, prepared, out, keys[unit.key]):
            paths = _paths(unit)
            current += [
                {**line, "source": os.path.relpath(path, out)}
                for line, path in zip(prepared, paths, strict=True)
            ]
        else:
            _refuse_other_source(unit, prepared, out, source)
            todo.append(unit)
    # videos of other sources remain; those of this source no longer exist
    remaining = [line for prepared in by_video.values() for line in prepared]
    kept = [line for line in remaining if not _source_path(line, out).is_relative_to(source)]
    if sizes := sorted({line["size"] for line in [*current, *kept] if line["frames"]} - {settings.size}):
        raise ValueError(
            f"{out}: holds frames of {sizes[0]}², not {settings.size}²; prepare into another folder"
        )
    return Plan(current + kept, todo, current)


def _read_corpus(out: Path) -> dict[Key, list[dict]]:
    """The lines of the manifests in the output folder by video; those of shards replace older ones.

    Raises ValueError where the folder holds something else than a corpus.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder to prepare into")
    names = {file.name for file in out.iterdir()} if out.exists() else set()
    by_video: dict[Key, list[dict]] = {}
    for manifest in [MANIFEST] * (MANIFEST in names) + [path.name for path in parts(out)]:
        of_manifest: dict[Key, list[dict]] = {}
        for line in read_manifest(out, manifest):
            of_manifest.setdefault((line["split"], line["person"], line["video"]), []).append(line)
        by_video |= of_manifest
    foreign = sorted(name for name in names if not is_leftover(name))
    if foreign and MARKER not in names and not by_video:
        examples = ", ".join(foreign[:3])
        raise ValueError(
            f"{out}: holds files and no prepared corpus ({examples}); give an empty or a new folder"
        )
    return by_video


def _paths(unit: Unit) -> tuple[Path, ...]:
    return (*unit.sources, *(path for path, _ in unit.left_out))


def _source_path(line: dict, out: Path) -> Path:
    return Path(os.path.normpath(out / line["source"]))


def _is_current(unit: Unit, prepared: list[dict], out: Path, key: str) -> bool:
    """Whether the manifest's lines of a video match its sources and settings, and its frames exist."""
    keys = {line["key"] for line in prepared}
    names = [Path(line["source"]).name for line in prepared]
    return keys == {key} and names == [path.name for path in _paths(unit)] and _is_written(out, prepared)


def _is_written(out: Path, prepared: list[dict]) -> bool:
    first = prepared[0]
    track = out / first["split"] / first["person"] / first["video"] / TRACK
    return not any(line["frames"] for line in prepared) or track.exists()


def _refuse_other_source(unit: Unit, prepared: list[dict], out: Path, source: Path) -> None:
    """Raise ValueError where the prepared video comes from another source."""
    for line in prepared:
        path = _source_path(line, out)
        if not path.is_relative_to(source):
            raise ValueError(
                f"{out}: video {unit.video!r} of {unit.person!r} is prepared from {path}; "
                f"prepare {source} into another folder, or put both below one folder"
            )


def refuse_overlap(source: Path, out: Path) -> None:
    """Raise ValueError where the output folder lies inside the source, or the source inside it."""
    if out == source or out.is_relative_to(source) or source.is_relative_to(out):
        raise ValueError(f"{out}: overlaps the source {source}; give a folder beside it")


def linked(units: list[Unit], source: Path) -> set[Path]:
    """The symbolic links, files and folders, on the paths from a source to its files."""
    files = {path for unit in units for path in unit.sources}
    parents = {path.parent for path in files}
    folders = {folder for parent in parents for folder in (parent, *parent.parents)}
    inner = {folder for folder in folders if folder.is_relative_to(source) and folder != source}
    return {path for path in files | inner if path.is_symlink()}
