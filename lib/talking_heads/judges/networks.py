"""The embedded judges: four small networks that know procedural speakers.

``AttributeNet`` and ``PersonNet`` stand in for VGG19 and VGGFace in the content loss; ``IdentityJudge``,
of another architecture and trained on other people, measures CSIM-judge and FD-judge;
``LandmarkJudge`` reads the 68 points off the pixels. All take images (B, 3, H, W) in [-1, 1] and
see them at 64².
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 64
# those of the package, but with --weights scratch what the run itself has trained
WEIGHTS = Path(os.environ.get("TALKING_HEADS_OWN_JUDGES") or Path(__file__).parent / "weights")


def at_size(x: Tensor, high: int = SIDE, wide: int = SIDE) -> Tensor:
    """Images (B, C, H, W) with ``high`` × ``wide`` pixels, by area where they shrink."""
    if x.shape[-2:] == (high, wide):
        return x
    return F.interpolate(x, size=(high, wide), mode="area" if x.shape[-1] > wide else "bilinear")


class SmallVGG(nn.Module):
    """Four blocks of 3×3 convolutions with ReLU, halved by average pooling; ``taps`` are the block's first ReLUs."""

    def __init__(self, outputs: int, channels: tuple[int, ...] = (16, 32, 64, 96)):
        super().__init__()
        layers: list[nn.Module] = []
        self.taps = []
        before = 3
        for i, c in enumerate(channels):
            layers += [nn.Conv2d(before, c, 3, padding=1), nn.ReLU()]
            self.taps.append(len(layers) - 1)
            if i > 0:
                layers += [nn.Conv2d(c, c, 3, padding=1), nn.ReLU()]
            layers.append(nn.AvgPool2d(2))
            before = c
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(before * 16, 256), nn.ReLU(), nn.Linear(256, outputs))
        for m in self.modules():  # without normalisation, only He et al.'s start (2015) lets it learn
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)
        with torch.no_grad():
            self.head[-1].weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(at_size(x)))


class AttributeNet(SmallVGG):
    """Regresses traits, pose and the video's look: (B, outputs)."""


class PersonNet(SmallVGG):
    """Tells the people of its training set apart: (B, people) logits."""


class Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out), nn.PReLU(c_out), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out))
        self.skip = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if stride > 1 or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class IdentityJudge(nn.Module):
    """Residual network in the manner of ArcFace's: images -> unit embeddings (B, 128)."""

    def __init__(self, dimensions: int = 128):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.PReLU(32))
        self.body = nn.Sequential(Residual(32, 48, 1), Residual(48, 96, 2), Residual(96, 96, 1),
                                  Residual(96, 160, 2), Residual(160, 160, 1), Residual(160, 192, 2))
        self.neck = nn.Sequential(nn.BatchNorm2d(192), nn.Flatten(), nn.Dropout(0.2), nn.Linear(192 * 16, dimensions), nn.BatchNorm1d(dimensions))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.neck(self.body(self.stem(at_size(x)))).float(), dim=-1)


class LandmarkJudge(nn.Module):
    """68 points from pixels: (B, 68, 2) in units of the image's side, 0 at the left or top edge, 1 at the other.

    Every point is the centre of mass of its heat map at 16² plus a regressed offset.
    """

    def __init__(self):
        super().__init__()
        def conv(a: int, b: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

        self.body = nn.Sequential(conv(3, 24, 2), conv(24, 48), conv(48, 64, 2), Residual(64, 96, 1), Residual(96, 96, 1))
        self.context = nn.Sequential(conv(96, 96, 2), conv(96, 96, 2), nn.Flatten(), nn.Linear(96 * 16, 96))
        self.maps = nn.Sequential(conv(96, 96), nn.Conv2d(96, 68 * 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(at_size(x))
        h = h + self.context(h)[:, :, None, None]
        heat, offset = self.maps(h).float().split([68, 136], 1)
        b, p, side, _ = heat.shape
        weight = heat.flatten(2).softmax(-1)
        centre = (torch.arange(side, device=x.device, dtype=torch.float32) + 0.5) / side
        grid = torch.stack([centre.repeat(side), centre.repeat_interleave(side)], -1)  # (side², 2): x, y
        moved = grid + offset.reshape(b, p, 2, side * side).transpose(2, 3) / side
        return (weight[..., None] * moved).sum(2)
