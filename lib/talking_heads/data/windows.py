"""Windows of talking clips: a target frame, the frames before it, an identity frame, and the sound around it.

This is a training sample of Diffused Heads (sections 4.1 to 4.3). A clip has 25 frames a second and sound at
16 kHz that begins with its first frame. The sound of frame k is the window of 0.2 s around k / 25 s.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import interocular, openings
from talking_heads.data.sound import FPS, HOP, SOUND_RATE
from talking_heads.data.speakers.pool import LiveClips
from talking_heads.data.store import Store

LENGTH = round(0.2 * SOUND_RATE)  # samples of a window
MOUTH, NOSE = slice(48, 68), slice(27, 36)  # landmarks
CONTROLS = 2  # values of controls of a window
SMALLEST = 1e-3  # median opening of eyes, in interocular distances, of which a share is taken
SLOWEST = 0.05  # :func:`head_speed` of which the logarithm is taken: less is a still head
PEAK = 0.7  # loudest sample of a clip that an audio encoder hears, of 1
MARGIN = 0.35  # of the mouth's width, around it on all sides


class TalkingClips(Protocol):
    """Numbered clips of consecutive frames with sound, such as :class:`episodes.PoolVideos`."""

    def __len__(self) -> int: ...

    def frame_count(self, video: int) -> int:
        """Number of frames of a clip."""

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and their landmarks (k, 68, 2)."""

    def sound(self, video: int) -> np.ndarray:
        """The sound of a clip, (samples,) int16."""

    def identity(self, video: int) -> str:
        """Name of the identity of a clip."""

    def name(self, video: int) -> str:
        """Name of a clip, which an identity has once."""

    def digest(self) -> str:
        """Changes with the clips."""


class StoreClips:
    """The clips of a prepared corpus of talking clips; a video of several clips counts as several."""

    def __init__(self, store: Store):
        self.store = store
        index = store.index
        sources = np.diff(index.first_source)
        video = np.repeat(np.arange(len(store)), sources)
        end = np.cumsum(index.source_frames)
        end_of_video_before = (np.cumsum(index.frames) - index.frames)[video]
        first = end - index.source_frames - end_of_video_before
        # (clips, 3): the video, the clip's first frame in it, and the number of its frames
        self.clips = np.stack([video, first, index.source_frames], 1)

    def __len__(self) -> int:
        return len(self.clips)

    def frame_count(self, video: int) -> int:
        return int(self.clips[video, 2])

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        number, first, count = self.clips[video]
        if not ((np.asarray(frames) >= 0) & (np.asarray(frames) < count)).all():
            raise IndexError(f"clip {video} has {count} frames, none of them {np.max(frames)}")
        return self.store.read(number, first + np.asarray(frames), pupils)

    def sound(self, video: int) -> np.ndarray:
        """The sound of a clip, (samples,) int16. Raises :class:`CorpusDamaged` where it has none."""
        number, first, count = self.clips[video]
        return self.store.sound(number)[first * HOP : (first + count) * HOP]

    def identity(self, video: int) -> str:
        return self.store.identity(self.clips[video, 0])

    def name(self, video: int) -> str:
        return self.store.name(self.clips[video, 0])

    def digest(self) -> str:
        return self.store.digest()


@dataclass(frozen=True)
class WindowSettings:
    """Shape of a batch of windows."""

    batch: int
    motion_frames: int  # m_x
    audio_windows: int  # m_y, on each side
    first_as_identity: bool = False  # the clip's first frame is the identity frame, else a random one
    controls: bool = False  # whether windows have the values of controls; a clip's landmarks are read for it


class Windows(NamedTuple):
    """A batch of B training samples."""

    x_0: Tensor  # (B, 3, H, W) target frames in [-1, 1]
    identity: Tensor  # (B, 3, H, W)
    motion: Tensor  # (B, m_x, 3, H, W), oldest first
    sound: Tensor  # (B, 2 m_y + 1, samples) in [-1, 1]
    mouth: Tensor  # (B, 4) boxes of the target's mouth in pixels: left, top, right, bottom
    control: Tensor  # (B, 2) log of :func:`head_speed`, and the target's :func:`shut_eyes`; or (B, 0)

    def split(self, size: int) -> list["Windows"]:
        """The windows in parts of at most ``size`` samples."""
        return [Windows(*parts) for parts in zip(*(value.split(size) for value in self), strict=True)]

    def to(self, device: str | torch.device) -> "Windows":
        """The windows on a device."""
        return Windows(*(value.to(device, non_blocking=True) for value in self))


def neighbours(frame: int, count: int, each_side: int) -> np.ndarray:
    """Numbers of the audio windows around a frame of ``count``; missing ones repeat the first or the last."""
    return np.arange(frame - each_side, frame + each_side + 1).clip(0, count - 1)


def gain_of(sound: np.ndarray) -> float:
    """The factor that makes a clip as loud as rendered ones: its loudest sample ``PEAK``; 1 for silence."""
    peak = int(np.abs(sound.astype(np.int32)).max(initial=0))
    return PEAK * 32767 / peak if peak else 1.0


def cut_sound(sound: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The window of each of k frames from sound (samples,) int16: (k, samples) float32 in [-1, 1].

    What lies before the beginning or after the end of the sound is silence.
    """
    first = frames * HOP - LENGTH // 2
    windows = np.zeros((len(frames), LENGTH), np.float32)
    for window, start in zip(windows, first, strict=True):
        samples = sound[max(0, start) : max(0, start + LENGTH)]
        offset = max(0, -start)
        window[offset : offset + len(samples)] = samples
    return windows / 32768


def mouth_box(points: np.ndarray, size: int) -> np.ndarray:
    """The box (4,) around the mouth of landmarks (68, 2): left, top, right, bottom in whole pixels.

    It has a margin, lies inside the frame and has at least one pixel; right and bottom lie outside.
    """
    low, high = points[MOUTH].min(0), points[MOUTH].max(0)
    margin = MARGIN * (high[0] - low[0])
    first = np.floor(low - margin).clip(0, size - 1).astype(int)
    last = np.ceil(high + margin + 1).clip(first + 1, size).astype(int)
    return np.concatenate([first, last])


def head_speed(points: np.ndarray) -> float:
    """Mean speed of the nose in landmarks (n, 68, 2) of consecutive frames, in interocular distances a
    second.
    """
    nose = points[:, NOSE].mean(1)
    return float(np.linalg.norm(np.diff(nose, axis=0), axis=-1).mean() / interocular(points).mean() * FPS)


def shut_eyes(points: np.ndarray) -> np.ndarray:
    """How far the eyes are shut (n,) in a clip's landmarks (n, 68, 2): 0 as the median or wider, 1 shut."""
    eyes = openings(points)[1]
    return (1 - eyes / max(np.median(eyes), SMALLEST)).clip(0, 1)


class ClipDataset(torch.utils.data.Dataset, ABC):
    """Batches of samples from clips; number ``step`` is a function of (seed, rank, step) alone.

    Clips with fewer than ``least`` frames are left out. Raises ValueError, which ends with ``purpose``, where
    none remains.
    """

    def __init__(self, clips: TalkingClips, batch: int, seed: int, rank: int, least: int, purpose: str):
        self.clips, self.batch, self.seed, self.rank = clips, batch, seed, rank
        usable = [number for number in range(len(clips)) if clips.frame_count(number) >= least]
        self.usable = np.array(usable)
        if not usable:
            raise ValueError(f"no clip has {least} frames, {purpose}")
        self._gains: dict[int, float] = {}

    def samples(self, step: int) -> list:
        """The samples of a batch."""
        rng = np.random.default_rng([self.seed, self.rank, step])
        usable = self.usable
        if isinstance(self.clips, LiveClips):
            usable = self.clips.window(step, self.rank)
        chosen = rng.choice(usable, self.batch, replace=self.batch > len(usable))
        return [self.draw(int(number), rng) for number in chosen]

    @abstractmethod
    def draw(self, number: int, rng: np.random.Generator) -> NamedTuple:
        """A sample of a clip, without the dimension of the batch."""

    def windows_of(self, number: int, frames: np.ndarray) -> Tensor:
        """The windows of k frames of a clip: (k, samples) in [-1, 1]."""
        sound = self.clips.sound(number)
        if number not in self._gains:  # the only value for which the whole clip is read
            self._gains[number] = gain_of(sound)
        return torch.from_numpy(self._gains[number] * cut_sound(sound, frames)).float()


class WindowDataset(ClipDataset):
    """Batches of windows. Raises ValueError where no clip has two frames."""

    def __init__(self, clips: TalkingClips, settings: WindowSettings, seed: int, rank: int = 0):
        super().__init__(clips, settings.batch, seed, rank, 2, "a target and an identity frame")
        self.settings = settings
        self._controls: dict[int, np.ndarray] = {}  # (frames, 2) of every clip that was drawn

    def __getitem__(self, step: int) -> Windows:
        return Windows(*(torch.stack(values) for values in zip(*self.samples(step), strict=True)))

    def draw(self, number: int, rng: np.random.Generator) -> Windows:
        count = self.clips.frame_count(number)
        target, other = int(rng.integers(count)), int(rng.integers(count - 1))
        identity = other + (other >= target)
        if self.settings.first_as_identity:
            target, identity = max(1, target), 0
        before = np.arange(target - self.settings.motion_frames, target)
        before[before < 0] = identity  # missing motion frames
        images, points = self.clips.read(number, np.array([target, identity, *before]))
        frames = to_tensor(images)
        return Windows(
            frames[0],
            frames[1],
            frames[2:],
            self.windows_of(number, neighbours(target, count, self.settings.audio_windows)),
            torch.from_numpy(mouth_box(points[0], images.shape[1])),
            self.controls(number, target),
        )

    def controls(self, number: int, frame: int) -> Tensor:
        """The values of controls (2,) of a clip's frame; (0,) where the settings have none."""
        if not self.settings.controls:
            return torch.zeros(0)
        if number not in self._controls:
            points = self.clips.read(number, np.arange(self.clips.frame_count(number)))[1]
            shut = shut_eyes(points)
            speed = np.full_like(shut, np.log(max(head_speed(points), SLOWEST)))
            self._controls[number] = np.stack([speed, shut], 1).astype(np.float32)
        return torch.from_numpy(self._controls[number][frame])
