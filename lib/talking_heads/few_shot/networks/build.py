"""E, G and D of a profile: built untrained, or restored from exported weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from talking_heads.config import Profile
from talking_heads.few_shot.networks.blocks import AdaptiveInstanceNorm
from talking_heads.few_shot.networks.discriminator import ConvNet, Discriminator
from talking_heads.few_shot.networks.embedder import Embedder
from talking_heads.few_shot.networks.generator import Generator
from talking_heads.sections.few_shot import Networks as NetworksSection


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


def build_generator(section: NetworksSection) -> Generator:
    """An untrained G."""
    return Generator(section)


def build_networks(section: NetworksSection, videos: int) -> Networks:
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


@torch.no_grad()
def grow(nets: Networks, smaller: Networks) -> None:
    """Give networks the weights of ones with fewer levels, as far as the layers have the same shapes.

    Blocks correspond that are equally far from the lowest resolution. The outer levels stay as they are, so
    training begins with an inside that knows pose and identity (compare Karras et al. 2018).
    """
    stacks = [(nets.embedder.stack, smaller.embedder.stack)]
    stacks += [(nets.discriminator.convnet.stack, smaller.discriminator.convnet.stack)]
    new, old = nets.generator, smaller.generator
    pairs: list[tuple[nn.Module | None, nn.Module | None]] = [
        *zip(reversed(new.down), reversed(old.down), strict=False),
        *zip(new.middle, old.middle, strict=True),
        *zip(new.up, old.up, strict=False),
        (new.attend_down, old.attend_down),
        (new.attend_up, old.attend_up),
    ]
    for stack, inner in stacks:
        pairs += zip(reversed(stack.blocks), reversed(inner.blocks), strict=False)
        pairs.append((stack.attention, inner.attention))
    for a, b in pairs:
        if a is None or b is None:
            continue
        values, wanted = b.state_dict(), a.state_dict()
        fitting = {k: v for k, v in values.items() if k in wanted and v.shape == wanted[k].shape}
        a.load_state_dict(fitting, strict=False)
        for norm_a, norm_b in zip(_adaptive(a), _adaptive(b), strict=True):
            for kind in ("weight", "bias"):
                rows = getattr(old.projection, kind)[norm_b.offset : norm_b.offset + 2 * norm_b.channels]
                getattr(new.projection, kind)[norm_a.offset : norm_a.offset + 2 * norm_a.channels] = rows
    nets.discriminator.w0.copy_(smaller.discriminator.w0)
    nets.discriminator.b.copy_(smaller.discriminator.b)


def _adaptive(block: nn.Module) -> list[AdaptiveInstanceNorm]:
    return [module for module in block.modules() if isinstance(module, AdaptiveInstanceNorm)]


def _select(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The entries of one network, without its name."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
