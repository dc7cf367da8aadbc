"""Building blocks: residual blocks, adaptive instance normalisation, self-attention (paper, section 3.4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

EPS = 1e-4  # smaller ones give NaN gradients on flat landmark images


def normalised(layer: nn.Module, spectral: bool) -> nn.Module:
    """The layer, with spectral normalisation (Miyato et al. 2018) where asked for."""
    return spectral_norm(layer, eps=EPS) if spectral else layer


def fold(net: nn.Module) -> nn.Module:
    """The network with its weights as they are applied, so that inference does not normalise them again for every frame.

    Not for a deep copy of a network that is still in use: both share the classes that are changed here.
    """
    for layer in net.eval().modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
    return net


def conv(c_in: int, c_out: int, kernel: int, spectral: bool, bias: bool = True) -> nn.Module:
    """A convolution that keeps height and width."""
    return normalised(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias), spectral)


class InstanceNorm(nn.Module):
    """Instance normalisation with learned scale and shift (Ulyanov et al. 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, psi: Tensor | None = None) -> Tensor:
        return F.group_norm(x, x.shape[1], self.weight, self.bias, eps=EPS)


class AdaptiveInstanceNorm(nn.Module):
    """Instance normalisation whose scale and shift are a slice of the person's parameters ψ̂ (Huang & Belongie 2017)."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.offset = -1  # where its slice of ψ̂ begins; the generator sets it

    def forward(self, x: Tensor, psi: Tensor) -> Tensor:
        part = psi[:, self.offset:self.offset + 2 * self.channels].float().expand(len(x), -1)
        scale, shift = part.chunk(2, dim=1)
        # every channel of every image is a group of its own, with its own scale and shift: one pass over memory
        flat = x.reshape(1, -1, *x.shape[2:])
        return F.group_norm(flat, flat.shape[1], scale.flatten(), shift.flatten(), eps=EPS).view_as(x)


class NoNorm(nn.Module):
    def forward(self, x: Tensor, psi: Tensor | None = None) -> Tensor:
        return x


def _repeat(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)


def _mean(x: Tensor) -> Tensor:
    rows = x[:, :, ::2] + x[:, :, 1::2]
    return 0.25 * (rows[..., ::2] + rows[..., 1::2])


class Double(torch.autograd.Function):
    """Nearest-neighbour upsampling by two. Like :class:`Halve` it stays in bf16 under autocast, where PyTorch's own is slow on CPUs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _repeat(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 4 * _mean(gradient)


class Halve(torch.autograd.Function):
    """Average pooling by two."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 0.25 * _repeat(gradient)


double, halve = Double.apply, Halve.apply


class ResidualBlock(nn.Module):
    """Pre-activation residual block, as BigGAN's: norm, ReLU, [×2], 3×3, norm, ReLU, 3×3, [÷2].

    ``norm`` makes the two normalisations (``NoNorm`` for none); ``resample`` is "up", "down" or None. The
    first block of a network has neither pre-norm nor pre-activation.
    """

    def __init__(self, c_in: int, c_out: int, norm: type[nn.Module] = NoNorm, resample: str | None = None,
                 first: bool = False, spectral: bool = True):
        super().__init__()
        bare = norm is NoNorm
        make = (lambda c: norm()) if bare else norm
        self.resample, self.first = resample, first
        self.norm1 = NoNorm() if first else make(c_in)
        self.conv1 = conv(c_in, c_out, 3, spectral, bias=bare)
        self.norm2 = make(c_out)
        self.conv2 = conv(c_out, c_out, 3, spectral, bias=bare)
        self.skip = conv(c_in, c_out, 1, spectral) if resample else nn.Identity()

    def forward(self, x: Tensor, psi: Tensor | None = None) -> Tensor:
        h = x if self.first else F.relu(self.norm1(x, psi))
        if self.resample == "up":
            h = double(h)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), psi)))
        # the skip's 1×1 convolution commutes with both resamplings: it runs at the lower resolution
        if self.resample == "up":
            return h + double(self.skip(x))
        if self.resample == "down":
            return halve(h) + self.skip(halve(x))
        return h + self.skip(x)


class SelfAttention(nn.Module):
    """Self-attention over all positions, times a gain γ that starts at 0, plus the input (Zhang et al. 2018)."""

    def __init__(self, channels: int, spectral: bool = True):
        super().__init__()
        self.query = conv(channels, channels // 8, 1, spectral)
        self.key = conv(channels, channels // 8, 1, spectral)
        self.value = conv(channels, channels, 1, spectral)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        q, k, v = (f(x).flatten(2).transpose(1, 2)[:, None] for f in (self.query, self.key, self.value))  # (B, 1 head, HW, C)
        h = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]
        return x + self.gamma * h.transpose(1, 2).reshape(x.shape)


def sum_pool(h: Tensor, order: str) -> Tensor:
    """Features (B, C, H, W) to vectors (B, C): sum over space and ReLU, in the named order.

    "sum_relu" is the paper's text (section 3.4), "relu_sum" what the same laboratory's later code does, "relu_mean" the
    latter over the number of positions.
    """
    if order == "sum_relu":
        return F.relu(h.float().sum((2, 3)))
    h = F.relu(h).float()
    return h.mean((2, 3)) if order == "relu_mean" else h.sum((2, 3))
