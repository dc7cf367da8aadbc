"""Training of the baselines, in the shared loop and on the clips of the denoising network."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.config import Profile, digest
from talking_heads.data.sequences import SequenceDataset, Sequences, SequenceSettings
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.diffused.baselines.landmarks import (
    LandmarkPredictor,
    fit_residuals,
    normalised,
    offsets,
    prediction_loss,
)
from talking_heads.diffused.baselines.sda import (
    SNIPPET,
    FrameDiscriminator,
    SdaGenerator,
    SequenceDiscriminator,
    SyncDiscriminator,
    fake_loss,
    real_loss,
    reconstruction_loss,
)
from talking_heads.diffused.training import clip_settings, decay_factor, encoder_digest, step_seed
from talking_heads.nn.weight_files import save_weights
from talking_heads.sections.diffused import Diffused
from talking_heads.training import distributed
from talking_heads.training.checkpoints import check_videos, key_of, names_digest
from talking_heads.training.rank_batches import RankBatches
from talking_heads.training.rows import read_row

VERSION = 1  # raised when the same settings give other weights
# the keys of a baseline's section, which has its name, that its networks' shapes depend on
SIZES = {"sda": ("channels", "identity", "content", "noise"), "landmarks": ("hidden", "components")}
BETAS = (0.5, 0.999)
RESIDUAL_CLIPS = 400  # to which residuals are fitted


def training_settings(profile: Profile, variant: str) -> dict[str, Any]:
    """Every section that the weights of a baseline depend on, and the versions of the code."""
    section = profile.diffused
    values = {
        "diffused.audio_encoder": section.audio_encoder,
        "diffused.conditions.audio_windows": section.conditions.audio_windows,
        f"diffused.{variant}": getattr(section, variant),
    }
    if variant == "sda":
        values["diffused.network.precision"] = section.network.precision
    return {"version of the code": VERSION, **clip_settings(profile), **values}


def baseline_key(section: Diffused, variant: str, encoder: nn.Module) -> str:
    """Changes with everything that weights must agree with where they are used."""
    clips, method = (section.clips.image_size, section.clips.alignment), getattr(section, variant)
    sizes = [getattr(method, name) for name in SIZES[variant]]
    sound = (section.audio_encoder, section.conditions.audio_windows, encoder_digest(encoder))
    return digest(VERSION, *clips, *sizes, *sound)


def build_predictor(section: Diffused) -> LandmarkPredictor:
    """An untrained predictor of landmarks."""
    return LandmarkPredictor(section.landmarks, section.audio_encoder.embedding)


def build_generator(section: Diffused) -> SdaGenerator:
    """An untrained generator."""
    return SdaGenerator(
        section.sda, section.clips.image_size, section.audio_encoder.embedding, section.network.precision
    )


class Discriminators(nn.Module):
    """SDA's three discriminators."""

    def __init__(self, section: Diffused):
        super().__init__()
        size, sda, precision = section.clips.image_size, section.sda, section.network.precision
        channels, hidden = sda.discriminator_channels, sda.hidden
        self.frame = FrameDiscriminator(size, channels, precision)
        self.sequence = SequenceDiscriminator(size, channels, hidden, precision)
        self.sync = SyncDiscriminator(size, channels, hidden, section.audio_encoder.embedding, precision)


class Draws:
    """Which frame of each of B sequences of L frames the discriminators see, and which snippets."""

    def __init__(self, batch: int, length: int, generator: torch.Generator):
        self.rows = torch.arange(batch)
        # the first one is the identity frame, which a generated one should not equal
        self.frame = torch.randint(1, length, (batch,), generator=generator)
        starts = length - SNIPPET + 1
        self.snippet = torch.randint(starts, (batch,), generator=generator)
        # the sound of another moment, at least half a snippet away where the sequence is long enough
        least = min(SNIPPET // 2 + 1, starts - 1)
        shift = torch.randint(least, max(least + 1, starts - least + 1), (batch,), generator=generator)
        self.other = (self.snippet + shift) % starts

    def frames_of(self, x: Tensor) -> Tensor:
        """One frame (B, 3, S, S) of each sequence (B, L, 3, S, S)."""
        return x[self.rows, self.frame]

    def snippets_of(self, x: Tensor, other: bool = False) -> Tensor:
        """A snippet (B, ``SNIPPET``, ...) of each sequence (B, L, ...), or the one of another moment."""
        first = self.other if other else self.snippet
        return x[self.rows[:, None], first[:, None] + torch.arange(SNIPPET)]


class SequenceLearner(ABC):
    """A baseline in the training loop: its networks and optimisers, ``parts``, and the sequences.

    All random draws of a step depend on (seed, rank, step) alone. Raises ValueError where ranks cannot share
    a batch.
    """

    variant: str
    content_steps = 0

    def __init__(
        self,
        profile: Profile,
        clips: TalkingClips,
        encoder: nn.Module,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ):
        torch.manual_seed(profile.seed)
        self.seed, self.device, self.section = profile.seed, device, profile.diffused
        self.encoder = encoder.to(device).eval().requires_grad_(False)
        method = getattr(self.section, self.variant)
        batch = distributed.share(method.batch, f"diffused.{self.variant}")
        settings = SequenceSettings(batch, method.frames, self.section.conditions.audio_windows)
        self.dataset = SequenceDataset(clips, settings, profile.seed, distributed.rank())
        self.names = names_digest(clips)
        self.batches = RankBatches(self.dataset, device, workers)
        weights = encoder_digest(self.encoder)
        self.settings = training_settings(profile, self.variant)
        self.key = digest(key_of(self.settings), weights)
        self.settings["weights of the audio encoder"] = weights
        self.step, self.total = 0, method.steps
        self.parts = self.build()

    @property
    def networks(self) -> list[nn.Module]:
        """The networks among the parts."""
        return [part for part in self.parts.values() if isinstance(part, nn.Module)]

    @abstractmethod
    def build(self) -> dict[str, Any]:
        """The networks and optimisers, by the names that checkpoints give them."""

    @abstractmethod
    def exported(self) -> nn.Module:
        """The network whose weights are written."""

    @torch.no_grad()
    def embed(self, sound: Tensor) -> Tensor:
        """Audio embeddings (B, L, A) of L frames, of windows (B, L + 2 m_y, samples).

        They are the middle ones of each frame's motion audio embeddings, which are computed from its own
        windows alone, as in generation.
        """
        each_side = self.section.conditions.audio_windows
        windows = sound.unfold(1, 2 * each_side + 1, 1).movedim(-1, 2)  # (B, L, 2 m_y + 1, samples)
        return self.encoder(windows.flatten(0, 1))[:, each_side].unflatten(0, windows.shape[:2])

    # -- on disk ------------------------------------------------------------------------------
    def state(self, folder: Path) -> dict:
        """Everything that the next step depends on. All ranks take part."""
        distributed.average_statistics(self.networks)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        training = {"key": self.key, "variant": self.variant, "step": self.step}
        return {**training, "videos": len(self.dataset.clips), "names": self.names, **state}

    def restore(self, state: dict, folder: Path) -> None:
        """Continue from a state. Raises ValueError for other clips."""
        check_videos(state["videos"], len(self.dataset.clips), state["names"], self.names)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.step = state["step"]
        self.batches.seek(self.step)

    def steps_left(self, state: dict) -> int:
        """Steps that a saved training still has."""
        return max(0, self.total - state["step"])

    def export(self, path: Path, metadata: dict) -> None:
        """Write the trained network as fp16 safetensors. All ranks take part."""
        distributed.average_statistics(self.networks)
        if not distributed.is_main():
            return
        model = baseline_key(self.section, self.variant, self.encoder)
        keys = {"key": self.key, "model": model, "step": self.step}
        save_weights(path, self.exported().state_dict(), {**metadata, **keys}, half=True)


class SdaLearner(SequenceLearner):
    """SDA: a generator and three discriminators."""

    variant = "sda"

    def build(self) -> dict[str, Any]:
        self.sda = self.section.sda
        self.generator = build_generator(self.section).to(self.device).train()
        self.discriminators = Discriminators(self.section).to(self.device).train()
        rate, slow = self.sda.learning_rate, self.sda.sequence_learning_rate
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=BETAS)
        groups = [
            {"params": self.discriminators.frame.parameters(), "lr": rate},
            {"params": self.discriminators.sequence.parameters(), "lr": slow},
            {"params": self.discriminators.sync.parameters(), "lr": slow},
        ]
        self.discriminator_optimiser = torch.optim.Adam(groups, betas=BETAS)
        self.rates = [rate, rate, slow, slow]
        return {
            "generator": self.generator,
            "discriminators": self.discriminators,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }

    @property
    def groups(self) -> list[dict]:
        """The groups of parameters, whose learning rates fall together."""
        return [*self.generator_optimiser.param_groups, *self.discriminator_optimiser.param_groups]

    def exported(self) -> nn.Module:
        return self.generator

    def train_step(self) -> dict[str, float]:
        """Draw sequences, update the discriminators, then the generator; returns the row of the log."""
        sequences: Sequences = next(self.batches)
        random = torch.Generator().manual_seed(step_seed(self.seed, distributed.rank(), self.step))
        x, audio = sequences.frames, self.embed(sequences.sound)
        noise = torch.randn(*audio.shape[:2], self.sda.noise, generator=random).to(self.device)
        draws = Draws(audio.shape[0], audio.shape[1], random)
        x_hat = self.generator(x[:, 0], audio, noise)
        factor = decay_factor(self.step, self.total, self.sda.learning_rate_decay)
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate * factor
        row = self.update_discriminators(x, x_hat.detach(), audio, draws)
        row |= self.update_generator(x, x_hat, audio, draws)
        self.step += 1
        if len(x_hat) > 1:  # else there is nothing to compare with
            row["output_spread"] = x_hat.detach().std(0).mean()
        return read_row({"step": self.step - 1, **row})

    def update_discriminators(
        self, x: Tensor, x_hat: Tensor, audio: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """One update of the three discriminators on true and generated sequences (B, L, 3, S, S)."""
        nets, identity = self.discriminators, x[:, 0]
        true, sound = draws.snippets_of(x), draws.snippets_of(audio)
        real, fake = (nets.frame(draws.frames_of(frames), identity) for frames in (x, x_hat))
        terms = {
            "frame": real_loss(real) + fake_loss(fake),
            "sequence": real_loss(nets.sequence(x)) + fake_loss(nets.sequence(x_hat)),
            # true lips with the sound of another moment count as fake, too
            "sync": real_loss(nets.sync(true, sound))
            + fake_loss(nets.sync(true, draws.snippets_of(audio, other=True))) / 2
            + fake_loss(nets.sync(draws.snippets_of(x_hat), sound)) / 2,
        }
        loss = torch.stack(list(terms.values())).sum()
        self.discriminator_optimiser.zero_grad()
        loss.backward()
        distributed.average_gradients(nets.parameters())
        self.discriminator_optimiser.step()
        row = {f"dsc_{name}": term for name, term in terms.items()}
        return {**row, "dsc": loss, "r_real": real.mean(), "r_fake": fake.mean()}

    def update_generator(self, x: Tensor, x_hat: Tensor, audio: Tensor, draws: Draws) -> dict[str, Tensor]:
        """One update of the generator against the discriminators, and towards the true lower half."""
        nets = self.discriminators.requires_grad_(False)
        terms = {
            "frame": real_loss(nets.frame(draws.frames_of(x_hat), x[:, 0])),
            "sequence": real_loss(nets.sequence(x_hat)),
            "sync": real_loss(nets.sync(draws.snippets_of(x_hat), draws.snippets_of(audio))),
            "l1": reconstruction_loss(x_hat, x),
        }
        nets.requires_grad_(True)
        weights = {
            "frame": self.sda.frame_weight,
            "sequence": self.sda.sequence_weight,
            "sync": self.sda.sync_weight,
            "l1": self.sda.reconstruction_weight,
        }
        self.generator_optimiser.zero_grad()
        torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
        distributed.average_gradients(self.generator.parameters())
        self.generator_optimiser.step()
        return terms


class LandmarkLearner(SequenceLearner):
    """The network that predicts landmarks from sound; what it leaves unexplained is fitted at the end."""

    variant = "landmarks"

    def build(self) -> dict[str, Any]:
        section = self.section.landmarks
        self.predictor = build_predictor(self.section).to(self.device).train()
        self.optimiser = torch.optim.Adam(self.predictor.parameters(), lr=section.learning_rate, fused=True)
        return {"predictor": self.predictor, "optimiser": self.optimiser}

    def train_step(self) -> dict[str, float]:
        """Draw sequences and update; returns the row of the log."""
        sequences: Sequences = next(self.batches)
        audio = self.embed(sequences.sound)
        clips = sequences.points.cpu().numpy()
        identity = normalised(clips[:, 0])
        target = np.stack([offsets(points) for points in clips])
        shape, true = (torch.from_numpy(v).float().to(self.device) for v in (identity, target))
        predicted = self.predictor(audio, shape)
        predicted = predicted - predicted[:, :1]  # a sequence begins with the identity frame
        loss = prediction_loss(predicted, true, self.section.landmarks.mouth_weight)
        self.optimiser.zero_grad()
        loss.backward()
        distributed.average_gradients(self.predictor.parameters())
        self.optimiser.step()
        self.step += 1
        return read_row({"step": self.step - 1, "mouth": loss})

    def exported(self) -> nn.Module:
        """The network, with the residuals of its training clips."""
        clips = self.dataset.clips
        numbers = self.dataset.usable[:RESIDUAL_CLIPS]
        self.predictor.set_residuals(
            fit_residuals(
                [self.residuals(clips, number) for number in numbers], self.section.landmarks.components
            )
        )
        return self.predictor

    @torch.no_grad()
    def residuals(self, clips: TalkingClips, number: int) -> np.ndarray:
        """What the network does not explain of a clip's offsets: (n, 136)."""
        count, each_side = clips.frame_count(number), self.section.conditions.audio_windows
        _, points = clips.read(number, np.arange(count))
        audio = embed_clip(self.encoder, clips.sound(number), count, each_side, self.device)[:, each_side]
        shape = torch.from_numpy(normalised(points[:1])).float().to(self.device)
        predicted = self.predictor(audio[None], shape)[0].cpu().numpy()
        return offsets(points) - (predicted - predicted[:1])
