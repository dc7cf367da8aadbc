"""The one crop of the project: from landmarks to the square that every network sees.

Meta-learning, fine-tuning and inference all come through here, and the procedural speakers are
rendered straight into this square.
"""

from typing import NamedTuple

import cv2
import numpy as np

MARGIN = 1.85  # side of the square over the larger side of the landmarks' box
OPENCV_LIMIT = 30_000  # pixels of a side that OpenCV still resamples
RISE = 0.14  # the square's centre lies this share of its side above the box's centre


class Square(NamedTuple):
    x: float  # left edge, pixels of the source; whole numbers are pixel centres
    y: float
    side: float


def clip_square(landmarks: np.ndarray) -> Square:
    """The square of a clip from its landmarks (frames, 68, 2): one for all frames, so motion stays motion."""
    low, high = np.nanmin(landmarks, axis=1), np.nanmax(landmarks, axis=1)
    side = MARGIN * float(np.median((high - low).max(1)))
    x, y = np.median((low + high) / 2, axis=0)
    return Square(float(x) - side / 2, float(y) - side * (0.5 + RISE), side)


def keep_inside(square: Square, width: int, height: int) -> Square:
    """The square moved (and shrunk to the frame's shorter side) so that it lies within the frame.

    A square that covers a square frame but for 2 % becomes the frame itself, which is then not resampled.
    """
    side = min(square.side, width, height)
    if width == height and side > 0.98 * width:
        return Square(-0.5, -0.5, float(width))
    centre_x, centre_y = square.x + square.side / 2, square.y + square.side / 2
    return Square(float(np.clip(centre_x - side / 2, -0.5, width - side - 0.5)),
                  float(np.clip(centre_y - side / 2, -0.5, height - side - 0.5)), float(side))


def crop(image: np.ndarray, square: Square, size: int) -> np.ndarray:
    """The square of an image (H, W, 3) uint8 at size² pixels; the image itself where nothing changes."""
    if max(image.shape[:2]) > OPENCV_LIMIT:  # keep the square with a margin
        low = np.maximum(0, np.floor([square.x, square.y]).astype(int) - 2)
        image = image[low[1]:, low[0]:][:int(square.side) + 6, :int(square.side) + 6]
        square = Square(square.x - low[0], square.y - low[1], square.side)
    height, width = image.shape[:2]
    scale = square.side / size
    if scale == 1 and square.x == square.y == -0.5:
        return image
    affine = np.array([[scale, 0, square.x + scale / 2], [0, scale, square.y + scale / 2]], np.float64)
    if scale > 1:  # shrink by area first: no aliasing
        smaller = cv2.resize(image, (max(1, round(width / scale)), max(1, round(height / scale))), interpolation=cv2.INTER_AREA)
        fx, fy = smaller.shape[1] / width, smaller.shape[0] / height
        affine = np.array([[scale * fx, 0, (square.x + scale / 2 + 0.5) * fx - 0.5], [0, scale * fy, (square.y + scale / 2 + 0.5) * fy - 0.5]])
        image = smaller
    return cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)


def to_crop(points: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Points (..., 2) of the source in pixels of the crop."""
    return ((points - [square.x, square.y]) / square.side * size - 0.5).astype(np.float32)


def from_crop(points: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Points (..., 2) in pixels of the crop in those of the source."""
    return ((points + 0.5) / size * square.side + [square.x, square.y]).astype(np.float32)


def in_crop(asked: Square, got: Square, size: int) -> Square:
    """The square that was asked for in pixels of the crop that was got, (-0.5, -0.5, size) where they are the same."""
    x, y = to_crop(np.array([asked.x, asked.y]), got, size)
    return Square(float(x), float(y), asked.side / got.side * size)
