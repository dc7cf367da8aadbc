"""Training of the baselines: one learner each, run by the loop that trains our own method.

A learner draws the same episodes as ours does, so that every method sees the same frames of the same people.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import losses
from ..corpus.episodes import EpisodeSampler, Videos
from ..meta_learning import autocast, training_key
from ..profiles import Profile
from . import pix2pixhd
from .pix2pixhd import GlobalGenerator, MultiscaleDiscriminator
from .x2face import X2Face


def build_pix2pixhd(profile: Profile) -> tuple[GlobalGenerator, MultiscaleDiscriminator]:
    p = profile
    return (GlobalGenerator(p.pix2pixhd_channels, p.pix2pixhd_blocks),
            MultiscaleDiscriminator(p.pix2pixhd_discriminator, p.pix2pixhd_halvings))


def build_x2face(profile: Profile) -> X2Face:
    return X2Face(profile.x2face_channels, profile.x2face_embedding, profile.x2face_driving)


def pix2pixhd_step(x: Tensor, y: Tensor, generator: GlobalGenerator, discriminator: MultiscaleDiscriminator, extractors: Sequence,
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
                 "cnt": losses.content_loss(x_hat, x, extractors)}
    discriminator.requires_grad_(True)
    g_optimiser.zero_grad()
    (terms["adv"] + pix2pixhd.FEATURE_WEIGHT * (terms["fm"] + terms["cnt"])).backward()
    g_optimiser.step()
    return row | {k: v.item() for k, v in terms.items()} | {"output_spread": x_hat.detach().float().std(0).mean().item()}


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
    return {k: v.item() for k, v in terms.items()} | {"output_spread": x_hat.detach().float().std(0).mean().item()}


class BaselineLearner:
    """What the training loop needs of a baseline: steps, a state to save, and a state to go on from."""

    def __init__(self, profile: Profile, variant: str, videos: Videos, extractors: Sequence, device: str | torch.device = "cpu"):
        p = profile
        torch.manual_seed(p.seed)
        self.profile, self.variant, self.device, self.extractors = p, variant, device, extractors
        self.sampler = EpisodeSampler(videos, p.k_min, p.k_shot, p.targets, p.batch_videos, p.image_size, p.line_width, p.seed)
        self.cast = autocast(p.precision, device)
        self.step = 0
        self.nets = [n.to(device) for n in (build_pix2pixhd(p) if variant == "pix2pixhd" else (build_x2face(p),))]
        rate = p.pix2pixhd_rate if variant == "pix2pixhd" else p.x2face_rate
        betas = (0.5, 0.999) if variant == "pix2pixhd" else (0.9, 0.999)
        self.optimisers = [torch.optim.Adam(n.parameters(), lr=rate, betas=betas, fused=True) for n in self.nets]
        self.total = p.meta_steps

    def train_step(self) -> dict[str, float]:
        episode = self.sampler.next(self.device)
        if self.variant == "pix2pixhd":
            x, y = (torch.cat([a.flatten(0, 1), b.flatten(0, 1)]) for a, b in ((episode.x_t, episode.x_s), (episode.y_t, episode.y_s)))
            row = pix2pixhd_step(x, y, *self.nets, self.extractors, tuple(self.optimisers), self.cast)
        else:
            second = self.step >= self.total // 2
            row = x2face_step(episode.x_s, episode.x_t, self.nets[0], self.extractors[-1:] if second else (), self.optimisers[0], self.cast)
        self.step += 1
        return {"step": self.step - 1} | row

    def state(self) -> dict:
        return {"key": training_key(self.profile), "variant": self.variant, "step": self.step,
                "networks": [n.state_dict() for n in self.nets], "optimisers": [o.state_dict() for o in self.optimisers],
                "sampler": self.sampler.state(), "torch_rng": torch.get_rng_state()}

    def restore(self, state: dict) -> None:
        for net, values in zip(self.nets, state["networks"]):
            net.load_state_dict(values)
        for optimiser, values in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(values)
        self.sampler.restore(state["sampler"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
