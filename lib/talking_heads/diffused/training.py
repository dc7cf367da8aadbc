"""Training of the denoising network (sections 4.1 and 4.4)."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talking_heads.config import Profile, digest
from talking_heads.data.speakers import clips as speaker_clips
from talking_heads.data.windows import TalkingClips, WindowDataset, Windows, WindowSettings
from talking_heads.diffused.diffusion import cosine_schedule, interpret, q_sample, training_target
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.losses import lip_loss, min_snr_weight, simple_loss, variational_bound
from talking_heads.diffused.model import (
    SEED_STRIDE,
    Conditions,
    adapt_weights,
    build_unet,
    control_state,
    predict,
)
from talking_heads.files import sha256
from talking_heads.nn.weight_files import load_weights, save_weights
from talking_heads.sections.diffused import Diffused, Sampling
from talking_heads.training import distributed
from talking_heads.training.checkpoints import check_videos, key_of, names_digest
from talking_heads.training.rank_batches import RankBatches
from talking_heads.training.rows import read_row

VERSION = 1  # raised when the same settings give other weights
START = "weights at the start"  # in settings and provenance: the digest of the weights
WARM_UP = 200  # steps in which the learning rate rises
CLIP = 1.0  # largest norm of the gradient
SECTIONS = ("conditions", "audio_encoder", "network", "diffusion", "training")  # that weights depend on


def training_settings(profile: Profile, sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """Every section that the weights depend on, and the versions of the code."""
    diffused = {f"diffused.{name}": getattr(profile.diffused, name) for name in sections}
    return {"version of the code": VERSION, **clip_settings(profile), **diffused}


def clip_settings(profile: Profile) -> dict[str, Any]:
    """The seed, and the sections that the training clips depend on."""
    videos = profile.data.real
    corpus = {"data": profile.data} if videos else {"version of the renderer": speaker_clips.VERSION}
    return {"seed": profile.seed, **corpus, "diffused.clips": profile.diffused.clips}


def model_key(section: Diffused, encoder: nn.Module) -> str:
    """Changes with everything that weights must agree with where they are used."""
    clips = (section.clips.image_size, section.clips.alignment)
    parts = (section.conditions, section.audio_encoder, section.network, section.diffusion.prediction)
    return digest(*clips, section.diffusion.steps, *parts, encoder_digest(encoder))


def encoder_digest(encoder: nn.Module) -> str:
    """Changes with the weights of a frozen encoder."""
    state = {name: value.cpu().numpy().tobytes().hex() for name, value in encoder.state_dict().items()}
    return digest(state)


def step_seed(seed: int, rank: int, step: int) -> int:
    """The seed of the random draws of a rank in a step."""
    return (seed + rank * SEED_STRIDE) * SEED_STRIDE + step


def decay_factor(step: int, total: int, share: float) -> float:
    """The factor of the learning rate: 1, then a cosine to 0 over the last ``share`` of the steps."""
    if not share:
        return 1.0
    progress = max(0.0, 1 - (total - step) / (share * total))
    return 0.5 * (1 + math.cos(math.pi * progress))


def noised_motion(motion: Tensor, highest: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Motion frames (B, m_x, 3, H, W) with noise of a random level up to ``highest``, and the level (B,)."""
    level = highest * torch.rand(len(motion), generator=generator).to(motion.device)
    noise = torch.randn(motion.shape, generator=generator).to(motion.device)
    return motion + level[:, None, None, None, None] * noise, level


def combined(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One row of a log from those of the parts of a batch: sums of shares, and means of quartiles."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    totals = {name: torch.stack(v).sum(0) for name, v in values.items()}
    return {name: v / len(values[name]) if "_q" in name else v for name, v in totals.items()}


class DiffusionLearner:
    """The network, its moving average, the optimiser and the data: everything that a checkpoint holds.

    All random draws of a step depend on (seed, rank, step) alone. Several ranks share a batch; raises
    ValueError where they cannot divide it, and as :meth:`check` does.
    """

    variant = "diffusion"
    content_steps = 0
    sections: tuple[str, ...] = SECTIONS
    controlled = False

    def __init__(
        self,
        profile: Profile,
        clips: TalkingClips,
        encoder: nn.Module,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ):
        self.check(profile)
        section = profile.diffused
        torch.manual_seed(profile.seed)
        self.section, self.seed, self.device = section, profile.seed, device
        self.encoder = encoder.to(device).eval().requires_grad_(False)
        self.unet = build_unet(section, self.controlled).to(device).train()
        self.ema = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.optimiser = torch.optim.Adam(
            self.unet.parameters(), lr=section.training.learning_rate, fused=True
        )
        self.schedule = cosine_schedule(section.diffusion.steps).to(device)
        conditions, training = section.conditions, section.training
        batch = distributed.share(training.batch, "diffused.training")
        more = training.rollout_frames if training.rollout_share else 0  # frames and windows before
        settings = WindowSettings(
            batch,
            conditions.motion_frames + more,
            conditions.audio_windows + more,
            training.identity_frame == "first",
            self.controlled,
        )
        self.dataset = WindowDataset(clips, settings, profile.seed, distributed.rank())
        self.names = names_digest(clips)
        self.batches = RankBatches(self.dataset, device, workers)
        self.settings = training_settings(profile, self.sections)
        weights = encoder_digest(self.encoder)
        self.key = digest(key_of(self.settings), weights)
        self.settings["weights of the audio encoder"] = weights
        self.step, self.total = 0, section.training.steps

    def start_from(self, path: Path, source: Diffused) -> None:
        """Begin with finished weights of a network of ``source``, which may have other conditions.

        Raises ValueError where they belong to another network or audio encoder.
        """
        state, metadata = load_weights(path)
        if metadata.get("model") != model_key(source, self.encoder):
            raise ValueError(
                f"{path}: trained with another audio encoder, other conditions or sizes; train the network "
                "with this profile, and begin with it: --weights scratch"
            )
        state = {**control_state(self.unet), **adapt_weights(state, source, self.section)}
        self.unet.load_state_dict(state)
        self.ema.load_state_dict(state)
        self.settings[START] = sha256(path)
        self.key = digest(self.key, sha256(path))

    @staticmethod
    def check(profile: Profile) -> None:
        """Raises ValueError where a profile cannot be trained in this way."""

    # -- one step -----------------------------------------------------------------------------
    def train_step(self) -> dict[str, float]:
        """Draw a batch of windows and update; returns the row of the log."""
        windows = next(self.batches)
        seed = step_seed(self.seed, distributed.rank(), self.step)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # of dropout
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.zero_grad()
        row = self.backward(windows, generator)
        distributed.average_gradients(self.unet.parameters())
        norm = nn.utils.clip_grad_norm_(self.unet.parameters(), CLIP)
        self.optimiser.step()
        self._average()
        self.step += 1
        return read_row({"step": self.step - 1, **row, "grad_norm": norm})

    def backward(self, windows: Windows, generator: torch.Generator) -> dict[str, Tensor]:
        """Accumulate the gradients of a batch, in parts of ``micro_batch``; returns the terms of its loss."""
        rows: list[dict[str, Tensor]] = []
        for part in windows.split(self.section.training.micro_batch):
            share = len(part.x_0) / len(windows.x_0)
            loss, row = self.loss(part, generator)
            (share * loss).backward()
            rows.append({name: value if "_q" in name else share * value for name, value in row.items()})
        return combined(rows)

    def draw(self, windows: Windows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Time steps t (B,), which stay on the CPU, and noise ε (B, 3, H, W) of a batch."""
        t = torch.randint(len(self.schedule), (len(windows.x_0),), generator=generator)
        noise = torch.randn(windows.x_0.shape, generator=generator)
        return t, noise.to(self.device)

    def loss(self, windows: Windows, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation (19) on a batch, and its terms, which are scalars on the device."""
        diffusion, x_0 = self.section.diffusion, windows.x_0
        drawn, noise = self.draw(windows, generator)
        t = drawn.to(self.device)
        x_t = q_sample(self.schedule, x_0, t, noise)
        conditions = self.conditions(windows, generator)
        output = predict(self.unet, x_t, t, conditions, self.section.conditions.motion_grey)
        predicted = output[:, :3]
        target = training_target(self.schedule, x_0, t, noise, diffusion.prediction)
        simple = simple_loss(predicted, target)
        lips = lip_loss(predicted, target, windows.mouth)
        bound = variational_bound(self.schedule, output, x_0, x_t, t, diffusion.prediction)
        weight = torch.ones_like(simple)
        if diffusion.min_snr:
            weight = min_snr_weight(self.schedule, t, diffusion.min_snr, diffusion.prediction)
        each = weight * (simple + diffusion.lip_weight * lips) + diffusion.vlb_weight * bound
        row = self._row(drawn, {"simple": simple, "lips": lips, "vlb": bound})
        if len(x_0) > 1:  # else there is nothing to compare with
            row["output_spread"] = predicted.detach().std(0).mean()
            # the samples with the most noise, whose x_t hardly shows x_0
            late = drawn.topk(max(2, len(drawn) // 4)).indices.to(self.device)
            frames = interpret(self.schedule, output.detach(), x_t, t, diffusion.prediction).x_0
            row["x_0_spread"] = frames[late].std(0).mean() / x_0[late].std(0).mean().clamp(min=1e-3)
        return each.mean(), row

    def conditions(self, windows: Windows, generator: torch.Generator) -> Conditions:
        """The conditions of a batch: sound is left out of some samples, motion frames get noise.

        Windows may have more motion frames than the network, for a self-rollout.
        """
        section, training = self.section.conditions, self.section.training
        motion = windows.motion
        more = motion.shape[1] - section.motion_frames
        if more and torch.rand((), generator=generator) < training.rollout_share:
            motion = self.rollout(windows, generator)
        audio = self.embed(windows, more)
        dropped = torch.rand(len(audio), generator=generator).to(self.device) < section.audio_dropout
        audio = audio.masked_fill(dropped[:, None, None], 0.0)
        motion, level = noised_motion(motion[:, more:], section.motion_noise, generator)
        control = windows.control if self.controlled else None
        return Conditions(windows.identity, motion, audio, level, control)

    @torch.no_grad()
    def embed(self, windows: Windows, first: int) -> Tensor:
        """Motion audio embeddings (B, 2 m_y + 1, A) of a frame, from the window with this number on."""
        count = 2 * self.section.conditions.audio_windows + 1
        return self.encoder(windows.sound[:, first : first + count])

    @torch.no_grad()
    def rollout(self, windows: Windows, generator: torch.Generator) -> Tensor:
        """The motion frames of windows, of which the averaged network generates the newest, one by one.

        Copies of the identity frame remain: they stand for frames before the beginning of a clip.
        """
        training, count = self.section.training, self.section.conditions.motion_frames
        sampling = Sampling(
            sampler="ddim",
            steps=training.rollout_steps,
            spacing="linspace",
            guidance=1.0,
            motion_noise=0.0,
            identity_every=0,
            distilled=False,
            control=False,
            head_motion=1.0,
            blink_rate=0.0,
            blink_guidance=1.0,
        )
        sampler = Generator(self.ema, self.section.model_copy(update={"sampling": sampling}))

        def draw(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like.device)

        frames, level = list(windows.motion.unbind(1)), torch.zeros(len(windows.x_0), device=self.device)
        for k in range(training.rollout_frames):
            motion = torch.stack([windows.identity, *frames[k : k + count]], 1)[:, 1:]
            given = Conditions(windows.identity, motion, self.embed(windows, k), level)
            missing = (frames[k + count] == windows.identity).all((1, 2, 3), keepdim=True)
            frames[k + count] = torch.where(missing, windows.identity, sampler.frame(given, draw))
        return torch.stack(frames, 1)

    def _row(self, t: Tensor, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The means of the terms, over the batch and over each quarter of the time steps t (B,)."""
        row = {name: term.mean() for name, term in terms.items()}
        quarter = 4 * t // len(self.schedule)
        for number in range(4):
            inside = (quarter == number).nonzero()[:, 0]  # a mask on the device would be read back
            if len(inside):
                row |= {f"{name}_q{number + 1}": term[inside].mean() for name, term in terms.items()}
        return row

    def learning_rate(self) -> float:
        """The learning rate of this step."""
        section = self.section.training
        decay = decay_factor(self.step, self.total, section.learning_rate_decay)
        return section.learning_rate * min(1.0, (self.step + 1) / WARM_UP) * decay

    def averaged_steps(self) -> int:
        """Steps since the averaged network was the trained one."""
        return self.step

    @torch.no_grad()
    def _average(self) -> None:
        step = self.averaged_steps()
        decay = min(self.section.training.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.unet.parameters()), 1 - decay)

    # -- on disk ------------------------------------------------------------------------------
    def state(self, folder: Path) -> dict:
        """Everything that the next step depends on."""
        return {
            "key": self.key,
            "variant": self.variant,
            "step": self.step,
            "videos": len(self.dataset.clips),
            "names": self.names,
            "network": self.unet.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict, folder: Path) -> None:
        """Continue from a state. Raises ValueError for other clips."""
        check_videos(state["videos"], len(self.dataset.clips), state.get("names"), self.names)
        self.unet.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.batches.seek(self.step)

    def steps_left(self, state: dict) -> int:
        """Steps that a saved training still has."""
        return max(0, self.total - state["step"])

    def export(self, path: Path, metadata: dict) -> None:
        """Write the averaged network as fp16 safetensors."""
        if not distributed.is_main():
            return
        keys = {"key": self.key, "model": model_key(self.section, self.encoder), "step": self.step}
        if START in self.settings:
            keys[START] = self.settings[START]
        save_weights(path, self.exported_state(), {**metadata, **keys}, half=True)

    def exported_state(self) -> dict[str, Tensor]:
        """The weights that are exported."""
        return self.ema.state_dict()
