"""The manifest of a prepared corpus, and an index of it that opens at once.

``<root>/manifest.jsonl`` is a log: one line per source file, with its number of frames or the reason why it
is missing. ``<root>/manifest.npz`` holds what training needs of it in columns; it is derived from the log,
and made again where the log has changed.
"""

import hashlib
import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from talking_heads.data.frame_files import CorpusDamaged, frame_size
from talking_heads.files import replacing

MANIFEST, INDEX = "manifest.jsonl", "manifest.npz"
INDEX_VERSION = 1
FIELDS: dict[str, type] = {
    "split": str,
    "person": str,
    "video": str,
    "source": str,
    "frames": int,
    "key": str,
    "note": str,
}


def read_manifest(root: Path, name: str = MANIFEST) -> list[dict]:
    """The lines of the manifest, or of a shard's, without an incomplete last line of an interrupted run.

    Raises :class:`CorpusDamaged`, which names the file and the line.
    """
    return [line for _, line in iterate_manifest(root, name)]


def iterate_manifest(root: Path, name: str = MANIFEST) -> Iterator[tuple[int, dict]]:
    """The lines of :func:`read_manifest`, each with its position in the file in bytes."""
    path, position = root / name, 0
    sizes: dict[Path, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            text = raw.decode("utf-8", "surrogateescape")
            try:
                line = parse_line(text) if text.strip("\n") else None
            except (ValueError, KeyError, TypeError) as error:
                if not text.endswith("\n"):
                    return
                cause = f"{error}; move the file away and prepare again"
                raise CorpusDamaged(f"{path}, line {number}: {cause}") from error
            if line:
                if line["size"] is None:  # older manifests do not contain the size
                    folder = root / line["split"] / line["person"] / line["video"]
                    line["size"] = (
                        sizes[folder] if folder in sizes else sizes.setdefault(folder, frame_size(folder))
                    )
                yield position, line
            position += len(raw)


def manifest_line(line: dict) -> str:
    """A line of the manifest as JSON; names that are not valid UTF-8 are escaped."""
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(line)
    return text + "\n"


def line_at(path: Path, position: int) -> dict:
    """The line of a manifest that begins at a byte; {} where none does."""
    with path.open("rb") as file:
        file.seek(position)
        try:
            return parse_line(file.readline().decode("utf-8", "surrogateescape"))
        except (ValueError, KeyError, TypeError):
            return {}


def parse_line(text: str) -> dict:
    """A line of a manifest, with its size or None. Raises KeyError, TypeError or ValueError."""
    line = json.loads(text)
    for name, kind in FIELDS.items():
        if type(line[name]) is not kind:
            raise TypeError(f"{name} is {line[name]!r}, not {kind.__name__}")
    for name in ("split", "person", "video"):
        if line[name] in ("", ".", "..") or "/" in line[name]:
            raise ValueError(f"{name} is {line[name]!r}, which is no name of a folder")
    square, fps = line.get("square"), line.get("fps")
    numbers = [*square, fps] if isinstance(square, list) and len(square) == 3 else [None]
    if line["frames"] and not all(map(_is_number, numbers)):
        raise ValueError(f"square is {square!r} and fps {fps!r}, not numbers")
    if line.get("size") is not None and type(line["size"]) is not int:
        raise TypeError(f"size is {line['size']!r}, not int")
    return {**line, "size": line.get("size")}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(line: dict) -> float:
    """Length of a source; photographs count as one second each, as VoxCeleb1's frames at 1 fps."""
    return line.get("of", line["frames"]) / (line["fps"] or 1.0) if line["frames"] else 0.0


@dataclass
class Index:
    """Columns of a split's usable videos, in the order of their names, and of their usable sources.

    The sources of video v are ``first_source[v] : first_source[v + 1]``, in the order of the manifest.
    """

    person: np.ndarray  # (videos,) bytes: the identities
    video: np.ndarray  # (videos,) bytes
    frames: np.ndarray  # (videos,) in the corpus
    seconds: np.ndarray  # (videos,) length of the sources, with the frames that were left out
    first_source: np.ndarray  # (videos + 1,)
    source_frames: np.ndarray  # (sources,)
    source_position: np.ndarray  # (sources,) of its line in the manifest, in bytes
    size: int  # side of the frames in pixels; 0 without videos
    digest: str  # changes with the prepared videos


def read_index(root: Path, split: str) -> Index:
    """The index of a split, which is made where it is missing or older than the manifest.

    Raises FileNotFoundError where there is no manifest, and :class:`CorpusDamaged`.
    """
    status = (root / MANIFEST).stat()
    state = json.dumps([INDEX_VERSION, corpus_name(root), status.st_size, status.st_mtime_ns])
    try:
        with np.load(root / INDEX) as stored:
            if stored["state"].item() == state:
                return _index_of(stored, split)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    columns = _make_columns(root) | {"state": np.array(state)}
    try:
        with replacing(root / INDEX) as temporary:
            np.savez(temporary, **columns)  # type: ignore[arg-type]
    except OSError:  # a corpus that cannot be written to is indexed again by every process
        pass
    return _index_of(columns, split)


def corpus_name(root: Path) -> str:
    """The name of a corpus, of which ``root`` is the prepared folder."""
    return root.parent.name


def _index_of(columns: Mapping, split: str) -> Index:
    """The index of one split in the columns of all, without videos where there is no such split."""
    if f"{split}/size" not in columns:
        empty, names = np.zeros(0, np.int64), np.zeros(0, "S1")
        return Index(names, names, empty, empty, np.zeros(1, np.int64), empty, empty, 0, "")
    values = {name.name: columns[f"{split}/{name.name}"] for name in fields(Index)}
    return Index(**values | {"size": int(values["size"]), "digest": str(values["digest"])})


def _make_columns(root: Path) -> dict[str, np.ndarray]:
    """The columns of :class:`Index` of every split, as ``<split>/<name>``."""
    videos: dict[str, dict[tuple[str, str], Video]] = defaultdict(lambda: defaultdict(Video))
    sizes: dict[str, int] = {}
    hashes: dict[str, Digest] = defaultdict(lambda: Digest(corpus_name(root)))
    for position, line in iterate_manifest(root):
        split = line["split"]
        hashes[split].add(line)
        if line["frames"]:
            sizes.setdefault(split, line["size"])
            videos[split][line["person"], line["video"]].add(position, line)
    columns: dict[str, Any] = {}
    for split, entries in videos.items():
        names = sorted(entries)
        ordered = [entries[name] for name in names]
        values = Index(
            person=np.array([os.fsencode(person) for person, _ in names]),
            video=np.array([os.fsencode(video) for _, video in names]),
            frames=np.array([sum(video.frames) for video in ordered]),
            seconds=np.array([video.seconds for video in ordered]),
            first_source=np.cumsum([0, *(len(video.frames) for video in ordered)]),
            source_frames=np.array([n for video in ordered for n in video.frames], np.int32),
            source_position=np.array([n for video in ordered for n in video.positions]),
            size=sizes[split],
            digest=hashes[split].hexdigest(),
        )
        columns |= {f"{split}/{name.name}": np.asarray(getattr(values, name.name)) for name in fields(Index)}
    return columns


@dataclass
class Video:
    """The usable sources of a video."""

    frames: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, position: int, line: dict) -> None:
        self.frames.append(line["frames"])
        self.positions.append(position)
        self.seconds += _seconds(line)


class Digest:
    """A digest of the lines of a split: SHA-256 of a JSON list, item by item."""

    def __init__(self, corpus: str):
        self.corpus, self.sha256, self.separator = corpus, hashlib.sha256(b"["), ""

    def add(self, line: dict) -> None:
        item = [self.corpus, line["person"], line["video"], line["frames"], line.get("square")]
        self.sha256.update((self.separator + json.dumps(item)).encode())
        self.separator = ", "

    def hexdigest(self) -> str:
        """Eight digits."""
        complete = self.sha256.copy()
        complete.update(b"]")
        return complete.hexdigest()[:8]
