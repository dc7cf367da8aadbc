"""Tables of Diffused Heads."""

import torch

from talking_heads.config import Profile
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.model import build_unet


def parameter_counts(profile: Profile) -> dict[str, int]:
    """Parameters of the denoising network and of the audio encoder of a profile."""
    with torch.device("meta"):  # counted, never filled
        unet = build_unet(profile.diffused)
    modules = {"diffused_unet": unet, "audio_encoder": build_encoder(profile.diffused.audio_encoder)}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
