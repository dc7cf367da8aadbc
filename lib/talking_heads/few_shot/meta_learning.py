"""Meta-learning (section 3.2): episodes of K-shot learning, D against E and G.

A step is :meth:`MetaLearner.train_step`: :func:`updates.discriminator_step`, then
:func:`updates.generator_loss` and :func:`updates.generator_step`. The loop is
:func:`talking_heads.training.loop.train`. Fine-tuning makes the same updates, of D' and G'.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.config import Profile
from talking_heads.data.episodes import Episode, EpisodeDataset, EpisodeSettings, Videos
from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.few_shot import losses
from talking_heads.few_shot.networks.build import Networks, build_networks, grow
from talking_heads.few_shot.updates import (
    Targets,
    adam,
    discriminator_step,
    generator_loss,
    generator_step,
    loss_weights,
)
from talking_heads.few_shot.video_table import VideoTable
from talking_heads.nn.weight_files import save_weights
from talking_heads.training import distributed
from talking_heads.training.checkpoints import check_videos, key_of, names_digest
from talking_heads.training.rank_batches import RankBatches
from talking_heads.training.rows import read_row

VERSION = 2  # of meta-learning: raised when the same settings give other weights
WARM_UP = 100  # steps over which learning rates rise, if they decay later
ABLATED = ("no-match", "no-match-one-shot")
WITHOUT_MATCH = ("ff", *ABLATED)  # variants without L_MCH


def total_steps(profile: Profile, dataset: EpisodeDataset) -> int:
    """Steps of a training: the profile's, or those of its epochs, in which every video has one episode."""
    section = profile.few_shot.meta_learning
    return section.epochs * dataset.batches_per_epoch or section.steps


def training_settings(profile: Profile) -> dict[str, Any]:
    """Every section that meta-learning reads, and :data:`VERSION`."""
    sections = ("landmark_images", "networks", "losses", "optimiser", "meta_learning")
    few_shot = {f"few_shot.{name}": getattr(profile.few_shot, name) for name in sections}
    return {"version of the code": VERSION, "seed": profile.seed, "data": profile.data} | few_shot


def steps_left(state: dict, variant: str, total: int, epochs: int) -> int:
    """Steps that a saved training still has on the present ranks.

    ``total`` are the steps of one that begins now. A training of ``epochs`` takes fewer steps on more ranks;
    one that begins with the content steps of another variant has its own number of steps.
    """
    if not epochs or state["variant"] != variant:
        return max(0, total - state["step"])
    return distributed.scaled(state["total"] - state["step"], state["ranks"])


class MetaLearner:
    """Networks, their moving averages, optimisers and the episodes: everything that a checkpoint holds."""

    def __init__(
        self,
        profile: Profile,
        variant: str,
        videos: Videos,
        extractors: Sequence,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ):
        section, optimiser = profile.few_shot.meta_learning, profile.few_shot.optimiser
        torch.manual_seed(profile.seed)
        self.profile, self.variant, self.device, self.extractors = profile, variant, device, extractors
        self.nets = build_networks(profile.few_shot.networks, len(videos))
        self.nets.discriminator.keep_rows(distributed.rank(), distributed.ranks())
        self.nets.to(device)
        self.ema: tuple[nn.Module, nn.Module] = copy.deepcopy((self.nets.embedder, self.nets.generator))
        for net in self.ema:
            net.requires_grad_(False).eval()
        e, g, d = self.nets.embedder, self.nets.generator, self.nets.discriminator
        self.generator_optimiser = adam(
            [*e.parameters(), *g.parameters()], section.learning_rate, optimiser.beta1
        )
        self.discriminator_optimiser = adam(
            [p for name, p in d.named_parameters() if name != "table.weight"],
            section.discriminator_learning_rate,
            optimiser.discriminator_beta1,
        )
        self.table_optimiser = torch.optim.SparseAdam(
            [d.table.weight],
            lr=section.table_learning_rate,
            betas=(float(optimiser.discriminator_beta1), 0.999),
            eps=1e-5,
        )
        self.table = VideoTable(d.table, self.table_optimiser, len(videos))
        rank, ranks = distributed.rank(), distributed.ranks()
        self.dataset = EpisodeDataset(videos, EpisodeSettings.of_profile(profile), profile.seed, rank, ranks)
        self.names = names_digest(videos)
        self.episodes = RankBatches(self.dataset, device, workers)
        self.settings = training_settings(profile)
        self.step, self.content_steps = 0, section.content_steps
        self.total = total_steps(profile, self.dataset) * (2 if variant == "ff" else 1)

    def grow(self, smaller: Networks) -> None:
        """Start from trained networks with fewer levels: :func:`grow`."""
        grow(self.nets, smaller)
        self.ema[0].load_state_dict(self.nets.embedder.state_dict())
        self.ema[1].load_state_dict(self.nets.generator.state_dict())

    @property
    def key(self) -> str:
        return key_of(self.settings)

    # -- one step -----------------------------------------------------------------------------
    def train_step(self) -> dict[str, float]:
        """Draw an episode, update D, then E and G; returns the row of the log."""
        section, nets = self.profile.few_shot, self.nets
        adversarial = self.step >= self.content_steps
        updates = section.optimiser.discriminator_steps if adversarial else 1
        shared = section.optimiser.shared_episode
        episodes = self.episodes.take(1 if shared else updates)
        if self.step == self.content_steps and self._starts_from_embeddings():
            self._start_table()
        self._set_learning_rates()
        row: dict[str, Tensor | float] = {"step": self.step}
        for update in range(updates):
            if update < len(episodes):
                episode = episodes[update]
                x, y, i = flat_targets(episode)
                with torch.set_grad_enabled(shared or update == updates - 1):  # E and G learn from the last
                    e_each = nets.embedder.embed_each(episode.x_s, episode.y_s)
                    e_hat = e_each.mean(1)
                    x_hat = nets.generator(y, e_hat.repeat_interleave(section.meta_learning.targets, 0))
            targets = Targets(x, x_hat, y, i)
            if adversarial:
                optimisers = (self.discriminator_optimiser, self.table_optimiser)
                row |= discriminator_step(nets.discriminator, targets, optimisers)
                self.table.mark(episode.i)
        match, moves_table = None, False
        if adversarial and self.variant not in WITHOUT_MATCH:
            w = nets.discriminator.table(episode.i)
            moves_table = section.losses.match_pulls == "both"
            match = losses.match_loss(e_hat, w if moves_table else w.detach())
            self.table_optimiser.zero_grad()
        discriminator = nets.discriminator if adversarial else None
        weights = loss_weights(self.profile)
        loss, terms = generator_loss(targets, discriminator, self.extractors, weights, match)
        table = [nets.discriminator.table.weight] if moves_table else []
        generator_row = generator_step(loss, terms, self.generator_optimiser, table)
        if moves_table and torch.isfinite(generator_row["grad_norm"]):
            self.table_optimiser.step()
        self._average()
        self.step += 1
        with torch.no_grad():
            row |= generator_row
            row["e_within"] = e_each.var(1, unbiased=False).mean()
            row["e_between"] = e_hat.var(0, unbiased=False).mean()
            if len(x_hat) > 1:  # else there is nothing to compare with
                row["output_spread"] = x_hat.std(0).mean()
        return read_row(row)

    def _starts_from_embeddings(self) -> bool:
        """Whether W starts as embeddings. Not in the ablation of L_MCH, which would start with a match."""
        section = self.profile.few_shot.meta_learning
        return section.table_start == "embeddings" and self.variant not in ABLATED

    @torch.no_grad()
    def _start_table(self) -> None:
        """Initialise W with the embeddings of its videos and w₀ with minus their mean.

        With thousands of videos and few episodes of each, random columns would hardly move, and L_MCH would
        pull ê to noise. With this w₀ the mean score is about 0.
        """
        d, videos = self.nets.discriminator, self.dataset.videos
        for row, number in enumerate(self.table.numbers().tolist()):
            d.table.weight[row] = self._embedding(videos, number)
        self.table.mark(torch.arange(len(d.table.weight)))
        d.w0.copy_(-self._table_mean())

    def _table_mean(self) -> Tensor:
        """The mean (N,) of the rows of W of all ranks."""
        mean = self.nets.discriminator.table.weight.detach().float().sum(0)
        mean *= distributed.ranks() / len(self.dataset.videos)
        distributed.average([mean])
        return mean

    def _set_learning_rates(self) -> None:
        section = self.profile.few_shot.meta_learning
        factor = 1.0
        if section.learning_rate_decay:
            factor = min(1.0, (self.step + 1) / WARM_UP)
            if self.step > section.content_steps:
                share = (self.step - section.content_steps) / max(1, self.total - section.content_steps)
                factor = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for optimiser, learning_rate in (
            (self.generator_optimiser, section.learning_rate),
            (self.discriminator_optimiser, section.discriminator_learning_rate),
            (self.table_optimiser, section.table_learning_rate),
        ):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * factor

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.profile.few_shot.meta_learning.ema, (1 + self.step) / (10 + self.step))
        pairs: list[tuple[nn.Module, nn.Module]]
        pairs = list(zip(self.ema, (self.nets.embedder, self.nets.generator), strict=True))
        for mean, net in pairs:
            torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - decay)
            for a, b in zip(mean.buffers(), net.buffers(), strict=True):
                a.copy_(b)

    @torch.no_grad()
    def draw(self, episode: Episode) -> Tensor:
        """The targets of an episode as the averaged networks generate them: (B * M, 3, H, W)."""
        embedder, generator = self.ema
        e_hat = embedder.embed(episode.x_s, episode.y_s).repeat_interleave(episode.y_t.shape[1], 0)
        return generator(episode.y_t.flatten(0, 1), e_hat)

    @torch.no_grad()
    def spread(self, videos: Videos, identities: int = 12) -> dict[str, float]:
        """Variance of ê: of the means of two videos over identities, and of videos within an identity.

        For an embedder that distinguishes videos but not identities the first is half of the second.
        """
        numbers: dict[str, list[int]] = defaultdict(list)
        for v in range(len(videos)):
            numbers[videos.identity(v)].append(v)
        pairs = [n[:2] for n in numbers.values() if len(n) > 1][:identities]
        if len(pairs) < 2:
            return {}
        e_hats = torch.stack([torch.stack([self._embedding(videos, v) for v in pair]) for pair in pairs])
        return {"e_people": e_hats.mean(1).var(0).mean().item(), "e_videos": e_hats.var(1).mean().item()}

    def _embedding(self, videos: Videos, number: int) -> Tensor:
        """ê of a video's first K frames, by the averaged embedder: (N,)."""
        section, size = self.profile.few_shot, self.profile.data.image_size
        count = min(section.meta_learning.k_shot, videos.frame_count(number))
        images, points = videos.read(number, np.arange(count))
        y = draw_all(points, size, section.landmark_images.line_width)
        return self.ema[0].embed(to_tensor(images, self.device)[None], to_tensor(y, self.device)[None])[0]

    # -- on disk ------------------------------------------------------------------------------
    def _modules(self) -> tuple[nn.Module, ...]:
        return (self.nets.embedder, self.nets.generator, self.nets.discriminator)

    def _optimisers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.generator_optimiser, self.discriminator_optimiser)

    def state(self, folder: Path) -> dict:
        """Everything that the next step depends on; of W, a part is in files of the folder.

        All ranks take part.
        """
        networks = [net.state_dict() for net in self._modules()]
        del networks[2]["table.weight"]
        return {
            "key": self.key,
            "variant": self.variant,
            "step": self.step,
            "total": self.total,
            "ranks": distributed.ranks(),
            "episodes": self.episodes.number,  # batches that were drawn
            "networks": networks,
            "table": self.table.state(folder, self.step),
            "names": self.names,
            "ema": [net.state_dict() for net in self.ema],
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers()],
            "torch_rng": torch.get_rng_state(),
        }

    def restore(self, state: dict, folder: Path) -> None:
        """Go on from a state. Raises ValueError for other videos: W has a column for each."""
        check_videos(state["table"]["videos"], len(self.dataset.videos), state.get("names"), self.names)
        networks = [*state["networks"], *state["ema"]]
        networks[2] = networks[2] | {"table.weight": self.nets.discriminator.table.weight}
        for net, values in zip((*self._modules(), *self.ema), networks, strict=True):
            net.load_state_dict(values)
        for optimiser, values in zip(self._optimisers(), state["optimisers"], strict=True):
            optimiser.load_state_dict(values)
        self.table.restore(state["table"], folder)
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        self.episodes.seek(distributed.scaled(state["episodes"], state["ranks"]))
        self.total = self.step + self.steps_left(state)

    def steps_left(self, state: dict) -> int:
        """Steps that a saved training still has, on the present ranks."""
        return steps_left(state, self.variant, self.total, self.profile.few_shot.meta_learning.epochs)

    def export(self, path: Path, metadata: dict) -> None:
        """Write what fine-tuning starts from as fp16 safetensors: the averaged E and G, V, w₀ and b.

        Of W only the mean and the standard deviation of its columns are kept. All ranks take part.
        """
        d = self.nets.discriminator
        mean = self._table_mean()
        variance = (d.table.weight.detach().float() - mean).square().sum(0)
        variance *= distributed.ranks() / max(1, len(self.dataset.videos) - 1)
        distributed.average([variance])
        if not distributed.is_main():
            return
        parts: dict[str, nn.Module] = {
            "embedder": self.ema[0],
            "generator": self.ema[1],
            "convnet": d.convnet,
        }
        state = {f"{name}.{k}": v for name, net in parts.items() for k, v in net.state_dict().items()}
        state |= {"d.w0": d.w0, "d.b": d.b, "w.mean": mean, "w.std": variance.sqrt()}
        save_weights(path, state, {**metadata, "variant": self.variant, "step": self.step}, half=True)


def flat_targets(episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
    """Targets x, y as (B * M, 3, H, W) and the numbers of their videos (B * M,)."""
    i = episode.i.repeat_interleave(episode.x_t.shape[1])
    return episode.x_t.flatten(0, 1), episode.y_t.flatten(0, 1), i
