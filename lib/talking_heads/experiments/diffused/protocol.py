"""Talking heads of the evaluation identities: generated from the first frame and the sound, and measured.

Generated clips are files, one for each identity and row of the table. An evaluation may be interrupted and
goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from talking_heads.config import Profile, digest
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import FPS
from talking_heads.data.sources import utterance_of
from talking_heads.data.speakers.talking import phonemes_of
from talking_heads.data.windows import TalkingClips
from talking_heads.devices import in_threads
from talking_heads.diffused.distillation import distilled_sampling
from talking_heads.diffused.generation import Generator, Talker, clip_seeds
from talking_heads.diffused.resumable import Generation
from talking_heads.diffused.training import encoder_digest
from talking_heads.experiments.diffused.clip_metrics import (
    PER,
    SOUND_CORRELATION,
    face_metrics,
    lip_reading_errors,
    mean_flow,
    pixel_metrics,
)
from talking_heads.experiments.diffused.clips import choose_clips, embed_beginning
from talking_heads.files import replacing
from talking_heads.judges.faces import Face, require_networks
from talking_heads.judges.lip_reading import visemes_of
from talking_heads.metrics import lip_sync
from talking_heads.shards import Shard

VERSION = 2  # raised when the same weights and settings give other frames
OURS, FROZEN = "Diffused Heads", "frozen identity frame"
OTHER_SOUND, TRUE_MOTION = "another clip's sound", "true motion frames"
ROWS = (OURS, TRUE_MOTION, OTHER_SOUND, FROZEN)  # of every evaluation
OTHER_SEED = "another seed"  # of the noise; see :mod:`diversity`
SDA, BRIDGE = "SDA", "landmarks from sound, few-shot head"


def generation_key(profile: Profile) -> str:
    """Changes with every section that generated clips depend on beside the weights."""
    section = profile.diffused
    if section.sampling.distilled:
        section = distilled_sampling(section)
    parts = (section.clips, section.conditions, section.audio_encoder, section.network, section.diffusion)
    return digest(VERSION, profile.seed, *parts, section.sampling)


@dataclass(frozen=True)
class Speaker:
    """An evaluation clip with the sound of another one."""

    identity: str
    number: int  # of the clip
    other: int  # the clip whose sound it gets in the row ``OTHER_SOUND``


def speakers(clips: TalkingClips, profile: Profile) -> list[Speaker]:
    """The clips of the evaluation (:func:`choose_clips`), long enough for the protocol.

    The other clip of each is the next one of another identity in which something else is said, as far as the
    names of clips tell. Raises ValueError where a clip has none.
    """
    section = profile.diffused.protocol
    chosen = choose_clips(clips, section.identities, frame_count(profile), profile.seed)
    layout = profile.data.layout if profile.data.real else ""

    def differ(a: int, b: int) -> bool:
        first, second = (utterance_of(clips.name(number), layout) for number in (a, b))
        return clips.identity(a) != clips.identity(b) and (first != second or not first)

    found = []
    for k, number in enumerate(chosen):
        following = [*chosen[k + 1 :], *chosen[:k]]
        others = [other for other in following if differ(number, other)]
        if others:
            found.append(Speaker(clips.identity(number), number, others[0]))
    alone = len(chosen) - len(found)
    if not found or alone:
        raise ValueError(
            f"{len(chosen)} clips of {section.seconds:g} s with sound; for {alone} of them "
            "there is none of another identity with other words, which the evaluation needs"
        )
    return found


def heard_clip(speaker: Speaker, row: str) -> int:
    """The clip whose sound a row has."""
    return speaker.other if row == OTHER_SOUND else speaker.number


def frame_count(profile: Profile) -> int:
    """Frames of a generated clip."""
    return round(profile.diffused.protocol.seconds * FPS)


class Baseline(NamedTuple):
    """A method beside ours, and the digest of its weights."""

    talker: Talker
    weights_key: str


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
    baselines: Mapping[str, Baseline] = field(default_factory=dict)  # by the name of their row

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows: ours, those beside it, and the baselines."""
        return (*ROWS, *self.baselines)

    @cached_property
    def folder(self) -> Path:
        """The folder of the clips of these weights and settings."""
        parts = (
            self.weights_key,
            encoder_digest(self.encoder),
            self.clips.digest(),
            frame_count(self.profile),
            self.profile.diffused.protocol.identities,
            self.profile.diffused.protocol.batch,
        )
        return self.runs / "talking" / digest(generation_key(self.profile), *parts)

    def path(self, speaker: Speaker, row: str) -> Path:
        """The file of a generated clip."""
        name = row.replace(" ", "-")
        if row in self.baselines:
            name += f"-{self.baselines[row].weights_key}"
        clip, heard = f"clip{speaker.number}", f"sound{heard_clip(speaker, row)}"
        return self.folder / f"{speaker.identity}_{clip}_{heard}_{name}.npy"

    def truth(self, speaker: Speaker) -> tuple[np.ndarray, np.ndarray]:
        """True frames (n, S, S, 3) uint8 and their landmarks (n, 68, 2)."""
        return self.clips.read(speaker.number, np.arange(frame_count(self.profile)))

    def heard_correlation(self, landmarks: np.ndarray, speaker: Speaker, row: str) -> float:
        """Correlation of the mouth's opening, from the second frame on, with that of the clip whose sound a
        row has.
        """
        instants = np.arange(1, len(landmarks) + 1)
        truth, heard = self.clips.read(heard_clip(speaker, row), instants)
        if self.profile.data.real:
            heard = self.face(truth, heard).true_points(heard)
        return lip_sync.track_correlation(lip_sync.mouth_opening(landmarks), lip_sync.mouth_opening(heard))

    def face(self, images: np.ndarray, points: np.ndarray) -> Face:
        """What is found in images (n, S, S, 3) uint8 of faces at ``points`` (n, 68, 2)."""
        return Face.of(images, points, real=self.profile.data.real, device=self.device)

    def visemes(self, speaker: Speaker) -> list[int] | None:
        """What a procedural speaker says; None for videos, of which it is not known."""
        if self.profile.data.real:
            return None
        return visemes_of(phonemes_of(speaker.identity, frame_count(self.profile) / FPS))

    def generate(self, chosen: Sequence[Speaker], row: str) -> None:
        """Generate a row for B speakers, and write their clips (n, S, S, 3) uint8, a file for each.

        The first frame shows the identity frame's instant. An interrupted call goes on where it stopped.
        """
        truth = np.stack([self.truth(speaker)[0] for speaker in chosen])
        if row == FROZEN:
            return self._write(chosen, row, np.repeat(truth[:, :1], truth.shape[1], 1))
        each_side = self.profile.diffused.conditions.audio_windows
        heard = [heard_clip(speaker, row) for speaker in chosen]
        embeddings = [embed_beginning(self.encoder, self.clips, n, truth.shape[1], each_side) for n in heard]
        identity, audio = to_tensor(truth[:, 0], self.device), torch.stack(embeddings)
        seed = self.profile.seed + (row == OTHER_SEED)
        seeds = clip_seeds(seed, [speaker.number for speaker in chosen])
        if row in self.baselines:
            frames = self.baselines[row].talker.talk(identity, audio, seeds)
            return self._write(chosen, row, np.stack([to_image(frame) for frame in frames], 1))
        generation = Generation(
            self.generator,
            identity,
            audio,
            seeds,
            self.weights_key,
            self.path(chosen[0], row).with_suffix(".partial"),
            to_tensor(truth, self.device) if row == TRUE_MOTION else None,
        )
        self._write(chosen, row, generation.run())
        generation.clear()

    def _write(self, chosen: Sequence[Speaker], row: str, clips: np.ndarray) -> None:
        for speaker, frames in zip(chosen, clips, strict=True):
            with replacing(self.path(speaker, row)) as temporary, temporary.open("wb") as file:
                np.save(file, frames)


def run(
    evaluation: Evaluation, rows: Sequence[str] | None = None, shard: Shard | None = None
) -> list[Speaker]:
    """Generate missing clips of rows (all by default), only those of ``shard`` if it is given, in batches;
    returns all speakers.

    A clip is always generated together with the same others, because sums of another batch are rounded
    otherwise.
    """
    chosen = speakers(evaluation.clips, evaluation.profile)
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    size = evaluation.profile.diffused.protocol.batch
    for row in evaluation.rows if rows is None else rows:
        for batch in (chosen[k : k + size] for k in range(0, len(chosen), size)):
            assigned = shard is None or shard.holds(row, batch[0].identity, str(batch[0].number))
            if assigned and not all(evaluation.path(speaker, row).exists() for speaker in batch):
                evaluation.generate(batch, row)
    return chosen


# -- metrics ----------------------------------------------------------------------------------------
class Measured(NamedTuple):
    """Metrics by frame, and metrics of whole clips; both have columns method and identity."""

    frames: pd.DataFrame  # frame, MSE, PSNR, SSIM, CPBD, LMD, identity similarity
    # correlations of the mouth, PER-judge, closing in silence, blinks, similarity by second, optical flow
    clips: pd.DataFrame

    def by_identity(self) -> pd.DataFrame:
        """All metrics, a row for each method and identity: means over frames and clips."""
        index = ["method", "identity"]
        frames = self.frames.drop(columns="frame").groupby(index, sort=False).mean()
        return frames.join(self.clips.groupby(index).mean()).reset_index()


def measure(evaluation: Evaluation, chosen: Sequence[Speaker], rows: Sequence[str] | None = None) -> Measured:
    """Every metric of the generated clips, of all rows by default, from the second frame on: the first one
    is given. Raises what :func:`require_networks` does.
    """
    rows = evaluation.rows if rows is None else rows
    require_networks(evaluation.profile.data.real)

    def measure_speaker(speaker: Speaker) -> list[tuple[pd.DataFrame, dict]]:
        truth, points = (values[1:] for values in evaluation.truth(speaker))
        true_face, results = evaluation.face(truth, points), []
        exact = true_face.true_points(points)
        of_truth, visemes = mean_flow(truth, exact, "true flow"), evaluation.visemes(speaker)
        if visemes is not None:
            errors = lip_reading_errors(truth, true_face.landmarks, visemes, evaluation.device)
            of_truth[f"true {PER}"] = errors
        for row in rows:
            images = np.load(evaluation.path(speaker, row))[1:]
            sound = evaluation.clips.sound(heard_clip(speaker, row))
            silent = lip_sync.silent_frames(sound, len(truth) + 1)[1:]
            face = evaluation.face(images, points)
            by_frame, of_clip = face_metrics(face, true_face, exact, silent)
            of_clip |= mean_flow(images, face.landmarks) | of_truth
            of_clip[SOUND_CORRELATION] = of_clip["mouth opening"]
            if heard_clip(speaker, row) != speaker.number:
                of_clip[SOUND_CORRELATION] = evaluation.heard_correlation(face.landmarks, speaker, row)
            if visemes is not None:
                of_clip[PER] = lip_reading_errors(images, face.landmarks, visemes, evaluation.device)
            row_names = {"method": row, "identity": speaker.identity}
            frame = {"frame": np.arange(1, len(images) + 1)}
            frames = pd.DataFrame({**row_names, **frame, **pixel_metrics(images, truth), **by_frame})
            results.append((frames, {**row_names, **of_clip}))
        return results

    measured = list(chain.from_iterable(in_threads(measure_speaker, chosen, evaluation.device)))
    frames = pd.concat([frames for frames, _ in measured], ignore_index=True)
    return Measured(frames, pd.DataFrame([of_clip for _, of_clip in measured]))
