"""The denoising network with its conditions: what training and generation share."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.data.frames import LUMA
from talking_heads.data.windows import CONTROLS
from talking_heads.diffused.unet import UNet
from talking_heads.sections.diffused import Diffused

SEED_STRIDE = 1_000_003  # between seeds of trainings and clips; more than the steps or frames of any


class Conditions(NamedTuple):
    """What the network is given beside the noisy frame."""

    identity: Tensor  # (B, 3, H, W)
    motion: Tensor  # (B, m_x, 3, H, W) in colour, oldest first
    audio: Tensor  # (B, 2 m_y + 1, A) motion audio embeddings
    level: Tensor  # (B,) noise on the motion frames
    control: Tensor | None = None  # (B, 2), see :mod:`diffused.control`; None for the network's own choice


def build_unet(section: Diffused, controlled: bool = False) -> UNet:
    """The untrained network of a profile, with the layers of controls if it is to be ``controlled``."""
    conditions = section.conditions
    channels = 3 + 3 + conditions.motion_frames * (1 if conditions.motion_grey else 3)
    audio_size = section.audio_encoder.embedding * (2 * conditions.audio_windows + 1)
    motion_level, controls = conditions.motion_noise > 0, CONTROLS if controlled else 0
    return UNet(section.network, channels, audio_size, motion_level, controls)


def control_state(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of a network's layers of controls."""
    return {name: value for name, value in unet.state_dict().items() if "control" in name}


def adapt_weights(state: dict[str, Tensor], source: Diffused, target: Diffused) -> dict[str, Tensor]:
    """The weights of a network of ``source`` for one of ``target``, which has other conditions.

    Motion frames and audio windows that both have keep their weights: the newest frames, and the windows
    around the frame. Others start at zero, so they change nothing before training. A grey motion frame gets
    the sum of the weights of its three colours, so that the output is that for R = G = B; a motion frame in
    colour gets those of the grey one, times the shares of the colours in grey.
    """
    pixels, width = target.network.unshuffle**2, target.audio_encoder.embedding
    stem = state["stem.weight"].float().unflatten(1, (-1, pixels))  # (C, channels of the input, pixels, 3, 3)
    grey_before, grey_now = (section.conditions.motion_grey for section in (source, target))
    noisy, motion, identity = stem[:, :3], stem[:, 3:-3], stem[:, -3:]
    frames = motion.unflatten(1, (-1, 1 if grey_before else 3))  # (C, m_x, 1 or 3, pixels, 3, 3)
    if grey_now and not grey_before:
        frames = frames.sum(2, keepdim=True)
    elif grey_before and not grey_now:
        frames = frames * torch.tensor(LUMA)[:, None, None, None]
    new_frames = target.conditions.motion_frames - frames.shape[1]
    frames = F.pad(frames.movedim(1, -1), (new_frames, 0)).movedim(-1, 1)  # crops where it is negative
    new_windows = target.conditions.audio_windows - source.conditions.audio_windows  # on each side
    windows = state["audio_mlp.0.weight"].float().unflatten(1, (-1, width))  # (D, 2 m_y + 1, A)
    windows = F.pad(windows, (0, 0, new_windows, new_windows))
    return {
        **state,
        "stem.weight": torch.cat([noisy, frames.flatten(1, 2), identity], 1).flatten(1, 2),
        "audio_mlp.0.weight": windows.flatten(1),
    }


def grey(x: Tensor) -> Tensor:
    """Frames (..., 3, H, W) in grey: (..., 1, H, W)."""
    red, green, blue = x.unbind(-3)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[..., None, :, :]


def network_input(x_t: Tensor, conditions: Conditions, motion_grey: bool) -> Tensor:
    """x_in of equation (16): noisy frame, motion frames and identity frame, joined by channels in the
    order of the authors' code.
    """
    motion = grey(conditions.motion) if motion_grey else conditions.motion
    return torch.cat([x_t, motion.flatten(1, 2), conditions.identity], dim=1)


def predict(unet: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, motion_grey: bool) -> Tensor:
    """The network's output (B, 6, H, W) at time steps t (B,)."""
    x_in = network_input(x_t, conditions, motion_grey)
    return unet(x_in, t, conditions.audio.flatten(1), conditions.level, conditions.control)
