"""Distances between features. A name carries the protocol: FID and KID are on Inception, CSIM on ArcFace; on
the embedded judges they are FD-judge, KD-judge and CSIM-judge.
"""

import numpy as np

PAPER_FRAMES = 1600  # of the paper's FID: 50 videos of 32 frames, fewer than Inception's 2048 features


def fewest_samples(dimension: int, without_group: bool = False) -> int:
    """Samples that a Fréchet distance of ``dimension`` features needs.

    One more than features, so that the covariance is not singular; for Inception's 2048 features the paper's
    number, at which alone a value is comparable with the paper's. There a set ``without_group``, of which the
    jackknife has left out a group of identities, may be smaller by a quarter.
    """
    if dimension < PAPER_FRAMES:
        return dimension + 1
    return PAPER_FRAMES * 3 // 4 if without_group else PAPER_FRAMES


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of features (..., d)."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.maximum(norms, 1e-12)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features (n, d) and (m, d) (Heusel et al. 2017).

    The trace of the root of the product of covariances A and B is that of the root of √A B √A, which is
    symmetric. Raises ValueError for fewer than :func:`fewest_samples`.
    """
    n, needed = min(len(a), len(b)), fewest_samples(a.shape[1], without_group=True)
    if n < needed:
        raise ValueError(
            f"{n} samples are too few for a Fréchet distance of {a.shape[1]} features; {needed} are needed"
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root_a = vectors * np.sqrt(values.clip(0)) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * root)


def samples_of_a_seed(seeds: np.ndarray) -> int:
    """The fewest samples of one fine-tuning seed; ``seeds`` (n,)."""
    return int(np.unique(seeds, return_counts=True)[1].min())


def samples_without_one(identities: np.ndarray, seeds: np.ndarray) -> int:
    """The fewest samples of one seed that remain where one identity is left out; both (n,)."""
    return min(
        int(((seeds == seed) & (identities != identity)).sum())
        for seed in np.unique(seeds)
        for identity in np.unique(identities)
    )


def kernel_distance(a: np.ndarray, b: np.ndarray, paired: bool = False) -> float:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³ of features (n, d) and (m, d) (Bińkowski et al.
    2018).

    Where the i-th of one shows what the i-th of the other does, they are ``paired``: such pairs resemble each
    other, and counted, as KID counts them, they put the distance of a good copy below zero.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cross = _kernel(a, b)
    between = _mean_off_diagonal(cross) if paired else cross.mean()
    return float(_mean_off_diagonal(_kernel(a, a)) + _mean_off_diagonal(_kernel(b, b)) - 2 * between)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_off_diagonal(k: np.ndarray) -> float:
    return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
