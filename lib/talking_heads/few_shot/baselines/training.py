"""Training of the baselines, in the same loop as meta-learning and on the same episodes."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from talking_heads.config import Profile
from talking_heads.data.episodes import Episode, EpisodeDataset, EpisodeSettings, Videos
from talking_heads.data.frames import Frames
from talking_heads.few_shot import losses
from talking_heads.few_shot.baselines import pix2pixhd
from talking_heads.few_shot.baselines.pix2pixhd import GlobalGenerator, MultiscaleDiscriminator
from talking_heads.few_shot.baselines.x2face import X2Face
from talking_heads.few_shot.fine_tuning import batches
from talking_heads.few_shot.head import generate
from talking_heads.few_shot.meta_learning import steps_left, total_steps
from talking_heads.nn.perceptual import Extractor
from talking_heads.nn.weight_files import save_weights
from talking_heads.training import distributed
from talking_heads.training.checkpoints import check_videos, key_of, names_digest
from talking_heads.training.distributed import average_gradients
from talking_heads.training.rank_batches import RankBatches
from talking_heads.training.rows import read_row

VERSION = 2  # of both baselines: raised when the same settings give other weights or frames
X2FACE_BATCH = 16  # driven frames of a step, at least: batch normalisation needs several
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
PIX2PIXHD_BETAS, X2FACE_BETAS = (0.5, 0.999), (0.9, 0.999)


def build_pix2pixhd(profile: Profile) -> tuple[GlobalGenerator, MultiscaleDiscriminator]:
    """Untrained generator and discriminator of a profile."""
    section, precision = profile.few_shot.pix2pixhd, profile.few_shot.networks.precision
    generator = GlobalGenerator(section.channels, section.blocks, precision)
    discriminator = MultiscaleDiscriminator(
        section.discriminator_channels, section.halvings, precision=precision
    )
    return generator, discriminator


def build_x2face(profile: Profile) -> X2Face:
    """Untrained X2Face of a profile."""
    section = profile.few_shot.x2face
    return X2Face(section.channels, section.embedding, section.driving, profile.few_shot.networks.precision)


def perceptual_loss(x_hat: Tensor, x: Tensor, extractor: Extractor) -> Tensor:
    """Pix2pixHD's VGG loss: L1 between the features of one network, in the scale of inputs in [-1, 1].

    Deeper layers of VGG have larger weights. All layers of an embedded network have the same weight, times
    their gains.
    """
    pairs = list(zip(extractor(x_hat), extractor(x), strict=True))
    weights = [gain / len(pairs) for gain in extractor.gains] if extractor.embedded else VGG_WEIGHTS
    terms = [
        weight * F.l1_loss(a.float(), b.detach().float())
        for weight, (a, b) in zip(weights, pairs, strict=True)
    ]
    return 2 / extractor.scale * torch.stack(terms).sum()


def pix2pixhd_step(
    x: Tensor,
    y: Tensor,
    generator: GlobalGenerator,
    discriminator: MultiscaleDiscriminator,
    extractor: Extractor,
    optimisers: Sequence[torch.optim.Optimizer],
) -> dict[str, float]:
    """One update of D, then of G, on frames x with landmark images y (B, 3, H, W)."""
    generator_optimiser, discriminator_optimiser = optimisers
    x_hat = generator(y)
    fake, real = discriminator(x_hat.detach(), y), discriminator(x, y)
    loss = 0.5 * (pix2pixhd.least_squares(fake, 0.0) + pix2pixhd.least_squares(real, 1.0))
    discriminator_optimiser.zero_grad()
    loss.backward()
    average_gradients(discriminator.parameters())
    discriminator_optimiser.step()
    row = {
        "dsc": loss,
        "r_real": real[0][-1].float().mean(),
        "r_fake": fake[0][-1].float().mean(),
    }

    discriminator.requires_grad_(False)
    fake = discriminator(x_hat, y)
    with torch.no_grad():
        real = discriminator(x, y)
    discriminator.requires_grad_(True)
    terms = {
        "adv": pix2pixhd.least_squares(fake, 1.0),
        "fm": pix2pixhd.feature_matching(fake, real, discriminator.halvings),
        "cnt": perceptual_loss(x_hat, x, extractor),
    }
    generator_optimiser.zero_grad()
    (terms["adv"] + pix2pixhd.FEATURE_WEIGHT * (terms["fm"] + terms["cnt"])).backward()
    average_gradients(generator.parameters())
    generator_optimiser.step()
    return read_row({**row, **terms, "output_spread": _output_spread(x_hat)})


def x2face_step(
    x_s: Tensor, x_t: Tensor, model: X2Face, identity: Sequence, optimiser: torch.optim.Optimizer
) -> dict[str, float]:
    """One update on sources (B, K, 3, H, W) and targets (B, M, 3, H, W); every target is driven by itself.

    The loss of the first stage is L1; the second stage adds the content loss of the extractors ``identity``.
    """
    embedded_face, x = model.embed(x_s), x_t.flatten(0, 1)
    x_hat = model.drive(embedded_face.repeat_interleave(x_t.shape[1], 0), x)
    terms = {"l1": F.l1_loss(x_hat, x)}
    if identity:
        terms["cnt"] = losses.content_loss(x_hat, x, identity)
    optimiser.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    average_gradients(model.parameters())
    optimiser.step()
    return read_row({**terms, "output_spread": _output_spread(x_hat)})


def _output_spread(x_hat: Tensor) -> Tensor:
    return x_hat.detach().std(0, unbiased=False).mean()


class BaselineLearner:
    """A baseline in the training loop: networks, optimisers and the episodes."""

    def __init__(
        self,
        profile: Profile,
        variant: str,
        videos: Videos,
        extractors: Sequence,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ):
        torch.manual_seed(profile.seed)
        self.profile, self.variant, self.device, self.extractors = profile, variant, device, extractors
        settings = dataclasses.replace(EpisodeSettings.of_profile(profile), pupils=0.0)
        self.nets: list[torch.nn.Module]
        if variant == "pix2pixhd":
            self.nets = list(build_pix2pixhd(profile))
            self.learning_rate, betas = profile.few_shot.pix2pixhd.learning_rate, PIX2PIXHD_BETAS
        else:
            self.nets = [build_x2face(profile)]
            self.learning_rate, betas = profile.few_shot.x2face.learning_rate, X2FACE_BETAS
            targets = max(settings.targets, -(-X2FACE_BATCH // settings.batch))
            settings = dataclasses.replace(settings, targets=targets)
        self.nets = [net.to(device) for net in self.nets]
        self.optimisers = [
            torch.optim.Adam(net.parameters(), lr=self.learning_rate, betas=betas, fused=True)
            for net in self.nets
        ]
        rank, ranks = distributed.rank(), distributed.ranks()
        self.dataset = EpisodeDataset(videos, settings, profile.seed, rank, ranks)
        self.names = names_digest(videos)
        self.episodes = RankBatches(self.dataset, device, workers)
        self.settings = training_settings(profile, variant)
        self.step, self.content_steps = 0, 0  # shares no steps with another training
        self.total = total_steps(profile, self.dataset)

    @property
    def key(self) -> str:
        return key_of(self.settings)

    def train_step(self) -> dict[str, float]:
        """Draw an episode and update; returns the row of the log.

        In the second half of the training the learning rate falls linearly to zero, as in Pix2pixHD.
        """
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * min(1.0, 2 * (1 - self.step / self.total))
        episode = next(self.episodes)
        if self.variant == "pix2pixhd":
            x = torch.cat([episode.x_t.flatten(0, 1), episode.x_s.flatten(0, 1)])
            y = torch.cat([episode.y_t.flatten(0, 1), episode.y_s.flatten(0, 1)])
            generator, discriminator = self.nets
            row = pix2pixhd_step(x, y, generator, discriminator, self.extractors[0], self.optimisers)
        else:
            identity = self.extractors[-1:] if self.step >= self.total // 2 else ()
            row = x2face_step(episode.x_s, episode.x_t, self.nets[0], identity, self.optimisers[0])
        self.step += 1
        return {"step": self.step - 1} | row

    @torch.no_grad()
    def draw(self, episode: Episode) -> Tensor:
        """The targets of an episode as the baseline generates them: (B * M, 3, H, W)."""
        net = self.nets[0].eval()
        if self.variant == "pix2pixhd":
            x_hat = net(episode.y_t.flatten(0, 1))
        else:
            x_hat = net(episode.x_s.repeat_interleave(episode.x_t.shape[1], 0), episode.x_t.flatten(0, 1))
        net.train()
        return x_hat

    def export(self, path: Path, metadata: dict) -> None:
        """Write the networks as fp16 safetensors."""
        distributed.average_statistics(self.nets)
        if not distributed.is_main():
            return
        state = {f"{n}.{k}": v for n, net in enumerate(self.nets) for k, v in net.state_dict().items()}
        save_weights(path, state, {**metadata, "variant": self.variant, "step": self.step}, half=True)

    def state(self, folder: Path) -> dict:
        """Everything that the next step depends on. All ranks take part."""
        distributed.average_statistics(self.nets)
        return {
            "key": self.key,
            "variant": self.variant,
            "step": self.step,
            "total": self.total,
            "episodes": self.episodes.number,
            "ranks": distributed.ranks(),
            "videos": len(self.dataset.videos),
            "names": self.names,
            "networks": [net.state_dict() for net in self.nets],
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "torch_rng": torch.get_rng_state(),
        }

    def restore(self, state: dict, folder: Path) -> None:
        """Go on from a state. Raises ValueError for other videos."""
        check_videos(state["videos"], len(self.dataset.videos), state.get("names"), self.names)
        for net, values in zip(self.nets, state["networks"], strict=True):
            net.load_state_dict(values)
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(values)
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        self.episodes.seek(distributed.scaled(state["episodes"], state["ranks"]))
        self.total = self.step + self.steps_left(state)

    def steps_left(self, state: dict) -> int:
        """Steps that a saved training still has, on the present ranks."""
        return steps_left(state, self.variant, self.total, self.profile.few_shot.meta_learning.epochs)


def training_settings(profile: Profile, variant: str) -> dict[str, Any]:
    """Every section that the training of a baseline reads, and :data:`VERSION`."""
    sections = ("landmark_images", "losses", "meta_learning", variant)
    return {
        "version of the code": VERSION,
        "variant": variant,
        "seed": profile.seed,
        "data": profile.data,
        "few_shot.networks.precision": profile.few_shot.networks.precision,
        **{f"few_shot.{name}": getattr(profile.few_shot, name) for name in sections},
    }


def restore_baseline(
    profile: Profile, variant: str, state: dict[str, Tensor], device: str | torch.device = "cpu"
) -> list[torch.nn.Module]:
    """Pix2pixHD's generator and discriminator, or X2Face, with exported weights.

    Raises ValueError where the weights do not fit the profile.
    """
    nets: list[torch.nn.Module]
    nets = list(build_pix2pixhd(profile)) if variant == "pix2pixhd" else [build_x2face(profile)]
    try:
        for n, net in enumerate(nets):
            values = {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(f"{n}.")}
            net.load_state_dict(values)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit profile {profile.name}: {error}") from error
    return [net.to(device) for net in nets]


def fine_tune_pix2pixhd(
    nets: Sequence[torch.nn.Module],
    x: Tensor,
    y: Tensor,
    profile: Profile,
    extractors: Sequence,
    seed: int = 0,
) -> GlobalGenerator:
    """A generator for T training frames x with landmark images y (T, 3, H, W), after as many epochs as ours.

    ``nets`` are the pretrained generator and discriminator, which are copied.
    """
    generator, discriminator = (copy.deepcopy(net).train() for net in nets)
    section = profile.few_shot.fine_tuning
    learning_rate = profile.few_shot.pix2pixhd.fine_tuning_learning_rate
    optimisers = [
        torch.optim.Adam(net.parameters(), lr=learning_rate, betas=PIX2PIXHD_BETAS, fused=True)
        for net in (generator, discriminator)
    ]
    for index in batches(len(x), section.batch, section.epochs, np.random.default_rng(seed)):
        pix2pixhd_step(x[index], y[index], generator, discriminator, extractors[0], optimisers)
    return generator.eval()


def reenact(model: X2Face, train: Frames, test: Frames) -> np.ndarray:
    """X2Face's embedded face of T frames, driven by the ground-truth held-out frames: (n, S, S, 3) uint8."""
    with torch.no_grad():
        embedded_face = model.eval().embed(train.x[None])

    def drive(x: Tensor) -> Tensor:
        return model.drive(embedded_face.expand(len(x), -1, -1, -1), x)

    return generate(drive, test.x)
