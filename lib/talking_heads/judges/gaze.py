"""The gaze judge: where pupils are, from the pixels around two eyes whose landmarks are known.

It measures whether a generated head looks where it was told to: the 68 points hold only the rims of the lids.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..corpus.episodes import to_tensor
from ..corpus.landmarks import openings
from ..tensors import load_net
from .networks import WEIGHTS

HIGH, WIDE = 32, 64  # pixels of the picture of both eyes
REACH = 0.8  # half its width, in distances between the eyes' outer corners
OPEN = 0.12  # eyes open wider than this, over the distance between them, are judged


def eye_strip(images: Tensor, points: np.ndarray) -> Tensor:
    """Both eyes of images (B, 3, S, S) with landmarks (B, 68, 2): (B, 3, HIGH, WIDE)."""
    outer = torch.as_tensor(points[:, [36, 45]], dtype=torch.float32)
    centre, half = outer.mean(1), REACH * (outer[:, 1] - outer[:, 0]).norm(dim=-1)
    size = images.shape[-1]
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 2 * half / size, 2 * half * HIGH / WIDE / size
    theta[:, :, 2] = 2 * (centre + 0.5) / size - 1
    grid = F.affine_grid(theta, (len(images), 3, HIGH, WIDE), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class StripReader(nn.Module):
    """Strips (B, 3, HIGH, WIDE) to ``points`` of both eyes (B, points, 2), relative to their middle, in distances between their outer corners."""

    def __init__(self, points: int):
        super().__init__()
        def conv(a: int, b: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

        self.body = nn.Sequential(conv(3, 24, 1), conv(24, 32, 2), conv(32, 48, 1), conv(48, 64, 2), conv(64, 64, 2), nn.Flatten(),
                                  nn.Linear(64 * (HIGH // 8) * (WIDE // 8), 128), nn.ReLU(), nn.Linear(128, 2 * points))

    def forward(self, strips: Tensor) -> Tensor:
        return self.body(strips).float().unflatten(1, (-1, 2))


class GazeJudge(StripReader):
    """Reads the pupils."""

    def __init__(self):
        super().__init__(2)


def between_eyes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle (n, 1, 2) of faces' outer corners of the eyes, (n, 68, 2), and their distance (n, 1, 1)."""
    outer = points[:, [36, 45]]
    return outer.mean(1, keepdims=True), np.linalg.norm(outer[:, 1] - outer[:, 0], axis=-1)[:, None, None]


def relative(eyes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points of the eyes (n, k, 2) of faces (n, 68, 2) in the units of :class:`StripReader`."""
    middle, distance = between_eyes(points)
    return (eyes - middle) / distance


def eyes_open(points: np.ndarray) -> np.ndarray:
    return openings(points)[1] > OPEN


@lru_cache
def gaze_judge() -> GazeJudge:
    return load_net(GazeJudge(), WEIGHTS / "gaze.safetensors")


@torch.no_grad()
def find_pupils(images: np.ndarray, points: np.ndarray, net: GazeJudge | None = None) -> np.ndarray:
    """Pupils (n, 2, 2), as :func:`relative`, in images (n, H, W, 3) uint8 of faces with landmarks (n, 68, 2)."""
    net = net or gaze_judge()
    return torch.cat([net(eye_strip(to_tensor(images[k:k + 256]), points[k:k + 256])) for k in range(0, len(images), 256)]).numpy()


def gaze_error(images: np.ndarray, points: np.ndarray, pupils: np.ndarray, net: GazeJudge | None = None) -> np.ndarray:
    """Distance of the pupils in pictures to where they should be, (n,), in distances between the eyes' outer corners; NaN for closed eyes."""
    return _apart(find_pupils(images, points, net), points, pupils)


def lids_error(points: np.ndarray, pupils: np.ndarray) -> np.ndarray:
    """As :func:`gaze_error`, of the guess that needs no picture: pupils in the middle of the lids."""
    return _apart(relative(points[:, 36:48].reshape(-1, 2, 6, 2).mean(2), points), points, pupils)


def _apart(found: np.ndarray, points: np.ndarray, pupils: np.ndarray) -> np.ndarray:
    apart = np.linalg.norm(found - relative(pupils, points), axis=-1).mean(1)
    return np.where(eyes_open(points), apart, np.nan)


def read_gaze(net: GazeJudge, folder: Path) -> dict[str, float]:
    """Its error on true frames of people whom no judge has seen, beside the error of always guessing the middle of their pupils."""
    from .training import pool
    data = pool("verification_test", folder)
    images, points = data.images.reshape(-1, *data.images.shape[3:]), data.points.reshape(-1, 70, 2)
    found = gaze_error(images, points[:, :68], points[:, 68:], net)
    right = relative(points[:, 68:], points[:, :68])[eyes_open(points[:, :68])]
    return {"error": round(float(np.nanmean(found)), 4), "error of the mean": round(float(np.linalg.norm(right - right.mean(0), axis=-1).mean()), 4)}
