"""Baselines that learn nothing: the nearest and the mean training frame."""

import numpy as np

from talking_heads.data.frames import Frames


def nearest_frames(train: Frames, points: np.ndarray) -> np.ndarray:
    """For each of the landmarks (n, 68, 2) the training frame with the nearest ones: (n, S, S, 3) uint8."""
    distance = ((train.points[None] - points[:, None]) ** 2).sum((2, 3))
    return train.images[distance.argmin(1)]


def mean_frame(train: Frames, count: int) -> np.ndarray:
    """The mean of the training frames, repeated: (count, S, S, 3) uint8."""
    mean = train.images.astype(np.float32).mean(0).round().astype(np.uint8)
    return np.broadcast_to(mean, (count, *mean.shape)).copy()
