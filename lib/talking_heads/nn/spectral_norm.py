"""Spectral normalisation (Miyato et al. 2018), and its removal for inference."""

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

EPS = 1e-4  # smaller ones give NaN gradients on flat landmark images


def normalised(layer: nn.Module, spectral: bool) -> nn.Module:
    """A convolution or linear layer, with spectral normalisation where ``spectral`` is set."""
    return spectral_norm(layer, eps=EPS) if spectral else layer


def conv(c_in: int, c_out: int, kernel: int, spectral: bool, bias: bool = True) -> nn.Module:
    """A convolution that keeps height and width."""
    return normalised(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias), spectral)


def fold(net: nn.Module) -> nn.Module:
    """The network in eval mode, with its weights normalised once and not in every forward pass.

    Do not call this on a deep copy of a network that is still used: both share the classes that it changes.
    """
    for layer in net.eval().modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
    return net
