"""Generated clips beside the true ones: on the way of a training, and in the chapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from talking_heads.animation.synthetic_video import Sound, write_synthetic
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import FPS, HOP
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.generation import Talker, clip_seeds
from talking_heads.experiments.diffused.clips import choose_clips, embed_beginning
from talking_heads.judges.faces import Face
from talking_heads.metrics.images import mean_change
from talking_heads.metrics.lip_sync import SECOND, STILL, mouth_opening, mouth_width, track_correlation

SHEET = (4, 10)  # clips, and every so many frames, of a contact sheet


@dataclass(frozen=True)
class Beginnings:
    """The beginnings of B clips of n frames, and the conditions that they are generated from."""

    frames: np.ndarray  # (B, n, S, S, 3) uint8
    sounds: Sequence[np.ndarray]  # (samples,) int16 each
    identity: Tensor  # (B, 3, S, S): the first frames
    audio: Tensor  # (B, n, 2 m_y + 1, A) motion audio embeddings
    points: np.ndarray  # (B, n, 68, 2) landmarks
    real: bool = False  # whether real people are shown

    @classmethod
    def read(
        cls,
        clips: TalkingClips,
        encoder: nn.Module,
        count: int,
        frames: int,
        each_side: int,
        real: bool = False,
    ) -> "Beginnings":
        """The beginnings of at most ``count`` clips (:func:`choose_clips`), of ``real`` people or procedural
        speakers.

        All have ``frames`` frames, or as many as ``count`` clips have, or as the longest clip of corpora with
        fewer clips. Embeddings are on the encoder's device.
        """
        lengths = sorted((clips.frame_count(number) for number in range(len(clips))), reverse=True)
        frames = min(frames, lengths[min(count, len(lengths)) - 1])
        chosen = choose_clips(clips, count, frames, 0)
        read = zip(*(clips.read(number, np.arange(frames)) for number in chosen), strict=True)
        truth, points = (np.stack(parts) for parts in read)
        device = next(encoder.parameters()).device
        audio = [embed_beginning(encoder, clips, number, frames, each_side) for number in chosen]
        sounds = [clips.sound(number) for number in chosen]
        return cls(truth, sounds, to_tensor(truth[:, 0], device), torch.stack(audio), points, real)

    def talk(self, generator: Talker, seed: int = 0, **changes: Tensor) -> "Sample":
        """What a generator makes of these clips, beside the truth.

        ``changes`` are arguments of :meth:`Generator.talk`: other conditions, or true motion frames.
        """
        seeds = clip_seeds(seed, range(len(self.frames)))
        conditions = {"identity": self.identity, "audio": self.audio} | changes
        frames = [to_image(frame) for frame in generator.talk(seeds=seeds, **conditions)]
        truth, points = (values[:, : len(frames)] for values in (self.frames, self.points))
        return Sample(np.stack(frames, 1), truth, self.sounds, points, self.real, self.identity.device)


@dataclass(frozen=True)
class Sample:
    """Generated clips beside the true ones, each (B, n, S, S, 3) uint8."""

    generated: np.ndarray
    truth: np.ndarray
    sounds: Sequence[np.ndarray] = ()  # of the true clips, (samples,) int16
    points: np.ndarray | None = None  # (B, n, 68, 2) true landmarks, which measuring real people needs
    real: bool = False
    device: str | torch.device = "cpu"  # of the judges

    def faces(self) -> list[tuple[Face, Face]]:
        """What is found in generated and true frames of each clip. Raises what :meth:`Face.of` does."""
        expected = [None] * len(self.truth) if self.points is None else self.points
        find = partial(Face.of, real=self.real, device=self.device)
        return [
            (find(generated, points), find(truth, points))
            for generated, truth, points in zip(self.generated, self.truth, expected, strict=True)
        ]

    def scores(self) -> pd.DataFrame:
        """A row for each clip.

        Columns: correlations of the mouth's opening and width with the true ones, the amplitude of its
        opening and the mean change between frames, both relative to the true clip's, and the identity
        similarity in the first and the last second. Raises what :meth:`faces` does.
        """
        rows = []
        for (face, true_face), frames, truth in zip(self.faces(), self.generated, self.truth, strict=True):
            a, b, name = face.landmarks, true_face.landmarks, face.similarity
            similarity = face.similarity_to(true_face)
            opening, true_opening = mouth_opening(a), mouth_opening(b)
            rows.append(
                {
                    "mouth opening": track_correlation(opening, true_opening),
                    "mouth width": track_correlation(mouth_width(a), mouth_width(b)),
                    "amplitude": float(opening.std() / max(true_opening.std(), STILL)),
                    "change": mean_change(frames) / max(mean_change(truth), STILL),
                    f"{name}, first second": float(similarity[:SECOND].mean()),
                    f"{name}, last second": float(similarity[-SECOND:].mean()),
                }
            )
        return pd.DataFrame(rows)

    def similarity_by_second(self) -> np.ndarray:
        """Identity similarity to the true frames: means over clips and over the frames of each whole second.

        Raises what :meth:`faces` does.
        """
        similarity = np.mean([face.similarity_to(truth) for face, truth in self.faces()], 0)
        seconds = max(1, len(similarity) // SECOND)
        return similarity[: seconds * SECOND].reshape(seconds, -1).mean(1)

    def save_sheet(self, path: Path) -> None:
        """A contact sheet: true frames above generated ones, a pair of rows for each clip."""
        rows, every = SHEET
        strips = [
            np.concatenate(list(clip[::every]), 1)
            for pair in list(zip(self.truth, self.generated, strict=True))[:rows]
            for clip in pair
        ]
        Image.fromarray(np.concatenate(strips)).save(path)

    def save_clip(self, path: Path, number: int = 0) -> Path:
        """A clip as a video with its sound: the truth, and beside it the generated frames."""
        pair = np.concatenate([self.truth[number], self.generated[number]], 2)
        sound = Sound(self.sounds[number][: len(pair) * HOP])
        return write_synthetic(path, pair, FPS, sound, "a true clip and, beside it, a generated one")
