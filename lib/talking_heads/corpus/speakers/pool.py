"""Many rendered people in two memory-mapped arrays: what the judges and the reference weights learn from.

A pool skips the detour over video files. It is written in parallel, person by person, and goes on
where it was interrupted.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from .clips import make_clip, rendering


class Pool:
    """``images`` (people, videos, frames, size, size, 3) uint8; ``points`` (..., 70, 2) float32: landmarks, pupils."""

    def __init__(self, folder: Path):
        self.about = json.loads((folder / "pool.json").read_text())
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.points = np.load(folder / "points.npy", mmap_mode="r")


def _render_people(folder: str, about: dict, people: list[int]) -> list[int]:
    torch.set_num_threads(1)
    images = np.load(Path(folder) / "images.npy", mmap_mode="r+")
    points = np.load(Path(folder) / "points.npy", mmap_mode="r+")
    for i in people:
        for v in range(about["videos"]):
            clip = make_clip(about["seed"], about["first"] + i, v, about["frames"], about["fps"], about["size"], sound=False)
            images[i, v] = clip.frames
            points[i, v] = np.concatenate([clip.landmarks, clip.pupils], 1)
    return people


def make_pool(folder: Path, *, seed: int, first: int, people: int, videos: int, frames: int, size: int,
              fps: float = 2.5, workers: int | None = None) -> Pool:
    """Render people ``first`` ... ``first + people - 1`` of the corpus ``seed``, or what is missing of them."""
    about = dict(seed=seed, first=first, people=people, videos=videos, frames=frames, size=size, fps=fps, rendering=rendering())
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "pool.json").exists() and json.loads((folder / "pool.json").read_text()) == about:
        return Pool(folder)
    shape = (people, videos, frames)
    state = folder / "done.json"
    known = json.loads(state.read_text()) if state.exists() else {}
    done = set(known["done"]) if known.get("about") == about else set()
    if not done:
        (folder / "pool.json").unlink(missing_ok=True)  # no longer whole
        np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, size, size, 3)).flush()
        np.lib.format.open_memmap(folder / "points.npy", "w+", np.float32, (*shape, 70, 2)).flush()
    todo = [i for i in range(people) if i not in done]
    batches = [todo[k:k + 4] for k in range(0, len(todo), 4)]
    start, last = time.time(), 0.0
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as executor:
        for finished in executor.map(_render_people, [str(folder)] * len(batches), [about] * len(batches), batches):
            done.update(finished)
            if time.time() - last > 10 or len(done) == people:
                last = time.time()
                temporary = state.with_suffix(".tmp")
                temporary.write_text(json.dumps({"about": about, "done": sorted(done)}))
                os.replace(temporary, state)
                rate = (len(done) - people + len(todo)) * videos * frames / (last - start)
                print(f"  {len(done)}/{people} people rendered, {rate:.0f} frames/s", flush=True)
    (folder / "pool.json").write_text(json.dumps(about))
    return Pool(folder)


class LiveVideos:
    """Videos of procedural speakers that are rendered when they are read: for a GPU, where that costs milliseconds."""

    def __init__(self, seed: int, first: int, people: int, videos: int, frames: int, size: int,
                 device: str | torch.device, fps: float = 2.5):
        self.seed, self.first, self.people, self.videos = seed, first, people, videos
        self.frames, self.size, self.device, self.fps = frames, size, device, fps

    def __len__(self) -> int:
        return self.people * self.videos

    def frame_count(self, video: int) -> int:
        return self.frames

    def person(self, video: int) -> str:
        return str(self.first + video // self.videos)

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        clip = make_clip(self.seed, self.first + video // self.videos, video % self.videos, self.frames, self.fps, self.size,
                         self.device, sound=False, only=frames)
        return clip.frames, (np.concatenate([clip.landmarks, clip.pupils], 1) if pupils else clip.landmarks)[frames]
