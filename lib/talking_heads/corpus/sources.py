"""What a folder holds: every video and photograph with its split, person and video, and every file that
cannot be read.
"""

import hashlib
import mimetypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .photographs import PHOTOGRAPH_SUFFIXES
from .video import VIDEO_SUFFIXES

SPLITS = ("meta", "validation", "test")
LAYOUTS = ("folder", "voxceleb1", "voxceleb2")
# VoxCeleb1's speakers for verification tests, by number; as names, in the folders of frames, these are all
# that begin with E (Nagrani et al. 2017)
VOXCELEB1_TEST = {f"id{n}" for n in range(10270, 10310)}
PASSED_THROUGH = {"mp4", "unzippedFaces", "1.6"}  # folders that name neither a split nor a person
# the end of a path that lies within VoxCeleb's layout: [<split>/]mp4[/<person>[/<video>]], <split> or
# <person>[/<video>]
INNER_FOLDER = re.compile(
    r"(?:^|/)((?:(?:dev|meta|validation|test)/)?(?:mp4|unzippedFaces)(?:/[^/]+){0,3}"
    r"|(?:dev|meta|validation|test)|id\d{5,}(?:/[^/]+){0,2})$"
)
MEDIA_TYPES = mimetypes.MimeTypes(filenames=())  # Python's own table: the same on every machine
RAW_PHOTOGRAPHS = set(
    [
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".raf",
        ".orf",
        ".rw2",
        ".pef",
        ".srw",
        ".psd",
        ".jxl",
        ".insv",
        ".braw",
        ".r3d",
    ]
)
UNFINISHED = {".part", ".partial", ".crdownload", ".download", ".tmp"}  # endings of interrupted downloads
LEFTOVERS = {
    "@eadir",
    "__macosx",
    "lost+found",
    "$recycle.bin",
    "system volume information",
}  # folders of file managers
PREVIEWS = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
PREVIEW_SUFFIXES = {".thm", ".lrv"}  # a camera's small copies


class Unit(NamedTuple):
    """One video of one person: its clips, or the photographs that stand for one, and the files that cannot
    be read.
    """

    split: str
    person: str
    video: str
    sources: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()  # with the reason

    @property
    def key(self) -> tuple[str, str, str]:
        return self.split, self.person, self.video


def place_of(source: Path) -> Path:
    """Where a source is: links to a folder are followed; a file keeps its name, a link's too."""
    return source.resolve() if source.is_dir() else source.parent.resolve() / source.name


def split_of(person: str, folder: str, layout: str) -> str:
    """The group a person belongs to, for good: named by its folder, by VoxCeleb's own lists, else drawn by
    hash.

    One's own folder without groups is all test. A fiftieth of VoxCeleb's development people are for
    validation.
    """
    if folder in SPLITS:
        return folder
    if layout == "folder" or (layout == "voxceleb1" and (person in VOXCELEB1_TEST or person.startswith("E"))):
        return "test"
    return "validation" if int(hashlib.sha256(os.fsencode(person)).hexdigest(), 16) % 50 == 0 else "meta"


def discover(source: Path, layout: str = "folder") -> list[Unit]:
    """The videos and photographs below ``source``, or the one that it is.

    ``[<split>/][mp4/]<person>/<video>/<clip>.mp4`` is VoxCeleb's layout, wherever it begins; a folder of
    photographs is one video of the person that the folder (or the folder above) is named after; a video in a
    folder is one of the person that this is named after, and any other video file a person of its own. Links
    to folders are followed. Raises ValueError where there is nothing.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such folder or file")
    source = place_of(source)
    groups: dict[tuple[str, str, str], tuple[list[Path], list[tuple[Path, str]]]] = {}
    for path, reason in [(source, "")] if source.is_file() else walk(source):
        reason = reason or unusable(path)
        if reason is None:
            continue
        readable, left_out = groups.setdefault(_place(path, source, layout), ([], []))
        if reason:
            left_out.append((path, reason))
        else:
            readable.append(path)
    if not any(readable for readable, _ in groups.values()):
        reasons = sorted(
            {f"{path.name}: {reason}" for _, left_out in groups.values() for path, reason in left_out}
        )
        raise ValueError(
            f"{source}: holds no video and no photograph that can be read"
            + (f" ({'; '.join(reasons[:3])})" if reasons else "")
            + f"; known endings: {' '.join(sorted(VIDEO_SUFFIXES | PHOTOGRAPH_SUFFIXES))}"
        )
    return [
        Unit(*key, tuple(readable), tuple(left_out)) for key, (readable, left_out) in sorted(groups.items())
    ]


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or what a file manager or a camera puts beside files."""
    name = name.lower()
    return name.startswith(".") or name in LEFTOVERS | PREVIEWS or Path(name).suffix in PREVIEW_SUFFIXES


def walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder in order, links to folders followed, each folder once.

    A folder that cannot be read, or is read already under another name, comes with that reason instead of its
    files. What file managers and cameras put beside files, and everything hidden, is passed over.
    """
    visited: dict[tuple[int, int], Path] = {}

    def below(folder: Path) -> Iterator[tuple[Path, str]]:
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            yield folder, f"a folder that cannot be read ({error.strerror})"
            return
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            yield folder, f"the same folder as {visited[identity]}"
            return
        visited[identity] = folder
        folders = []
        for entry in entries:
            if is_leftover(entry.name):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                yield Path(entry.path), f"cannot be read ({error.strerror})"
                continue
            if is_folder:
                folders.append(Path(entry.path))
            else:
                yield Path(entry.path), ""
        for inner in folders:
            yield from below(inner)

    yield from below(root)


def unusable(path: Path) -> str | None:
    """Why a file is no source: "" where it is one, None where nobody would take it for a video or
    photograph.
    """
    suffix = path.suffix.lower()
    known = suffix in VIDEO_SUFFIXES | PHOTOGRAPH_SUFFIXES
    kind = MEDIA_TYPES.guess_type(f"x{suffix}")[0] or ""
    looks_like_one = known or suffix in RAW_PHOTOGRAPHS or kind.startswith(("video/", "image/"))
    if suffix in UNFINISHED:
        inner = path.with_suffix("").suffix.lower()
        unfinished = inner in VIDEO_SUFFIXES | PHOTOGRAPH_SUFFIXES or suffix == ".crdownload"
        return "an unfinished download or copy; finish it" if unfinished else None
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, which is not there" if looks_like_one or not suffix else None
    if not looks_like_one:
        return None
    if not path.is_file() and path.exists():
        return "no regular file"
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    return "" if known else f"files with the ending {suffix} cannot be read; convert it to jpg, png or mp4"


def _place(path: Path, source: Path, layout: str) -> tuple[str, str, str]:
    """Split, person and video of a file."""
    folder = source if source.is_dir() else source.parent
    parts = path.relative_to(folder).parts[:-1]
    if layout != "folder" and (inner := INNER_FOLDER.search(folder.as_posix())):
        parts = (*inner[1].split("/"), *parts)
    named, above = "", [p for p in parts if p not in PASSED_THROUGH]
    for number in range(max(len(above) - 1, min(len(above), 1)) - 1, -1, -1):
        if above[number] in (*SPLITS, "dev"):
            named, above = above[number], above[number + 1 :]
            break
    if path.suffix.lower() in PHOTOGRAPH_SUFFIXES:
        name = above[-1] if above else path.stem if source.is_file() else source.name or "photographs"
        person = above[-2] if len(above) > 1 else name
    elif len(above) >= 2:
        person, name = above[-2], above[-1]
    else:
        person, name = above[0] if above else path.stem, path.stem
    person, name = (
        p if p.strip(".") else "_" * len(p) for p in (person, name)
    )  # ".." would be another folder
    return split_of(person, named, layout), person, name
