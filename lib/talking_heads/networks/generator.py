"""The generator G(y, ê; ψ, P): a landmark image and an embedding to a frame (paper, sections 3.1 and 3.4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import AdaptiveInstanceNorm, InstanceNorm, ResidualBlock, SelfAttention, conv, normalised


class Generator(nn.Module):
    """Down blocks with instance norm, then residual and up blocks whose norms take ψ̂ = P ê.

    ``down`` are the widths of the down blocks, ``up`` those of the up blocks; ``bottleneck`` residual
    blocks lie between; ``attention_down`` and ``attention_up`` count the blocks before the
    self-attentions (0 for none). ``embedding`` is N.
    """

    def __init__(self, down: list[int], up: list[int], bottleneck: int, embedding: int,
                 attention_down: int, attention_up: int, spectral: bool = True):
        super().__init__()
        widths = [3, *down]
        self.down = nn.ModuleList(
            ResidualBlock(a, b, InstanceNorm, "down", first=i == 0, spectral=spectral)
            for i, (a, b) in enumerate(zip(widths, widths[1:])))
        self.middle = nn.ModuleList(
            ResidualBlock(down[-1], down[-1], AdaptiveInstanceNorm, spectral=spectral) for _ in range(bottleneck))
        widths = [down[-1], *up]
        self.up = nn.ModuleList(
            ResidualBlock(a, b, AdaptiveInstanceNorm, "up", spectral=spectral) for a, b in zip(widths, widths[1:]))
        self.attention_down, self.attention_up = attention_down, attention_up
        self.attend_down = SelfAttention(down[attention_down - 1], spectral) if attention_down else None
        self.attend_up = SelfAttention(up[attention_up - 1], spectral) if attention_up else None
        self.norm = AdaptiveInstanceNorm(up[-1])
        self.to_rgb = conv(up[-1], 3, 3, spectral)

        adaptive = [m for m in self.modules() if isinstance(m, AdaptiveInstanceNorm)]
        self.person_parameters = 0
        for m in adaptive:
            m.offset = self.person_parameters
            self.person_parameters += 2 * m.channels
        linear = nn.Linear(embedding, self.person_parameters)
        nn.init.normal_(linear.weight, std=0.02)
        with torch.no_grad():  # ψ̂ starts at scale 1, shift 0
            for m in adaptive:
                linear.bias[m.offset:m.offset + m.channels] = 1.0
                linear.bias[m.offset + m.channels:m.offset + 2 * m.channels] = 0.0
        self.projection = normalised(linear, spectral)  # P

    def forward(self, y: Tensor, e: Tensor) -> Tensor:
        """Equation (2): landmark images (B, 3, H, W) and embeddings (B or 1, N) -> frames (B, 3, H, W) in [-1, 1]."""
        return self.synthesise(y, self.projection(e))

    def synthesise(self, y: Tensor, psi: Tensor) -> Tensor:
        """G'(y; ψ, ψ'): the frame from the person's parameters, (B or 1, person_parameters)."""
        h = y
        for i, block in enumerate(self.down, start=1):
            h = block(h)
            if i == self.attention_down:
                h = self.attend_down(h)
        for block in self.middle:
            h = block(h, psi)
        for i, block in enumerate(self.up, start=1):
            h = block(h, psi)
            if i == self.attention_up:
                h = self.attend_up(h)
        return torch.tanh(self.to_rgb(F.relu(self.norm(h, psi))))
