"""Episodes of meta-learning: K frames of a video for the embedder, other ones as targets (section 3.2)."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from talking_heads.config import Profile
from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.speakers.pool import Pool


class Videos(Protocol):
    """Numbered videos from which episodes are drawn, such as :class:`store.Store` and :class:`PoolVideos`."""

    def __len__(self) -> int: ...

    def frame_count(self, video: int) -> int:
        """Number of frames of a video."""

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and their landmarks (k, 68, 2), with ``pupils`` (k, 70, 2)."""

    def identity(self, video: int) -> str:
        """Name of the identity of a video."""


class PoolVideos:
    """The videos of a :class:`speakers.pool.Pool`, ordered by identity."""

    def __init__(self, pool: Pool):
        self.pool = pool
        self.images = pool.images.reshape(-1, *pool.images.shape[2:])
        self.points = pool.points.reshape(-1, *pool.points.shape[2:])
        self.sounds = None if pool.sound is None else pool.sound.reshape(-1, pool.sound.shape[-1])
        self.per_identity = pool.images.shape[1]

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
        return str(video // self.per_identity)

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


class Episode(NamedTuple):
    """A batch of B episodes, with the symbols of section 3.2: frames x, landmark images y, videos i."""

    x_s: Tensor  # (B, K, 3, H, W) frames for the embedder
    y_s: Tensor  # (B, K, 3, H, W)
    x_t: Tensor  # (B, M, 3, H, W) target frames
    y_t: Tensor  # (B, M, 3, H, W)
    i: Tensor  # (B,) numbers of the videos


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


class EpisodeSampler:
    """An endless sequence of batches of episodes.

    Videos are drawn in shuffled rounds; an epoch is one episode of each video. The K frames of an episode
    are never among its targets. Videos with fewer than K + 1 frames are left out; ValueError is raised where
    none remains. :meth:`state` and :meth:`restore` let training resume exactly.
    """

    def __init__(self, videos: Videos, settings: EpisodeSettings, seed: int):
        self.videos, self.settings = videos, settings
        needed = settings.k_max + 1
        self.usable = np.array([v for v in range(len(videos)) if videos.frame_count(v) >= needed])
        if not len(self.usable):
            raise ValueError(
                f"no video has the {needed} frames that an episode of K = {settings.k_max} needs"
            )
        self.rng = np.random.default_rng(seed)
        self.order = np.empty(0, np.int64)

    def state(self) -> dict:
        """The state that determines all further draws, as JSON types."""
        return {"rng": self.rng.bit_generator.state, "order": self.order.tolist()}

    def restore(self, state: dict) -> None:
        """Continue from a state."""
        self.rng.bit_generator.state = state["rng"]
        self.order = np.array(state["order"], np.int64)

    def draw(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """The next batch as (video, frames for the embedder, target frames), all as numbers."""
        batch, targets = self.settings.batch, self.settings.targets
        while len(self.order) < batch:
            self.order = np.concatenate([self.order, self.rng.permutation(self.usable)])
        chosen, self.order = self.order[:batch], self.order[batch:]
        k = int(self.rng.integers(self.settings.k_min, self.settings.k_max + 1))
        drawn = []
        for video in map(int, chosen):
            frames = self.rng.permutation(self.videos.frame_count(video))[: k + targets]
            # targets repeat where a video has few frames, but never include one of the K
            drawn.append((video, frames[:k], np.resize(frames[k:], targets)))
        return drawn

    def next(self, device: str | torch.device = "cpu") -> Episode:
        """The next batch with its landmark images.

        Raises ValueError where the frames of the corpus do not have the size of the settings.
        """
        settings, drawn = self.settings, self.draw()
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
            points[self.rng.random(len(points)) >= settings.pupils, :, 68:] = np.nan
        x = to_tensor(images, device)
        y = to_tensor(draw_all(points, settings.size, settings.line_width), device)
        k = len(drawn[0][1])
        videos = torch.tensor([video for video, _, _ in drawn], device=device)
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:], videos)
