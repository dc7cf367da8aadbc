"""The embedder E(x, y; φ): a frame and its landmark image to a vector (paper, section 3.1)."""

import torch
from torch import Tensor, nn

from .blocks import ResidualBlock, SelfAttention, sum_pool


class DownStack(nn.Module):
    """Residual down blocks without normalisation on frame and landmark image; the body of both E and V.

    ``channels`` are the blocks' widths, ``attention`` the number of blocks before the self-attention
    (0 for none), ``extra`` whether one more residual block follows at the last resolution (V has it).
    """

    def __init__(self, channels: list[int], attention: int, spectral: bool, extra: bool = False):
        super().__init__()
        widths = [6, *channels]
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, resample="down", first=i == 0, spectral=spectral)
            for i, (a, b) in enumerate(zip(widths, widths[1:])))
        if extra:
            self.blocks.append(ResidualBlock(widths[-1], widths[-1], spectral=spectral))
        self.attention_after = attention
        self.attention = SelfAttention(channels[attention - 1], spectral) if attention else None

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Frames x and landmark images y (B, 3, H, W) to the activations after every block."""
        h, activations = torch.cat([x, y], 1), []
        for i, block in enumerate(self.blocks, start=1):
            h = block(h)
            if i == self.attention_after:
                h = self.attention(h)
            activations.append(h)
        return activations


class Embedder(nn.Module):
    """E: (B, 3, H, W) frames and landmark images -> (B, N) embeddings, N the last width."""

    def __init__(self, channels: list[int], attention: int, pool: str = "sum_relu", spectral: bool = True):
        super().__init__()
        self.stack = DownStack(channels, attention, spectral)
        self.pool = pool

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return sum_pool(self.stack(x, y)[-1], self.pool)

    def embed_each(self, x: Tensor, y: Tensor) -> Tensor:
        """K frames of each of B videos, (B, K, 3, H, W), to their embeddings (B, K, N)."""
        return self(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, x.shape[:2])

    def embed(self, x: Tensor, y: Tensor) -> Tensor:
        """Equations (1) and (7): K frames of each of B videos, (B, K, 3, H, W), to the mean embedding (B, N)."""
        return self.embed_each(x, y).mean(1)
