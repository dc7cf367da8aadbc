"""Autoregressive generation (section 4.5): frame by frame, from an identity frame and sound."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.data.sound import FPS, HOP, SOUND_RATE
from talking_heads.data.windows import LENGTH, cut_sound, neighbours
from talking_heads.diffused.control import control_of, open_eyes
from talking_heads.diffused.diffusion import Prediction, cosine_schedule, interpret
from talking_heads.diffused.model import SEED_STRIDE, Conditions, predict
from talking_heads.diffused.sampling import SAMPLERS
from talking_heads.sections.diffused import Diffused

LARGEST_SEED = 2**63  # of PyTorch's generators, exclusive


class Talker(Protocol):
    """What generates talking clips: :class:`Generator`, and the baselines."""

    def talk(
        self,
        identity: Tensor,
        audio: Tensor,
        seeds: Sequence[int],
        earlier: Sequence[Tensor] = (),
        truth: Tensor | None = None,
    ) -> Iterator[Tensor]: ...  # see Generator.talk; methods without motion frames ignore ``truth``


@dataclass
class Generator:
    """A trained network with the settings of a profile."""

    unet: nn.Module
    section: Diffused
    usual_speed: float = 0.0  # of a head in the training clips, where the network has controls

    def frame(self, conditions: Conditions, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Sample one frame of each of B clips: (B, 3, H, W) in [-1, 1].

        ``draw(x)`` returns normal noise in the shape of x.
        """
        sampling, device = self.section.sampling, conditions.identity.device
        steps = self.section.diffusion.steps
        schedule = cosine_schedule(steps, sampling.steps, sampling.spacing).to(device)
        silent = conditions._replace(audio=torch.zeros_like(conditions.audio))
        awake = conditions._replace(control=open_eyes(conditions.control))
        blinks = sampling.blink_guidance != 1.0 and awake.control is not conditions.control

        def output(x_t: Tensor, t: Tensor, given: Conditions) -> Tensor:
            return predict(self.unet, x_t, schedule.timesteps[t], given, self.section.conditions.motion_grey)

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            out = output(x_t, t, conditions)
            if sampling.guidance != 1.0:  # classifier-free guidance on the sound (Ho & Salimans 2022)
                out = guide(out, output(x_t, t, silent), sampling.guidance)
            if blinks:
                out = guide(out, output(x_t, t, awake), sampling.blink_guidance)
            return interpret(schedule, out, x_t, t, self.section.diffusion.prediction)

        arguments = (draw,) if sampling.sampler == "ddpm" else ()
        return SAMPLERS[sampling.sampler](denoise, draw(conditions.identity), schedule, *arguments)

    @torch.no_grad()
    def next_frame(
        self, identity: Tensor, motion: Sequence[Tensor], audio: Tensor, seeds: Sequence[int], number: int
    ) -> Tensor:
        """Frame ``number`` of B clips, (B, 3, H, W), after its motion frames, with its embeddings (B, m, A).

        The noise of each clip depends on its seed and the number alone: so a clip does not depend on which
        others are generated with it.
        """
        generators = [
            torch.Generator().manual_seed((seed * SEED_STRIDE + number) % LARGEST_SEED) for seed in seeds
        ]

        def draw(like: Tensor) -> Tensor:
            noise = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
            return torch.stack(noise).to(like.device)

        noise = self.section.sampling.motion_noise
        stacked = torch.stack([identity, *motion], 1)[:, 1:]  # also where there are none
        if noise:
            stacked = stacked + noise * draw(stacked)
        level, control = torch.full((len(identity),), noise, device=identity.device), None
        if self.section.sampling.control:
            control = control_of(self.section.sampling, self.usual_speed, seeds, number).to(identity.device)
        return self.frame(Conditions(identity, stacked, audio, level, control), draw)

    def talk(
        self,
        identity: Tensor,
        audio: Tensor,
        seeds: Sequence[int],
        earlier: Sequence[Tensor] = (),
        truth: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The frames (B, 3, H, W) of B clips, one after the other.

        ``identity`` (B, 3, H, W) are identity frames and ``audio`` (B, n, 2 m_y + 1, A) the motion audio
        embeddings of n frames (:func:`audio_encoder.embed_clip`); ``seeds`` are those of the clips' noise.
        Missing motion frames are copies of the identity frame. Generation goes on after ``earlier`` frames,
        exactly as if it had not been interrupted. With the true frames ``truth`` (B, n, 3, H, W), these are
        the motion frames in place of the generated ones.
        """
        motion = self.first_motion(identity)
        for k, frame in enumerate(earlier):
            motion = self.following(motion, frame if truth is None else truth[:, k], identity, k)
        for k in range(len(earlier), audio.shape[1]):
            frame = self.next_frame(identity, motion, audio[:, k], seeds, k)
            motion = self.following(motion, frame if truth is None else truth[:, k], identity, k)
            yield frame

    def first_motion(self, identity: Tensor) -> list[Tensor]:
        """The motion frames of the first frame: copies of the identity frame."""
        return [identity] * self.section.conditions.motion_frames

    def following(self, motion: list[Tensor], newest: Tensor, identity: Tensor, number: int) -> list[Tensor]:
        """The motion frames after frame ``number``, which is ``newest``."""
        motion, every = [*motion, newest][1:], self.section.sampling.identity_every
        if motion and every and (number + 1) % every == 0:
            motion[0] = identity
        return motion


def guide(out: Tensor, without: Tensor, weight: float) -> Tensor:
    """The network's output (B, 6, H, W), its first half further from that ``without`` a condition."""
    guided = without[:, :3] + weight * (out[:, :3] - without[:, :3])
    return torch.cat([guided, out[:, 3:]], dim=1)


def clip_seeds(seed: int, numbers: Iterable[int]) -> list[int]:
    """The seeds of the noise of clips with these numbers."""
    return [seed * SEED_STRIDE + number for number in numbers]


def latency_seconds(section: Diffused) -> float:
    """Seconds of sound after the instant of a frame that its generation needs."""
    return section.conditions.audio_windows / FPS + LENGTH / 2 / SOUND_RATE


def stream(
    generator: Generator, encoder: nn.Module, identity: Tensor, chunks: Iterable[np.ndarray], seed: int = 0
) -> Iterator[Tensor]:
    """Frames (1, 3, H, W) while the sound goes in, each :func:`latency_seconds` after its instant.

    ``chunks`` are samples (n,) int16 at 16 kHz, of any length, as loud as the training clips. The frames are
    those of :meth:`Generator.talk` for the whole sound, of which no more is kept than the next frame needs.
    """
    each_side, motion = generator.section.conditions.audio_windows, generator.first_motion(identity)
    sound, dropped, k = np.zeros(0, np.int16), 0, 0  # dropped: windows whose beginning is not kept
    for chunk in chain(chunks, [None]):
        if chunk is None:  # the end: what follows is silence
            windows = ready = dropped + -(-len(sound) // HOP)
        else:
            sound = np.concatenate([sound, chunk])
            windows = max(0, dropped + (len(sound) - LENGTH // 2) // HOP + 1)
            ready = windows - each_side
        while k < ready:
            heard = torch.from_numpy(cut_sound(sound, neighbours(k, windows, each_side) - dropped))
            with torch.no_grad():
                audio = encoder(heard[None].to(identity.device))
            frame = generator.next_frame(identity, motion, audio, [seed], k)
            motion = generator.following(motion, frame, identity, k)
            yield frame
            k += 1
        needless = k - each_side - LENGTH // HOP - dropped
        if needless > 0:
            sound, dropped = sound[needless * HOP :], dropped + needless
