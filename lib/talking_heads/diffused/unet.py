"""The denoising network: ADM's UNet (Dhariwal & Nichol 2021), conditioned by equation (17)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.precision import mixed_precision
from talking_heads.nn.resampling import halve, upsample
from talking_heads.sections.diffused import DiffusionNetwork

GROUPS = 32  # of group normalisation; small networks have fewer channels, and as many groups as divide them
LONGEST_PERIOD = 10_000  # of the time embedding, in steps


def sinusoids(t: Tensor, size: int) -> Tensor:
    """ψ(t): cosines and sines (B, size) of t (B,), at frequencies from 1 down to 1 / ``LONGEST_PERIOD``."""
    half = size // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / half
    phases = t.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the most groups, at most ``GROUPS``, that divide the channels."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def zeroed(layer: nn.Module) -> nn.Module:
    """A layer whose output is zero before training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def embedding_mlp(size: int, width: int) -> nn.Sequential:
    """The shallow network of linear layers in equations (14) and (17)."""
    return nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())


class ResidualBlock(nn.Module):
    """A residual block of BigGAN's kind, whose second normalisation is conditioned by equation (17).

    With ``head_channels``, attention with heads of that many channels follows. ``control`` is the layer of a
    network with controls.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        dropout: float,
        resample: str = "",
        head_channels: int = 0,
    ):
        super().__init__()
        self.resample: Callable[[Tensor], Tensor] = {"": nn.Identity(), "down": halve, "up": upsample}[
            resample
        ]
        self.norm1, self.conv1 = group_norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(embedding, 2 * c_out)
        self.audio = nn.Linear(embedding, 2 * c_out)
        self.norm2, self.dropout = group_norm(c_out), nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        self.attention = Attention(c_out, head_channels) if head_channels else nn.Identity()
        self.control: nn.Module | None = None

    def forward(self, x: Tensor, t: Tensor, y: Tensor, control: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), embeddings of time, sound and controls t, y, control (B, D) -> (B, C', H', W')."""
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        of_time = self.time(t)
        if self.control is not None and control is not None:
            of_time = of_time + self.control(control)
        t_s, t_b = of_time[..., None, None].chunk(2, dim=1)
        y_s, y_b = self.audio(y)[..., None, None].chunk(2, dim=1)
        h = (1 + y_s) * ((1 + t_s) * self.norm2(h) + t_b) + y_b  # equation (17)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.attention(self.skip(self.resample(x)) + h)


class Attention(nn.Module):
    """Multi-head self-attention over all positions."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, HW, C / heads) each
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(-1, -2).reshape(b, c, height, width))


class UNet(nn.Module):
    """Predicts the noise ε (or the velocity v) of a frame, and ν of equation (8).

    ``channels_in`` are those of the network's input, equation (16): noisy target frame, motion frames and
    identity frame. ``audio_size`` is that of all motion audio embeddings together. With ``motion_level`` the
    level of the noise on the motion frames is a further condition, which the paper does not have; neither
    are ``controls``, so many values. Layers of controls change nothing before training.
    """

    def __init__(
        self,
        section: DiffusionNetwork,
        channels_in: int,
        audio_size: int,
        motion_level: bool = False,
        controls: int = 0,
    ):
        super().__init__()
        self.precision, self.unshuffle, width = section.precision, section.unshuffle, section.embedding
        widths = [section.channels * multiplier for multiplier in section.multipliers]
        self.frequencies = section.channels
        self.time_mlp = embedding_mlp(self.frequencies, width)
        self.audio_mlp = embedding_mlp(audio_size, width)
        self.level_mlp = embedding_mlp(self.frequencies, width) if motion_level else None
        self.control_mlp = embedding_mlp(controls, width) if controls else None
        pixels = section.unshuffle**2  # of the frame for each position of the network

        def block(c_in: int, c_out: int, resample: str = "", attends: bool = False) -> ResidualBlock:
            head_channels = section.head_channels if attends else 0
            residual = ResidualBlock(c_in, c_out, width, section.dropout, resample, head_channels)
            if controls:
                residual.control = zeroed(nn.Linear(width, 2 * c_out))
            return residual

        self.stem = nn.Conv2d(channels_in * pixels, widths[0], 3, padding=1)
        self.down, skips, c = nn.ModuleList(), [widths[0]], widths[0]
        for level, c_out in enumerate(widths):
            for _ in range(section.blocks):
                self.down.append(block(c, c_out, attends=level in section.attention))
                c = c_out
                skips.append(c)
            if level < len(widths) - 1:
                self.down.append(block(c, c, "down"))
                skips.append(c)
        self.middle = nn.ModuleList([block(c, c, attends=True), block(c, c)])
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, c_out in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            for _ in range(section.blocks + 1):
                blocks.append(block(c + skips.pop(), c_out, attends=level in section.attention))
                c = c_out
            self.up.append(blocks)
            if level:
                self.upsample.append(block(c, c, "up"))
        self.norm, self.out = group_norm(c), zeroed(nn.Conv2d(c, 6 * pixels, 3, padding=1))

    @mixed_precision
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        level: Tensor | None = None,
        control: Tensor | None = None,
    ) -> Tensor:
        """Input x (B, C, H, W), time steps t (B,), sound y (B, A) -> (B, 6, H, W): ε or v, then ν.

        ``level`` (B,) is the noise level of the motion frames, 0 to 1, where the network has that condition;
        ``control`` (B, controls) are values that it obeys, None for its own choice.
        """
        time = self.time_mlp(sinusoids(t, self.frequencies))
        audio = self.audio_mlp(y)
        if self.level_mlp is not None:
            assert level is not None, "the noise level of the motion frames is needed"
            time = time + self.level_mlp(sinusoids(1000 * level, self.frequencies))
        if control is not None:
            assert self.control_mlp is not None, "a network without controls"
            control = self.control_mlp(control)
        h = self.stem(F.pixel_unshuffle(x, self.unshuffle))
        skips = [h]
        for block in self.down:
            h = block(h, time, audio, control)
            skips.append(h)
        for block in self.middle:
            h = block(h, time, audio, control)
        for level, blocks in enumerate(self.up):
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), time, audio, control)
            if level < len(self.upsample):
                h = self.upsample[level](h, time, audio, control)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.unshuffle)
