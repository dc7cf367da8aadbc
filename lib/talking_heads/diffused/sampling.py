"""Samplers: one function for each published algorithm, from noise to frames.

``denoise(x_t, t)`` returns a :class:`diffusion.Prediction` for steps t (B,) of ``schedule``, which may be
respaced. All samplers return x_0, (B, 3, H, W) in [-1, 1] where the prediction is clamped.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from talking_heads.diffused.diffusion import Prediction, Schedule, at, posterior_mean

Denoise = Callable[[Tensor, Tensor], Prediction]


def ddpm(
    denoise: Denoise, x: Tensor, schedule: Schedule, draw: Callable[[Tensor], Tensor] = torch.randn_like
) -> Tensor:
    """Ancestral sampling with the learned variance (Ho et al. 2020, algorithm 2), as in the paper.

    ``draw(x)`` returns normal noise in the shape of x.
    """
    for i in reversed(range(len(schedule))):
        t = torch.full((len(x),), i, device=x.device)
        predicted = denoise(x, t)
        x = posterior_mean(schedule, predicted.x_0, x, t)
        if i:
            x = x + torch.exp(0.5 * predicted.log_variance) * draw(x)
    return x


def ddim_step(schedule: Schedule, predicted: Prediction, t: Tensor) -> Tensor:
    """x (B, 3, H, W) one step after steps t (B,): Song et al. 2021, equation 12 with σ = 0, no noise."""
    previous = at(schedule.alpha_bar_previous, t)
    return previous.sqrt().float() * predicted.x_0 + (1 - previous).sqrt().float() * predicted.epsilon


def ddim(denoise: Denoise, x: Tensor, schedule: Schedule) -> Tensor:
    """DDIM: :func:`ddim_step` from the last step to the first."""
    for i in reversed(range(len(schedule))):
        t = torch.full((len(x),), i, device=x.device)
        x = ddim_step(schedule, denoise(x, t), t)
    return x


def dpm_solver(denoise: Denoise, x: Tensor, schedule: Schedule) -> Tensor:
    """DPM-Solver++ (2M) on x_0 predictions (Lu et al. 2022, algorithm 2); first and last step of order 1."""
    alpha, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    log_snr = torch.log(alpha / sigma)  # λ
    earlier: Tensor | None = None  # the prediction at the step before
    for i in reversed(range(len(schedule))):
        x_0 = denoise(x, torch.full((len(x),), i, device=x.device)).x_0
        if i == 0:  # λ is infinite at the end
            return x_0
        h = log_snr[i - 1] - log_snr[i]
        direction = x_0
        if earlier is not None:
            r = (log_snr[i] - log_snr[i + 1]) / h
            direction = x_0 + (x_0 - earlier) * (1 / (2 * r)).float()
        decay, step = sigma[i - 1] / sigma[i], alpha[i - 1] * torch.expm1(-h)
        x = decay.float() * x - step.float() * direction
        earlier = x_0
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ddpm, "ddim": ddim, "dpm_solver": dpm_solver}
