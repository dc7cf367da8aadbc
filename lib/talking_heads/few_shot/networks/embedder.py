"""The embedder E(x, y; φ): a frame and its landmark image to an embedding (paper, section 3.1)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from talking_heads.few_shot.networks.blocks import ResidualBlock, sum_pool
from talking_heads.nn.attention import SelfAttention
from talking_heads.nn.precision import mixed_precision


class DownStack(nn.Module):
    """Residual down blocks without normalisation on a frame and its landmark image: the body of E and of V.

    ``channels`` are the widths of the blocks, ``attention`` is the number of blocks before the self-attention
    (0 for none). With ``extra`` one more residual block follows at the last resolution, as in V.
    """

    def __init__(self, channels: Sequence[int], attention: int, spectral: bool, extra: bool = False):
        super().__init__()
        widths = [6, *channels]
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, resample="down", first=i == 0, spectral=spectral)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        if extra:
            self.blocks.append(ResidualBlock(widths[-1], widths[-1], spectral=spectral))
        self.attention_after = attention
        self.attention = SelfAttention(channels[attention - 1], spectral) if attention else None

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Frames x and landmark images y (B, 3, H, W) to the activations after every block."""
        h, activations = torch.cat([x, y], 1), []
        for i, block in enumerate(self.blocks, start=1):
            h = block(h)
            if self.attention is not None and i == self.attention_after:
                h = self.attention(h)
            activations.append(h)
        return activations


class Embedder(nn.Module):
    """E: frames and landmark images (B, 3, H, W) -> embeddings (B, N), where N is the last width."""

    def __init__(
        self,
        channels: Sequence[int],
        attention: int,
        pool: str = "sum_relu",
        spectral: bool = True,
        precision: str = "fp32",
    ):
        super().__init__()
        self.stack = DownStack(channels, attention, spectral)
        self.pool, self.precision = pool, precision

    @mixed_precision
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Frames x and landmark images y (B, 3, H, W) to embeddings (B, N)."""
        return sum_pool(self.stack(x, y)[-1], self.pool)

    def embed_each(self, x: Tensor, y: Tensor) -> Tensor:
        """K frames of each of B videos (B, K, 3, H, W) to their embeddings (B, K, N)."""
        return self(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, x.shape[:2])

    def embed(self, x: Tensor, y: Tensor) -> Tensor:
        """Equations (1) and (7): K frames of each of B videos (B, K, 3, H, W) to mean embeddings (B, N)."""
        return self.embed_each(x, y).mean(1)
