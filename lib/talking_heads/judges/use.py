"""The judges with their committed weights: identity features, landmarks and pupils of images."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from talking_heads.config import digest
from talking_heads.files import sha256
from talking_heads.judges.eyelids import LidsJudge, detect_landmarks, refine_eyelids
from talking_heads.judges.gaze import GazeJudge, detect_pupils, gaze_error_of
from talking_heads.judges.lip_reading import LipReader, read_lips
from talking_heads.judges.networks import IdentityJudge, LandmarkJudge
from talking_heads.judges.verification import embed
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.weight_files import load_net

JUDGES = {
    "identity": IdentityJudge,
    "landmarks": LandmarkJudge,
    "lids": LidsJudge,
    "gaze": GazeJudge,
    "lips": LipReader,
}


@lru_cache
def judge(name: str, device: str | torch.device = "cpu") -> Any:
    """The network of a judge in ``JUDGES`` with its committed weights."""
    return load_net(JUDGES[name](), WEIGHTS / f"{name}.safetensors").to(device)


def weights_digest() -> str:
    """Changes with the weights of the judges that measure frames."""
    return digest(*(sha256(WEIGHTS / f"{name}.safetensors") for name in JUDGES))


def identity_features(images: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """Unit embeddings (n, 128) of images (n, H, W, 3) uint8, for CSIM-judge and FD-judge."""
    return embed(judge("identity", device), images).numpy()


def find_landmarks(images: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """Landmarks (n, 68, 2) in pixels of images (n, S, S, 3) uint8."""
    points = detect_landmarks(images, judge("landmarks", device))
    return refine_eyelids(images, points, judge("lids", device))


def find_pupils(images: np.ndarray, points: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """Pupils (n, 2, 2) of images (n, H, W, 3) uint8 with landmarks; see :func:`gaze.detect_pupils`."""
    return detect_pupils(images, points, judge("gaze", device))


def gaze_error(
    images: np.ndarray, points: np.ndarray, pupils: np.ndarray, device: str | torch.device = "cpu"
) -> np.ndarray:
    """Distance (n,) of the pupils in images to the true ones; see :func:`gaze.gaze_error_of`."""
    return gaze_error_of(images, points, pupils, judge("gaze", device))


def find_visemes(images: np.ndarray, points: np.ndarray, device: str | torch.device = "cpu") -> list[int]:
    """Visemes in the clip of images (n, H, W, 3) uint8 with landmarks; see :func:`lip_reading.read_lips`."""
    return read_lips(images, points, judge("lips", device))
