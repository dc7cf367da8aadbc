"""SDA (Vougioukas et al. 2019, *Realistic Speech-Driven Facial Animation with GANs*): a GAN with three
discriminators.

The generator sees one frame, the sound and noise that changes over time. One discriminator judges frames, one
sequences of frames, and one whether lips and sound belong together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.precision import mixed_precision
from talking_heads.sections.diffused import Sda

SMALLEST = 4  # pixels of a side where the identity encoder ends
SNIPPET = 5  # frames that the synchronisation discriminator sees at once, 0.2 s
SLOPE = 0.2
NOISE = 0.6**0.5  # standard deviation of the noise
DECODED_AT_ONCE = 25  # frames of every clip


def halvings(size: int) -> int:
    """How often a side of ``size`` pixels is halved down to ``SMALLEST``. Raises ValueError where that is no
    whole number.
    """
    count = (size // SMALLEST).bit_length() - 1
    if SMALLEST * 2**count != size or not count:
        raise ValueError(
            f"section diffused.clips: image_size is {size}; SDA needs {SMALLEST} times a power of two"
        )
    return count


def widths(channels: int, count: int) -> list[int]:
    """Channels of ``count`` convolutions that halve the resolution: doubled each time, at most eightfold."""
    return [channels * min(8, 2**k) for k in range(count)]


def down(c_in: int, c_out: int, normalised: bool = True) -> nn.Sequential:
    """A convolution that halves height and width."""
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not normalised)]
    layers += [nn.BatchNorm2d(c_out)] if normalised else []
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))


def convolution(c_in: int, c_out: int) -> list[nn.Module]:
    """A convolution that keeps height and width, with batch normalisation and ReLU."""
    return [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]


class IdentityEncoder(nn.Module):
    """A frame (B, 3, S, S) to a latent code (B, Z) and the activations at every resolution."""

    def __init__(self, size: int, channels: int, latent: int):
        super().__init__()
        sizes = [3, *widths(channels, halvings(size))]
        self.blocks = nn.ModuleList(down(a, b) for a, b in pairwise(sizes))
        self.code = nn.Conv2d(sizes[-1], latent, SMALLEST)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for block in self.blocks:
            x = block(x)
            skips.append(x)
        return self.code(x).flatten(1), skips


class FrameDecoder(nn.Module):
    """Latent codes (n, Z) and the activations of the identity encoder to frames (n, 3, S, S) in [-1, 1]."""

    def __init__(self, size: int, channels: int, latent: int):
        super().__init__()
        sizes = widths(channels, halvings(size))[::-1]
        self.first = nn.Sequential(
            nn.ConvTranspose2d(latent, sizes[0], SMALLEST, bias=False), nn.BatchNorm2d(sizes[0]), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *convolution(2 * a, a), nn.Upsample(scale_factor=2, mode="nearest"), *convolution(a, b)
            )
            for a, b in pairwise([*sizes, channels])
        )
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: Tensor, skips: list[Tensor]) -> Tensor:
        x = self.first(z[:, :, None, None])
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([x, skip], 1))
        return torch.tanh(self.last(x))


class SdaGenerator(nn.Module):
    """Frames from an identity frame, audio embeddings and noise."""

    def __init__(self, section: Sda, size: int, embedding: int, precision: str):
        super().__init__()
        self.precision, self.noise = precision, section.noise
        self.identity_encoder = IdentityEncoder(size, section.channels, section.identity)
        self.content_encoder = nn.GRU(embedding, section.content, batch_first=True)
        self.noise_encoder = nn.GRU(section.noise, section.noise, batch_first=True)
        latent = section.identity + section.content + section.noise
        self.decoder = FrameDecoder(size, section.channels, latent)

    def forward(self, identity: Tensor, audio: Tensor, noise: Tensor) -> Tensor:
        """Frames (B, L, 3, S, S) in [-1, 1] of identity frames (B, 3, S, S), audio embeddings (B, L, A) and
        Gaussian noise (B, L, ``noise``).
        """
        return self.decode(*self.latents(identity, audio, noise))

    @mixed_precision
    def latents(self, identity: Tensor, audio: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The latent codes (B, L, Z) of all frames, and the activations of the identity encoder, for
        :meth:`decode`.
        """
        code, skips = self.identity_encoder(identity)
        content, _ = self.content_encoder(audio)
        motion, _ = self.noise_encoder(NOISE * noise)
        return torch.cat([code[:, None].expand(-1, audio.shape[1], -1), content, motion], -1), skips

    @mixed_precision
    def decode(self, z: Tensor, skips: list[Tensor]) -> Tensor:
        """Frames (B, L, 3, S, S) of latent codes (B, L, Z)."""
        batch, length = z.shape[:2]
        repeated = [skip.repeat_interleave(length, 0) for skip in skips]
        return self.decoder(z.flatten(0, 1), repeated).unflatten(0, (batch, length))


@dataclass
class SdaTalker:
    """A trained generator in the place of :class:`generation.Generator`."""

    net: SdaGenerator

    @torch.no_grad()
    def talk(
        self,
        identity: Tensor,
        audio: Tensor,
        seeds: Sequence[int],
        earlier: Sequence[Tensor] = (),
        truth: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The frames (B, 3, S, S) of B clips, as :meth:`generation.Generator.talk` yields them.

        Of the motion audio embeddings (B, n, 2 m_y + 1, A) it takes the middle ones. It has no motion frames,
        so ``truth`` changes nothing.
        """
        middle = audio[:, :, audio.shape[2] // 2]
        shape = middle.shape[1], self.net.noise
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        z, skips = self.net.latents(identity, middle, torch.stack(noise).to(identity.device))
        for first in range(len(earlier), z.shape[1], DECODED_AT_ONCE):
            yield from self.net.decode(z[:, first : first + DECODED_AT_ONCE], skips).unbind(1)


class FrameDiscriminator(nn.Module):
    """Logits (B,) of frames (B, 3, S, S), beside identity frames: is a frame real?"""

    def __init__(self, size: int, channels: int, precision: str):
        super().__init__()
        self.precision = precision
        sizes = [6, *widths(channels, halvings(size))]
        self.blocks = nn.Sequential(*(down(a, b, k > 0) for k, (a, b) in enumerate(pairwise(sizes))))
        self.score = nn.Conv2d(sizes[-1], 1, SMALLEST)

    @mixed_precision
    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        return self.score(self.blocks(torch.cat([x, identity], 1))).flatten()


class SequenceDiscriminator(nn.Module):
    """Logits (B,) of sequences (B, L, 3, S, S): is the motion real?"""

    def __init__(self, size: int, channels: int, hidden: int, precision: str):
        super().__init__()
        self.precision = precision
        layers: list[nn.Module] = []
        for k, (a, b) in enumerate(pairwise([3, *widths(channels, halvings(size))])):
            layers.append(nn.Conv3d(a, b, (3, 4, 4), (1, 2, 2), (1, 1, 1), bias=not k))
            layers += [nn.BatchNorm3d(b)] if k else []
            layers.append(nn.LeakyReLU(SLOPE))
        self.blocks = nn.Sequential(*layers)
        width = widths(channels, halvings(size))[-1] * SMALLEST * SMALLEST
        self.summary = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(SLOPE))
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.score = nn.Linear(hidden, 1)

    @mixed_precision
    def forward(self, frames: Tensor) -> Tensor:
        features = self.blocks(frames.transpose(1, 2)).transpose(1, 2).flatten(2)  # (B, L, C · 4 · 4)
        states, _ = self.gru(self.summary(features))
        return self.score(states[:, -1]).flatten()


class SyncDiscriminator(nn.Module):
    """Logits (B,) of snippets (B, ``SNIPPET``, 3, S, S) with audio embeddings (B, ``SNIPPET``, A): do the
    lips, in the lower half of the frames, move with the sound?
    """

    def __init__(self, size: int, channels: int, hidden: int, embedding: int, precision: str):
        super().__init__()
        self.precision = precision
        sizes = [3 * SNIPPET, *widths(channels, halvings(size))]
        self.frames = nn.Sequential(
            *(down(a, b, k > 0) for k, (a, b) in enumerate(pairwise(sizes))),
            nn.Flatten(),
            nn.Linear(sizes[-1] * SMALLEST * SMALLEST // 2, hidden),
        )
        self.audio = nn.Sequential(
            nn.Flatten(),
            nn.Linear(SNIPPET * embedding, hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden, hidden),
        )
        self.score = nn.Linear(hidden, 1)

    @mixed_precision
    def forward(self, frames: Tensor, audio: Tensor) -> Tensor:
        difference = self.frames(lower_half(frames).flatten(1, 2)) - self.audio(audio)
        return self.score(difference.abs()).flatten()


def lower_half(frames: Tensor) -> Tensor:
    """The lower half of frames (..., S, S)."""
    return frames[..., frames.shape[-2] // 2 :, :]


def real_loss(logits: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B,) with the label *real*: a scalar."""
    return F.softplus(-logits).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B,) with the label *fake*: a scalar."""
    return F.softplus(logits).mean()


def reconstruction_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """L1 over the lower half of frames (B, L, 3, S, S), so that expressions of the upper half stay free."""
    return F.l1_loss(lower_half(x_hat), lower_half(x))
