"""Sequences of consecutive frames with their sound: training samples of methods that see motion."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.frames import to_tensor
from talking_heads.data.windows import ClipDataset, TalkingClips


@dataclass(frozen=True)
class SequenceSettings:
    """Shape of a batch of sequences."""

    batch: int
    frames: int  # L
    audio_windows: int  # m_y, on each side of a frame's own


class Sequences(NamedTuple):
    """A batch of B training samples, each L consecutive frames of a clip."""

    frames: Tensor  # (B, L, 3, H, W) in [-1, 1]
    # (B, L + 2 m_y, samples) in [-1, 1]: the window around each frame, and those before and after the
    # sequence; where the clip has none, the first or the last one again
    sound: Tensor
    points: Tensor  # (B, L, 68, 2) landmarks in pixels

    def to(self, device: str | torch.device) -> "Sequences":
        """The sequences on a device."""
        return Sequences(*(value.to(device, non_blocking=True) for value in self))


class SequenceDataset(ClipDataset):
    """Batches of sequences. Raises ValueError where no clip is long enough."""

    def __init__(self, clips: TalkingClips, settings: SequenceSettings, seed: int, rank: int = 0):
        super().__init__(clips, settings.batch, seed, rank, settings.frames, "as many as a training sequence")
        self.settings = settings

    def __getitem__(self, step: int) -> Sequences:
        return Sequences(*(torch.stack(values) for values in zip(*self.samples(step), strict=True)))

    def draw(self, number: int, rng: np.random.Generator) -> Sequences:
        count, length, each_side = (
            self.clips.frame_count(number),
            self.settings.frames,
            self.settings.audio_windows,
        )
        first = int(rng.integers(count - length + 1))
        images, points = self.clips.read(number, np.arange(first, first + length))
        windows = np.arange(first - each_side, first + length + each_side).clip(0, count - 1)
        return Sequences(
            to_tensor(images), self.windows_of(number, windows), torch.from_numpy(points).float()
        )
