"""Generated videos on disk: enlarged, marked as synthetic in the picture and in the metadata."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from talking_heads.data import video

MARK = "synthetic"
LEAST_SIDE = 256  # pixels of the side of an exported video, at least


class Sound(NamedTuple):
    """The sound of a video that is written."""

    samples: np.ndarray | None  # (samples,) int16 or float in [-1, 1], mono; None for none
    rate: int = video.SOUND_RATE  # Hz


def write_synthetic(
    path: Path, frames: Iterable[np.ndarray], fps: float, sound: Sound, comment: str, mark: bool = True
) -> Path:
    """Write square frames (S, S, 3) uint8 with sound as a video of at least ``LEAST_SIDE`` pixels.

    Its metadata has the comment "synthetic: " followed by ``comment``, and the picture has ``MARK`` in a
    corner, unless ``mark`` is False.
    """
    pictures = (enlarged(frame, mark) for frame in frames)
    labelled = f"{MARK}: {comment}"
    video.write(path, pictures, fps, sound.samples, lossless=False, comment=labelled, rate=sound.rate)
    return path


def enlarged(frame: np.ndarray, mark: bool = True) -> np.ndarray:
    """A square frame (S, S, 3) uint8 with a side of at least ``LEAST_SIDE`` pixels, with ``MARK``."""
    factor = max(1, -(-LEAST_SIDE // frame.shape[0]))
    large = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return _marked(large) if mark else large


def _marked(image: np.ndarray) -> np.ndarray:
    """The image with ``MARK`` in a corner: white letters with a black outline."""
    size = image.shape[0] / 640
    corner = round(8 * size), image.shape[0] - round(10 * size)
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1.5)):
        thickness = max(1, round(width * size))
        cv2.putText(image, MARK, corner, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)
    return image


def is_ours(path: Path) -> bool:
    """Whether a file is a video that :func:`write_synthetic` wrote."""
    try:
        with video.open_file(path) as container:
            metadata = {name.lower(): value for name, value in container.metadata.items()}
    except (video.UnreadableVideo, OSError):
        return False
    return metadata.get("comment", "").startswith(f"{MARK}: ")


def has_content(path: Path) -> bool:
    """Whether there is a file that is not empty."""
    return path.exists() and path.stat().st_size > 0


def refuse_foreign(out: Path) -> None:
    """Raise ValueError for an output that exists and that :func:`write_synthetic` did not write."""
    if has_content(out) and not is_ours(out):
        raise ValueError(
            f"--out {out}: exists and was not written by this command; move it away or choose another name"
        )
