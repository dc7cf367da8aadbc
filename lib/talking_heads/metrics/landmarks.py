"""Metrics of landmarks."""

import numpy as np


def landmark_error(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean distance of landmarks (..., 68, 2) over the distance between the outer corners of the wanted eyes."""
    scale = np.linalg.norm(wanted[..., 36, :] - wanted[..., 45, :], axis=-1)
    return np.linalg.norm(found - wanted, axis=-1).mean(-1) / scale
