"""Steady landmarks without delay, and a measure of how much a track or a clip flickers."""

import math

import numpy as np
from numpy.typing import NDArray

from ..corpus.landmarks import interocular

Array = NDArray[np.float64]
# cutoff of a resting point in Hz, and how fast it rises with speed (Hz per face size a second): with these the tracks that the
# landmark judge finds flicker as little as true ones do and are no farther from them; smoother ones lose motion of the lips
STILL, EAGER = 3.0, 8.0


def one_euro(points: Array, fps: float, still: float = STILL, eager: float = EAGER) -> Array:
    """The one-euro filter (Casiez et al. 2012) over a track (n, 68, 2): slow points are held, quick ones let go.

    Speed is measured in distances between the eyes, so that ``eager`` fits every size.
    """
    def share(cutoff: Array | float) -> Array | float:
        return 1 / (1 + fps / (2 * math.pi * cutoff))

    unit = float(np.median(interocular(points[:, :68])))
    out, speed = points.astype(np.float64), np.zeros(points.shape[1:])
    for i in range(1, len(points)):
        speed = speed + share(1.0) * ((points[i] - points[i - 1]) * fps / unit - speed)
        pace = np.linalg.norm(speed, axis=-1, keepdims=True)
        out[i] = out[i - 1] + share(still + eager * pace) * (points[i] - out[i - 1])
    return out


def steady(points: Array, fps: float) -> Array:
    """A finished track (n, 68, 2) smoothed forwards and backwards: what one direction delays the other brings forward."""
    return (one_euro(points, fps) + one_euro(points[::-1], fps)[::-1]) / 2


def lag(signal: Array, truth: Array) -> float:
    """Frames by which a signal (n,) comes after the true one, to a tenth: where shifting the truth fits it best."""
    at, shifts = np.arange(len(truth)), np.arange(-2, 2.01, 0.1)
    return float(shifts[np.argmin([np.square(np.interp(at - s, at, truth) - signal)[3:-3].mean() for s in shifts])])


def flicker(track: Array) -> float:
    """Mean size of the second difference in time of a track (n, 68, 2) in distances between the eyes: 0 for even motion."""
    jumps = np.linalg.norm(np.diff(track, 2, axis=0), axis=-1)
    return float(jumps.mean() / np.median(interocular(track)))


def picture_flicker(frames: np.ndarray) -> float:
    """Mean absolute second difference in time of frames (n, H, W, 3) uint8, in grey levels."""
    return float(np.abs(np.diff(frames.astype(np.int16), 2, axis=0)).mean())
