"""A prepared corpus on disk: cropped frames and landmark tracks per video, and a manifest of what became
of every source.

``<root>/manifest.jsonl`` has a line per source file. ``<root>/<split>/<person>/<video>/`` holds
``frames.npy`` (n, S, S, 3) uint8 up to 128², ``frames.jpgs`` with ``offsets.npy`` above, and ``track.npz``:
landmarks (n, 68, 2) float32 in pixels of the crop, the clip and time of every frame, and pupils and hidden
points where the source has them.
"""

import hashlib
import json
import zipfile
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..profiles import fits
from .crops import Square, crop
from .video import SOUND_RATE, UnreadableVideo, open_video

MANIFEST, TRACK = "manifest.jsonl", "track.npz"
FRAME_FILES = ("frames.npy", "frames.jpgs", "offsets.npy")
FIELDS = {"split": str, "person": str, "video": str, "source": str, "frames": int, "key": str, "note": str}
RAW_UP_TO = 128  # larger frames are stored as JPEG: a tenth of the space, 2 ms each to read
JPEG_QUALITY = 97


class CorpusDamaged(ValueError):
    """Files of a prepared corpus are missing or are not what was written; the message names them and the
    remedy.
    """


class Entry(NamedTuple):
    person: str
    video: str
    frames: int


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """Frames (n, S, S, 3) into a video's folder."""
    if frames.shape[1] <= RAW_UP_TO:
        np.save(folder / "frames.npy", frames)
        return
    coded = [
        cv2.imencode(
            ".jpg",
            f[..., ::-1],
            [
                cv2.IMWRITE_JPEG_QUALITY,
                JPEG_QUALITY,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
            ],
        )[1].tobytes()
        for f in frames
    ]
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, coded)]))
    (folder / "frames.jpgs").write_bytes(b"".join(coded))


def read_manifest(root: Path) -> list[dict]:
    """The manifest's lines, without a last one that a kill has torn. Raises :class:`CorpusDamaged`, naming
    file and line.
    """
    path = root / MANIFEST
    *whole, rest = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    lines = []
    for number, text in enumerate([*whole, rest], 1):
        if not text:
            continue
        try:
            lines.append(_checked(json.loads(text)))
        except (ValueError, KeyError, TypeError) as error:
            if number > len(whole) and lines:
                break
            cause = f"{error}; move the file away and prepare again"
            raise CorpusDamaged(f"{path}, line {number}: {cause}") from error
    sizes: dict[Path, int] = {}
    for line in lines:
        if line["size"] is None:  # written before lines stated it
            folder = root / line["split"] / line["person"] / line["video"]
            line["size"] = sizes[folder] if folder in sizes else sizes.setdefault(folder, frame_size(folder))
    return lines


def _checked(line: dict) -> dict:
    """A line of a manifest. Raises KeyError, TypeError or ValueError, naming the field."""
    for name, kind in FIELDS.items():
        if type(line[name]) is not kind:
            raise TypeError(f"{name} is {line[name]!r}, not {kind.__name__}")
    for name in ("split", "person", "video"):
        if line[name] in ("", ".", "..") or "/" in line[name]:
            raise ValueError(f"{name} is {line[name]!r}, which is no name of a folder")
    if line["frames"] and (
        not fits(line.get("square"), list[float])
        or len(line["square"]) != 3
        or not fits(line.get("fps"), float)
    ):
        raise ValueError(f"square is {line.get('square')!r} and fps {line.get('fps')!r}, not numbers")
    if line.get("size") is not None and type(line["size"]) is not int:
        raise TypeError(f"size is {line['size']!r}, not int")
    return {**line, "size": line.get("size")}


def frame_size(folder: Path) -> int:
    """Side of a prepared video's frames in pixels, 0 where it has none."""
    if not any((folder / name).exists() for name in FRAME_FILES):
        return 0
    return int(read_frames(folder, np.array([0]))[0].shape[1])


@lru_cache(maxsize=1024)
def _open(folder: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    try:
        with np.load(folder / TRACK) as track:
            landmarks = track["landmarks"]
            pupils = (
                track["pupils"] if "pupils" in track else np.full((len(landmarks), 2, 2), np.nan, np.float32)
            )
        points = np.concatenate([landmarks, pupils], 1)
        if (folder / "frames.npy").exists():
            data, offsets = np.load(folder / "frames.npy", mmap_mode="r"), None
        else:
            data, offsets = np.memmap(folder / "frames.jpgs", np.uint8, "r"), np.load(folder / "offsets.npy")
        if len(points) != len(data if offsets is None else offsets[1:]) or (
            offsets is not None and offsets[-1] > len(data)
        ):
            raise ValueError("frames and landmarks differ in number")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorpusDamaged(
            f"{folder}: a prepared video is damaged ({error}); delete this folder and prepare again"
        ) from error
    return data, offsets, points


def read_frames(folder: Path, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (k, S, S, 3) of a video's folder, and landmarks and pupils (k, 70, 2), these NaN where they
    are not known.

    Raises :class:`CorpusDamaged`.
    """
    data, offsets, points = _open(folder)
    if offsets is None:
        return data[frames], points[frames]
    images = [cv2.imdecode(data[offsets[f] : offsets[f + 1]], cv2.IMREAD_COLOR) for f in frames]
    if any(image is None for image in images):
        raise CorpusDamaged(
            f"{folder}: a prepared frame cannot be decoded; delete this folder and prepare again"
        )
    return np.stack(images)[..., ::-1], points[frames]


class Store:
    """The videos of one split of a prepared corpus, in a fixed order.

    Raises FileNotFoundError where nothing was prepared, ValueError where the split is empty or its frames are
    not of ``size``, :class:`CorpusDamaged` where the manifest is not one.
    """

    def __init__(self, root: Path, split: str, size: int | None = None):
        self.root, self.split = root, split
        manifest = root / MANIFEST
        if not manifest.exists():
            raise FileNotFoundError(
                f"{manifest}: no prepared corpus here; run 'python -m talking_heads prepare' first"
            )
        self.lines = [r for r in read_manifest(root) if r["split"] == split]
        kept: dict[tuple[str, str], int] = defaultdict(int)
        for r in self.lines:
            kept[r["person"], r["video"]] += r["frames"]
        self.entries = [Entry(*k, n) for k, n in sorted(kept.items()) if n]
        if not self.entries:
            reasons = "; ".join(sorted({r["note"] for r in self.lines if not r["frames"]})) or "no sources"
            raise ValueError(f"{manifest}: split {split!r} holds no usable video; reasons: {reasons}")
        self._first: dict[tuple[str, str], dict] = {}
        for r in self.lines:
            if r["frames"]:
                self._first.setdefault((r["person"], r["video"]), r)
        self.size = next(iter(self._first.values()))["size"]
        if size is not None and size != self.size:
            raise ValueError(
                f"{manifest}: frames of {self.size}², {size}² are needed; prepare again with --size {size}"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def frame_count(self, number: int) -> int:
        return self.entries[number].frames

    def person(self, number: int) -> str:
        return self.entries[number].person

    def folder(self, number: int) -> Path:
        e = self.entries[number]
        return self.root / self.split / e.person / e.video

    def read(self, number: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and landmarks (k, 68, 2) float32; with ``pupils`` (k, 70, 2), NaN
        where they are not known.
        """
        images, points = read_frames(self.folder(number), frames)
        return images, points if pupils else points[:, :68]

    def track(self, number: int) -> dict[str, np.ndarray]:
        """All that is known of a video's frames."""
        return dict(np.load(self.folder(number) / TRACK))

    def identity(self) -> str:
        """Eight hex digits that change whenever what was prepared does."""
        known = [
            [self.root.parent.name, r["person"], r["video"], r["frames"], r.get("square")] for r in self.lines
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:8]

    def people(self) -> dict[str, list[int]]:
        """Person -> numbers of its videos."""
        out: dict[str, list[int]] = defaultdict(list)
        for n, e in enumerate(self.entries):
            out[e.person].append(n)
        return dict(out)

    def first_source(self, number: int) -> dict:
        """The manifest's line of a video's first clip; ``source`` is its path below ``root``."""
        entry = self.entries[number]
        return self._first[entry.person, entry.video]

    def window(self, number: int, start: int, length: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """``length`` consecutive frames of a video's first clip from its source, cropped, and their 16 kHz
        sound.

        Frames follow the clip's clock: where its rate varies, a frame is repeated for as long as a player
        shows it. Returns frames (length, size, size, 3) uint8 and samples (n,) int16 or None. Raises
        ValueError where the clip is too short.
        """
        line = self.first_source(number)
        try:
            source = open_video(self.root.resolve() / line["source"])
        except (UnreadableVideo, OSError) as error:
            raise CorpusDamaged(
                f"{line['source']}: the source of a prepared video cannot be read ({error})"
            ) from error
        clock = source.clock()
        if start + length > len(clock):
            raise ValueError(f"{line['source']}: {len(clock)} frames, none at {start + length - 1}")
        shown = source.shown_at(clock[start : start + length])
        frames = np.stack([crop(image, Square(*line["square"]), size) for image in source.frames(shown)])
        sound = source.sound()
        if sound is None:
            return frames, None
        first, end = (round(t / source.fps * SOUND_RATE) for t in (start, start + length))
        heard = sound[first:end]
        return frames, np.pad(heard, (0, end - first - len(heard)))  # sound may end before the pictures
