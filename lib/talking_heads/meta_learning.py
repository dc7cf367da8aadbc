"""Meta-learning (section 3.2): episodes of K-shot learning, D against E and G.

Reads from top to bottom: :func:`discriminator_step`, :func:`generator_step`, :meth:`MetaLearner.train_step`; the loop around
it is :func:`training_loop.meta_learn`. Fine-tuning calls the same two steps with D' and G'.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import losses
from .corpus.episodes import Episode, EpisodeSampler, Videos, to_tensor
from .corpus.landmarks import draw_all
from .networks.discriminator import ConvNet, Discriminator
from .networks.embedder import Embedder
from .networks.generator import Generator
from .profiles import Profile
from .tensors import save_weights
from .training_loop import check_videos, total_steps, training_key

CLIP = 100.0  # norm of the gradient of E and G; some ten times what is usual
ABLATED = ("no-match", "no-match-one-shot")
WITHOUT_MATCH = ("ff", *ABLATED)  # variants that leave out L_MCH


@dataclass
class Networks:
    """E, G with P, and D."""

    embedder: Embedder
    generator: Generator
    discriminator: Discriminator

    def to(self, device: str | torch.device) -> "Networks":
        for net in (self.embedder, self.generator, self.discriminator):
            net.to(device)
        return self


def build_generator(p: Profile) -> Generator:
    """Untrained G of a profile, or of anything that has the profile's fields of G."""
    return Generator(p.generator_down, p.generator_up, p.generator_bottleneck, p.embedding, p.generator_attention_down,
                     p.generator_attention_up, p.spectral_norm_generator)


def build(profile: Profile, videos: int) -> Networks:
    """Untrained E, G and D of a profile, D with one column of W for each of ``videos``."""
    p = profile
    return Networks(
        Embedder(p.embedder_channels, p.embedder_attention, p.pool, p.spectral_norm_generator), build_generator(p),
        Discriminator(ConvNet(p.discriminator_channels, p.discriminator_attention, p.pool_discriminator), videos, p.embedding))


def autocast(precision: str, device: str | torch.device) -> torch.autocast:
    """bf16 where ``precision`` is "auto" and the device multiplies it in hardware, else fp32."""
    kind = torch.device(device).type
    if kind == "cuda":
        good = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        good = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "auto" and good)


@dataclass
class LossWeights:
    """Weights of the terms of equation (3)."""

    adversarial: float
    feature_matching: float
    feature_matching_reduce: str
    match: float


def discriminator_step(discriminate: Callable, x: Tensor, x_hat: Tensor, y: Tensor, i: Tensor | None,
                       optimisers: Sequence[torch.optim.Optimizer], cast: torch.autocast) -> dict[str, float]:
    """One update of D on L_DSC, equation (6): real frames x against generated ones x̂, which are not updated."""
    with cast:
        r, _ = discriminate(torch.cat([x_hat.detach(), x]), torch.cat([y, y]), None if i is None else torch.cat([i, i]))
    r_fake, r_real = r.float().chunk(2)
    loss = losses.discriminator_loss(r_fake, r_real)
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for g in optimisers[0].param_groups for p in g["params"] if p.grad is not None])
    for optimiser in optimisers:
        if torch.isfinite(norm):
            optimiser.step()
    return {"dsc": loss.item(), "r_real": r_real.mean().item(), "r_fake": r_fake.mean().item(), "d_grad_norm": norm.item()}


def generator_step(x: Tensor, x_hat: Tensor, y: Tensor, i: Tensor | None, discriminator: nn.Module | None,
                   extractors: Sequence, weights: LossWeights, optimiser: torch.optim.Optimizer, cast: torch.autocast,
                   match: Tensor | None = None, known: Sequence | None = None) -> dict[str, float]:
    """One update of E and G (or G') on equation (3) or (9); D gives gradients and keeps none.

    ``discriminator`` None leaves out L_ADV; ``match`` is L_MCH, None without it; ``known`` are features of x, see
    :func:`losses.content_loss`. Gradients are clipped only where they explode.
    """
    terms = {}
    with cast:
        terms["cnt"] = losses.content_loss(x_hat, x, extractors, known)
        loss = terms["cnt"]
        if discriminator is not None:
            discriminator.requires_grad_(False)
            r_fake, fake = discriminator(x_hat, y, i)
            with torch.no_grad():
                _, real = discriminator(x, y, i)
            discriminator.requires_grad_(True)
            terms["adv"] = losses.realism_loss(r_fake.float())
            terms["fm"] = losses.feature_matching_loss(fake, real, weights.feature_matching_reduce)
            loss = loss + weights.adversarial * terms["adv"] + weights.feature_matching * terms["fm"]
        if match is not None:
            terms["mch"] = match
            loss = loss + weights.match * match
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], CLIP)
    if torch.isfinite(norm):  # else the alarm ends the training, with the weights of the step before
        optimiser.step()
    return {**{k: v.item() for k, v in terms.items()}, "grad_norm": float(norm)}


def adam(parameters: Iterable[nn.Parameter], rate: float, beta1: float) -> torch.optim.Adam:
    """The optimiser of all our networks (section 3.4: Adam; β and ε as in SAGAN)."""
    return torch.optim.Adam(parameters, lr=rate, betas=(float(beta1), 0.999), eps=1e-5, fused=True)


def loss_weights(profile: Profile) -> LossWeights:
    """The profile's weights in meta-learning."""
    return LossWeights(profile.adversarial_weight, profile.feature_matching_weight, profile.feature_matching_reduce, profile.match_weight)


class MetaLearner:
    """Networks, their averages, optimisers and the sampler: everything that a checkpoint holds."""

    def __init__(self, profile: Profile, variant: str, videos: Videos, extractors: Sequence, device: str | torch.device = "cpu"):
        p = profile
        torch.manual_seed(p.seed)
        self.profile, self.variant, self.device, self.extractors = p, variant, device, extractors
        self.nets = build(p, len(videos)).to(device)
        self.ema = copy.deepcopy((self.nets.embedder, self.nets.generator))
        for net in self.ema:
            net.requires_grad_(False).eval()
        e, g, d = self.nets.embedder, self.nets.generator, self.nets.discriminator
        self.generator_optimiser = adam([*e.parameters(), *g.parameters()], p.rate, p.beta1)
        rest = [v for n, v in d.named_parameters() if n != "table.weight"]
        self.discriminator_optimiser = adam(rest, p.discriminator_rate, p.discriminator_beta1)
        self.table_optimiser = torch.optim.SparseAdam([d.table.weight], lr=p.table_rate, betas=(float(p.discriminator_beta1), 0.999), eps=1e-5)
        self.sampler = EpisodeSampler(videos, p.k_min, p.k_shot, p.targets, p.batch_videos, p.image_size, p.line_width, p.seed, p.pupils)
        self.cast = autocast(p.precision, device)
        self.step, self.content_steps = 0, p.content_steps
        self.total = total_steps(p, self.sampler) * (2 if variant == "ff" else 1)

    # -- one step -----------------------------------------------------------------------------
    def train_step(self) -> dict[str, float]:
        """Draw an episode; update D, then E and G; return what the log keeps."""
        p, e, g, d = self.profile, self.nets.embedder, self.nets.generator, self.nets.discriminator
        adversarial = self.step >= p.content_steps
        if adversarial and self.step == p.content_steps and p.table_start == "embeddings" and self.variant not in ABLATED:
            self._start_table()
        self._set_rates()
        row = {"step": self.step}
        rounds = p.discriminator_steps if adversarial else 1
        for round_ in range(rounds):
            episode = self.sampler.next(self.device)
            x, y, i = flat_targets(episode)
            with self.cast, torch.set_grad_enabled(round_ == rounds - 1):  # E and G learn from the last one
                each = e.embed_each(episode.x_s, episode.y_s)
                e_hat = each.mean(1)
                x_hat = g(y, e_hat.repeat_interleave(p.targets, 0))
            if adversarial:
                row |= discriminator_step(d, x, x_hat, y, i, (self.discriminator_optimiser, self.table_optimiser), self.cast)
        match = None
        if adversarial and self.variant not in WITHOUT_MATCH:
            w = d.table(episode.i)
            match = losses.match_loss(e_hat, w.detach() if p.match_pulls == "embedder" else w)
            self.table_optimiser.zero_grad()
        row |= generator_step(x, x_hat, y, i, d if adversarial else None, self.extractors, loss_weights(p),
                              self.generator_optimiser, self.cast, match)
        if match is not None and p.match_pulls == "both" and math.isfinite(row["grad_norm"]):
            self.table_optimiser.step()
        self._average()
        self.step += 1
        with torch.no_grad():
            row["e_within"] = each.float().var(1, unbiased=False).mean().item()
            row["e_between"] = e_hat.float().var(0, unbiased=False).mean().item()
            row["output_spread"] = x_hat.float().std(0).mean().item()
        return row

    @torch.no_grad()
    def _start_table(self) -> None:
        """W starts as the videos' embeddings and w₀ as minus their mean, so that D starts undecided.

        With thousands of videos and few visits to each, columns drawn at random would stay where they began, and
        L_MCH would pull ê to noise. The ablation of L_MCH starts W at random: this start would give it the match.
        """
        d, videos = self.nets.discriminator, self.sampler.videos
        for v in range(len(videos)):
            d.table.weight[v] = self._embedding(videos, v)
        d.w0.copy_(-d.table.weight.mean(0))

    def _set_rates(self) -> None:
        p, factor = self.profile, min(1.0, (self.step + 1) / 100)
        if p.rate_decay and self.step > p.content_steps:
            done = (self.step - p.content_steps) / max(1, self.total - p.content_steps)
            factor = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for optimiser, rate in ((self.generator_optimiser, p.rate), (self.discriminator_optimiser, p.discriminator_rate),
                                (self.table_optimiser, p.table_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * (factor if p.rate_decay else 1.0)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.profile.ema, (1 + self.step) / (10 + self.step))
        for mean, net in zip(self.ema, (self.nets.embedder, self.nets.generator)):
            torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - decay)
            for a, b in zip(mean.buffers(), net.buffers()):
                a.copy_(b)

    @torch.no_grad()
    def draw(self, episode: Episode) -> Tensor:
        """The averaged networks' targets of an episode: (B * M, 3, H, W)."""
        embedder, generator = self.ema
        with self.cast:
            return generator(episode.y_t.flatten(0, 1), embedder.embed(episode.x_s, episode.y_s).repeat_interleave(episode.y_t.shape[1], 0))

    @torch.no_grad()
    def spread(self, videos: Videos, people: int = 12) -> dict[str, float]:
        """Variance of ê: over people, of the mean of two videos, and within a person, from video to video.

        An embedder that tells videos apart but not people brings the first down to half of the second, which is its share in it.
        """
        numbers: dict[str, list[int]] = defaultdict(list)
        for v in range(len(videos)):
            numbers[videos.person(v)].append(v)
        several = [n[:2] for n in numbers.values() if len(n) > 1][:people]
        if len(several) < 2:
            return {}
        e_hats = torch.stack([torch.stack([self._embedding(videos, v) for v in pair]) for pair in several])
        return {"e_people": e_hats.mean(1).var(0).mean().item(), "e_videos": e_hats.var(1).mean().item()}

    def _embedding(self, videos: Videos, number: int) -> Tensor:
        """ê of a video's first K frames, by the averaged embedder: (N,)."""
        p = self.profile
        x, points = videos.read(number, np.arange(min(p.k_shot, videos.frame_count(number))))
        x, y = to_tensor(x, self.device), to_tensor(draw_all(points, p.image_size, p.line_width), self.device)
        with self.cast:
            return self.ema[0].embed(x[None], y[None])[0].float()

    # -- on disk ------------------------------------------------------------------------------
    def state(self) -> dict:
        n = self.nets
        return {"key": training_key(self.profile), "variant": self.variant, "step": self.step,
                "networks": [n.embedder.state_dict(), n.generator.state_dict(), n.discriminator.state_dict()],
                "ema": [m.state_dict() for m in self.ema],
                "optimisers": [o.state_dict() for o in (self.generator_optimiser, self.discriminator_optimiser, self.table_optimiser)],
                "sampler": self.sampler.state(), "torch_rng": torch.get_rng_state()}

    def restore(self, state: dict) -> None:
        """Raises ValueError for a checkpoint of other people: W has a column for each of their videos."""
        check_videos(len(state["networks"][2]["table.weight"]), len(self.sampler.videos))
        for net, values in zip((self.nets.embedder, self.nets.generator, self.nets.discriminator), state["networks"]):
            net.load_state_dict(values)
        for net, values in zip(self.ema, state["ema"]):
            net.load_state_dict(values)
        for optimiser, values in zip((self.generator_optimiser, self.discriminator_optimiser, self.table_optimiser), state["optimisers"]):
            optimiser.load_state_dict(values)
        self.sampler.restore(state["sampler"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]


def flat_targets(episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
    """Targets x, y as (B * M, 3, H, W) and the videos' numbers (B * M,)."""
    return episode.x_t.flatten(0, 1), episode.y_t.flatten(0, 1), episode.i.repeat_interleave(episode.x_t.shape[1])


def export(learner: MetaLearner, path: Path, about: dict) -> None:
    """The averaged E and G, V, w₀ and b as fp16 safetensors: what fine-tuning starts from. W is not needed."""
    d = learner.nets.discriminator
    parts = {"embedder": learner.ema[0].state_dict(), "generator": learner.ema[1].state_dict(),
             "convnet": d.convnet.state_dict(), "d": {"w0": d.w0, "b": d.b}}
    table = d.table.weight.detach().float()
    state = {f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()}
    state["w.mean"], state["w.std"] = table.mean(0), table.std(0)
    save_weights(path, state, {**about, "variant": learner.variant, "step": learner.step}, half=True)


def restore_weights(profile: Profile, state: dict[str, Tensor], device: str | torch.device = "cpu") -> Networks:
    """Networks of a profile with exported weights; D has no column of W.

    Raises ValueError where the weights are of another layout.
    """
    nets = build(profile, 1)
    pick = lambda part: {k[len(part) + 1:]: v for k, v in state.items() if k.startswith(part + ".")}
    try:
        nets.embedder.load_state_dict(pick("embedder"))
        nets.generator.load_state_dict(pick("generator"))
        nets.discriminator.convnet.load_state_dict(pick("convnet"))
    except RuntimeError as error:
        raise ValueError(f"weights do not fit profile {profile.name}: {error}") from error
    with torch.no_grad():
        nets.discriminator.w0.copy_(state["d.w0"])
        nets.discriminator.b.copy_(state["d.b"])
    return nets.to(device)
