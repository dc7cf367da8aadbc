"""E, G and D of a profile: built untrained, or restored from exported weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from talking_heads import config
from talking_heads.config import Profile
from talking_heads.few_shot.networks.discriminator import ConvNet, Discriminator
from talking_heads.few_shot.networks.embedder import Embedder
from talking_heads.few_shot.networks.generator import Generator


@dataclass
class Networks:
    """E, G with P, and D."""

    embedder: Embedder
    generator: Generator
    discriminator: Discriminator

    def to(self, device: str | torch.device) -> "Networks":
        for net in (self.embedder, self.generator, self.discriminator):
            net.to(device)
        return self


def build_generator(section: config.Networks) -> Generator:
    """An untrained G."""
    return Generator(section)


def build_networks(section: config.Networks, videos: int) -> Networks:
    """Untrained E, G and D, D with one column of W for each of ``videos``."""
    embedder = Embedder(
        section.embedder_channels,
        section.embedder_attention,
        section.pool,
        section.spectral_norm,
        section.precision,
    )
    generator = build_generator(section)
    convnet = ConvNet(
        section.discriminator_channels,
        section.discriminator_attention,
        section.pool_discriminator,
        precision=section.precision,
    )
    return Networks(embedder, generator, Discriminator(convnet, videos, section.embedding))


def restore_networks(
    profile: Profile, state: dict[str, Tensor], device: str | torch.device = "cpu"
) -> Networks:
    """Networks of a profile with exported weights, which do not contain W.

    Raises ValueError where the weights do not fit the profile.
    """
    nets = build_networks(profile.few_shot.networks, 1)
    try:
        nets.embedder.load_state_dict(_select(state, "embedder"))
        nets.generator.load_state_dict(_select(state, "generator"))
        nets.discriminator.convnet.load_state_dict(_select(state, "convnet"))
    except RuntimeError as error:
        raise ValueError(f"weights do not fit profile {profile.name}: {error}") from error
    with torch.no_grad():
        nets.discriminator.w0.copy_(state["d.w0"])
        nets.discriminator.b.copy_(state["d.b"])
    return nets.to(device)


def _select(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The entries of one network, without its name."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
