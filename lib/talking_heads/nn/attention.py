"""Self-attention over all positions of a feature map (Zhang et al. 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.spectral_norm import conv


class SelfAttention(nn.Module):
    """Adds attention over all positions, times a gain γ that starts at 0, to its input."""

    def __init__(self, channels: int, spectral: bool = True):
        super().__init__()
        self.query = conv(channels, channels // 8, 1, spectral)
        self.key = conv(channels, channels // 8, 1, spectral)
        self.value = conv(channels, channels, 1, spectral)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        projections = (layer(x) for layer in (self.query, self.key, self.value))
        q, k, v = (h.flatten(2).transpose(1, 2)[:, None] for h in projections)  # (B, 1 head, HW, C)
        h = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]  # (B, HW, C)
        return x + self.gamma * h.transpose(1, 2).reshape(x.shape)
