"""The generator G(y, ê; ψ, P): a landmark image and an embedding to a frame (paper, sections 3.1 and 3.4)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.few_shot.networks.blocks import AdaptiveInstanceNorm, InstanceNorm, ResidualBlock
from talking_heads.nn.attention import SelfAttention
from talking_heads.nn.precision import full_precision, mixed_precision
from talking_heads.nn.spectral_norm import conv, normalised
from talking_heads.sections.few_shot import Networks


class Generator(nn.Module):
    """Down blocks with instance norms, then residual and up blocks whose norms take ψ̂ = P ê.

    The section's ``generator_down`` and ``generator_up`` are the widths of the down and up blocks;
    ``generator_bottleneck`` is the number of residual blocks between them. ``generator_attention_down`` and
    ``generator_attention_up`` are the numbers of blocks before the self-attentions (0 for none).
    """

    def __init__(self, section: Networks):
        super().__init__()
        self.precision = section.precision
        down, up, spectral = section.generator_down, section.generator_up, section.spectral_norm
        widths = [3, *down]
        self.down = nn.ModuleList(
            ResidualBlock(a, b, InstanceNorm, "down", first=i == 0, spectral=spectral)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.middle = nn.ModuleList(
            ResidualBlock(down[-1], down[-1], AdaptiveInstanceNorm, spectral=spectral)
            for _ in range(section.generator_bottleneck)
        )
        widths = [down[-1], *up]
        self.up = nn.ModuleList(
            ResidualBlock(a, b, AdaptiveInstanceNorm, "up", spectral=spectral) for a, b in pairwise(widths)
        )
        after_down, after_up = section.generator_attention_down, section.generator_attention_up
        self.attention_down, self.attention_up = after_down, after_up
        self.attend_down = SelfAttention(down[after_down - 1], spectral) if after_down else None
        self.attend_up = SelfAttention(up[after_up - 1], spectral) if after_up else None
        self.norm = AdaptiveInstanceNorm(up[-1])
        self.to_rgb = conv(up[-1], 3, 3, spectral)

        adaptive = [m for m in self.modules() if isinstance(m, AdaptiveInstanceNorm)]
        self.person_parameters = 0
        for m in adaptive:
            m.offset = self.person_parameters
            self.person_parameters += 2 * m.channels
        linear = nn.Linear(section.embedding, self.person_parameters)
        nn.init.normal_(linear.weight, std=0.02)
        with torch.no_grad():  # initially every scale is about 1 and every shift about 0
            for m in adaptive:
                linear.bias[m.offset : m.offset + m.channels] = 1.0
                linear.bias[m.offset + m.channels : m.offset + 2 * m.channels] = 0.0
        self.projection = normalised(linear, spectral)  # P

    def forward(self, y: Tensor, e: Tensor) -> Tensor:
        """Equation (2): landmark images y (B, 3, H, W) and embeddings e (B or 1, N) to frames (B, 3, H, W).

        Frames are in [-1, 1].
        """
        return self.synthesise(y, self.project(e))

    def project(self, e: Tensor) -> Tensor:
        """ψ̂ = P ê: (B, N) to (B, person_parameters), not rounded to bf16."""
        with full_precision(e.device):
            return self.projection(e.float())

    @mixed_precision
    def synthesise(self, y: Tensor, psi: Tensor | None) -> Tensor:
        """G'(y; ψ, ψ'): landmark images (B, 3, H, W) to frames (B, 3, H, W).

        psi is (B or 1, person_parameters), None where the normalisations have it.
        """
        h = y
        for i, block in enumerate(self.down, start=1):
            h = block(h)
            if self.attend_down is not None and i == self.attention_down:
                h = self.attend_down(h)
        for block in self.middle:
            h = block(h, psi)
        for i, block in enumerate(self.up, start=1):
            h = block(h, psi)
            if self.attend_up is not None and i == self.attention_up:
                h = self.attend_up(h)
        return torch.tanh(self.to_rgb(F.relu(self.norm(h, psi))).float())
