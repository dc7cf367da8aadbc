"""The training of the denoising network in its folder, and what is watched on validation identities."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from talking_heads.animation.synthetic_video import Sound, write_synthetic
from talking_heads.config import Diffused, Profile
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import FPS, HOP
from talking_heads.data.windows import WindowDataset, WindowSettings
from talking_heads.devices import cores
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.diffusion import q_sample, training_target
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.losses import lip_loss, simple_loss
from talking_heads.diffused.model import predict
from talking_heads.diffused.training import DiffusionLearner
from talking_heads.experiments.diffused.clips import ClipData
from talking_heads.judges.use import find_landmarks, identity_features
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.lip_sync import STILL, mouth_opening, mouth_width, track_correlation
from talking_heads.provenance import commit
from talking_heads.training import lineage, loop
from talking_heads.training.alarms import Collapsed
from talking_heads.training.checkpoints import load_checkpoint

WATCH_EVERY, TALK_EVERY = 250, 2000  # steps
WATCHED, WATCHED_BATCH = 4, 32  # batches of validation windows
TALKING, TALKED = 8, 50  # validation clips that are generated, and their frames
WATCHED_STEPS = 20  # of denoising
SHEET = (4, 10)  # rows, and every so many frames, of a contact sheet


@dataclass
class Sample:
    """Generated validation clips beside the true ones, each (clips, frames, S, S, 3) uint8."""

    generated: np.ndarray
    truth: np.ndarray
    sounds: Sequence[np.ndarray] = ()  # of the clips, (samples,) int16

    def scores(self) -> dict[str, float]:
        """Means over clips: correlations of the mouth, and CSIM-judge in the first and the last second."""
        rows = []
        for frames, truth in zip(self.generated, self.truth, strict=True):
            a, b = find_landmarks(frames), find_landmarks(truth)
            similarity = cosine(identity_features(frames), identity_features(truth))
            opening, true_opening = mouth_opening(a), mouth_opening(b)
            rows.append(
                {
                    "opening": track_correlation(opening, true_opening),
                    "width": track_correlation(mouth_width(a), mouth_width(b)),
                    "amplitude": float(opening.std() / max(true_opening.std(), STILL)),
                    "csim_first": float(similarity[:25].mean()),
                    "csim_last": float(similarity[-25:].mean()),
                }
            )
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def save_sheet(self, path: Path) -> None:
        """A contact sheet: true frames above generated ones, a pair of rows for each clip."""
        rows, every = SHEET
        strips = [
            np.concatenate(list(clip[::every]), 1)
            for pair in list(zip(self.truth, self.generated, strict=True))[:rows]
            for clip in pair
        ]
        Image.fromarray(np.concatenate(strips)).save(path)

    def save_clip(self, path: Path) -> Path:
        """The first clip as a video with sound: the truth, and beside it the generated frames."""
        pair = np.concatenate([self.truth[0], self.generated[0]], 2)
        sound = Sound(self.sounds[0][: len(pair) * HOP] / 32768)
        return write_synthetic(path, pair, FPS, sound, "a validation clip and, beside it, a generated one")


def quick(section: Diffused) -> Diffused:
    """The section with at most ``WATCHED_STEPS`` denoising steps: a training waits for its samples."""
    steps = min(WATCHED_STEPS, section.sampling.steps)
    return section.model_copy(update={"sampling": section.sampling.model_copy(update={"steps": steps})})


class DiffusionRun:
    """A training in its folder: the steps are :func:`loop.train` on :attr:`learner` in :meth:`recording`."""

    def __init__(self, profile: Profile, data: ClipData, runs: Path, device: torch.device, command: str = ""):
        self.profile, self.device, self.folder = profile, device, runs / "diffusion"
        self.encoder = load_reader(profile.diffused.audio_encoder).encoder
        self.validation = data.validation
        workers = max(1, cores() - 1) if device.type == "cuda" else 0
        self.learner = DiffusionLearner(profile, data.training, self.encoder, device, workers)
        self.metadata: dict[str, Any] = {
            "profile": profile.name,
            "seed": profile.seed,
            "command": command,
            "people": data.origin,
            "device": str(device),
        }
        conditions = profile.diffused.conditions
        settings = WindowSettings(WATCHED_BATCH, conditions.motion_frames, conditions.audio_windows)
        dataset = WindowDataset(self.validation, settings, profile.seed)
        self.windows = [dataset[number].to(device) for number in range(WATCHED)]

    @property
    def exported(self) -> Path:
        """The weights of the last slice."""
        return self.folder / "weights.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the training is at its end. Raises ValueError as :func:`load_checkpoint` does."""
        return self._saved_step() >= self.learner.total and self.exported.exists()

    def _saved_step(self) -> int:
        checkpoint = self.folder / loop.CHECKPOINT
        return load_checkpoint(checkpoint, self.learner.key)["step"] if checkpoint.exists() else 0

    @torch.no_grad()
    def watch(self, learner: DiffusionLearner) -> dict[str, float]:
        """Losses of the averaged network on fixed validation windows; at times clips that it generates."""
        section, schedule, losses = learner.section, learner.schedule, []
        for number, windows in enumerate(self.windows):
            generator = torch.Generator().manual_seed(number)
            t = torch.linspace(0, len(schedule) - 1, len(windows.x_0)).long().to(self.device)
            noise = torch.randn(windows.x_0.shape, generator=generator).to(self.device)
            conditions = learner.conditions(windows, generator)
            x_t = q_sample(schedule, windows.x_0, t, noise)
            output = predict(learner.ema, x_t, t, conditions, section.conditions.motion_grey)[:, :3]
            target = training_target(schedule, windows.x_0, t, noise, section.diffusion.prediction)
            lips = lip_loss(output, target, windows.mouth)
            losses.append([simple_loss(output, target).mean().item(), lips.mean().item()])
        simple, lips_mean = np.mean(losses, 0)
        row = {"validation": float(simple), "validation_lips": float(lips_mean)}
        if learner.step % TALK_EVERY == 0:
            sample = self.talk(Generator(learner.ema, quick(section)), TALKING, TALKED)
            sample.save_sheet(self.folder / f"step{learner.step:06d}.png")
            sample.save_clip(self.folder / f"step{learner.step:06d}.mp4")
            row |= sample.scores()
        return row

    def talk(self, generator: Generator, clips: int, frames: int, seed: int = 0) -> Sample:
        """The first clip of at most ``clips`` validation identities, from its first frame and sound.

        All have as many frames as the shortest one, at most ``frames``.
        """
        first: dict[str, int] = {}
        for number in range(len(self.validation)):
            first.setdefault(self.validation.identity(number), number)
        chosen = list(first.values())[:clips]
        count = min([frames, *(self.validation.frame_count(number) for number in chosen)])
        truth = np.stack([self.validation.read(number, np.arange(count))[0] for number in chosen])
        sounds = [self.validation.sound(number) for number in chosen]
        each_side = self.profile.diffused.conditions.audio_windows
        audio = [embed_clip(self.encoder, sound, count, each_side, self.device) for sound in sounds]
        identity = to_tensor(truth[:, 0], self.device)
        generated = [to_image(frame) for frame in generator.talk(identity, torch.stack(audio), seed)]
        return Sample(np.stack(generated, 1), truth, sounds)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the configuration, and which code trains from which step.

        An alarm ends the training; its last checkpoint and weights stay.
        """
        lineage.begin_slice(self.folder, self._saved_step(), self.device)
        lineage.record_configuration(self.folder, self.learner.key, "diffusion", self.profile)
        try:
            yield
        except Collapsed as alarm:
            raise Collapsed(f"{alarm}; the last checkpoint is kept in {self.folder}") from alarm

    def export(self) -> Path:
        """Write the weights with their provenance."""
        metadata = self.metadata | {
            "of": self.learner.total,
            "commit": commit(),
            "lineage": lineage.slices(self.folder),
        }
        self.learner.export(self.exported, metadata)
        print(f"  diffusion: step {self.learner.step}/{self.learner.total}, weights in {self.exported}")
        return self.exported
