"""Building blocks: residual blocks, adaptive instance normalisation, pooling (paper, section 3.4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.resampling import halve, upsample
from talking_heads.nn.spectral_norm import EPS, conv


class InstanceNorm(nn.Module):
    """Instance normalisation with learned scale and shift (Ulyanov et al. 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, psi: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to the same."""
        return F.group_norm(x, x.shape[1], self.weight, self.bias, eps=EPS)


class AdaptiveInstanceNorm(nn.Module):
    """Instance normalisation with scale and shift from ψ̂ (Huang & Belongie 2017)."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.offset = -1  # of its slice of ψ̂; the generator sets it

    def forward(self, x: Tensor, psi: Tensor) -> Tensor:
        """(B, C, H, W) and ψ̂ (B or 1, person_parameters) to (B, C, H, W)."""
        parameters = psi[:, self.offset : self.offset + 2 * self.channels].float().expand(len(x), -1)
        scale, shift = parameters.chunk(2, dim=1)  # (B, C) each
        # one pass over memory: every channel of every image is a separate group
        flat = x.reshape(1, -1, *x.shape[2:])
        return F.group_norm(flat, flat.shape[1], scale.flatten(), shift.flatten(), eps=EPS).view_as(x)

    def fixed(self, psi: Tensor) -> InstanceNorm:
        """The same function where ψ̂ is always ``psi`` (1, person_parameters)."""
        norm = InstanceNorm(self.channels)
        scale, shift = psi[0, self.offset : self.offset + 2 * self.channels].float().chunk(2)
        norm.weight.data, norm.bias.data = scale.clone(), shift.clone()
        return norm


class NoNorm(nn.Module):
    """The identity, in place of a normalisation."""

    def forward(self, x: Tensor, psi: Tensor | None = None) -> Tensor:
        return x


class ResidualBlock(nn.Module):
    """Pre-activation residual block, as in BigGAN: norm, ReLU, [×2], 3×3, norm, ReLU, 3×3, [÷2].

    ``norm`` is the class of both normalisations (``NoNorm`` for none); ``resample`` is "up", "down" or None.
    The first block of a network has neither the first norm nor the first ReLU.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        norm: type[nn.Module] = NoNorm,
        resample: str | None = None,
        first: bool = False,
        spectral: bool = True,
    ):
        super().__init__()
        without_norm = norm is NoNorm

        def make_norm(channels: int) -> nn.Module:
            return norm() if without_norm else norm(channels)

        self.resample, self.first = resample, first
        self.norm1 = NoNorm() if first else make_norm(c_in)
        self.conv1 = conv(c_in, c_out, 3, spectral, bias=without_norm)
        self.norm2 = make_norm(c_out)
        self.conv2 = conv(c_out, c_out, 3, spectral, bias=without_norm)
        self.skip = conv(c_in, c_out, 1, spectral) if resample else nn.Identity()

    def forward(self, x: Tensor, psi: Tensor | None = None) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W), with twice or half the height and width where it resamples."""
        h = x if self.first else F.relu(self.norm1(x, psi))
        if self.resample == "up":
            h = upsample(h)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), psi)))
        # the skip's 1×1 convolution commutes with resampling, so it runs at the lower resolution
        if self.resample == "up":
            return h + upsample(self.skip(x))
        if self.resample == "down":
            return halve(h) + self.skip(halve(x))
        return h + self.skip(x)


def sum_pool(h: Tensor, order: str) -> Tensor:
    """Features (B, C, H, W) to vectors (B, C): a sum over all positions and a ReLU, in the named order.

    "sum_relu" is the order of the paper's text (section 3.4), "relu_sum" that of later code by the same
    laboratory. "relu_mean" is the latter with a mean in place of the sum.
    """
    if order == "sum_relu":
        return F.relu(h.float().sum((2, 3)))
    h = F.relu(h).float()
    return h.mean((2, 3)) if order == "relu_mean" else h.sum((2, 3))
