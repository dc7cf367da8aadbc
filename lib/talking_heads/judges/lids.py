"""The second look at the eyes: the landmark judge finds a face's 68 points, the lids judge then its lids, from the pixels around them.

A lid moves by two pixels of 64; heat maps of a quarter of the side, over the whole face, are too coarse for it.
"""

import numpy as np
import torch

from ..corpus.episodes import to_tensor
from .gaze import StripReader, between_eyes, eye_strip
from .networks import LandmarkJudge

EYES = slice(36, 48)  # of the 68 points


class LidsJudge(StripReader):
    """Reads the twelve points of the lids."""

    def __init__(self):
        super().__init__(12)


@torch.no_grad()
def look(images: np.ndarray, judge: LandmarkJudge) -> np.ndarray:
    """Landmarks (n, 68, 2), in pixels, that the landmark judge sees in images (n, S, S, 3) uint8."""
    return np.concatenate([judge(x).numpy() for x in to_tensor(images).split(128)]) * images.shape[1] - 0.5


@torch.no_grad()
def look_twice(images: np.ndarray, judge: LandmarkJudge, lids: LidsJudge) -> np.ndarray:
    """As :func:`look`, with lids from the second look."""
    points = look(images, judge)
    middle, distance = between_eyes(points)
    strips = [eye_strip(to_tensor(images[k:k + 256]), points[k:k + 256]) for k in range(0, len(images), 256)]
    points[:, EYES] = np.concatenate([lids(s).numpy() for s in strips]) * distance + middle
    return points
