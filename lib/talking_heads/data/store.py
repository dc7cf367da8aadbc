"""A prepared corpus on disk: cropped frames and landmark tracks of every video, and a manifest.

``<root>/manifest.jsonl`` has one line per source file, with its number of frames or the reason why it is
missing. ``<root>/<split>/<identity>/<video>/`` contains

- ``frames.npy`` (n, S, S, 3) uint8 for S up to 128, otherwise ``frames.jpgs`` with ``offsets.npy``;
- ``track.npz``: landmarks (n, 68, 2) float32 in pixels of the crop, the clip and the time in seconds of every
  frame, and pupils and hidden points where the source has them;
- in a corpus of talking clips ``sound.npy``, int16 at 16 kHz: of every clip, the samples of its frames.
"""

import errno
import hashlib
import json
import zipfile
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from talking_heads.data.crops import Square, crop
from talking_heads.data.video import SOUND_RATE, UnreadableVideo, open_video

MANIFEST, TRACK, SOUND = "manifest.jsonl", "track.npz", "sound.npy"
FRAME_FILES = ("frames.npy", "frames.jpgs", "offsets.npy", SOUND)
FIELDS: dict[str, type] = {
    "split": str,
    "person": str,
    "video": str,
    "source": str,
    "frames": int,
    "key": str,
    "note": str,
}
RAW_UP_TO = 128  # larger frames are stored as JPEG, in a tenth of the space; reading one takes 2 ms
JPEG_QUALITY = 97


class CorpusDamaged(ValueError):
    """Files of a prepared corpus are missing or damaged; the message names them and the remedy."""


class Entry(NamedTuple):
    """A video of a split."""

    person: str  # the identity
    video: str
    frames: int  # in the corpus
    seconds: float  # length of the sources, with the frames that were left out


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """Write frames (n, S, S, 3) uint8 into a video's folder."""
    if frames.shape[1] <= RAW_UP_TO:
        np.save(folder / "frames.npy", frames)
        return
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    coded = [cv2.imencode(".jpg", frame[..., ::-1], options)[1].tobytes() for frame in frames]
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, coded)]))
    (folder / "frames.jpgs").write_bytes(b"".join(coded))


def read_manifest(root: Path) -> list[dict]:
    """The lines of the manifest, without an incomplete last line of an interrupted run.

    Raises :class:`CorpusDamaged`, which names the file and the line.
    """
    path = root / MANIFEST
    texts = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    lines: list[dict] = []
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            lines.append(_checked(json.loads(text)))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(texts) and lines:
                break
            cause = f"{error}; move the file away and prepare again"
            raise CorpusDamaged(f"{path}, line {number}: {cause}") from error
    sizes: dict[Path, int] = {}
    for line in lines:
        if line["size"] is None:  # older manifests do not contain the size
            folder = root / line["split"] / line["person"] / line["video"]
            line["size"] = sizes[folder] if folder in sizes else sizes.setdefault(folder, frame_size(folder))
    return lines


def _checked(line: dict) -> dict:
    """A line of a manifest, with its size or None. Raises KeyError, TypeError or ValueError."""
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


def frame_size(folder: Path) -> int:
    """Side of a prepared video's frames in pixels, 0 where it has none."""
    if not any((folder / name).exists() for name in ("frames.npy", "frames.jpgs")):
        return 0
    return int(read_frames(folder, np.array([0]))[0].shape[1])


@lru_cache(maxsize=200)  # each holds a file open, of which a process may have 1,024
def _open(folder: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Memory-mapped frames of a video, offsets of JPEG files in them or None, and points (n, 70, 2)."""
    try:
        points = _read_points(folder / TRACK)
        if (folder / "frames.npy").exists():
            data, offsets = np.load(folder / "frames.npy", mmap_mode="r"), None
            complete = len(points) == len(data)
        else:
            data, offsets = np.memmap(folder / "frames.jpgs", np.uint8, "r"), np.load(folder / "offsets.npy")
            complete = len(points) == len(offsets) - 1 and offsets[-1] <= len(data)
        if not complete:
            raise ValueError("frames and landmarks differ in number")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise OSError(
                f"{folder}: too many open files; raise the limit, for example ulimit -n 4096"
            ) from error
        raise CorpusDamaged(
            f"{folder}: a prepared video is damaged ({error}); delete this folder and prepare again"
        ) from error
    return data, offsets, points


def _read_points(path: Path) -> np.ndarray:
    """Landmarks and pupils (n, 70, 2) of a track; missing pupils are NaN."""
    with np.load(path) as track:
        landmarks = track["landmarks"]
        missing = np.full((len(landmarks), 2, 2), np.nan, np.float32)
        return np.concatenate([landmarks, track.get("pupils", missing)], 1)


def read_frames(folder: Path, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (k, S, S, 3) of a video's folder, with landmarks and pupils (k, 70, 2).

    Missing pupils are NaN. Raises :class:`CorpusDamaged`.
    """
    data, offsets, points = _open(folder)
    if offsets is None:
        return data[frames], points[frames]
    images = []
    for number in frames:
        image = cv2.imdecode(data[offsets[number] : offsets[number + 1]], cv2.IMREAD_COLOR)
        if image is None:
            raise CorpusDamaged(
                f"{folder}: a prepared frame cannot be decoded; delete this folder and prepare again"
            )
        images.append(image)
    return np.ascontiguousarray(np.stack(images)[..., ::-1]), points[frames]


class Store:
    """The videos of one split of a prepared corpus, in a fixed order.

    Raises FileNotFoundError where there is no prepared corpus, ValueError where the split is empty or its
    frames do not have ``size``² pixels, and :class:`CorpusDamaged` where the manifest cannot be read.
    """

    def __init__(self, root: Path, split: str, size: int | None = None):
        self.root, self.split = root, split
        manifest = root / MANIFEST
        if not manifest.exists():
            raise FileNotFoundError(
                f"{manifest}: no prepared corpus here; run 'python -m talking_heads prepare' first"
            )
        self.lines = [line for line in read_manifest(root) if line["split"] == split]
        frames: dict[tuple[str, str], int] = defaultdict(int)
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._first: dict[tuple[str, str], dict] = {}  # line of the first usable source of every video
        for line in self.lines:
            video = line["person"], line["video"]
            frames[video] += line["frames"]
            seconds[video] += _seconds(line)
            if line["frames"]:
                self._first.setdefault(video, line)
        self.entries = [
            Entry(*video, count, seconds[video]) for video, count in sorted(frames.items()) if count
        ]
        if not self.entries:
            notes = {line["note"] for line in self.lines if not line["frames"]}
            reasons = "; ".join(sorted(notes)) or "no sources"
            raise ValueError(f"{manifest}: split {split!r} holds no usable video; reasons: {reasons}")
        self.size = next(iter(self._first.values()))["size"]
        if size is not None and size != self.size:
            raise ValueError(
                f"{manifest}: frames of {self.size}², {size}² are needed; prepare again with --size {size}"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def frame_count(self, number: int) -> int:
        """Number of frames of a video."""
        return self.entries[number].frames

    def duration(self, number: int) -> float:
        """Length of a video's sources in seconds, with the frames that were left out."""
        return self.entries[number].seconds

    def identity(self, number: int) -> str:
        """Identity of a video."""
        return self.entries[number].person

    def folder(self, number: int) -> Path:
        """Folder of a video's frames and track."""
        entry = self.entries[number]
        return self.root / self.split / entry.person / entry.video

    def read(self, number: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and landmarks (k, 68, 2) float32 of a video.

        With ``pupils`` the landmarks are (k, 70, 2), and missing pupils are NaN.
        """
        images, points = read_frames(self.folder(number), frames)
        return images, points if pupils else points[:, :68]

    def sound(self, number: int) -> np.ndarray:
        """The sound of a video's clips, one after the other: (samples,) int16, memory-mapped.

        Raises :class:`CorpusDamaged` where the video was prepared without it.
        """
        path = self.folder(number) / SOUND
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CorpusDamaged(
                f"{path}: no sound of this video ({error}); prepare the corpus again as talking clips"
            ) from error

    def track(self, number: int) -> dict[str, np.ndarray]:
        """All arrays of a video's track: landmarks, clip, time, and pupils and hidden where present."""
        return dict(np.load(self.folder(number) / TRACK))

    def digest(self) -> str:
        """Eight hex digits that change with the prepared videos."""
        corpus = self.root.parent.name
        content = [
            [corpus, line["person"], line["video"], line["frames"], line.get("square")] for line in self.lines
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]

    def identities(self) -> dict[str, list[int]]:
        """Numbers of the videos of every identity."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(self.entries):
            numbers[entry.person].append(number)
        return dict(numbers)

    def first_source(self, number: int) -> dict:
        """The manifest's line of a video's first usable source; ``source`` is relative to ``root``."""
        entry = self.entries[number]
        return self._first[entry.person, entry.video]

    def window(self, number: int, start: int, length: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Consecutive frames of a video's first source, cropped, with their 16 kHz sound.

        Frames have a constant rate: where the rate of the source varies, a frame is repeated for as long as a
        player shows it. Returns frames (length, size, size, 3) uint8 and samples (n,) int16, None without
        sound. Raises ValueError where the source is too short, and :class:`CorpusDamaged` where it cannot be
        read.
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
        samples = sound[first:end]
        return frames, np.pad(samples, (0, end - first - len(samples)))  # sound may end before the pictures
