"""Episodes of meta-learning: K frames of a video for the embedder, further ones as targets (section 3.2)."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .landmarks import draw_all


class Videos(Protocol):
    """What episodes are drawn from: :class:`store.Store` and :class:`PoolVideos` are such."""

    def __len__(self) -> int: ...
    def frame_count(self, video: int) -> int: ...
    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]: ...
    def person(self, video: int) -> str: ...


class PoolVideos:
    """The videos of a :class:`speakers.pool.Pool`, one after the other."""

    def __init__(self, pool):
        self.images = pool.images.reshape(-1, *pool.images.shape[2:])
        self.points = pool.points.reshape(-1, *pool.points.shape[2:])
        self.per_person = pool.images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def frame_count(self, video: int) -> int:
        return self.images.shape[1]

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.images[video][frames]), np.array(self.points[video][frames, :70 if pupils else 68])

    def person(self, video: int) -> str:
        return str(video // self.per_person)


class Subset:
    """Some videos of others, renumbered."""

    def __init__(self, videos: Videos, numbers: list[int]):
        self.videos, self.numbers = videos, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def frame_count(self, video: int) -> int:
        return self.videos.frame_count(self.numbers[video])

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return self.videos.read(self.numbers[video], frames, pupils)

    def person(self, video: int) -> str:
        return self.videos.person(self.numbers[video])


class Episode(NamedTuple):
    """B videos: what E sees, (B, K, 3, H, W), the targets, (B, M, 3, H, W), and the videos' numbers, (B,)."""

    x_s: Tensor
    y_s: Tensor
    x_t: Tensor
    y_t: Tensor
    i: Tensor


def to_tensor(images: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) in [-1, 1]."""
    x = torch.tensor(images, device=device)
    return x.movedim(-1, -3).contiguous().float() / 127.5 - 1


def to_image(x: Tensor) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1] -> (..., H, W, 3) uint8."""
    return ((x.detach().float().clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).movedim(-3, -1).cpu().numpy()


class EpisodeSampler:
    """Draws episodes without end; its state is one random generator, so training resumes exactly.

    Videos are drawn in shuffled rounds (an epoch is one episode a video); the K frames and the targets
    of an episode are distinct. A batch's K is drawn from k_min to k_shot. A share ``pupils`` of the episodes shows pupils in
    all landmark images, the others in none. Videos with too few frames are left out. Raises ValueError where none is left.
    """

    def __init__(self, videos: Videos, k_min: int, k_shot: int, targets: int, batch: int, size: int, line_width: float, seed: int, pupils: float = 0.0):
        self.videos, self.k_min, self.k_max, self.m, self.batch = videos, k_min, k_shot, targets, batch
        self.size, self.line_width, self.pupils = size, line_width, pupils
        self.usable = np.array([v for v in range(len(videos)) if videos.frame_count(v) >= k_shot + 1])
        if not len(self.usable):
            raise ValueError(f"no video has the {k_shot + 1} frames that an episode of K = {k_shot} needs")
        self.rng = np.random.default_rng(seed)
        self.order = np.empty(0, np.int64)

    def state(self) -> dict:
        return {"rng": self.rng.bit_generator.state, "order": self.order.tolist()}

    def restore(self, state: dict) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.order = np.array(state["order"], np.int64)

    def draw(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """The next batch as (video, frames for E, target frames)."""
        while len(self.order) < self.batch:
            self.order = np.concatenate([self.order, self.rng.permutation(self.usable)])
        chosen, self.order = self.order[:self.batch], self.order[self.batch:]
        k = int(self.rng.integers(self.k_min, self.k_max + 1))
        out = []
        for v in chosen:
            frames = self.rng.permutation(self.videos.frame_count(int(v)))[:k + self.m]
            # few frames: targets repeat, but never one of the K
            out.append((int(v), frames[:k], np.resize(frames[k:], self.m)))
        return out

    def next(self, device: str | torch.device = "cpu") -> Episode:
        """The next batch, read, its landmark images drawn."""
        drawn = self.draw()
        x, p = zip(*(self.videos.read(v, np.concatenate([s, t]), self.pupils > 0) for v, s, t in drawn))
        x, p = np.stack(x), np.stack(p)
        if x.shape[2] != self.size:
            raise ValueError(f"the corpus has frames of {x.shape[2]}², {self.size}² are needed; prepare it again with --size {self.size}")
        if self.pupils:
            p[self.rng.random(len(p)) >= self.pupils, :, 68:] = np.nan
        y = draw_all(p, self.size, self.line_width)
        x, y = to_tensor(x, device), to_tensor(y, device)
        k = len(drawn[0][1])
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:],
                       torch.tensor([v for v, _, _ in drawn], device=device))
