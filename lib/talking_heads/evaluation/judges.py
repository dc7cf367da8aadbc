"""The judges at work: identity features and landmarks of images, from the embedded networks or from fetched ones."""

from functools import lru_cache

import numpy as np

from ..judges.lids import LidsJudge, look_twice
from ..judges.networks import WEIGHTS, IdentityJudge, LandmarkJudge
from ..judges.verification import embed
from ..tensors import load_net


@lru_cache
def identity_judge() -> IdentityJudge:
    return load_net(IdentityJudge(), WEIGHTS / "identity.safetensors")


@lru_cache
def landmark_judge() -> LandmarkJudge:
    return load_net(LandmarkJudge(), WEIGHTS / "landmarks.safetensors")


@lru_cache
def lids_judge() -> LidsJudge:
    return load_net(LidsJudge(), WEIGHTS / "lids.safetensors")


def identity_features(images: np.ndarray) -> np.ndarray:
    """Unit embeddings (n, 128) of images (n, H, W, 3) uint8: what CSIM-judge and FD-judge compare."""
    return embed(identity_judge(), images).numpy()


def find_landmarks(images: np.ndarray) -> np.ndarray:
    """Landmarks (n, 68, 2) in pixels that the judges see in images (n, S, S, 3) uint8."""
    return look_twice(images, landmark_judge(), lids_judge())
