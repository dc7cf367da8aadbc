"""Autoregressive generation (section 4.5): frame by frame, from an identity frame and sound."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from talking_heads.config import Diffused
from talking_heads.diffused.diffusion import Prediction, cosine_schedule, interpret
from talking_heads.diffused.model import Conditions, predict
from talking_heads.diffused.sampling import SAMPLERS

SEED_STRIDE = 1_000_003  # between the seeds of clips; more than the frames of any


@dataclass
class Generator:
    """A trained network with the settings of a profile."""

    unet: nn.Module
    section: Diffused

    def frame(self, conditions: Conditions, generator: torch.Generator) -> Tensor:
        """Sample one frame of each of B clips: (B, 3, H, W) in [-1, 1]."""
        sampling, device = self.section.sampling, conditions.identity.device
        schedule = cosine_schedule(self.section.diffusion.steps, sampling.steps).to(device)
        silent = conditions._replace(audio=torch.zeros_like(conditions.audio))

        def output(x_t: Tensor, t: Tensor, given: Conditions) -> Tensor:
            return predict(self.unet, x_t, schedule.timesteps[t], given, self.section.conditions.motion_grey)

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            out = output(x_t, t, conditions)
            if sampling.guidance != 1.0:  # classifier-free guidance on the sound (Ho & Salimans 2022)
                without = output(x_t, t, silent)[:, :3]
                out = torch.cat([without + sampling.guidance * (out[:, :3] - without), out[:, 3:]], dim=1)
            return interpret(schedule, out, x_t, t, self.section.diffusion.prediction)

        noise = torch.randn(conditions.identity.shape, generator=generator).to(device)
        arguments = (generator,) if sampling.sampler == "ddpm" else ()
        return SAMPLERS[sampling.sampler](denoise, noise, schedule, *arguments)

    @torch.no_grad()
    def talk(
        self,
        identity: Tensor,
        audio: Tensor,
        seed: int = 0,
        earlier: Sequence[Tensor] = (),
        truth: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The frames (B, 3, H, W) of B clips, one after the other.

        ``identity`` (B, 3, H, W) are identity frames and ``audio`` (B, n, A) the embeddings of the windows of
        n frames. Missing motion frames are copies of the identity frame; missing embeddings repeat the first
        or the last. Generation goes on after ``earlier`` frames, exactly as if it had not been interrupted:
        the noise of a frame depends on the seed and its number alone. With the true frames ``truth``
        (B, n, 3, H, W), these are the motion frames in place of the generated ones.
        """
        section, count = self.section.conditions, audio.shape[1]
        motion = [identity] * section.motion_frames
        level = torch.zeros(len(identity), device=identity.device)  # of noise on motion frames: none
        for frame in earlier:
            motion = [*motion, frame][1:] if motion else []
        for k in range(len(earlier), count):
            generator = torch.Generator().manual_seed(seed * SEED_STRIDE + k)
            around = torch.arange(k - section.audio_windows, k + section.audio_windows + 1)
            stacked = torch.stack([identity, *motion], 1)[:, 1:]  # also where there are none
            heard = audio[:, around.clamp(0, count - 1)]
            frame = self.frame(Conditions(identity, stacked, heard, level), generator)
            newest = frame if truth is None else truth[:, k]
            motion = [*motion, newest][1:] if motion else []
            yield frame
