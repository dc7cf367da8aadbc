"""The square crop around a face, computed from landmarks.

Meta-learning, fine-tuning and inference all use this crop, and the procedural speakers are rendered directly
into it.
"""

from typing import NamedTuple

import cv2
import numpy as np

MARGIN = 1.85  # side of the square over the larger side of the landmarks' bounding box
OPENCV_LIMIT = 30_000  # longest side in pixels that OpenCV resamples
RISE = 0.14  # the square's centre lies this fraction of its side above the centre of the box


class Square(NamedTuple):
    """A square in pixels of the source; whole numbers are pixel centres."""

    x: float  # left edge
    y: float  # upper edge
    side: float


def clip_square(landmarks: np.ndarray) -> Square:
    """The square of a clip with landmarks (frames, 68, 2).

    It is the same for all frames, so that motion of the head is preserved.
    """
    low, high = np.nanmin(landmarks, axis=1), np.nanmax(landmarks, axis=1)
    side = MARGIN * float(np.median((high - low).max(1)))
    x, y = np.median((low + high) / 2, axis=0)
    return Square(float(x) - side / 2, float(y) - side * (0.5 + RISE), side)


def keep_inside(square: Square, width: int, height: int) -> Square:
    """The square moved, and shrunk to the frame's shorter side, so that it lies within the frame.

    A square that covers more than 98 % of a square frame's side becomes the whole frame, which needs no
    resampling.
    """
    side = min(square.side, width, height)
    if width == height and side > 0.98 * width:
        return Square(-0.5, -0.5, float(width))
    centre_x, centre_y = square.x + square.side / 2, square.y + square.side / 2
    return Square(
        float(np.clip(centre_x - side / 2, -0.5, width - side - 0.5)),
        float(np.clip(centre_y - side / 2, -0.5, height - side - 0.5)),
        float(side),
    )


def crop(image: np.ndarray, square: Square, size: int) -> np.ndarray:
    """The square of an image (H, W, 3) uint8 at size² pixels.

    Returns the image itself where the square is the whole image at this size.
    """
    if max(image.shape[:2]) > OPENCV_LIMIT:
        image, square = _cut_out(image, square)
    scale = square.side / size
    if scale == 1 and square.x == square.y == -0.5:
        return image
    affine = np.array([[scale, 0, square.x + scale / 2], [0, scale, square.y + scale / 2]], np.float64)
    return warp(image, affine, scale, size)


def warp(image: np.ndarray, affine: np.ndarray, scale: float, size: int) -> np.ndarray:
    """An image (H, W, 3) uint8 seen through a transform (2, 3) from pixels of the crop to those of the image.

    ``scale`` is the size of a pixel of the crop in pixels of the image. Returns (size, size, 3) uint8.
    """
    height, width = image.shape[:2]
    if scale > 1:  # shrink by area first, which avoids aliasing
        reduced = (max(1, round(width / scale)), max(1, round(height / scale)))
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        factors = np.array([image.shape[1] / width, image.shape[0] / height])
        affine = affine * factors[:, None]
        affine[:, 2] += 0.5 * factors - 0.5
    return cv2.warpAffine(
        image,
        affine,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _cut_out(image: np.ndarray, square: Square) -> tuple[np.ndarray, Square]:
    """The square of a very large image with a margin of two pixels, and its position in that part."""
    x, y = np.maximum(0, np.floor([square.x, square.y]).astype(int) - 2)
    length = int(square.side) + 6
    return image[y : y + length, x : x + length], Square(square.x - x, square.y - y, square.side)


def to_crop(points: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Convert points (..., 2) from pixels of the source to pixels of the crop."""
    return ((points - [square.x, square.y]) / square.side * size - 0.5).astype(np.float32)


def from_crop(points: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Convert points (..., 2) from pixels of the crop to pixels of the source."""
    return ((points + 0.5) / size * square.side + [square.x, square.y]).astype(np.float32)


def in_crop(requested: Square, actual: Square, size: int) -> Square:
    """The requested square in pixels of the actual crop; (-0.5, -0.5, size) where they are equal."""
    x, y = to_crop(np.array([requested.x, requested.y]), actual, size)
    return Square(float(x), float(y), requested.side / actual.side * size)
