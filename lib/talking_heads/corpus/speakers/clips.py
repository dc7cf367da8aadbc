"""Clips of procedural speakers: frames, exact landmarks and sound, from (seed, person, video) alone."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ..crops import clip_square
from .motion import draw_motion, draw_style
from .renderer import arrange, landmarks, render, to_pixels
from .speech import Segment, synthesise, utterance
from .traits import draw_traits, person_rng, stack_traits

BATCH = 8  # frames rendered at once; more is not faster on a CPU


@dataclass
class Clip:
    frames: np.ndarray  # (n, size, size, 3) uint8
    landmarks: np.ndarray  # (n, 68, 2) float32, pixels
    pupils: np.ndarray  # (n, 2, 2) float32, pixels
    hidden: np.ndarray  # (n, 70) bool: landmarks, then pupils
    sound: np.ndarray  # (samples,) float32 at 16 kHz
    segments: list[Segment]
    pose: dict[str, np.ndarray]
    traits: dict[str, float]
    fps: float


@cache
def rendering() -> str:
    """Eight hex digits that change whenever the code of this package does: what other code rendered is not reused."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:8]


def speaker(seed: int, person: int) -> dict[str, float]:
    """Traits of a person of the corpus ``seed``."""
    return draw_traits(person_rng(seed, person))


@torch.no_grad()
def make_clip(seed: int, person: int, video: int, frames: int, fps: float, size: int,
              device: str | torch.device = "cpu", sound: bool = True, only: np.ndarray | None = None, moved_by: tuple[int, int] | None = None) -> Clip:
    """Film one video of a person: ``frames`` frames at ``fps``, ``size``² pixels, in the crop of :mod:`crops`.

    With ``only``, just these frames are rendered; landmarks come for all. With ``moved_by``, a person and video, the motion
    is theirs and the face, clothes and voice stay this person's. The same arguments give the same clip on the same kind
    of device.
    """
    traits = speaker(seed, person)
    rng = person_rng(seed, person, 1 + video)
    style = draw_style(rng)
    times = np.arange(frames) / fps
    actor = rng if moved_by is None else person_rng(seed, moved_by[0], 1 + moved_by[1])
    if moved_by is not None:
        draw_style(actor)  # as the actor's own video draws it first
    segments = utterance(actor, frames / fps)
    pose = draw_motion(actor, times, segments)

    def batch(values: dict, part) -> dict[str, torch.Tensor]:
        return {k: torch.as_tensor(v, dtype=torch.float32, device=device)[part] for k, v in values.items()}

    fixed = {k: v.expand(frames) for k, v in stack_traits([traits], device).items()}
    look = {k: np.full(frames, v) for k, v in style.items()}
    seeds = torch.full((frames,), float(person % 9973) * 0.37, device=device)
    step = BATCH if torch.device(device).type == "cpu" else 64
    parts = torch.arange(frames).split(step)

    def arranged(parts) -> list:
        return [arrange({k: v[i] for k, v in fixed.items()}, batch(pose, i), batch(look, i), seeds[i], size) for i in parts]

    scenes = arranged(parts)
    xy, hidden = (torch.cat(v) for v in zip(*map(landmarks, scenes)))
    square = clip_square(xy[:, :68].cpu().numpy())
    half = square.side / 2
    window = torch.tensor([[square.x + half, square.y + half, half]], device=device).repeat(frames, 1)
    if only is not None:
        parts = torch.as_tensor(only).split(step)
        scenes = arranged(parts)
    images = [(render(scene, window[i], size).permute(0, 2, 3, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy() for scene, i in zip(scenes, parts)]
    points = to_pixels(xy, window, size).cpu().numpy()
    wave = synthesise(segments, frames / fps, traits["pitch"], traits["tract"], rng) if sound else np.zeros(0, np.float32)
    return Clip(np.concatenate(images), points[:, :68], points[:, 68:], hidden.cpu().numpy(), wave, segments, pose, traits, fps)
