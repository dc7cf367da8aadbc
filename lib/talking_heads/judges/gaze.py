"""The gaze judge: finds the pupils in the pixels around the eyes, given the landmarks of the face.

It measures the gaze of generated heads; of the eyes, the 68 landmarks contain only the rims of the lids.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import openings

HIGH, WIDE = 32, 64  # pixels of the strip with both eyes
HALF_WIDTH = 0.8  # of the strip, in distances between the outer corners of the eyes
OPEN = 0.12  # smallest opening of eyes that are measured, in interocular distances
BATCH = 256


def eye_strip(images: Tensor, points: np.ndarray) -> Tensor:
    """Strips (B, 3, HIGH, WIDE) with both eyes of images (B, 3, S, S) with landmarks (B, 68, 2)."""
    middle, distance = between_eyes(points)
    return cut_strip(images, middle[:, 0], HALF_WIDTH * distance[:, 0, 0], HIGH, WIDE)


def cut_strip(images: Tensor, centre: np.ndarray, half_width: np.ndarray, high: int, wide: int) -> Tensor:
    """Strips (B, 3, high, wide) of images (B, 3, S, S), ``half_width`` (B,) pixels around points (B, 2)."""
    middle, half = (
        torch.as_tensor(values, dtype=torch.float32, device=images.device) for values in (centre, half_width)
    )
    size = images.shape[-1]
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = 2 * half / size, 2 * half * high / wide / size
    theta[:, :, 2] = 2 * (middle + 0.5) / size - 1
    grid = F.affine_grid(theta, [len(images), 3, high, wide], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def device_of(net: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next(net.parameters()).device


class StripReader(nn.Module):
    """A small network that maps strips (B, 3, HIGH, WIDE) to points of both eyes, (B, points, 2).

    Points are relative to the middle of the outer corners of the eyes, in distances between these corners.
    """

    def __init__(self, points: int):
        super().__init__()

        def conv(a: int, b: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

        self.body = nn.Sequential(
            conv(3, 24, 1),
            conv(24, 32, 2),
            conv(32, 48, 1),
            conv(48, 64, 2),
            conv(64, 64, 2),
            nn.Flatten(),
            nn.Linear(64 * (HIGH // 8) * (WIDE // 8), 128),
            nn.ReLU(),
            nn.Linear(128, 2 * points),
        )

    def forward(self, strips: Tensor) -> Tensor:
        return self.body(strips).float().unflatten(1, (-1, 2))


class GazeJudge(StripReader):
    """Finds the pupils."""

    def __init__(self):
        super().__init__(2)


def between_eyes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle (n, 1, 2) and distance (n, 1, 1) of the outer corners of the eyes of landmarks (n, 68, 2)."""
    outer = points[:, [36, 45]]
    return outer.mean(1, keepdims=True), np.linalg.norm(outer[:, 1] - outer[:, 0], axis=-1)[:, None, None]


def relative(eyes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points of the eyes (n, k, 2) of landmarks (n, 68, 2) in the units of :class:`StripReader`."""
    middle, distance = between_eyes(points)
    return (eyes - middle) / distance


def eyes_open(points: np.ndarray) -> np.ndarray:
    """Whether the eyes of landmarks (n, 68, 2) are open enough to be measured: (n,) bool."""
    return openings(points)[1] > OPEN


@torch.no_grad()
def detect_pupils(images: np.ndarray, points: np.ndarray, net: GazeJudge) -> np.ndarray:
    """Pupils (n, 2, 2) of images (n, H, W, 3) uint8 with landmarks (n, 68, 2) in pixels.

    The pupils are in the units of :func:`relative`.
    """
    device = device_of(net)
    pupils = [
        net(eye_strip(to_tensor(images[k : k + BATCH], device), points[k : k + BATCH])).cpu()
        for k in range(0, len(images), BATCH)
    ]
    return torch.cat(pupils).numpy()


def gaze_error_of(images: np.ndarray, points: np.ndarray, pupils: np.ndarray, net: GazeJudge) -> np.ndarray:
    """Distance (n,) of the pupils in images to the true ones, NaN for closed eyes.

    Images are (n, H, W, 3) uint8, landmarks (n, 68, 2) and true pupils (n, 2, 2) in pixels. The unit is the
    distance between the outer corners of the eyes.
    """
    return _error(detect_pupils(images, points, net), points, pupils)


def lids_error(points: np.ndarray, pupils: np.ndarray) -> np.ndarray:
    """The error of a baseline without images, pupils in the middle of the lids; see :func:`gaze_error_of`."""
    middles = points[:, 36:48].reshape(-1, 2, 6, 2).mean(2)
    return _error(relative(middles, points), points, pupils)


def _error(estimate: np.ndarray, points: np.ndarray, pupils: np.ndarray) -> np.ndarray:
    error = np.linalg.norm(estimate - relative(pupils, points), axis=-1).mean(1)
    return np.where(eyes_open(points), error, np.nan)
