"""Pix2pixHD (Wang et al. 2018) on landmark images: image translation without an embedding of the identity.

It is pretrained on many identities and fine-tuned on the T frames of one, as in section 4 of the paper.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.precision import mixed_precision

FEATURE_WEIGHT = 10.0  # of feature matching and of the content loss


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels)  # without affine parameters


class ResnetBlock(nn.Module):
    """Two 3×3 convolutions with reflection padding, and a skip."""

    def __init__(self, channels: int):
        super().__init__()

        def layer() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), _norm(channels)]

        self.body = nn.Sequential(*layer(), nn.ReLU(), *layer())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class GlobalGenerator(nn.Module):
    """Landmark images (B, 3, H, W) to frames (B, 3, H, W) in [-1, 1].

    ``channels`` are the widths from full resolution down, by default those of Pix2pixHD's paper; ``blocks``
    is the number of residual blocks.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        blocks: int = 9,
        precision: str = "fp32",
    ):
        super().__init__()
        c, self.precision = list(channels), precision
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, c[0], 7), _norm(c[0]), nn.ReLU()]
        for a, b in pairwise(c):
            layers += [nn.Conv2d(a, b, 3, 2, 1), _norm(b), nn.ReLU()]
        layers += [ResnetBlock(c[-1]) for _ in range(blocks)]
        for a, b in pairwise(reversed(c)):
            layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1), _norm(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(c[0], 3, 7))
        self.apply(initialise)

    @mixed_precision
    def forward(self, y: Tensor) -> Tensor:
        """Landmark images (B, 3, H, W) to frames (B, 3, H, W) in [-1, 1]."""
        return torch.tanh(self.layers(y).float())


class PatchDiscriminator(nn.Module):
    """PatchGAN: the activations of every stage; the last ones are a score for every patch.

    Patches are 70 × 70 with three halvings.
    """

    def __init__(self, width: int = 64, halvings: int = 3):
        super().__init__()
        widths = [min(width * 2**i, 512) for i in range(halvings + 1)]
        stages = [nn.Sequential(nn.Conv2d(6, widths[0], 4, 2, 2), nn.LeakyReLU(0.2))]
        for i, (a, b) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < halvings else 1
            stages.append(nn.Sequential(nn.Conv2d(a, b, 4, stride, 2), _norm(b), nn.LeakyReLU(0.2)))
        self.stages = nn.ModuleList([*stages, nn.Conv2d(widths[-1], 1, 4, 1, 2)])

    def forward(self, xy: Tensor) -> list[Tensor]:
        """Landmark images and frames (B, 6, H, W) to activations (B, C, h, w)."""
        h, activations = xy, []
        for stage in self.stages:
            h = stage(h)
            activations.append(h)
        return activations


class MultiscaleDiscriminator(nn.Module):
    """Two PatchGANs, at full and half resolution."""

    def __init__(self, width: int = 64, halvings: int = 3, scales: int = 2, precision: str = "fp32"):
        super().__init__()
        self.halvings, self.precision = halvings, precision
        self.scales = nn.ModuleList(PatchDiscriminator(width, halvings) for _ in range(scales))
        self.apply(initialise)

    @mixed_precision
    def forward(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        """Frames x and landmark images y (B, 3, H, W) to the activations of every scale, the scores last."""
        xy, activations = torch.cat([y, x], 1), []
        for scale in self.scales:
            activations.append(scale(xy))
            xy = F.avg_pool2d(xy, 3, 2, 1, count_include_pad=False)
        return activations


def initialise(module: nn.Module) -> None:
    """Weights of a convolution from N(0, 0.02²), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def least_squares(scales: list[list[Tensor]], target: float) -> Tensor:
    """LSGAN: the mean squared distance of the scores to ``target``, summed over scales."""
    return torch.stack([((activations[-1].float() - target) ** 2).mean() for activations in scales]).sum()


def feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]], halvings: int) -> Tensor:
    """L1 between activations; every layer except the scores weighs 4 / (halvings + 1) / scales."""
    terms = [
        F.l1_loss(a.float(), b.detach().float())
        for fake_scale, real_scale in zip(fake, real, strict=True)
        for a, b in zip(fake_scale[:-1], real_scale[:-1], strict=True)
    ]
    return 4 / (halvings + 1) / len(fake) * torch.stack(terms).sum()
