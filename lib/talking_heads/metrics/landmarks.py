"""Metrics of landmarks."""

import numpy as np


def landmark_error(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance of landmarks (..., 68, 2) to the true ones, over that of the true eyes' outer corners."""
    scale = np.linalg.norm(truth[..., 36, :] - truth[..., 45, :], axis=-1)
    return np.linalg.norm(landmarks - truth, axis=-1).mean(-1) / scale
