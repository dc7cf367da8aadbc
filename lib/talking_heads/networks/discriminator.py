"""The projection discriminator D(x, y, i; θ, W, w₀, b) and its fine-tuned form D' (equations 5 and 8)."""

import copy

import torch
from torch import Tensor, nn

from .blocks import sum_pool
from .embedder import DownStack


class ConvNet(nn.Module):
    """V(x, y; θ): frames and landmark images to vectors (B, N) and the activations after every block."""

    def __init__(self, channels: list[int], attention: int, pool: str = "sum_relu", spectral: bool = True):
        super().__init__()
        self.stack = DownStack(channels, attention, spectral, extra=True)
        self.pool = pool

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        activations = self.stack(x, y)
        return sum_pool(activations[-1], self.pool), activations


class Discriminator(nn.Module):
    """Equation (5). The columns of W are the rows of an embedding table with sparse gradients.

    Sparse, because a video's column and its Adam moments must move only when that video is drawn.
    """

    def __init__(self, convnet: ConvNet, videos: int, embedding: int):
        super().__init__()
        self.convnet = convnet  # θ
        self.table = nn.Embedding(videos, embedding, sparse=True)  # W
        nn.init.normal_(self.table.weight, std=0.05)
        self.w0 = nn.Parameter(torch.randn(embedding) * 0.05)
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor, i: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Realism scores (B,) of frames x with landmark images y as frames of videos i (B,), and V's activations."""
        v, activations = self.convnet(x, y)
        return (v * (self.table(i) + self.w0)).sum(1) + self.b, activations


class FineTunedDiscriminator(nn.Module):
    """Equation (8): D'(x, y) = V(x, y)ᵀ w' + b with w' = w₀ + ê_NEW to start from (section 3.3).

    ``w`` overrides the start of w' (the random w' of the ablation).
    """

    def __init__(self, meta: Discriminator, e_new: Tensor, w: Tensor | None = None):
        super().__init__()
        self.convnet = copy.deepcopy(meta.convnet)
        self.w = nn.Parameter((meta.w0 + e_new.reshape(-1) if w is None else w).detach().clone())  # w'
        self.b = nn.Parameter(meta.b.detach().clone())

    def forward(self, x: Tensor, y: Tensor, i: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        v, activations = self.convnet(x, y)
        return (v * self.w).sum(1) + self.b, activations  # as above: autocast would round a matrix product to bf16
