"""Clips of procedural speakers: frames, exact landmarks and sound, determined by (seed, identity, video)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.crops import clip_square
from talking_heads.data.speakers.motion import draw_motion, draw_style, plain_motion, plain_style
from talking_heads.data.speakers.renderer import Scene, arrange, landmarks, render, to_pixels
from talking_heads.data.speakers.speech import Segment, synthesise, utterance
from talking_heads.data.speakers.traits import draw_traits, person_rng, stack_traits
from talking_heads.sections.diffused import Corpus

VERSION = 1  # raised when the same seed gives different frames, landmarks or sound
BATCH, GPU_BATCH = 8, 64  # frames that are rendered at once; larger batches are not faster on a CPU


@dataclass(frozen=True)
class ClipSettings:
    """One video of an identity: ``frames`` frames at ``fps``, in the crop of :mod:`crops` at ``size``².

    In the ``corpus`` "plain", face and speech are those of "diverse"; the head hardly turns, and there are
    few backgrounds.
    """

    seed: int  # of the corpus
    identity: int
    video: int
    frames: int
    fps: float
    size: int  # side of the frames in pixels
    corpus: Corpus = "diverse"

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.frames / self.fps


@dataclass
class Clip:
    """A rendered clip with its ground truth."""

    frames: np.ndarray  # (n, size, size, 3) uint8
    landmarks: np.ndarray  # (n, 68, 2) float32, pixels
    pupils: np.ndarray  # (n, 2, 2) float32, pixels
    hidden: np.ndarray  # (n, 70) bool: landmarks, then pupils
    sound: np.ndarray  # (samples,) float32 at 16 kHz
    segments: list[Segment]
    pose: dict[str, np.ndarray]
    traits: dict[str, float]
    fps: float


def speaker(seed: int, identity: int) -> dict[str, float]:
    """Traits of an identity of the corpus ``seed``."""
    return draw_traits(person_rng(seed, identity))


def _style(seed: int, identity: int, video: int) -> tuple[np.random.Generator, dict[str, float]]:
    """The style of a video, and the generator that draws its utterance and motion next."""
    rng = person_rng(seed, identity, 1 + video)
    return rng, draw_style(rng)


def spoken(seed: int, identity: int, video: int, seconds: float) -> list[Segment]:
    """What is said in the first ``seconds`` of :func:`make_clip`'s video of this length."""
    segments = utterance(_style(seed, identity, video)[0], seconds)
    return [segment for segment in segments if segment.start < seconds]


@torch.no_grad()
def make_clip(
    settings: ClipSettings,
    device: str | torch.device = "cpu",
    sound: bool = True,
    only: np.ndarray | None = None,
    moved_by: tuple[int, int] | None = None,
    segments: list[Segment] | None = None,
) -> Clip:
    """Render a video; the same arguments give the same clip on the same type of device.

    With ``only``, an array of frame numbers, only these frames are rendered; landmarks are returned for all.
    With ``moved_by``, an identity and a video, the motion is that of the other video, while face, clothes and
    voice remain. With ``segments``, these are spoken in place of a random utterance.
    """
    seed, plain = settings.seed, settings.corpus == "plain"
    traits = speaker(seed, settings.identity)
    rng, style = _style(seed, settings.identity, settings.video)
    motion_rng = rng if moved_by is None else _style(seed, *moved_by)[0]
    if segments is None:
        segments = utterance(motion_rng, settings.seconds)
    pose = draw_motion(motion_rng, np.arange(settings.frames) / settings.fps, segments)
    if plain:
        style, pose = plain_style(style), plain_motion(pose)
    images, points, hidden = _render_frames(settings, traits, style, pose, device, only)
    wave = np.zeros(0, np.float32)
    if sound:
        wave = synthesise(segments, settings.seconds, traits["pitch"], traits["tract"], rng)
    return Clip(
        frames=images,
        landmarks=points[:, :68],
        pupils=points[:, 68:],
        hidden=hidden,
        sound=wave,
        segments=segments,
        pose=pose,
        traits=traits,
        fps=settings.fps,
    )


def _render_frames(
    settings: ClipSettings,
    traits: dict[str, float],
    style: dict[str, float],
    pose: dict[str, np.ndarray],
    device: str | torch.device,
    only: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, or ``only`` these, all landmarks (n, 70, 2), and which are hidden (n, 70)."""
    frames, size = settings.frames, settings.size
    tracks = {name: values.expand(frames) for name, values in stack_traits([traits], device).items()}
    styles = {name: np.full(frames, value) for name, value in style.items()}
    texture = torch.full((frames,), float(settings.identity % 9973) * 0.37, device=device)
    batch_size = BATCH if torch.device(device).type == "cpu" else GPU_BATCH

    def arrange_frames(numbers: Tensor) -> Scene:
        return arrange(
            {name: values[numbers] for name, values in tracks.items()},
            _select(pose, numbers, device),
            _select(styles, numbers, device),
            texture[numbers],
            size,
        )

    batches = torch.arange(frames).split(batch_size)
    scenes = [arrange_frames(numbers) for numbers in batches]
    xy, hidden = (torch.cat(results) for results in zip(*map(landmarks, scenes), strict=True))
    square = clip_square(xy[:, :68].cpu().numpy())
    half = square.side / 2
    window = torch.tensor([[square.x + half, square.y + half, half]], device=device).repeat(frames, 1)
    if only is not None:
        batches = torch.as_tensor(only).split(batch_size)
        scenes = [arrange_frames(numbers) for numbers in batches]
    images = [
        _to_bytes(render(scene, window[numbers], size))
        for scene, numbers in zip(scenes, batches, strict=True)
    ]
    points = to_pixels(xy, window, size).cpu().numpy()
    return np.concatenate(images), points, hidden.cpu().numpy()


def _select(values: dict[str, np.ndarray], numbers: Tensor, device: str | torch.device) -> dict[str, Tensor]:
    """Some frames of arrays (n,), as float32 tensors."""
    return {
        name: torch.as_tensor(track, dtype=torch.float32, device=device)[numbers]
        for name, track in values.items()
    }


def _to_bytes(images: Tensor) -> np.ndarray:
    """(B, 3, S, S) in [0, 1] -> (B, S, S, 3) uint8."""
    return (images.permute(0, 2, 3, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
