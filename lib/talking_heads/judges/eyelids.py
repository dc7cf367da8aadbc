"""Landmarks in two passes: the landmark judge finds 68 points, the lids judge refines those of the lids.

A lid moves by two pixels of 64, but the heat maps of the landmark judge have a quarter of the image's side.
The lids judge therefore uses the pixels around the eyes.
"""

import numpy as np
import torch

from talking_heads.data.frames import to_tensor
from talking_heads.judges.gaze import StripReader, between_eyes, device_of, eye_strip
from talking_heads.judges.networks import LandmarkJudge

EYES = slice(36, 48)  # of the 68 points


class LidsJudge(StripReader):
    """Finds the twelve points of the lids."""

    def __init__(self):
        super().__init__(12)


@torch.no_grad()
def detect_landmarks(images: np.ndarray, judge: LandmarkJudge) -> np.ndarray:
    """Landmarks (n, 68, 2) in pixels of images (n, S, S, 3) uint8, by the landmark judge only."""
    device = device_of(judge)
    points = [judge(to_tensor(batch, device)).cpu().numpy() for batch in _batches(images)]
    return np.concatenate(points) * images.shape[1] - 0.5


@torch.no_grad()
def refine_eyelids(images: np.ndarray, points: np.ndarray, lids: LidsJudge) -> np.ndarray:
    """Replace the twelve points of the lids in landmarks (n, 68, 2) of images (n, S, S, 3) uint8."""
    device, refined = device_of(lids), points.copy()
    middle, distance = between_eyes(points)
    eyes = [
        lids(eye_strip(to_tensor(batch, device), landmarks)).cpu().numpy()
        for batch, landmarks in zip(_batches(images), _batches(points), strict=True)
    ]
    refined[:, EYES] = np.concatenate(eyes) * distance + middle
    return refined


def _batches(values: np.ndarray, size: int = 128) -> list[np.ndarray]:
    return [values[k : k + size] for k in range(0, len(values), size)]
