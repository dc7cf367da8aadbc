"""The projection discriminator D(x, y, i; θ, W, w₀, b), and D' of fine-tuning (equations 5 and 8)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from talking_heads.few_shot.networks.blocks import sum_pool
from talking_heads.few_shot.networks.embedder import DownStack
from talking_heads.nn.precision import mixed_precision


class ConvNet(nn.Module):
    """V(x, y; θ): frames and landmark images to vectors (B, N), and the activations after every block."""

    def __init__(
        self,
        channels: Sequence[int],
        attention: int,
        pool: str = "sum_relu",
        spectral: bool = True,
        precision: str = "fp32",
    ):
        super().__init__()
        self.stack = DownStack(channels, attention, spectral, extra=True)
        self.pool, self.precision = pool, precision

    @mixed_precision
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        activations = self.stack(x, y)
        return sum_pool(activations[-1], self.pool), activations


class Discriminator(nn.Module):
    """Equation (5). The columns of W are the rows of an embedding table.

    Its gradients are sparse: a video's column and its Adam moments change only in steps that draw this video.
    """

    def __init__(self, convnet: ConvNet, videos: int, embedding: int):
        super().__init__()
        self.convnet = convnet  # θ
        self.table = nn.Embedding(videos, embedding, sparse=True)  # W
        nn.init.normal_(self.table.weight, std=0.05)
        self.w0 = nn.Parameter(torch.randn(embedding) * 0.05)
        self.b = nn.Parameter(torch.zeros(1))

    def keep_rows(self, rank: int, ranks: int) -> None:
        """Keep the columns of W of one rank: of the videos whose number leaves the remainder ``rank``."""
        if ranks > 1:
            weight = self.table.weight.detach()[rank::ranks].clone()
            self.table = nn.Embedding.from_pretrained(weight, freeze=False, sparse=True)

    def forward(self, x: Tensor, y: Tensor, i: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Realism scores (B,) and V's activations.

        x are frames, y landmark images (B, 3, H, W), i the numbers of their videos (B,), among
        those of the rank.
        """
        v, activations = self.convnet(x, y)
        return (v * (self.table(i) + self.w0)).sum(1) + self.b, activations


class FineTunedDiscriminator(nn.Module):
    """Equation (8): D'(x, y) = V(x, y)ᵀ w' + b; w' is initialised with w₀ + ê_NEW (section 3.3).

    ``w`` is another initial value of w', for the ablation with a random one.
    """

    def __init__(self, meta: Discriminator, e_new: Tensor, w: Tensor | None = None):
        super().__init__()
        self.convnet = copy.deepcopy(meta.convnet)
        self.w = nn.Parameter((meta.w0 + e_new.reshape(-1) if w is None else w).detach().clone())  # w'
        self.b = nn.Parameter(meta.b.detach().clone())

    def forward(self, x: Tensor, y: Tensor, i: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """As :meth:`Discriminator.forward`; i is not used."""
        v, activations = self.convnet(x, y)
        return (v * self.w).sum(1) + self.b, activations
