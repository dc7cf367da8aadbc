"""Landmark images: the 68 points of the iBUG scheme connected by coloured lines (section 3.1)."""

import cv2
import numpy as np

# (first, last, closed, RGB): every part has a different colour, so that the network can distinguish them
PARTS = (
    (0, 16, False, (255, 255, 255)),  # jaw
    (17, 21, False, (255, 160, 0)),  # brows
    (22, 26, False, (170, 255, 0)),
    (27, 30, False, (0, 120, 255)),  # bridge of the nose
    (31, 35, False, (0, 220, 255)),  # base of the nose
    (36, 41, True, (255, 60, 160)),  # eyes
    (42, 47, True, (160, 80, 255)),
    (48, 59, True, (255, 40, 40)),  # outer lips
    (60, 67, True, (60, 255, 60)),  # inner lips
)
PUPIL, PUPIL_RADIUS = (0, 255, 0), 1.2  # colour, and radius in line widths, of points 68 and 69
SHIFT = 4  # fractional bits of drawn coordinates


def draw(points: np.ndarray, size: int, line_width: float) -> np.ndarray:
    """Landmark image (size, size, 3) uint8 of points (68, 2) in pixels: anti-aliased lines on black.

    With (70, 2) the last two points are the pupils, drawn as dots where they are finite. The paper's
    landmarks contain no gaze direction. The maximum of dots and lines keeps the lines of the lids visible,
    which have little green. Everything is drawn larger and reduced by area, because OpenCV's anti-aliased
    lines are twice as wide as requested. Raises ValueError where one of the 68 points is not finite.
    """
    if not np.isfinite(points[:68]).all():
        raise ValueError("landmarks hold values that are not finite")
    factor = 4 if size <= 128 else 2
    lines = np.zeros((size * factor, size * factor, 3), np.uint8)
    positions = np.round(((np.nan_to_num(points) + 0.5) * factor - 0.5) * (1 << SHIFT))
    fixed = positions.astype(np.int32).clip(-(1 << 20), 1 << 20)
    width = max(1, round(line_width * factor))
    for first, last, closed, colour in PARTS:
        cv2.polylines(lines, [fixed[first : last + 1, None]], closed, colour, width, cv2.LINE_8, SHIFT)
    dots = np.zeros_like(lines)
    radius = round(PUPIL_RADIUS * line_width * factor * (1 << SHIFT))
    for pupil in range(68, len(points)):
        if np.isfinite(points[pupil]).all():
            cv2.circle(dots, fixed[pupil].tolist(), radius, PUPIL, -1, cv2.LINE_8, SHIFT)
    return cv2.resize(np.maximum(lines, dots), (size, size), interpolation=cv2.INTER_AREA)


def draw_all(points: np.ndarray, size: int, line_width: float) -> np.ndarray:
    """Landmark images (..., size, size, 3) uint8 of points (..., 68, 2), or (..., 70, 2) with pupils."""
    images = [draw(face, size, line_width) for face in points.reshape(-1, *points.shape[-2:])]
    return np.stack(images).reshape(*points.shape[:-2], size, size, 3)


def interocular(points: np.ndarray) -> np.ndarray:
    """Distance (...,) between the centres of the eyes of landmarks (..., 68, 2)."""
    return np.linalg.norm(points[..., 36:42, :].mean(-2) - points[..., 42:48, :].mean(-2), axis=-1)


def openings(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Openings (...,) of the mouth and the eyes of landmarks (..., 68, 2), in interocular distances."""

    def gap(a: list[int], b: list[int]) -> np.ndarray:
        return np.linalg.norm(points[..., a, :].mean(-2) - points[..., b, :].mean(-2), axis=-1)

    scale = interocular(points)
    mouth = gap([61, 62, 63], [65, 66, 67]) / scale
    eyes = (gap([37, 38], [40, 41]) + gap([43, 44], [46, 47])) / (2 * scale)
    return mouth, eyes
