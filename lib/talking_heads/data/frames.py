"""Frames with their landmarks, and their conversion between images and tensors."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey (ITU-R BT.601)


@dataclass
class Frames:
    """Frames with their landmarks and landmark images.

    ``square`` is the crop that follows from the landmarks, as (x, y, side) in pixels of the actual crop. The
    two differ where the crop would extend beyond the source frame.
    """

    images: np.ndarray  # (n, S, S, 3) uint8
    points: np.ndarray  # (n, 68, 2), or (n, 70, 2) with pupils
    x: Tensor  # (n, 3, S, S) frames in [-1, 1]
    y: Tensor  # (n, 3, S, S) landmark images in [-1, 1]
    square: tuple[float, float, float] | None = None

    def select(self, index: np.ndarray) -> "Frames":
        """The frames of an index array, without ``square``."""
        return Frames(self.images[index], self.points[index], self.x[index], self.y[index])

    def to(self, device: str | torch.device) -> "Frames":
        """The frames with their tensors on a device."""
        return dataclasses.replace(self, x=self.x.to(device), y=self.y.to(device))


def to_tensor(images: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """Convert images (..., H, W, 3) uint8 to a tensor (..., 3, H, W) in [-1, 1]."""
    return normalise(torch.tensor(images, device=device))


def normalise(images: Tensor) -> Tensor:
    """Convert a tensor (..., H, W, 3) uint8 to (..., 3, H, W) in [-1, 1]."""
    return images.movedim(-1, -3).contiguous().float() / 127.5 - 1


def to_image(x: Tensor) -> np.ndarray:
    """Convert a tensor (..., 3, H, W) in [-1, 1] to images (..., H, W, 3) uint8."""
    levels = (x.detach().float().clamp(-1, 1) + 1) * 127.5
    return (levels + 0.5).to(torch.uint8).movedim(-3, -1).cpu().numpy()
