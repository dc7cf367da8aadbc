"""The denoising network with its conditions: what training and generation share."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from talking_heads.config import Diffused
from talking_heads.data.frames import LUMA
from talking_heads.diffused.unet import UNet

SEED_STRIDE = 1_000_003  # between seeds of trainings and clips; more than the steps or frames of any


class Conditions(NamedTuple):
    """What the network is given beside the noisy frame."""

    identity: Tensor  # (B, 3, H, W)
    motion: Tensor  # (B, m_x, 3, H, W) in colour, oldest first
    audio: Tensor  # (B, 2 m_y + 1, A) motion audio embeddings
    level: Tensor  # (B,) noise on the motion frames


def build_unet(section: Diffused) -> UNet:
    """The untrained network of a profile."""
    conditions = section.conditions
    channels = 3 + 3 + conditions.motion_frames * (1 if conditions.motion_grey else 3)
    audio_size = section.audio_encoder.embedding * (2 * conditions.audio_windows + 1)
    return UNet(section.network, channels, audio_size, motion_level=conditions.motion_noise > 0)


def grey(x: Tensor) -> Tensor:
    """Frames (..., 3, H, W) in grey: (..., 1, H, W)."""
    red, green, blue = x.unbind(-3)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[..., None, :, :]


def network_input(x_t: Tensor, conditions: Conditions, motion_grey: bool) -> Tensor:
    """x_in of equation (16): noisy frame, motion frames and identity frame, joined by channels."""
    motion = grey(conditions.motion) if motion_grey else conditions.motion
    return torch.cat([x_t, motion.flatten(1, 2), conditions.identity], dim=1)


def predict(unet: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, motion_grey: bool) -> Tensor:
    """The network's output (B, 6, H, W) at time steps t (B,)."""
    x_in = network_input(x_t, conditions, motion_grey)
    return unet(x_in, t, conditions.audio.flatten(1), conditions.level)
