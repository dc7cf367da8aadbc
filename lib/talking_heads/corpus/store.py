"""A prepared corpus on disk: cropped frames and landmark tracks per video, and a manifest of what became of every source.

``<root>/manifest.jsonl`` has a line per source file. ``<root>/<split>/<person>/<video>/`` holds
``frames.npy`` (n, S, S, 3) uint8 up to 128², ``frames.jpgs`` with ``offsets.npy`` above, and
``track.npz``: landmarks (n, 68, 2) float32 in pixels of the crop, the clip and time of every frame,
and pupils and hidden points where the source has them.
"""

import hashlib
import json
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from . import video
from .crops import Square, crop

RAW_UP_TO = 128  # larger frames are stored as JPEG: a tenth of the space, 2 ms each to read
JPEG_QUALITY = 97


class Entry(NamedTuple):
    person: str
    video: str
    frames: int


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """Frames (n, S, S, 3) into a video's folder."""
    if frames.shape[1] <= RAW_UP_TO:
        np.save(folder / "frames.npy", frames)
        return
    coded = [cv2.imencode(".jpg", f[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                                                 cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])[1].tobytes() for f in frames]
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, coded)]))
    (folder / "frames.jpgs").write_bytes(b"".join(coded))


@lru_cache(maxsize=1024)
def _open(folder: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    with np.load(folder / "track.npz") as track:
        landmarks = track["landmarks"]
        pupils = track["pupils"] if "pupils" in track else np.full((len(landmarks), 2, 2), np.nan, np.float32)
    points = np.concatenate([landmarks, pupils], 1)
    if (folder / "frames.npy").exists():
        return np.load(folder / "frames.npy", mmap_mode="r"), None, points
    return np.memmap(folder / "frames.jpgs", np.uint8, "r"), np.load(folder / "offsets.npy"), points


def read_frames(folder: Path, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (k, S, S, 3) of a video's folder, and landmarks and pupils (k, 70, 2), these NaN where they are not known."""
    data, offsets, points = _open(folder)
    if offsets is None:
        return data[frames], points[frames]
    images = [cv2.imdecode(data[offsets[f]:offsets[f + 1]], cv2.IMREAD_COLOR)[..., ::-1] for f in frames]
    return np.stack(images), points[frames]


class Store:
    """The videos of one split of a prepared corpus, in a fixed order.

    Raises FileNotFoundError where nothing was prepared, ValueError where the split is empty.
    """

    def __init__(self, root: Path, split: str):
        self.root, self.split = root, split
        manifest = root / "manifest.jsonl"
        if not manifest.exists():
            raise FileNotFoundError(f"{manifest}: no prepared corpus here; run 'python -m talking_heads prepare' first")
        self.lines = [r for r in map(json.loads, manifest.read_text().splitlines()) if r["split"] == split]
        kept: dict[tuple[str, str], int] = defaultdict(int)
        for r in self.lines:
            kept[r["person"], r["video"]] += r["frames"]
        self.entries = [Entry(*k, n) for k, n in sorted(kept.items()) if n]
        if not self.entries:
            reasons = sorted({r["note"] for r in self.lines if not r["frames"]})
            raise ValueError(f"{manifest}: split {split!r} holds no usable video; reasons: {'; '.join(reasons) or 'no sources'}")

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
        """Frames (k, S, S, 3) uint8 and landmarks (k, 68, 2) float32; with ``pupils`` (k, 70, 2), NaN where they are not known."""
        images, points = read_frames(self.folder(number), frames)
        return images, points if pupils else points[:, :68]

    def track(self, number: int) -> dict[str, np.ndarray]:
        """All that is known of a video's frames."""
        return dict(np.load(self.folder(number) / "track.npz"))

    def identity(self) -> str:
        """Eight hex digits that change whenever what was prepared does."""
        known = [[self.root.parent.name, r["person"], r["video"], r["frames"], r.get("square")] for r in self.lines]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:8]

    def people(self) -> dict[str, list[int]]:
        """Person -> numbers of its videos."""
        out: dict[str, list[int]] = defaultdict(list)
        for n, e in enumerate(self.entries):
            out[e.person].append(n)
        return dict(out)

    def first_source(self, number: int) -> dict:
        """The manifest's line of a video's first clip; ``source`` is its path below ``root``."""
        e = self.entries[number]
        return next(r for r in self.lines if (r["person"], r["video"]) == (e.person, e.video) and r["frames"])

    def window(self, number: int, start: int, length: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """``length`` consecutive frames of a video's first clip from its source, cropped, and their 16 kHz sound.

        Returns frames (length, size, size, 3) uint8 and samples (n,) int16 or None. Raises ValueError
        where the clip is too short.
        """
        line = self.first_source(number)
        source = video.read(self.root / line["source"])
        if start + length > len(source.frames):
            raise ValueError(f"{line['source']}: {len(source.frames)} frames, none at {start + length - 1}")
        frames = np.stack([crop(f, Square(*line["square"]), size) for f in source.frames[start:start + length]])
        if source.sound is None:
            return frames, None
        at = [round(t / source.fps * video.SOUND_RATE) for t in (start, start + length)]
        return frames, source.sound[at[0]:at[1]]
