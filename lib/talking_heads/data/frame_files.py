"""The files of one prepared video: frames, landmark track and sound.

A folder ``<root>/<split>/<identity>/<video>/`` contains

- ``frames.npy`` (n, S, S, 3) uint8 for S up to 128, otherwise ``frames.jpgs`` with ``offsets.npy``;
- ``track.npz``: landmarks (n, 68, 2) float32 in pixels of the crop, the clip and the time in seconds of every
  frame, and pupils and hidden points where the source has them;
- in a corpus of talking clips ``sound.npy``, int16 at 16 kHz: of every clip, the samples of its frames.

No file stays open between two calls.
"""

import errno
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

RAW, CODED, OFFSETS = "frames.npy", "frames.jpgs", "offsets.npy"
TRACK, SOUND = "track.npz", "sound.npy"
PREPARED_FILES = {RAW, CODED, OFFSETS, TRACK, SOUND}
RAW_UP_TO = 128  # larger frames are stored as JPEG, in a tenth of the space; reading one takes 2 ms
JPEG_QUALITY = 97


class CorpusDamaged(ValueError):
    """Files of a prepared corpus are missing or damaged; the message names them and the remedy."""


class Layout(NamedTuple):
    """Where the frames of a video are, and its landmarks."""

    path: Path  # of the file with the frames
    offsets: np.ndarray  # (n + 1,) positions of the frames in the file in bytes
    shape: tuple[int, ...] | None  # of a frame; None where frames are JPEG files
    points: np.ndarray  # (n, 70, 2) landmarks and pupils, NaN where there are no pupils


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """Write frames (n, S, S, 3) uint8 into a video's folder."""
    if frames.shape[1] <= RAW_UP_TO:
        np.save(folder / RAW, frames)
        return
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    coded = [cv2.imencode(".jpg", frame[..., ::-1], options)[1].tobytes() for frame in frames]
    np.save(folder / OFFSETS, np.cumsum([0, *map(len, coded)]))
    (folder / CODED).write_bytes(b"".join(coded))


def read_frames(folder: Path, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (k, S, S, 3) of a video's folder, with landmarks and pupils (k, 70, 2).

    Missing pupils are NaN. Raises :class:`CorpusDamaged`, and IndexError where there is no such frame.
    """
    layout = _layout(folder)
    numbers = np.arange(len(layout.points))[frames]
    images = []
    try:
        with layout.path.open("rb") as file:
            for first, end in zip(layout.offsets[numbers], layout.offsets[numbers + 1], strict=True):
                file.seek(first)
                images.append(_image(np.frombuffer(file.read(end - first), np.uint8), layout.shape))
    except (OSError, ValueError, cv2.error) as error:
        raise _damaged(folder, error) from error
    return np.stack(images), layout.points[numbers]


def _image(data: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """A stored frame (S, S, 3). Raises ValueError or cv2.error where it is incomplete."""
    if shape is not None:
        return data.reshape(shape)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("a frame cannot be decoded")
    return image[..., ::-1]


@lru_cache(maxsize=256)
def _layout(folder: Path) -> Layout:
    try:
        points = _read_points(folder / TRACK)
        path = folder / RAW
        if path.exists():
            frames = np.load(path, mmap_mode="r")  # of which only the header is read
            offsets = frames.offset + int(np.prod(frames.shape[1:])) * np.arange(len(frames) + 1)
            layout = Layout(path, offsets, frames.shape[1:], points)
        else:
            layout = Layout(folder / CODED, np.load(folder / OFFSETS), None, points)
        complete = layout.offsets[-1] <= layout.path.stat().st_size
        if not complete or len(points) != len(layout.offsets) - 1:
            raise ValueError("frames and landmarks differ in number")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(folder, error) from error
    return layout


def _damaged(folder: Path, error: Exception) -> OSError | CorpusDamaged:
    """The error of a video that cannot be read; also where it is the system that has a problem."""
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return OSError(f"{folder}: too many open files; raise the limit, for example ulimit -n 4096")
    return CorpusDamaged(
        f"{folder}: a prepared video is damaged ({error}); delete this folder and prepare again"
    )


def _read_points(path: Path) -> np.ndarray:
    """Landmarks and pupils (n, 70, 2) of a track; missing pupils are NaN."""
    with np.load(path) as track:
        landmarks = track["landmarks"]
        missing = np.full((len(landmarks), 2, 2), np.nan, np.float32)
        return np.concatenate([landmarks, track.get("pupils", missing)], 1)


def frame_size(folder: Path) -> int:
    """Side of a prepared video's frames in pixels, 0 where it has none."""
    if not any((folder / name).exists() for name in (RAW, CODED)):
        return 0
    return int(read_frames(folder, np.array([0]))[0].shape[1])
