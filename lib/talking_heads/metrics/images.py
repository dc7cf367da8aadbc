"""Metrics of images."""

import numpy as np
from skimage.metrics import structural_similarity

from talking_heads.data.frames import LUMA

LEAST_CPBD = 128  # side of a frame in pixels, at least: two blocks of 64² in each direction
LEAST_MSE = 0.01  # squared levels; equal images would have an infinite PSNR


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of Wang et al. 2004 of two images (H, W, 3) uint8."""
    return float(
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
        )
    )


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """MSE (n,) of images (n, H, W, 3) uint8, in squared levels; computed in float, because uint8 wraps."""
    return np.square(a.astype(np.float64) - b.astype(np.float64)).mean((1, 2, 3))


def psnr(mse: np.ndarray) -> np.ndarray:
    """PSNR (n,) in dB of images whose MSE is ``mse`` (n,) squared levels; at most that of ``LEAST_MSE``."""
    return 10 * np.log10(255**2 / np.maximum(mse, LEAST_MSE))


def mean_change(frames: np.ndarray) -> float:
    """The mean absolute difference of consecutive frames (n, H, W, 3) uint8, in levels; NaN for one frame."""
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean()) if len(frames) > 1 else np.nan


def sharpness(images: np.ndarray) -> np.ndarray:
    """Mean size of the grey gradient of images (n, H, W, 3) uint8: (n,), in grey levels a pixel. Blur lowers
    it.
    """
    grey = images.astype(np.float32).mean(-1)
    return np.hypot(np.diff(grey, axis=1)[:, :, :-1], np.diff(grey, axis=2)[:, :-1]).mean((1, 2))


def cpbd(images: np.ndarray) -> np.ndarray:
    """CPBD (Narvekar & Karam 2011) of images (n, H, W, 3) uint8: (n,) in [0, 1], higher is sharper.

    It counts edges in blocks of 64²; images with a side below ``LEAST_CPBD`` are too small and have NaN.
    """
    if min(images.shape[1:3]) < LEAST_CPBD:
        return np.full(len(images), np.nan)
    from cpbd.compute import compute

    return np.array([compute(image @ np.array(LUMA)) for image in images])
