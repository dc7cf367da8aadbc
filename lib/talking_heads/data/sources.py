"""Discovery of the sources below a folder: videos and photographs with their split, identity and video."""

import hashlib
import mimetypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from talking_heads.data.photographs import PHOTOGRAPH_SUFFIXES
from talking_heads.data.video import VIDEO_SUFFIXES

SPLITS = ("meta", "validation", "test")
LAYOUTS = ("folder", "voxceleb1", "voxceleb2", "crema", "lrw")
TALKING_LAYOUTS = ("crema", "lrw")  # corpora of clips with sound
CREMA_NAME = re.compile(r"(10\d\d)_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}")  # actor, sentence, emotion, intensity
CREMA_TEST = {f"10{n}" for n in (15, 20, 21, 30, 33, 52, 62, 81, 82, 89)}  # actors of the paper's evaluation
LRW_SPLITS = {"train": "meta", "val": "validation", "test": "test"}
# identities of VoxCeleb1's verification test; in the folders of frames, which have names in place of numbers,
# these are all names that begin with E (Nagrani et al. 2017)
VOXCELEB1_TEST = {f"id{n}" for n in range(10270, 10310)}
PASSED_THROUGH = {"mp4", "unzippedFaces", "1.6"}  # folders that name neither a split nor an identity
# the end of a path inside VoxCeleb's layout: [<split>/]mp4[/<identity>[/<video>]], <split> or
# <identity>[/<video>]
INNER_FOLDER = re.compile(
    r"(?:^|/)((?:(?:dev|meta|validation|test)/)?(?:mp4|unzippedFaces)(?:/[^/]+){0,3}"
    r"|(?:dev|meta|validation|test)|id\d{5,}(?:/[^/]+){0,2})$"
)
MEDIA_TYPES = mimetypes.MimeTypes(filenames=())  # Python's table, which is the same on every machine
RAW_PHOTOGRAPHS = {
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    *(".psd", ".jxl", ".insv", ".braw", ".r3d"),
}
UNFINISHED = {".part", ".partial", ".crdownload", ".download", ".tmp"}  # suffixes of interrupted downloads
# folders of file managers
LEFTOVERS = {"@eadir", "__macosx", "lost+found", "$recycle.bin", "system volume information"}
PREVIEWS = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
PREVIEW_SUFFIXES = {".thm", ".lrv"}  # small copies that a camera writes


class Unit(NamedTuple):
    """One video of one identity: its clips or photographs, and the files that cannot be read."""

    split: str
    person: str  # the identity
    video: str
    sources: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()  # each with the reason

    @property
    def key(self) -> tuple[str, str, str]:
        return self.split, self.person, self.video


def place_of(source: Path) -> Path:
    """The resolved path of a source; a file, also a linked one, keeps its name."""
    return source.resolve() if source.is_dir() else source.parent.resolve() / source.name


def split_of(identity: str, folder: str, layout: str) -> str:
    """The split of an identity, which never changes.

    It is the folder's name where that names a split. Otherwise all identities of your own folder are for
    testing, and the lists of VoxCeleb and of CREMA-D determine their test identities. A hash selects a
    fiftieth of the others for validation, a tenth of CREMA-D's.
    """
    if folder in SPLITS:
        return folder
    if layout == "folder":
        return "test"
    if layout == "crema" and identity in CREMA_TEST:
        return "test"
    if layout == "voxceleb1" and (identity in VOXCELEB1_TEST or identity.startswith("E")):
        return "test"
    number = int(hashlib.sha256(os.fsencode(identity)).hexdigest(), 16)
    return "validation" if number % (10 if layout == "crema" else 50) == 0 else "meta"


def discover(source: Path, layout: str = "folder") -> list[Unit]:
    """The videos and photographs below a folder, or of a single file.

    - ``[<split>/][mp4/]<identity>/<video>/<clip>.mp4`` is VoxCeleb's layout; ``source`` may be any folder in
      it.
    - A folder of photographs is one video. Its identity is the name of the folder above, or its own name
      where there is none.
    - A video in a folder is a video of the identity that the folder names; a video outside of a folder is an
      identity.
    - With ``layout`` "crema", ``<actor>_<sentence>_<emotion>_<intensity>.*`` in any folder is a video of the
      actor; with "lrw", ``<word>/<train, val or test>/<clip>.*`` is a clip of somebody unknown, who counts as
      an identity.

    Links to folders are followed. Raises ValueError where there is nothing that can be read.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such folder or file")
    source = place_of(source)
    groups: dict[tuple[str, str, str], tuple[list[Path], list[tuple[Path, str]]]] = {}
    for path, problem in [(source, "")] if source.is_file() else walk(source):
        reason = problem or unusable(path)
        if reason == "" and layout in TALKING_LAYOUTS:
            reason = misplaced(path, layout)
        if reason is None:
            continue
        readable, left_out = groups.setdefault(_place(path, source, layout), ([], []))
        if reason:
            left_out.append((path, reason))
        else:
            readable.append(path)
    if not any(readable for readable, _ in groups.values()):
        rejected = [entry for _, left_out in groups.values() for entry in left_out]
        reasons = sorted({f"{path.name}: {reason}" for path, reason in rejected})
        examples = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise ValueError(
            f"{source}: holds no video and no photograph that can be read{examples}; "
            f"supported endings: {' '.join(sorted(VIDEO_SUFFIXES | PHOTOGRAPH_SUFFIXES))}"
        )
    return [
        Unit(*key, tuple(readable), tuple(left_out)) for key, (readable, left_out) in sorted(groups.items())
    ]


def is_leftover(name: str) -> bool:
    """Whether a name belongs to a hidden file or folder, or to one that file managers and cameras create."""
    name = name.lower()
    return name.startswith(".") or name in LEFTOVERS | PREVIEWS or Path(name).suffix in PREVIEW_SUFFIXES


def walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Iterate over the files below a folder in order, as (path, reason why it cannot be read or "").

    Links to folders are followed, each folder is read once. A folder that cannot be read, or was read under
    another name, appears in place of its files. Hidden files, and those of :func:`is_leftover`, are skipped.
    """
    visited: dict[tuple[int, int], Path] = {}

    def visit(folder: Path) -> Iterator[tuple[Path, str]]:
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
            yield from visit(inner)

    yield from visit(root)


def unusable(path: Path) -> str | None:
    """Why a file cannot be a source: "" where it can, None where it is neither a video nor a photograph."""
    suffix = path.suffix.lower()
    supported = suffix in VIDEO_SUFFIXES | PHOTOGRAPH_SUFFIXES
    kind = MEDIA_TYPES.guess_type(f"x{suffix}")[0] or ""
    is_media = supported or suffix in RAW_PHOTOGRAPHS or kind.startswith(("video/", "image/"))
    if suffix in UNFINISHED:
        inner = path.with_suffix("").suffix.lower()
        unfinished = inner in VIDEO_SUFFIXES | PHOTOGRAPH_SUFFIXES or suffix == ".crdownload"
        return "an unfinished download or copy; finish it" if unfinished else None
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, which is not there" if is_media or not suffix else None
    if not is_media:
        return None
    if not path.is_file() and path.exists():
        return "no regular file"
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    return (
        "" if supported else f"files with the ending {suffix} cannot be read; convert it to jpg, png or mp4"
    )


def misplaced(path: Path, layout: str) -> str:
    """Why a file is not part of CREMA-D ("crema") or LRW ("lrw"), "" where it is."""
    if layout == "crema":
        return "" if CREMA_NAME.fullmatch(path.stem) else "not named as CREMA-D's files, 1001_DFA_ANG_XX"
    return "" if path.parent.name in LRW_SPLITS else "not in a folder train, val or test, as LRW's clips"


def utterance_of(video: str, layout: str) -> str:
    """What is said in a clip: the code of CREMA-D's sentence, LRW's word, "" where the name does not say."""
    if layout == "crema":
        return video.split("_")[1]
    return video.rpartition("_")[0] if layout == "lrw" else ""


def _place(path: Path, source: Path, layout: str) -> tuple[str, str, str]:
    """Split, identity and video of a file."""
    if layout == "crema":
        actor = path.stem.split("_")[0] if CREMA_NAME.fullmatch(path.stem) else path.stem
        return split_of(actor, "", layout), actor, path.stem
    if layout == "lrw":
        return LRW_SPLITS.get(path.parent.name, "test"), path.stem, path.stem
    root = source if source.is_dir() else source.parent
    parts = path.relative_to(root).parts[:-1]
    if layout != "folder" and (inner := INNER_FOLDER.search(root.as_posix())):
        parts = (*inner[1].split("/"), *parts)
    split, folders = "", [name for name in parts if name not in PASSED_THROUGH]
    # the last folder names a video or an identity, unless it is the only one
    candidates = max(len(folders) - 1, min(len(folders), 1))
    for number in reversed(range(candidates)):
        if folders[number] in (*SPLITS, "dev"):
            split, folders = folders[number], folders[number + 1 :]
            break
    if path.suffix.lower() in PHOTOGRAPH_SUFFIXES:
        fallback = path.stem if source.is_file() else source.name or "photographs"
        video = folders[-1] if folders else fallback
        identity = folders[-2] if len(folders) > 1 else video
    elif len(folders) >= 2:
        identity, video = folders[-2:]
    else:
        identity, video = folders[0] if folders else path.stem, path.stem
    identity, video = _folder_name(identity), _folder_name(video)
    return split_of(identity, split, layout), identity, video


def _folder_name(name: str) -> str:
    """The name, with underscores in place of one that consists of dots, such as the parent folder's."""
    return name if name.strip(".") else "_" * len(name)
