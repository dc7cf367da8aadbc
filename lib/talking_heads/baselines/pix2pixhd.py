"""Pix2pixHD (Wang et al. 2018) on landmark images: a translation network without a notion of person.

It is pretrained on many people and then fine-tuned on the T frames of one, as the paper's section 4 does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURE_WEIGHT = 10.0  # of feature matching and of the content loss


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels)  # without affine parameters


class ResnetBlock(nn.Module):
    """Two reflection-padded 3×3 convolutions around a skip."""

    def __init__(self, channels: int):
        super().__init__()
        def layer() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), _norm(channels)]

        self.body = nn.Sequential(*layer(), nn.ReLU(), *layer())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class GlobalGenerator(nn.Module):
    """Landmark images (B, 3, H, W) to frames (B, 3, H, W) in [-1, 1].

    ``channels`` are the widths from full resolution down, 64 to 1024 in the paper; ``blocks`` residual blocks follow.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512, 1024), blocks: int = 9):
        super().__init__()
        c = list(channels)
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, c[0], 7), _norm(c[0]), nn.ReLU()]
        for a, b in zip(c, c[1:]):
            layers += [nn.Conv2d(a, b, 3, 2, 1), _norm(b), nn.ReLU()]
        layers += [ResnetBlock(c[-1]) for _ in range(blocks)]
        for a, b in zip(c[::-1], c[-2::-1]):
            layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1), _norm(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(c[0], 3, 7), nn.Tanh())
        self.apply(initialise)

    def forward(self, y: Tensor) -> Tensor:
        return self.layers(y)


class PatchDiscriminator(nn.Module):
    """PatchGAN: a score for every patch (70 × 70 with three halvings), and the activations before it."""

    def __init__(self, width: int = 64, halvings: int = 3):
        super().__init__()
        widths = [min(width * 2 ** i, 512) for i in range(halvings + 1)]
        stages = [nn.Sequential(nn.Conv2d(6, widths[0], 4, 2, 2), nn.LeakyReLU(0.2))]
        for i, (a, b) in enumerate(zip(widths, widths[1:]), start=1):
            stages.append(nn.Sequential(nn.Conv2d(a, b, 4, 2 if i < halvings else 1, 2), _norm(b), nn.LeakyReLU(0.2)))
        self.stages = nn.ModuleList([*stages, nn.Conv2d(widths[-1], 1, 4, 1, 2)])

    def forward(self, xy: Tensor) -> list[Tensor]:
        out = []
        for stage in self.stages:
            out.append(stage(out[-1] if out else xy))
        return out


class MultiscaleDiscriminator(nn.Module):
    """The same PatchGAN, with weights of its own, at full and half resolution: activations per scale, scores last."""

    def __init__(self, width: int = 64, halvings: int = 3, scales: int = 2):
        super().__init__()
        self.halvings = halvings
        self.scales = nn.ModuleList(PatchDiscriminator(width, halvings) for _ in range(scales))
        self.apply(initialise)

    def forward(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        xy, out = torch.cat([y, x], 1), []
        for one in self.scales:
            out.append(one(xy))
            xy = F.avg_pool2d(xy, 3, 2, 1, count_include_pad=False)
        return out


def initialise(module: nn.Module) -> None:
    """N(0, 0.02) for every convolution."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def least_squares(scales: list[list[Tensor]], target: float) -> Tensor:
    """LSGAN: mean squared distance of the scores to ``target``, summed over scales."""
    return sum(((s[-1].float() - target) ** 2).mean() for s in scales)


def feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]], halvings: int) -> Tensor:
    """L1 between activations, 4 / (halvings + 1) / scales for every layer but the scores."""
    weight = 4 / (halvings + 1) / len(fake)
    return weight * sum(F.l1_loss(a.float(), b.detach().float()) for f, r in zip(fake, real) for a, b in zip(f[:-1], r[:-1]))
