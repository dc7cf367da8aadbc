"""Metrics. A name says the protocol: FID and KID are on Inception, CSIM on ArcFace; what is measured with the
embedded judges is FD-judge, KD-judge and CSIM-judge.
"""

import numpy as np
from skimage.metrics import structural_similarity

FEWEST_SAMPLES = 64  # below, a Fréchet distance says nothing


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of Wang et al. 2004 of two images (H, W, 3) uint8."""
    return float(structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                       data_range=255, channel_axis=-1))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of features (..., d)."""
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features (n, d) and (m, d) (Heusel et al. 2017).

    The trace of the root of the product of covariances A and B is that of the root of √A B √A, which is symmetric. Raises
    ValueError for fewer than ``FEWEST_SAMPLES``.
    """
    if min(len(a), len(b)) < FEWEST_SAMPLES:
        raise ValueError(f"{min(len(a), len(b))} samples are too few for a Fréchet distance; {FEWEST_SAMPLES} are needed")
    a, b = a.astype(np.float64), b.astype(np.float64)
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(of_a)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ of_b @ half).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + of_a.trace() + of_b.trace() - 2 * root)


def samples_without_one(people: np.ndarray, seeds: np.ndarray) -> int:
    """How many samples of one seed are left where one of the ``people`` (n,) is left out, at least; ``seeds`` (n,)."""
    return min(int(((seeds == s) & (people != p)).sum()) for s in np.unique(seeds) for p in np.unique(people))


def kernel_distance(a: np.ndarray, b: np.ndarray, paired: bool = False) -> float:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³ of features (n, d) and (m, d) (Bińkowski et al. 2018).

    Where the i-th of one shows what the i-th of the other does, they are ``paired``: such pairs resemble each other, and
    counted, as KID counts them, they put the distance of a good copy below zero.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    d = a.shape[1]
    kernel = lambda x, y: (x @ y.T / d + 1) ** 3
    apart = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
    ab = kernel(a, b)
    return float(apart(kernel(a, a)) + apart(kernel(b, b)) - 2 * (apart(ab) if paired else ab.mean()))


def landmark_error(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean distance of landmarks (..., 68, 2) over the distance between the outer corners of the wanted eyes."""
    scale = np.linalg.norm(wanted[..., 36, :] - wanted[..., 45, :], axis=-1)
    return np.linalg.norm(found - wanted, axis=-1).mean(-1) / scale


def sharpness(images: np.ndarray) -> np.ndarray:
    """Mean size of the grey gradient of images (n, H, W, 3) uint8: (n,), in grey levels a pixel. Blur lowers it."""
    grey = images.astype(np.float32).mean(-1)
    return np.hypot(np.diff(grey, axis=1)[:, :, :-1], np.diff(grey, axis=2)[:, :-1]).mean((1, 2))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; nan where one side does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
