"""Optical flow of clips (Farnebäck 2003), in pixels a frame: how smoothly, and where, a face moves."""

from itertools import pairwise

import cv2
import numpy as np

from talking_heads.data.landmarks import interocular

# boxes around landmarks, with a margin on all sides in interocular distances
REGIONS = {"mouth": (slice(48, 68), 0.15), "eyes": (slice(36, 48), 0.15), "head": (slice(0, 68), 0.0)}
BACKGROUND_MARGIN = 0.75  # around all landmarks, in interocular distances; outside is background
# scale and levels of the pyramid, size of the window, iterations, neighbourhood and deviation of the
# polynomials, flags
FARNEBACK = (0.5, 3, 9, 3, 5, 1.1, 0)


def flow_magnitude(frames: np.ndarray) -> np.ndarray:
    """Length of the flow (n - 1, H, W) from each of n frames (n, H, W, 3) uint8 to the next, in pixels."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    start = np.zeros((*frames.shape[1:3], 2), np.float32)
    flows = [cv2.calcOpticalFlowFarneback(a, b, start.copy(), *FARNEBACK) for a, b in pairwise(grey)]
    return np.linalg.norm(np.stack(flows), axis=-1)


def flow_by_region(frames: np.ndarray, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Mean length of the flow (n - 1,) in the mouth, the eyes, the head and the background of n frames.

    The regions are boxes around landmarks (n, 68, 2) of the frame at which the flow begins; the background is
    what is far from all landmarks, NaN where nothing is. All are NaN where the landmarks are.
    """
    magnitude = flow_magnitude(frames)
    height, width = magnitude.shape[1:]
    unit = interocular(landmarks)
    values: dict[str, list[float]] = {name: [] for name in (*REGIONS, "background")}
    for length, points, distance in zip(magnitude, landmarks[:-1], unit[:-1], strict=True):
        if not np.isfinite(points).all():
            for series in values.values():
                series.append(np.nan)
            continue
        for name, (part, margin) in REGIONS.items():
            inside = box(points[part], margin * distance, height, width)
            values[name].append(float(length[inside].mean()))
        outside = np.ones((height, width), bool)
        outside[box(points, BACKGROUND_MARGIN * distance, height, width)] = False
        values["background"].append(float(length[outside].mean()) if outside.any() else np.nan)
    return {name: np.array(series) for name, series in values.items()}


def box(points: np.ndarray, margin: float, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of points (k, 2) with a margin in pixels, inside a frame; at least one pixel."""
    low = np.floor(points.min(0) - margin).clip(0, [width - 1, height - 1]).astype(int)
    high = np.ceil(points.max(0) + margin + 1).clip(low + 1, [width, height]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])
