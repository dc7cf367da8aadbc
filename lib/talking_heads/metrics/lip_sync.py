"""Metrics of talking clips: how the lips follow the truth. Landmarks are (n, 68, 2), of n frames."""

import numpy as np
from scipy.ndimage import maximum_filter1d

from talking_heads.data.landmarks import interocular, openings
from talking_heads.data.sound import FPS, HOP
from talking_heads.metrics.statistics import correlation

MOUTH = slice(48, 68)
SECOND = round(FPS)  # frames
STILL = 1e-5  # standard deviation, in interocular distances, of a mouth that does not move
CLOSED = 0.05  # opening in interocular distances; in silence, 99 % of rendered mouths are below 0.023
QUIET = 0.01  # loudness, relative to the loudest frame of a clip
SHUT = 0.4  # opening of the eyes, relative to their median


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Distance (n,) between the inner lips, in interocular distances."""
    return openings(landmarks)[0]


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Distance (n,) between the corners of the mouth, in interocular distances."""
    return np.linalg.norm(landmarks[:, 48] - landmarks[:, 54], axis=-1) / interocular(landmarks)


def track_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two tracks (n,); 0 where one of them does not move."""
    return correlation(a, b) if min(a.std(), b.std()) > STILL else 0.0


def landmark_distance(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """LMD (n,): mean distance of the mouth's landmarks to the true ones, in true interocular distances.

    The mean of the mouth's points is subtracted from both, so that the position of the head does not count.
    """
    a, b = (points[:, MOUTH] - points[:, MOUTH].mean(1, keepdims=True) for points in (landmarks, truth))
    return np.linalg.norm(a - b, axis=-1).mean(-1) / interocular(truth)


def silent_frames(sound: np.ndarray, count: int) -> np.ndarray:
    """Which of ``count`` frames (n,) are silent, together with both of their neighbours.

    ``sound`` is (samples,) int16 at 16 kHz.
    """
    samples = np.pad(sound[: count * HOP].astype(np.float64), (0, max(0, count * HOP - len(sound))))
    loudness = np.sqrt(np.square(samples.reshape(count, HOP)).mean(1))
    return maximum_filter1d(loudness, 3, mode="nearest") <= QUIET * max(loudness.max(), 1.0)


def closed_share(landmarks: np.ndarray, silent: np.ndarray) -> float:
    """The share of silent frames (n,) in which the mouth is closed; NaN where none is silent."""
    return float((mouth_opening(landmarks)[silent] < CLOSED).mean()) if silent.any() else float("nan")


def blinks(landmarks: np.ndarray) -> int:
    """How often the eyes shut."""
    eyes = openings(landmarks)[1]
    shut = eyes < SHUT * np.median(eyes)
    return int((shut[1:] & ~shut[:-1]).sum() + shut[0])
