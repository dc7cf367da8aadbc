"""Training of SDA, in the shared loop and on the clips of the denoising network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talking_heads.config import Diffused, Profile, digest
from talking_heads.data.loader import Batches
from talking_heads.data.sequences import SequenceDataset, Sequences, SequenceSettings
from talking_heads.data.windows import TalkingClips
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
from talking_heads.diffused.training import clip_settings, encoder_digest, step_seed
from talking_heads.nn.weight_files import save_weights
from talking_heads.training import distributed
from talking_heads.training.checkpoints import check_videos, key_of, names_digest
from talking_heads.training.rows import read_row

VERSION = 1  # raised when the same settings give other weights
BETAS = (0.5, 0.999)


def training_settings(profile: Profile) -> dict[str, Any]:
    """Every section that the weights depend on, and the versions of the code."""
    section = profile.diffused
    sections = {f"diffused.{name}": getattr(section, name) for name in ("audio_encoder", "sda")}
    precision = {"diffused.network.precision": section.network.precision}
    return {"version of the code": VERSION, **clip_settings(profile), **sections, **precision}


def sda_key(section: Diffused, encoder: nn.Module) -> str:
    """Changes with everything that weights must agree with where they are used."""
    clips = (section.clips.image_size, section.clips.alignment)
    return digest(*clips, section.audio_encoder, section.sda, encoder_digest(encoder))


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
        self.frame = torch.randint(length, (batch,), generator=generator)
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


class SdaLearner:
    """SDA in the training loop: networks, optimisers and sequences.

    All random draws of a step depend on (seed, rank, step) alone. Raises ValueError where ranks cannot share
    a batch.
    """

    variant = "sda"
    content_steps = 0

    def __init__(
        self,
        profile: Profile,
        clips: TalkingClips,
        encoder: nn.Module,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ):
        section = profile.diffused
        torch.manual_seed(profile.seed)
        self.sda, self.seed, self.device, self.section = section.sda, profile.seed, device, section
        self.encoder = encoder.to(device).eval().requires_grad_(False)
        self.generator = build_generator(section).to(device).train()
        self.discriminators = Discriminators(section).to(device).train()
        rate, slow = self.sda.learning_rate, self.sda.sequence_learning_rate
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=BETAS)
        groups = [
            {"params": self.discriminators.frame.parameters(), "lr": rate},
            {"params": self.discriminators.sequence.parameters(), "lr": slow},
            {"params": self.discriminators.sync.parameters(), "lr": slow},
        ]
        self.discriminator_optimiser = torch.optim.Adam(groups, betas=BETAS)
        ranks = distributed.ranks()
        if self.sda.batch % ranks:
            raise ValueError(
                f"section diffused.sda: batch is {self.sda.batch}, which {ranks} processes cannot share "
                "equally; change it, or --ranks"
            )
        settings = SequenceSettings(self.sda.batch // ranks, self.sda.frames)
        self.dataset = SequenceDataset(clips, settings, profile.seed, distributed.rank())
        self.names = names_digest(clips)
        self.batches = Batches(self.dataset, device, workers)
        weights = encoder_digest(self.encoder)
        self.settings = training_settings(profile)
        self.key = digest(key_of(self.settings), weights)
        self.settings["weights of the audio encoder"] = weights
        self.step, self.total = 0, self.sda.steps

    def train_step(self) -> dict[str, float]:
        """Draw sequences, update the discriminators, then the generator; returns the row of the log."""
        sequences: Sequences = next(self.batches)
        random = torch.Generator().manual_seed(step_seed(self.seed, distributed.rank(), self.step))
        x, audio = sequences.frames, self.encoder(sequences.sound)
        noise = torch.randn(*audio.shape[:2], self.sda.noise, generator=random).to(self.device)
        draws = Draws(audio.shape[0], audio.shape[1], random)
        x_hat = self.generator(x[:, 0], audio, noise)
        row = self.update_discriminators(x, x_hat.detach(), audio, draws)
        row |= self.update_generator(x, x_hat, audio, draws)
        self.step += 1
        spread = x_hat.detach().std(0, unbiased=False).mean()
        return read_row({"step": self.step - 1, **row, "output_spread": spread})

    def update_discriminators(
        self, x: Tensor, x_hat: Tensor, audio: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """One update of the three discriminators on true and generated sequences (B, L, 3, S, S)."""
        nets, identity = self.discriminators, x[:, 0]
        true = draws.snippets_of(x)
        terms = {
            "frame": real_loss(nets.frame(draws.frames_of(x), identity))
            + fake_loss(nets.frame(draws.frames_of(x_hat), identity)),
            "sequence": real_loss(nets.sequence(x)) + fake_loss(nets.sequence(x_hat)),
            # true lips with the sound of another moment count as fake, too
            "sync": real_loss(nets.sync(true, draws.snippets_of(audio)))
            + fake_loss(nets.sync(true, draws.snippets_of(audio, other=True))) / 2
            + fake_loss(nets.sync(draws.snippets_of(x_hat), draws.snippets_of(audio))) / 2,
        }
        self.discriminator_optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        distributed.average_gradients(nets.parameters())
        self.discriminator_optimiser.step()
        return {f"dsc_{name}": term for name, term in terms.items()}

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

    # -- on disk ------------------------------------------------------------------------------
    def state(self, folder: Path) -> dict:
        """Everything that the next step depends on."""
        return {
            "key": self.key,
            "variant": self.variant,
            "step": self.step,
            "videos": len(self.dataset.clips),
            "names": self.names,
            "generator": self.generator.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
        }

    def restore(self, state: dict, folder: Path) -> None:
        """Continue from a state. Raises ValueError for other clips."""
        check_videos(state["videos"], len(self.dataset.clips), state["names"], self.names)
        for name in ("generator", "discriminators", "generator_optimiser", "discriminator_optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        self.batches.seek(self.step)

    def steps_left(self, state: dict) -> int:
        """Steps that a saved training still has."""
        return max(0, self.total - state["step"])

    def export(self, path: Path, metadata: dict) -> None:
        """Write the generator as fp16 safetensors."""
        if not distributed.is_main():
            return
        keys = {"key": self.key, "model": sda_key(self.section, self.encoder), "step": self.step}
        save_weights(path, self.generator.state_dict(), {**metadata, **keys}, half=True)
