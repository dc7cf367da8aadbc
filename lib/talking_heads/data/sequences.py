"""Sequences of consecutive frames with the sound of each: training samples of methods that see motion."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.frames import to_tensor
from talking_heads.data.windows import TalkingClips, cut_sound, gain_of


@dataclass(frozen=True)
class SequenceSettings:
    """Shape of a batch of sequences."""

    batch: int
    frames: int


class Sequences(NamedTuple):
    """A batch of B training samples, each L consecutive frames of a clip."""

    frames: Tensor  # (B, L, 3, H, W) in [-1, 1]
    sound: Tensor  # (B, L, samples) in [-1, 1], the window of 0.2 s around each frame
    points: Tensor  # (B, L, 68, 2) landmarks in pixels

    def to(self, device: str | torch.device) -> "Sequences":
        """The sequences on a device."""
        return Sequences(*(value.to(device, non_blocking=True) for value in self))


class SequenceDataset(torch.utils.data.Dataset):
    """Batch number ``step`` of a training, a function of (seed, rank, step) alone.

    Clips that are shorter than a sequence are left out. Raises ValueError where none remains.
    """

    def __init__(self, clips: TalkingClips, settings: SequenceSettings, seed: int, rank: int = 0):
        self.clips, self.settings, self.seed, self.rank = clips, settings, seed, rank
        long = [number for number in range(len(clips)) if clips.frame_count(number) >= settings.frames]
        self.usable = np.array(long)
        if not len(self.usable):
            raise ValueError(f"no clip has the {settings.frames} frames of a sequence")

    def __getitem__(self, step: int) -> Sequences:
        rng = np.random.default_rng([self.seed, self.rank, step])
        chosen = rng.choice(self.usable, self.settings.batch, replace=self.settings.batch > len(self.usable))
        samples = [self._draw(int(number), rng) for number in chosen]
        return Sequences(*(torch.stack(values) for values in zip(*samples, strict=True)))

    def _draw(self, number: int, rng: np.random.Generator) -> Sequences:
        """A sequence without the dimension of the batch."""
        first = int(rng.integers(self.clips.frame_count(number) - self.settings.frames + 1))
        numbers = np.arange(first, first + self.settings.frames)
        images, points = self.clips.read(number, numbers)
        sound = self.clips.sound(number)
        windows = gain_of(sound) * cut_sound(sound, numbers)
        return Sequences(
            to_tensor(images), torch.from_numpy(windows).float(), torch.from_numpy(points).float()
        )
