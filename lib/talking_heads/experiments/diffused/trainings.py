"""The trainings of the denoising network and of the baselines in their folders, and what is watched on
validation identities.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from talking_heads.config import Profile
from talking_heads.data.loader import worker_count
from talking_heads.data.speakers.pool import LiveVideos
from talking_heads.data.windows import WindowDataset, Windows, WindowSettings
from talking_heads.diffused.audio_pretraining import ensure_encoder, load_reader
from talking_heads.diffused.baselines.sda import SdaTalker
from talking_heads.diffused.baselines.training import LandmarkLearner, SdaLearner, SequenceLearner
from talking_heads.diffused.control_training import ControlLearner
from talking_heads.diffused.diffusion import q_sample, training_target
from talking_heads.diffused.distillation import DistillationLearner, distilled_sampling
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.losses import lip_loss, simple_loss
from talking_heads.diffused.model import predict
from talking_heads.diffused.training import DiffusionLearner
from talking_heads.experiments.diffused.clips import ClipData, clip_data, embed_beginning
from talking_heads.experiments.diffused.samples import Beginnings, Sample
from talking_heads.experiments.diffused.weights import COMMANDS, has_weights, runs_folder
from talking_heads.metrics.lip_sync import mouth_opening, mouth_width, track_correlation
from talking_heads.sections.diffused import Diffused
from talking_heads.training import distributed, loop
from talking_heads.training.alarms import Collapsed
from talking_heads.training.recorded import RecordedTraining

WATCH_EVERY, TALK_EVERY = 250, 2000  # steps
WATCHED, WATCHED_BATCH = 4, 32  # batches of validation windows
TALKING, TALKED = 8, 50  # validation clips that are generated, and their frames
WATCHED_STEPS = 20  # of denoising


def quick(section: Diffused) -> Diffused:
    """The section with at most ``WATCHED_STEPS`` denoising steps: a training waits for its samples."""
    steps = min(WATCHED_STEPS, section.sampling.steps)
    return section.model_copy(update={"sampling": section.sampling.model_copy(update={"steps": steps})})


def shortened(profile: Profile) -> Profile:
    """The profile with the short training of chapters 20 and 22: few identities, steps and windows."""
    protocol, batch = profile.diffused.protocol, min(8, profile.diffused.training.batch)
    sizes = {"clips.identities": protocol.chapter_identities, "training.batch": batch}
    sizes |= {"training.steps": protocol.chapter_steps}
    return profile.override({f"diffused.{name}": value for name, value in sizes.items()})


def mean_scores(sample: Sample) -> dict[str, float]:
    """The mean scores of clips; none of real people where dlib is missing, which no training needs."""
    try:
        return sample.scores().mean().to_dict()
    except FileNotFoundError as error:
        print(f"  samples are not scored: {error}", flush=True)
        return {}


class TalkingRun(RecordedTraining):
    """A training on talking clips; its validation clips are watched."""

    kind: type[DiffusionLearner] | type[SequenceLearner]

    def __init__(
        self,
        profile: Profile,
        data: ClipData,
        runs: Path,
        device: torch.device,
        workers: int | None = None,
    ):
        self.profile, self.validation, name = profile, data.validation, self.kind.variant
        self.encoder = load_reader(profile.diffused.audio_encoder).encoder
        if isinstance(data.training, LiveVideos):  # which the process that trains renders on its GPU
            workers = 0
        workers = worker_count(workers, device, distributed.ranks())
        learner = self.kind(profile, data.training, self.encoder, device, workers)
        metadata = {
            "profile": profile.name,
            "seed": profile.seed,
            "command": f"python -m talking_heads {COMMANDS[name]} --profile {profile.name}",
            "people": data.origin,
            "device": str(device),
        }
        super().__init__(name, learner, runs / name, device, metadata)

    def beginnings(self, clips: int, frames: int) -> Beginnings:
        """The beginnings of validation clips (:meth:`Beginnings.read`)."""
        each_side, real = self.profile.diffused.conditions.audio_windows, self.profile.data.real
        return Beginnings.read(self.validation, self.encoder, clips, frames, each_side, real)


class DiffusionRun(TalkingRun):
    """The training of the denoising network."""

    kind = DiffusionLearner

    @cached_property
    def windows(self) -> list[Windows]:
        """Fixed windows of validation clips."""
        conditions = self.profile.diffused.conditions
        settings = WindowSettings(
            WATCHED_BATCH,
            conditions.motion_frames,
            conditions.audio_windows,
            controls=self.kind.controlled,
        )
        dataset = WindowDataset(self.validation, settings, self.profile.seed)
        return [dataset[number].to(self.device) for number in range(WATCHED)]

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
            row |= self.watch_clips(Generator(learner.ema, quick(section)))
        return row

    def watch_clips(self, generator: Generator) -> dict[str, float]:
        """The mean scores of validation clips that are generated, and kept as a sheet and a video."""
        sample, name = self.talk(generator, TALKING, TALKED), f"step{self.learner.step:06d}"
        sample.save_sheet(self.folder / f"{name}.png")
        sample.save_clip(self.folder / f"{name}.mp4")
        return mean_scores(sample)

    def talk(self, generator: Generator, clips: int, frames: int) -> Sample:
        """The beginnings of validation clips, from their first frames and sound."""
        return self.beginnings(clips, frames).talk(generator)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """As :meth:`RecordedTraining.recording`; an alarm ends the training, and its last checkpoint and
        weights stay.
        """
        try:
            with super().recording():
                yield
        except Collapsed as alarm:
            raise Collapsed(f"{alarm}; the last checkpoint is kept in {self.folder}") from alarm


class DistillationRun(DiffusionRun):
    """The distillation of the denoising network."""

    kind = DistillationLearner

    @torch.no_grad()
    def watch(self, learner: DistillationLearner) -> dict[str, float]:
        """Scores of the averaged student's clips of validation identities."""
        section = distilled_sampling(learner.section, learner.student_steps(learner.step - 1))
        return self.watch_clips(Generator(learner.ema, section))


class ControlRun(DiffusionRun):
    """The training of the layers of controls."""

    kind = ControlLearner


class SdaRun(TalkingRun):
    """The training of SDA."""

    kind = SdaLearner

    @cached_property
    def truth(self) -> Beginnings:
        """The beginnings of validation clips."""
        return self.beginnings(TALKING, TALKED)

    @torch.no_grad()
    def watch(self, learner: SdaLearner) -> dict[str, float]:
        """The generator's clips of validation identities: their L1 to the truth, and their scores."""
        generator = learner.generator.eval()
        sample = self.truth.talk(SdaTalker(generator))
        generator.train()
        error = np.abs(sample.generated.astype(np.float32) - sample.truth)
        sample.save_sheet(self.folder / f"step{learner.step:06d}.png")
        return {"validation": float(error.mean()), **mean_scores(sample)}


class LandmarkRun(TalkingRun):
    """The training of the predictor of landmarks."""

    kind = LandmarkLearner

    @torch.no_grad()
    def watch(self, learner: LandmarkLearner) -> dict[str, float]:
        """How well the predicted lips of validation clips follow the true ones."""
        rows = []
        for number in range(min(TALKING, len(self.validation))):
            _, points = self.validation.read(number, np.arange(self.validation.frame_count(number)))
            each_side = learner.section.conditions.audio_windows
            audio = embed_beginning(self.encoder, self.validation, number, len(points), each_side)
            predicted = learner.predictor.track(audio[:, each_side], points[0], seed=0, motion=0.0)
            tracks = (mouth_opening, mouth_width)
            rows.append([track_correlation(track(predicted), track(points)) for track in tracks])
        opening, width = np.mean(rows, 0)
        return {"mouth opening": float(opening), "mouth width": float(width)}


RUNS: dict[str, type[DiffusionRun] | type[SdaRun] | type[LandmarkRun]] = {
    "diffusion": DiffusionRun,
    "distilled": DistillationRun,
    "control": ControlRun,
    "sda": SdaRun,
    "landmarks": LandmarkRun,
}


def ensure_weights(profile: Profile, weights: str, data: Path, results: Path, device: torch.device) -> None:
    """Train the network of a profile to its end, where its own weights are missing and chapters train them.

    Its audio encoder is trained before it, where there is none.
    """
    ensure_encoder(profile.diffused.audio_encoder, Path(results) / profile.name / "runs")
    trains = weights == "scratch" and profile.diffused.protocol.chapter_trains
    if not trains or has_weights(profile, weights, results):
        return
    run = DiffusionRun(profile, clip_data(profile, data, device), runs_folder(profile, results), device)
    with run.recording():
        loop.train(run.learner, run.folder, watch=run.watch, watch_every=WATCH_EVERY)
    run.export()
