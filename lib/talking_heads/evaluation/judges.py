"""The judges at work: identity features and landmarks of images, from the embedded networks or from fetched ones."""

from functools import lru_cache

import numpy as np
import torch

from ..judges.lids import LidsJudge, look_twice
from ..judges.networks import WEIGHTS, IdentityJudge, LandmarkJudge
from ..judges.verification import embed
from ..tensors import load_weights


def _load(net: torch.nn.Module, name: str) -> torch.nn.Module:
    net.load_state_dict(load_weights(WEIGHTS / f"{name}.safetensors")[0])
    return net.eval().requires_grad_(False)


@lru_cache
def identity_judge() -> IdentityJudge:
    return _load(IdentityJudge(), "identity")


@lru_cache
def landmark_judge() -> LandmarkJudge:
    return _load(LandmarkJudge(), "landmarks")


@lru_cache
def lids_judge() -> LidsJudge:
    return _load(LidsJudge(), "lids")


def identity_features(images: np.ndarray) -> np.ndarray:
    """Unit embeddings (n, 128) of images (n, H, W, 3) uint8: what CSIM-judge and FD-judge compare."""
    return embed(identity_judge(), images).numpy()


def find_landmarks(images: np.ndarray) -> np.ndarray:
    """Landmarks (n, 68, 2) in pixels that the judges see in images (n, S, S, 3) uint8."""
    return look_twice(images, landmark_judge(), lids_judge())
