"""The embedded feature networks of the content loss: small VGGs in place of VGG19 and VGGFace."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 64
# the package's networks, or with --weights scratch those of the run
WEIGHTS = Path(os.environ.get("TALKING_HEADS_OWN_JUDGES") or Path(__file__).parents[1] / "weights")


def at_size(x: Tensor, high: int = SIDE, wide: int = SIDE) -> Tensor:
    """Images (B, C, H, W) at ``high`` × ``wide`` pixels: by area where they shrink, else bilinearly."""
    if x.shape[-2:] == (high, wide):
        return x
    return F.interpolate(x, size=(high, wide), mode="area" if x.shape[-1] > wide else "bilinear")


class SmallVGG(nn.Module):
    """Four blocks of 3×3 convolutions with ReLU, each followed by average pooling.

    ``taps`` are the positions of the first ReLU of every block.
    """

    def __init__(self, outputs: int, channels: tuple[int, ...] = (16, 32, 64, 96)):
        super().__init__()
        layers: list[nn.Module] = []
        self.taps = []
        previous = 3
        for i, c in enumerate(channels):
            layers += [nn.Conv2d(previous, c, 3, padding=1), nn.ReLU()]
            self.taps.append(len(layers) - 1)
            if i > 0:
                layers += [nn.Conv2d(c, c, 3, padding=1), nn.ReLU()]
            layers.append(nn.AvgPool2d(2))
            previous = c
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(previous * 16, 256), nn.ReLU(), nn.Linear(256, outputs)
        )
        for m in (
            self.modules()
        ):  # without normalisation, other initialisations than He et al.'s (2015) do not learn
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)
        with torch.no_grad():
            self.head[-1].weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, 3, H, W) to (B, outputs)."""
        return self.head(self.features(at_size(x)))


class AttributeNet(SmallVGG):
    """Regresses traits, pose and the style of a video: (B, outputs)."""


class PersonNet(SmallVGG):
    """Classifies the identities of its training set: (B, identities) logits."""
