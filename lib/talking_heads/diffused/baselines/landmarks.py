"""Landmarks from sound: what lips do follows from the sound, what else the head does is sampled.

The network predicts the mean of the landmarks' motion given the sound. What remains, mostly the motion of the
head and blinks, is modelled by principal components whose courses are autoregressive processes.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.data.landmarks import interocular
from talking_heads.sections.diffused import LandmarkPrediction

POINTS = 68
MOUTH = slice(48, 68)
ORDER = 2  # of the autoregressive processes
STABLE = 0.995  # largest absolute root of a process: one beyond it would drift away


class Residuals(NamedTuple):
    """Principal components of what the sound does not explain, and an AR(2) process for each."""

    components: np.ndarray  # (K, 136)
    coefficients: np.ndarray  # (K, 2), of the last value and of the one before
    deviations: np.ndarray  # (K,) of the innovations


class LandmarkPredictor(nn.Module):
    """Offsets of landmarks from those of the identity frame, in its interocular distances."""

    def __init__(self, section: LandmarkPrediction, embedding: int):
        super().__init__()
        self.shape = nn.Linear(2 * POINTS, section.hidden)
        self.sound = nn.Conv1d(embedding, section.hidden, 5, padding=2)
        self.gru = nn.GRU(section.hidden, section.hidden, batch_first=True, bidirectional=True)
        self.out = nn.Sequential(
            nn.Linear(3 * section.hidden, section.hidden), nn.GELU(), nn.Linear(section.hidden, 2 * POINTS)
        )
        self.register_buffer("components", torch.zeros(section.components, 2 * POINTS))
        self.register_buffer("coefficients", torch.zeros(section.components, ORDER))
        self.register_buffer("deviations", torch.zeros(section.components))

    def forward(self, audio: Tensor, identity: Tensor) -> Tensor:
        """Mean offsets (B, L, 136) of audio embeddings (B, L, A), for normalised landmarks (B, 136) of the
        identity frame (:func:`normalised`).
        """
        heard = torch.nn.functional.gelu(self.sound(audio.transpose(1, 2)).transpose(1, 2))
        states, _ = self.gru(heard)
        shape = self.shape(identity)[:, None].expand(-1, audio.shape[1], -1)
        return self.out(torch.cat([states, shape], -1))

    def set_residuals(self, residuals: Residuals) -> None:
        """Take over what was fitted (:func:`fit_residuals`)."""
        for name, values in residuals._asdict().items():
            buffer = getattr(self, name)
            buffer.copy_(torch.from_numpy(values).to(buffer))

    @torch.no_grad()
    def track(self, audio: Tensor, points: np.ndarray, seed: int, motion: float = 1.0) -> np.ndarray:
        """Landmarks (L, 68, 2) in pixels for audio embeddings (L, A), beginning at ``points`` (68, 2).

        ``motion`` scales what is sampled: 0 gives the mean.
        """
        identity = torch.from_numpy(normalised(points[None]).astype(np.float32)).to(audio.device)
        mean = self(audio[None], identity)[0]
        residuals = motion * self.sample(len(audio), seed).to(mean.device)
        offsets = (mean - mean[:1] + residuals).reshape(-1, POINTS, 2).cpu().numpy()
        return points + interocular(points[None]) * offsets

    def sample(self, count: int, seed: int) -> Tensor:
        """Courses (count, 136) of the residuals, which begin at zero."""
        generator = torch.Generator().manual_seed(seed)
        innovations = torch.randn(count, len(self.components), generator=generator)
        coefficients, deviations = self.coefficients.cpu(), self.deviations.cpu()
        courses = torch.zeros(count, len(self.components))
        for k in range(1, count):
            before = courses[max(0, k - ORDER) : k].flip(0)  # the newest first
            courses[k] = (coefficients[:, : len(before)].T * before).sum(0) + deviations * innovations[k]
        return courses @ self.components.cpu()


def normalised(points: np.ndarray) -> np.ndarray:
    """Landmarks (n, 68, 2) about their mean, in interocular distances: (n, 136)."""
    centred = points - points.mean(1, keepdims=True)
    return (centred / interocular(points)[:, None, None]).reshape(len(points), -1)


def offsets(points: np.ndarray) -> np.ndarray:
    """Offsets (n, 136) of a clip's landmarks (n, 68, 2) from those of its first frame, in interocular
    distances of that frame.
    """
    return ((points - points[:1]) / interocular(points[:1])).reshape(len(points), -1)


def prediction_loss(predicted: Tensor, target: Tensor, mouth_weight: float) -> Tensor:
    """Mean square of the error of offsets (B, L, 136), and ``mouth_weight`` times that of the mouth's points
    about their mean: a scalar.
    """
    error = (predicted - target).unflatten(-1, (POINTS, 2))
    mouth = error[..., MOUTH, :]
    lips = mouth - mouth.mean(-2, keepdim=True)
    return error.square().mean() + mouth_weight * lips.square().mean()


def fit_residuals(tracks: list[np.ndarray], count: int) -> Residuals:
    """``count`` principal components of residuals (n, 136) of clips, and an AR(2) process for each."""
    pooled = np.concatenate(tracks)
    _, _, directions = np.linalg.svd(pooled, full_matrices=False)
    components = np.zeros((count, pooled.shape[1]))
    components[: min(count, len(directions))] = directions[:count]
    fits = [_fit_process([track @ direction for track in tracks]) for direction in components]
    coefficients, deviations = zip(*fits, strict=True)
    return Residuals(components, np.array(coefficients), np.array(deviations))


def _fit_process(courses: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """The coefficients (2,) and the deviation of the innovations of an AR(2) process, by least squares."""
    before = np.concatenate([np.stack([c[1:-1], c[:-2]], 1) for c in courses])
    now = np.concatenate([c[2:] for c in courses])
    coefficients = np.linalg.lstsq(before, now, rcond=None)[0]
    largest = np.abs(np.roots([1, *-coefficients])).max()
    if largest > STABLE:
        shrink = STABLE / largest
        coefficients = coefficients * [shrink, shrink**2]
    return coefficients, float((now - before @ coefficients).std())
