"""Metrics of talking clips: how the lips follow the truth. Landmarks are (n, 68, 2), of n frames."""

import numpy as np

from talking_heads.data.landmarks import interocular, openings

MOUTH = slice(48, 68)
STILL = 1e-5  # standard deviation, in interocular distances, of a mouth that does not move


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Distance (n,) between the inner lips, in interocular distances."""
    return openings(landmarks)[0]


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Distance (n,) between the corners of the mouth, in interocular distances."""
    return np.linalg.norm(landmarks[:, 48] - landmarks[:, 54], axis=-1) / interocular(landmarks)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two tracks (n,); 0 where one of them does not move."""
    if min(a.std(), b.std()) < STILL:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def landmark_distance(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """LMD (n,): mean distance of the mouth's landmarks to the true ones, in true interocular distances.

    The mean of the mouth's points is subtracted from both, so that the position of the head does not count.
    """
    a, b = (points[:, MOUTH] - points[:, MOUTH].mean(1, keepdims=True) for points in (landmarks, truth))
    return np.linalg.norm(a - b, axis=-1).mean(-1) / interocular(truth)
