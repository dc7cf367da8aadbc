"""Episodes of meta-learning: K frames of a video for the embedder, other ones as targets (section 3.2)."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from talking_heads.config import Profile
from talking_heads.data.frames import normalise
from talking_heads.data.landmarks import draw_all
from talking_heads.data.speakers.pool import Pool

PURPOSES = ("K", "round", "frames", "pupils")  # of random numbers


class Videos(Protocol):
    """Numbered videos from which episodes are drawn, such as :class:`store.Store` and :class:`PoolVideos`."""

    def __len__(self) -> int: ...

    def frame_count(self, video: int) -> int:
        """Number of frames of a video."""

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and their landmarks (k, 68, 2), with ``pupils`` (k, 70, 2)."""

    def identity(self, video: int) -> str:
        """Name of the identity of a video."""

    def name(self, video: int) -> str:
        """Name of a video, which an identity has once."""


class PoolVideos:
    """The videos of a :class:`speakers.pool.Pool`, ordered by identity."""

    def __init__(self, pool: Pool):
        self.pool = pool
        self.images = pool.images.reshape(-1, *pool.images.shape[2:])
        self.points = pool.points.reshape(-1, *pool.points.shape[2:])
        self.sounds = None if pool.sound is None else pool.sound.reshape(-1, pool.sound.shape[-1])
        self.first, self.per_identity = pool.metadata()["first"], pool.images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def frame_count(self, video: int) -> int:
        return self.images.shape[1]

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        points = self.points[video][frames, : 70 if pupils else 68]
        return np.array(self.images[video][frames]), np.array(points)

    def sound(self, video: int) -> np.ndarray:
        """The sound of a video, (samples,) int16. Raises ValueError where the pool has none."""
        if self.sounds is None:
            raise ValueError("this pool was rendered without sound")
        return self.sounds[video]

    def identity(self, video: int) -> str:
        return str(self.first + video // self.per_identity)

    def name(self, video: int) -> str:
        """Name of a video, which an identity has once."""
        return str(video % self.per_identity)

    def digest(self) -> str:
        """Changes with the settings of the pool and the renderer's version."""
        return self.pool.digest()


class Subset:
    """A selection of videos, renumbered."""

    def __init__(self, videos: Videos, numbers: list[int]):
        self.videos, self.numbers = videos, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def frame_count(self, video: int) -> int:
        return self.videos.frame_count(self.numbers[video])

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return self.videos.read(self.numbers[video], frames, pupils)

    def identity(self, video: int) -> str:
        return self.videos.identity(self.numbers[video])

    def name(self, video: int) -> str:
        return self.videos.name(self.numbers[video])


class Episode(NamedTuple):
    """A batch of B episodes, with the symbols of section 3.2: frames x, landmark images y, videos i."""

    x_s: Tensor  # (B, K, 3, H, W) frames for the embedder
    y_s: Tensor  # (B, K, 3, H, W)
    x_t: Tensor  # (B, M, 3, H, W) target frames
    y_t: Tensor  # (B, M, 3, H, W)
    i: Tensor  # (B,) numbers of the videos, among those of the rank


@dataclass(frozen=True)
class EpisodeSettings:
    """Shape of a batch of episodes, and how landmark images are drawn.

    K is drawn from ``k_min`` to ``k_max``. A fraction ``pupils`` of the episodes has pupils in all landmark
    images, the others have none.
    """

    k_min: int
    k_max: int
    targets: int  # M
    batch: int  # B
    size: int  # pixels of a side
    line_width: float
    pupils: float = 0.0

    @classmethod
    def of_profile(cls, profile: Profile) -> "EpisodeSettings":
        """The settings of meta-learning."""
        section, drawing = profile.few_shot.meta_learning, profile.few_shot.landmark_images
        return cls(
            section.k_min,
            section.k_shot,
            section.targets,
            section.batch_videos,
            profile.data.image_size,
            drawing.line_width,
            drawing.pupils,
        )


class EpisodeImages(NamedTuple):
    """A batch of B episodes as it is loaded."""

    frames: Tensor  # (B, K + M, H, W, 3) uint8, those for the embedder first
    landmark_images: Tensor  # (B, K + M, H, W, 3) uint8
    k: int
    videos: Tensor  # (B,) their numbers among those of the rank

    def to(self, device: str | torch.device) -> Episode:
        """The episodes on a device, in [-1, 1]."""
        x = normalise(self.frames.to(device, non_blocking=True))
        y = normalise(self.landmark_images.to(device, non_blocking=True))
        i = self.videos.to(device, non_blocking=True)
        return Episode(x[:, : self.k], y[:, : self.k], x[:, self.k :], y[:, self.k :], i)


class EpisodeDataset(Dataset):
    """Batch number n of the episodes of a training, a function of (seed, rank, n) alone.

    Videos are drawn in shuffled rounds; an epoch is one episode of each video. The K frames of an episode are
    never among its targets. Of several ranks each has its own videos, those whose number leaves the remainder
    ``rank``; K is the same on all. Videos with fewer than K + 1 frames are left out; ValueError is raised
    where none remains.
    """

    def __init__(self, videos: Videos, settings: EpisodeSettings, seed: int, rank: int = 0, ranks: int = 1):
        self.videos, self.settings, self.seed = videos, settings, seed
        self.rank, self.ranks = rank, ranks
        needed = settings.k_max + 1
        usable = np.array([v for v in range(len(videos)) if videos.frame_count(v) >= needed], np.int64)
        self.usable = usable[usable % ranks == rank]
        if not len(self.usable):
            share = f" of rank {rank} of {ranks}" if ranks > 1 else ""
            raise ValueError(
                f"no video{share} has the {needed} frames that an episode of K = {settings.k_max} needs"
            )
        self.batches_per_epoch = math.ceil(len(usable) / (settings.batch * ranks))
        self._round = -1, self.usable  # the last one drawn from: its number, and its order of the videos

    def draw(self, number: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """A batch as (video, frames for the embedder, target frames), all as numbers."""
        batch, targets = self.settings.batch, self.settings.targets
        k = int(self._rng("K", number, rank=0).integers(self.settings.k_min, self.settings.k_max + 1))
        rng = self._rng("frames", number, self.rank)
        drawn = []
        for position in range(number * batch, (number + 1) * batch):
            video = self._video(position)
            frames = rng.permutation(self.videos.frame_count(video))[: k + targets]
            # targets repeat where a video has few frames, but never include one of the K
            drawn.append((video, frames[:k], np.resize(frames[k:], targets)))
        return drawn

    def _rng(self, purpose: str, number: int, rank: int) -> np.random.Generator:
        return np.random.default_rng([1 + PURPOSES.index(purpose), self.seed, rank, number])

    def _video(self, position: int) -> int:
        """The video at a position of the endless sequence of shuffled rounds."""
        number, index = divmod(position, len(self.usable))
        if self._round[0] != number:
            self._round = number, self._rng("round", number, self.rank).permutation(self.usable)
        return int(self._round[1][index])

    def __getitem__(self, number: int) -> EpisodeImages:
        """A batch with its landmark images.

        Raises ValueError where the frames of the corpus do not have the size of the settings.
        """
        settings, drawn = self.settings, self.draw(number)
        frames = [
            self.videos.read(video, np.concatenate([few, targets]), settings.pupils > 0)
            for video, few, targets in drawn
        ]
        images, points = (np.stack(arrays) for arrays in zip(*frames, strict=True))
        if images.shape[2] != settings.size:
            raise ValueError(
                f"the corpus has frames of {images.shape[2]}², {settings.size}² are needed; "
                f"prepare it again with --size {settings.size}"
            )
        if settings.pupils:
            rng = self._rng("pupils", number, self.rank)
            points[rng.random(len(points)) >= settings.pupils, :, 68:] = np.nan
        lines = draw_all(points, settings.size, settings.line_width)
        videos = torch.tensor([video // self.ranks for video, _, _ in drawn])
        return EpisodeImages(torch.from_numpy(images), torch.from_numpy(lines), len(drawn[0][1]), videos)
