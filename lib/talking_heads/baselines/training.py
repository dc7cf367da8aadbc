"""Training of the baselines: one learner each, run by the loop that trains our own method.

A learner draws episodes of the same people as ours does, as many of them and in the same way.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import losses
from ..corpus.episodes import Episode, EpisodeSampler, Videos
from ..fine_tuning import batches
from ..meta_learning import autocast
from ..perceptual import Extractor
from ..profiles import Profile
from ..tensors import save_weights
from ..training_loop import check_videos, total_steps, training_key
from . import pix2pixhd
from .pix2pixhd import GlobalGenerator, MultiscaleDiscriminator
from .x2face import X2Face

X2FACE_BATCH = 16  # driven frames a step at least: batch normalisation needs others to compare with
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def build_pix2pixhd(profile: Profile) -> tuple[GlobalGenerator, MultiscaleDiscriminator]:
    """Untrained generator and discriminator of a profile."""
    p = profile
    return (GlobalGenerator(p.pix2pixhd_channels, p.pix2pixhd_blocks),
            MultiscaleDiscriminator(p.pix2pixhd_discriminator, p.pix2pixhd_halvings))


def build_x2face(profile: Profile) -> X2Face:
    """Untrained X2Face of a profile."""
    return X2Face(profile.x2face_channels, profile.x2face_embedding, profile.x2face_driving)


def perceptual_loss(x_hat: Tensor, x: Tensor, extractor: Extractor) -> Tensor:
    """Pix2pixHD's VGG loss: L1 between the features of one network, as of pictures in [-1, 1], deeper layers weighing more.

    The layers of an embedded network are brought to one size by their gains, and all weigh alike.
    """
    pairs = list(zip(extractor(x_hat), extractor(x)))
    weights = [gain / len(pairs) for gain in extractor.gains] if extractor.embedded else VGG_WEIGHTS
    return 2 / extractor.scale * sum(w * F.l1_loss(a.float(), b.detach().float()) for w, (a, b) in zip(weights, pairs, strict=True))


def pix2pixhd_step(x: Tensor, y: Tensor, generator: GlobalGenerator, discriminator: MultiscaleDiscriminator, extractor: Extractor,
                   optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer], cast: torch.autocast) -> dict[str, float]:
    """One update of D, then of G, on frames x with landmark images y (B, 3, H, W)."""
    g_optimiser, d_optimiser = optimisers
    with cast:
        x_hat = generator(y)
        fake, real = discriminator(x_hat.detach(), y), discriminator(x, y)
    loss = 0.5 * (pix2pixhd.least_squares(fake, 0.0) + pix2pixhd.least_squares(real, 1.0))
    d_optimiser.zero_grad()
    loss.backward()
    d_optimiser.step()
    row = {"dsc": loss.item(), "r_real": real[0][-1].float().mean().item(), "r_fake": fake[0][-1].float().mean().item()}

    discriminator.requires_grad_(False)
    with cast:
        fake = discriminator(x_hat, y)
        with torch.no_grad():
            real = discriminator(x, y)
        terms = {"adv": pix2pixhd.least_squares(fake, 1.0),
                 "fm": pix2pixhd.feature_matching(fake, real, discriminator.halvings),
                 "cnt": perceptual_loss(x_hat, x, extractor)}
    discriminator.requires_grad_(True)
    g_optimiser.zero_grad()
    (terms["adv"] + pix2pixhd.FEATURE_WEIGHT * (terms["fm"] + terms["cnt"])).backward()
    g_optimiser.step()
    return row | {k: v.item() for k, v in terms.items()} | {"output_spread": x_hat.detach().float().std(0, unbiased=False).mean().item()}


def x2face_step(x_s: Tensor, x_t: Tensor, model: X2Face, identity: Sequence, optimiser: torch.optim.Optimizer,
                cast: torch.autocast) -> dict[str, float]:
    """One update on sources (B, K, 3, H, W) and targets (B, M, 3, H, W), each target driven by itself.

    The first stage is L1 alone; in the second, ``identity`` holds extractors whose content loss is added.
    """
    with cast:
        embedded = model.embed(x_s)
        x_hat = model.drive(embedded.repeat_interleave(x_t.shape[1], 0), x_t.flatten(0, 1))
        x = x_t.flatten(0, 1)
        terms = {"l1": F.l1_loss(x_hat, x)}
        if identity:
            terms["cnt"] = losses.content_loss(x_hat, x, identity)
    optimiser.zero_grad()
    sum(terms.values()).backward()
    optimiser.step()
    return {k: v.item() for k, v in terms.items()} | {"output_spread": x_hat.detach().float().std(0, unbiased=False).mean().item()}


class BaselineLearner:
    """What the training loop needs of a baseline: steps, a state to save, and a state to go on from."""

    def __init__(self, profile: Profile, variant: str, videos: Videos, extractors: Sequence, device: str | torch.device = "cpu"):
        p = profile
        torch.manual_seed(p.seed)
        self.profile, self.variant, self.device, self.extractors = p, variant, device, extractors
        targets = max(p.targets, -(-X2FACE_BATCH // p.batch_videos)) if variant == "x2face" else p.targets
        self.sampler = EpisodeSampler(videos, p.k_min, p.k_shot, targets, p.batch_videos, p.image_size, p.line_width, p.seed)
        self.cast = autocast(p.precision, device)
        self.step, self.content_steps = 0, 0  # no steps to share with another training
        self.nets = [n.to(device) for n in (build_pix2pixhd(p) if variant == "pix2pixhd" else (build_x2face(p),))]
        self.rate = p.pix2pixhd_rate if variant == "pix2pixhd" else p.x2face_rate
        betas = (0.5, 0.999) if variant == "pix2pixhd" else (0.9, 0.999)
        self.optimisers = [torch.optim.Adam(n.parameters(), lr=self.rate, betas=betas, fused=True) for n in self.nets]
        self.total = total_steps(p, self.sampler)

    def train_step(self) -> dict[str, float]:
        """Draw an episode and learn from it; in the second half the rate falls to zero, as in Pix2pixHD's own training."""
        for group in (g for o in self.optimisers for g in o.param_groups):
            group["lr"] = self.rate * min(1.0, 2 * (1 - self.step / self.total))
        episode = self.sampler.next(self.device)
        if self.variant == "pix2pixhd":
            x, y = (torch.cat([a.flatten(0, 1), b.flatten(0, 1)]) for a, b in ((episode.x_t, episode.x_s), (episode.y_t, episode.y_s)))
            row = pix2pixhd_step(x, y, *self.nets, self.extractors[0], tuple(self.optimisers), self.cast)
        else:
            second = self.step >= self.total // 2
            row = x2face_step(episode.x_s, episode.x_t, self.nets[0], self.extractors[-1:] if second else (), self.optimisers[0], self.cast)
        self.step += 1
        return {"step": self.step - 1} | row

    @torch.no_grad()
    def draw(self, episode: Episode) -> Tensor:
        """The targets of an episode as the baseline generates them: (B * M, 3, H, W)."""
        net = self.nets[0].eval()
        with self.cast:
            if self.variant == "pix2pixhd":
                out = net(episode.y_t.flatten(0, 1))
            else:
                out = net(episode.x_s.repeat_interleave(episode.x_t.shape[1], 0), episode.x_t.flatten(0, 1))
        net.train()
        return out

    def export(self, path: Path, about: dict) -> None:
        """The networks as fp16 safetensors."""
        state = {f"{n}.{k}": v for n, net in enumerate(self.nets) for k, v in net.state_dict().items()}
        save_weights(path, state, {**about, "variant": self.variant, "step": self.step}, half=True)

    def state(self) -> dict:
        return {"key": training_key(self.profile), "variant": self.variant, "step": self.step, "videos": len(self.sampler.videos),
                "networks": [n.state_dict() for n in self.nets], "optimisers": [o.state_dict() for o in self.optimisers],
                "sampler": self.sampler.state(), "torch_rng": torch.get_rng_state()}

    def restore(self, state: dict) -> None:
        """Raises ValueError for a checkpoint of other people."""
        check_videos(state["videos"], len(self.sampler.videos))
        for net, values in zip(self.nets, state["networks"]):
            net.load_state_dict(values)
        for optimiser, values in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(values)
        self.sampler.restore(state["sampler"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]


def restore_baseline(profile: Profile, variant: str, state: dict[str, Tensor], device: str | torch.device = "cpu") -> list[torch.nn.Module]:
    """Pix2pixHD's generator and discriminator, or X2Face, with exported weights. Raises ValueError for another layout."""
    nets = list(build_pix2pixhd(profile)) if variant == "pix2pixhd" else [build_x2face(profile)]
    try:
        for n, net in enumerate(nets):
            net.load_state_dict({k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(f"{n}.")})
    except RuntimeError as error:
        raise ValueError(f"weights do not fit profile {profile.name}: {error}") from error
    return [net.to(device) for net in nets]


def fine_tune_pix2pixhd(generator: GlobalGenerator, discriminator: MultiscaleDiscriminator, x: Tensor, y: Tensor, profile: Profile,
                        extractors: Sequence, seed: int = 0) -> GlobalGenerator:
    """A generator of its own for T frames x with landmark images y, (T, 3, H, W): as many epochs as ours gets."""
    g, d = copy.deepcopy(generator).train(), copy.deepcopy(discriminator).train()
    optimisers = tuple(torch.optim.Adam(n.parameters(), lr=profile.pix2pixhd_tune_rate, betas=(0.5, 0.999), fused=True) for n in (g, d))
    cast = autocast(profile.precision, x.device)
    for index in batches(len(x), profile.tune_batch, profile.tune_epochs, np.random.default_rng(seed)):
        pix2pixhd_step(x[index], y[index], g, d, extractors[0], optimisers, cast)
    return g.eval()
