"""The loop around every training on many people, ours and the baselines': resumed, logged, watched, saved, stopped by an alarm."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .corpus.episodes import EpisodeSampler
from .files import replacing
from .profiles import Profile, key

if TYPE_CHECKING:
    from .baselines.training import BaselineLearner
    from .meta_learning import MetaLearner


class Collapsed(RuntimeError):
    """The adversarial game has collapsed; the message says how."""


class Alarm:
    """Watches the last ``window`` steps: NaN, a discriminator that died or wins outright, outputs without variety."""

    def __init__(self, window: int = 100):
        self.window, self.history = window, []

    def check(self, row: dict[str, float]) -> None:
        """Raises :class:`Collapsed`."""
        if bad := [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]:
            raise Collapsed(f"step {row['step']}: {', '.join(bad)} not finite")
        self.history = [*self.history, row][-self.window:]
        if len(self.history) < self.window:
            return

        def always(condition) -> bool:
            return all(condition(r) for r in self.history)

        if always(lambda r: "dsc" in r and abs(r["r_real"] - r["r_fake"]) < 1e-6):
            raise Collapsed(f"step {row['step']}: for {self.window} steps D says the same of real and fake frames: it has died; "
                            "lower discriminator_rate")
        if always(lambda r: r.get("dsc", 1.0) < 1e-3 and r.get("r_real", 0) - r.get("r_fake", 0) > 20):
            raise Collapsed(f"step {row['step']}: for {self.window} steps D tells real from fake by more than 20 with no loss left; "
                            "lower discriminator_rate or raise feature_matching_weight")
        if always(lambda r: r["output_spread"] < 1e-3):
            raise Collapsed(f"step {row['step']}: for {self.window} steps all generated frames are alike; lower rate")


def total_steps(profile: Profile, sampler: EpisodeSampler) -> int:
    """Steps of a training: of the profile, or of its epochs of one episode a video."""
    return profile.meta_epochs * math.ceil(len(sampler.usable) / profile.batch_videos) or profile.meta_steps


TRAINING_FIELDS = ("seed", "image_size", "line_width", "pupils", "embedding", "embedder_channels", "embedder_attention", "discriminator_channels",
                   "discriminator_attention", "generator_down", "generator_up", "generator_bottleneck", "generator_attention_down",
                   "generator_attention_up", "spectral_norm_generator", "pool", "pool_discriminator", "extractors", "content_weights", "adversarial_weight",
                   "feature_matching_weight", "feature_matching_reduce", "match_weight", "match_pulls", "k_shot", "k_min", "targets",
                   "batch_videos", "meta_steps", "meta_epochs", "content_steps", "discriminator_steps", "rate", "discriminator_rate", "table_rate", "table_start",
                   "rate_decay", "beta1", "discriminator_beta1", "ema", "precision")


def training_key(profile: Profile) -> str:
    """Changes whenever a value of the profile does that meta-learning reads."""
    return key(profile, *TRAINING_FIELDS)


def save_checkpoint(path: Path, state: dict) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, profile: Profile) -> dict:
    """Raises ValueError where the checkpoint belongs to other settings."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != training_key(profile):
        raise ValueError(f"{path}: belongs to other settings of profile {profile.name}; move it away to train anew")
    return state


def check_videos(trained_on: int, videos: int) -> None:
    """Raises ValueError for a checkpoint of other people."""
    if trained_on != videos:
        raise ValueError(f"the checkpoint was trained on {trained_on} videos, these are {videos}; move it away to train anew")


def rows_before(log: Path, step: int) -> list[str]:
    """The rows of a log, up to a step; a kill may have torn the last one."""
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            if json.loads(line)["step"] >= step:
                break
        except json.JSONDecodeError:
            break
        rows.append(line)
    return rows


def meta_learn(learner: "MetaLearner | BaselineLearner", folder: Path, *, until: int | None = None, seconds: float = math.inf,
               save_every: float = 120.0, watch: Callable[[Any], dict | None] | None = None, watch_every: int = 100) -> "MetaLearner | BaselineLearner":
    """Train to step ``until`` (the profile's end by default) or for ``seconds``; call again to go on.

    ``folder`` gets ``checkpoint.pt`` (by rename, every ``save_every`` seconds and at the end),
    ``content.pt`` at the end of the content steps, and ``stats.jsonl``, a row a step; every ``watch_every`` steps the row
    also holds what ``watch(learner)`` returns. The baselines' learners are trained by this loop too. Raises :class:`Collapsed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "stats.jsonl"
    if checkpoint.exists():
        learner.restore(load_checkpoint(checkpoint, learner.profile))
        print(f"  resumed at step {learner.step}", flush=True)
    log.write_text("".join(line + "\n" for line in rows_before(log, learner.step)))
    until = learner.total if until is None else until
    alarm = Alarm()
    start = said = saved = time.time()
    first = learner.step
    with open(log, "a") as out:
        while learner.step < until and time.time() - start < seconds:
            row = learner.train_step()
            if watch and learner.step % watch_every == 0:
                row |= watch(learner) or {}
            out.write(json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}) + "\n")
            alarm.check(row)
            now = time.time()
            if now - said > 15 or learner.step == until:
                said = now
                pace = (now - start) / (learner.step - first)
                terms = ", ".join(f"{k} {row[k]:.3f}" for k in ("cnt", "l1", "adv", "fm", "mch", "dsc") if k in row)
                print(f"  {learner.variant} step {learner.step}/{until}, {terms}, {pace:.2f} s a step, {pace * (until - learner.step) / 60:.0f} min left", flush=True)
            if learner.step == learner.content_steps:
                save_checkpoint(folder / "content.pt", learner.state())
            if now - saved > save_every:
                saved = now
                out.flush()
                save_checkpoint(checkpoint, learner.state())
    save_checkpoint(checkpoint, learner.state())
    return learner
