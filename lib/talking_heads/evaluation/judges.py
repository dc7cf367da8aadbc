"""The judges at work: identity features and landmarks of images, from the embedded networks or from fetched ones."""

from functools import lru_cache

import numpy as np
import torch

from ..corpus.episodes import to_tensor
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


def identity_features(images: np.ndarray) -> np.ndarray:
    """Unit embeddings (n, 128) of images (n, H, W, 3) uint8: what CSIM-judge and FD-judge compare."""
    return embed(identity_judge(), images).numpy()


@torch.no_grad()
def find_landmarks(images: np.ndarray) -> np.ndarray:
    """Landmarks (n, 68, 2) in pixels that the landmark judge sees in images (n, H, W, 3) uint8."""
    return np.concatenate([landmark_judge()(x).numpy() for x in to_tensor(images).split(128)]) * images.shape[1] - 0.5
