"""Talking heads of the evaluation identities: generated from the first frame and the sound, and measured.

Generated clips are written as soon as they are complete, a file for each identity and row of the table, so
that an evaluation may be interrupted and goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from talking_heads.config import Profile, digest
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import FPS
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.training import encoder_digest
from talking_heads.files import replacing
from talking_heads.judges import use as judges
from talking_heads.metrics import lip_sync
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.images import cpbd, mean_squared_error, psnr, ssim
from talking_heads.progress import Progress

VERSION = 1  # raised when the same weights and settings give other frames
OURS, FROZEN = "Diffused Heads", "frozen identity frame"
OTHER_SOUND, TRUE_MOTION = "another clip's sound", "true motion frames"
ROWS = (OURS, TRUE_MOTION, OTHER_SOUND, FROZEN)
LMD = "LMD, normalised"  # in interocular distances; the paper's, about 3, must have another unit
SECOND = round(FPS)  # frames
BATCH, GPU_BATCH = 8, 32  # clips that are generated at once


def generation_key(profile: Profile) -> str:
    """Changes with every section that generated clips depend on beside the weights."""
    section = profile.diffused
    parts = (section.clips, section.conditions, section.audio_encoder, section.network, section.diffusion)
    return digest(VERSION, profile.seed, *parts, section.sampling)


@dataclass(frozen=True)
class Speaker:
    """An evaluation clip with the sound of another one."""

    identity: str
    number: int  # of the clip
    other: int  # the clip whose sound it gets in the row ``OTHER_SOUND``


def speakers(clips: TalkingClips, profile: Profile) -> list[Speaker]:
    """The first clip of each of the profile's number of identities, long enough for the protocol.

    Raises ValueError where fewer than two are left.
    """
    section, needed = profile.diffused.protocol, frame_count(profile)
    first: dict[str, int] = {}
    for number in range(len(clips)):
        if clips.frame_count(number) >= needed:
            first.setdefault(clips.identity(number), number)
    chosen = list(first.items())[: section.identities]
    if len(chosen) < 2:
        raise ValueError(
            f"{len(chosen)} identities have a clip of {section.seconds:g} s with sound; two are needed"
        )
    others = [number for _, number in [*chosen[1:], chosen[0]]]
    return [Speaker(*pair, other) for pair, other in zip(chosen, others, strict=True)]


def heard_clip(speaker: Speaker, row: str) -> int:
    """The clip whose sound a row has."""
    return speaker.other if row == OTHER_SOUND else speaker.number


def frame_count(profile: Profile) -> int:
    """Frames of a generated clip."""
    return round(profile.diffused.protocol.seconds * FPS)


@dataclass(frozen=True)
class Evaluation:
    """Everything that generated clips depend on, and the folder in which they lie."""

    profile: Profile
    clips: TalkingClips
    generator: Generator
    encoder: nn.Module
    weights_key: str
    runs: Path
    device: torch.device

    @cached_property
    def folder(self) -> Path:
        """The folder of the clips of these weights and settings."""
        parts = (
            self.weights_key,
            encoder_digest(self.encoder),
            self.clips.digest(),
            frame_count(self.profile),
        )
        return self.runs / "talking" / digest(generation_key(self.profile), *parts)

    def path(self, speaker: Speaker, row: str) -> Path:
        """The file of a generated clip."""
        heard = heard_clip(speaker, row)
        return (
            self.folder / f"{speaker.identity}_clip{speaker.number}_sound{heard}_{row.replace(' ', '-')}.npy"
        )

    def truth(self, speaker: Speaker) -> tuple[np.ndarray, np.ndarray]:
        """True frames (n, S, S, 3) uint8 and their landmarks (n, 68, 2)."""
        return self.clips.read(speaker.number, np.arange(frame_count(self.profile)))

    def generate(self, chosen: Sequence[Speaker], row: str) -> Iterator[Tensor]:
        """The frames (B, 3, S, S) of a row for B speakers, one after the other.

        The first frame shows the identity frame's instant.
        """
        truth = np.stack([self.truth(speaker)[0] for speaker in chosen])
        identity = to_tensor(truth[:, 0], self.device)
        if row == FROZEN:
            return repeat(identity, truth.shape[1])
        each_side = self.profile.diffused.conditions.audio_windows
        sounds = [self.clips.sound(heard_clip(speaker, row)) for speaker in chosen]
        audio = [embed_clip(self.encoder, sound, truth.shape[1], each_side, self.device) for sound in sounds]
        true_motion = to_tensor(truth, self.device) if row == TRUE_MOTION else None
        return self.generator.talk(identity, torch.stack(audio), self.profile.seed, truth=true_motion)


def run(evaluation: Evaluation, rows: Sequence[str] = ROWS) -> list[Speaker]:
    """Generate what is missing, several clips at once; returns the speakers.

    A clip is always generated together with the same others, because sums of another batch are rounded
    otherwise.
    """
    chosen = speakers(evaluation.clips, evaluation.profile)
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    size = GPU_BATCH if evaluation.device.type == "cuda" else BATCH
    batches = [(row, chosen[k : k + size]) for row in rows for k in range(0, len(chosen), size)]
    batches = [
        (row, batch) for row, batch in batches if not all(evaluation.path(s, row).exists() for s in batch)
    ]
    total = sum(len(batch) for _, batch in batches) * frame_count(evaluation.profile)
    progress = Progress("generating talking heads", total, "frames")
    for row, batch in batches:
        frames = []
        for frame in evaluation.generate(batch, row):
            frames.append(to_image(frame))
            progress.add(len(batch))
        for speaker, clip in zip(batch, np.stack(frames, 1), strict=True):
            with replacing(evaluation.path(speaker, row)) as temporary, temporary.open("wb") as file:
                np.save(file, clip)
    return chosen


# -- metrics ----------------------------------------------------------------------------------------
class Measured(NamedTuple):
    """Metrics by frame, and metrics of whole clips; both have columns method and identity."""

    frames: pd.DataFrame  # frame, MSE, PSNR, SSIM, CPBD, LMD, CSIM-judge
    clips: pd.DataFrame  # correlations of the mouth, its closing in silence, blinks, CSIM-judge by second


def measure(evaluation: Evaluation, chosen: Sequence[Speaker], rows: Sequence[str] = ROWS) -> Measured:
    """Every metric of the generated clips, from the second frame on: the first one is given."""
    frames, clips = [], []
    for speaker in chosen:
        truth, points = (values[1:] for values in evaluation.truth(speaker))
        true_features = judges.identity_features(truth, evaluation.device)
        for row in rows:
            images = np.load(evaluation.path(speaker, row))[1:]
            landmarks = judges.find_landmarks(images, evaluation.device)
            similarity = cosine(judges.identity_features(images, evaluation.device), true_features)
            mse = mean_squared_error(images, truth)
            sound = evaluation.clips.sound(heard_clip(speaker, row))
            silent = lip_sync.silent_frames(sound, len(truth) + 1)[1:]
            about = {"method": row, "identity": speaker.identity}
            by_frame = {
                **about,
                "frame": np.arange(1, len(images) + 1),
                "MSE": mse,
                "PSNR": psnr(mse),
                "SSIM": [ssim(a, b) for a, b in zip(images, truth, strict=True)],
                "CPBD": cpbd(images),
                LMD: lip_sync.landmark_distance(landmarks, points),
                "CSIM-judge": similarity,
            }
            frames.append(pd.DataFrame(by_frame))
            clips.append(
                {
                    **about,
                    "mouth opening": lip_sync.track_correlation(
                        lip_sync.mouth_opening(landmarks), lip_sync.mouth_opening(points)
                    ),
                    "mouth width": lip_sync.track_correlation(
                        lip_sync.mouth_width(landmarks), lip_sync.mouth_width(points)
                    ),
                    "mouth closed in silence": lip_sync.closed_share(landmarks, silent),
                    "blinks a second": lip_sync.blinks(landmarks) / len(images) * FPS,
                    "true blinks a second": lip_sync.blinks(points) / len(images) * FPS,
                    "CSIM-judge, first second": similarity[:SECOND].mean(),
                    "CSIM-judge, last second": similarity[-SECOND:].mean(),
                }
            )
    return Measured(pd.concat(frames, ignore_index=True), pd.DataFrame(clips))
