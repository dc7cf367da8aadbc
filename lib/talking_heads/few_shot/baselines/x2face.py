"""X2Face (Wiles et al. 2018): frames by warping an image of the source.

The embedding network warps source frames to an embedded face. The driving network takes the ground-truth
frame, where all other methods take only its landmarks, and computes how the embedded face is sampled.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.precision import mixed_precision


class Warper(nn.Module):
    """Encoder and decoder: frames (B, 3, S, S) to ``outputs`` maps of the same size.

    ``channels`` are the widths of the encoder, one 4×4 convolution of stride 2 each; one more leads to
    ``bottleneck`` channels at 1². The decoder mirrors the encoder; with ``skips`` it also takes the encoder's
    activations.
    """

    def __init__(self, channels: Sequence[int], bottleneck: int, outputs: int, skips: bool, precision: str):
        super().__init__()
        self.precision = precision
        self.skips = skips
        widths = [3, *channels, bottleneck]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.down_norms = nn.ModuleList(nn.BatchNorm2d(b) for b in channels[1:])
        widths = [bottleneck, *reversed(channels), outputs]
        extra = [0, *reversed(channels)] if skips else [0] * (len(channels) + 1)  # channels of the skips
        self.up = nn.ModuleList(
            nn.Conv2d(a + skip, b, 3, 1, 1, bias=False)
            for (a, b), skip in zip(pairwise(widths), extra, strict=True)
        )
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(b) for b in reversed(channels))

    @mixed_precision
    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, 3, S, S) to maps (B, outputs, S, S)."""
        activations = []
        for i, conv in enumerate(self.down):
            x = conv(x if i == 0 else F.leaky_relu(x, 0.2))
            if 0 < i < len(self.down) - 1:
                x = self.down_norms[i - 1](x)
            activations.append(x)
        for i, conv in enumerate(self.up):
            if i and self.skips:
                x = torch.cat([x, activations[-1 - i]], 1)
            x = conv(F.interpolate(F.relu(x), scale_factor=2, mode="bilinear", align_corners=False))
            if i < len(self.up_norms):
                x = self.up_norms[i](x)
        return x


def sample(image: Tensor, flow: Tensor) -> Tensor:
    """Images (B, C, S, S) sampled at the identity grid plus ``flow`` (B, 2, S, S) in units of half a side."""
    theta = torch.eye(2, 3, device=image.device, dtype=torch.float32).repeat(len(image), 1, 1)
    grid = F.affine_grid(theta, [len(image), 1, *image.shape[2:]], align_corners=True)
    return F.grid_sample(image, grid + flow.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)


class X2Face(nn.Module):
    """The embedding network and the driving network, by default with the widths of X2Face's paper."""

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512, 512, 512, 512),
        embedding: int = 512,
        driving: int = 128,
        precision: str = "fp32",
    ):
        super().__init__()
        # three maps are flow and confidence, two are flow alone
        self.embedding = Warper(channels, embedding, 3, skips=True, precision=precision)
        self.driving = Warper(channels, driving, 2, skips=False, precision=precision)

    def embed(self, sources: Tensor) -> Tensor:
        """Source frames (B, T, 3, S, S) to embedded faces (B, 3, S, S): warped, averaged by confidence."""
        b, t = sources.shape[:2]
        flat = sources.flatten(0, 1)
        flow, confidence = self.embedding(flat).split([2, 1], 1)
        warped = sample(flat, flow.tanh()).unflatten(0, (b, t))
        return (warped * confidence.unflatten(0, (b, t)).softmax(1)).sum(1)

    def drive(self, embedded: Tensor, driver: Tensor) -> Tensor:
        """The embedded face (B, 3, S, S) in the pose of frames (B, 3, S, S): (B, 3, S, S) in [-1, 1]."""
        return sample(embedded, self.driving(driver).tanh())

    def forward(self, sources: Tensor, driver: Tensor) -> Tensor:
        """Sources (B, T, 3, S, S) in the pose of frames (B, 3, S, S): (B, 3, S, S)."""
        return self.drive(self.embed(sources), driver)
