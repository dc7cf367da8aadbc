"""The diffusion process: its schedule, equations (1) to (8), and what a network's output means."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BETA_MAX = 0.999
OFFSET = 0.008  # s of the cosine schedule


def cosine_betas(steps: int) -> np.ndarray:
    """β (T,) of the cosine schedule (Nichol & Dhariwal 2021, equation 17), at most ``BETA_MAX``."""
    t = np.arange(steps + 1) / steps
    alpha_bar = np.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], BETA_MAX)


@dataclass(frozen=True)
class Schedule:
    """The constants of a diffusion process with n steps, each (n,), in double precision.

    In single precision 1 - ᾱ of the first steps would be wrong by a thousandth.

    ``timesteps`` (n,) are the steps that the network is told; they differ from 0 ... n - 1 in a respaced
    schedule.
    """

    timesteps: Tensor
    beta: Tensor
    alpha_bar: Tensor
    alpha_bar_previous: Tensor
    posterior_variance: Tensor  # β̃, equation (4)
    posterior_log_variance: Tensor  # of the second step in place of the first, whose variance is 0

    def __len__(self) -> int:
        return len(self.beta)

    def to(self, device: str | torch.device) -> "Schedule":
        """The schedule on a device."""
        return Schedule(*(value.to(device) for value in vars(self).values()))


def schedule_from_betas(beta: np.ndarray, timesteps: np.ndarray) -> Schedule:
    """The constants that follow from β (n,), computed in double precision."""
    alpha_bar = np.cumprod(1 - beta)
    previous = np.append(1.0, alpha_bar[:-1])
    variance = beta * (1 - previous) / (1 - alpha_bar)
    log_variance = np.log(np.append(variance[1:2] if len(beta) > 1 else beta, variance[1:]))
    constants = (beta, alpha_bar, previous, variance, log_variance)
    return Schedule(torch.from_numpy(timesteps), *(torch.from_numpy(values) for values in constants))


def respaced_timesteps(steps: int, respaced: int, spacing: str) -> np.ndarray:
    """Evenly spaced ones (respaced,) of the T time steps: "linspace" contains the first and the last, except
    for the only one, which is the last; "trailing" ends T / respaced after the first (Lin et al. 2024).
    """
    if spacing == "trailing" or respaced == 1:
        return (np.arange(1, respaced + 1) * steps / respaced).round().astype(np.int64) - 1
    return np.linspace(0, steps - 1, respaced).round().astype(np.int64)


def cosine_schedule(steps: int, respaced: int | None = None, spacing: str = "linspace") -> Schedule:
    """The cosine schedule of T steps, or its respacing to fewer (section 4.5, :func:`respaced_timesteps`).

    Raises ValueError where there are more steps than T.
    """
    beta, timesteps = cosine_betas(steps), np.arange(steps)
    if respaced is None or respaced == steps:
        return schedule_from_betas(beta, timesteps)
    if respaced > steps:
        raise ValueError(f"{respaced} sampling steps are more than the {steps} of the diffusion process")
    timesteps = respaced_timesteps(steps, respaced, spacing)
    alpha_bar = np.cumprod(1 - beta)[timesteps]
    return schedule_from_betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]), timesteps)


def at(values: Tensor, t: Tensor) -> Tensor:
    """Constants (n,) at steps t (B,), as (B, 1, 1, 1) in double precision."""
    return values[t][:, None, None, None]


def q_sample(schedule: Schedule, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """A sample x_t of q(x_t | x_0), equation (2)."""
    alpha_bar = at(schedule.alpha_bar, t)
    return alpha_bar.sqrt().float() * x_0 + (1 - alpha_bar).sqrt().float() * noise


def velocity(schedule: Schedule, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """v = √ᾱ ε - √(1 - ᾱ) x_0 (Salimans & Ho 2022)."""
    alpha_bar = at(schedule.alpha_bar, t)
    return alpha_bar.sqrt().float() * noise - (1 - alpha_bar).sqrt().float() * x_0


def training_target(schedule: Schedule, x_0: Tensor, t: Tensor, noise: Tensor, prediction: str) -> Tensor:
    """What a network is to predict: ε or v, as ``prediction`` says ("epsilon" or "velocity")."""
    return velocity(schedule, x_0, t, noise) if prediction == "velocity" else noise


def noise_of(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The ε with which x_0 becomes x_t, equation (2)."""
    alpha_bar = at(schedule.alpha_bar, t)
    return (x_t - alpha_bar.sqrt().float() * x_0) / (1 - alpha_bar).sqrt().float()


def posterior_mean(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0), equation (5)."""
    beta, alpha_bar = at(schedule.beta, t), at(schedule.alpha_bar, t)
    previous = at(schedule.alpha_bar_previous, t)
    of_x_0 = previous.sqrt() * beta / (1 - alpha_bar)
    of_x_t = (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar)
    return of_x_0.float() * x_0 + of_x_t.float() * x_t


def learned_log_variance(schedule: Schedule, nu: Tensor, t: Tensor) -> Tensor:
    """log Σ_θ between log β̃ (ν = -1) and log β (ν = 1), equation (8) with (ν + 1) / 2 for its ν."""
    share = (nu + 1) / 2
    log_beta, log_posterior = at(schedule.beta, t).log(), at(schedule.posterior_log_variance, t)
    return share * log_beta.float() + (1 - share) * log_posterior.float()


class Prediction(NamedTuple):
    """What a network's output means for x_t, each (B, 3, H, W)."""

    x_0: Tensor  # in [-1, 1] where it is clamped
    epsilon: Tensor  # the noise that belongs to x_0
    log_variance: Tensor


def interpret(
    schedule: Schedule, output: Tensor, x_t: Tensor, t: Tensor, prediction: str, clamp: bool = True
) -> Prediction:
    """x_0, ε and the variance from a network's output (B, 6, H, W).

    Its first half is ε or v, as ``prediction`` says ("epsilon" or "velocity"), and the second one is ν.
    """
    mean_output, nu = output.chunk(2, dim=1)
    alpha_bar = at(schedule.alpha_bar, t)
    signal, noise = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    if prediction == "velocity":
        x_0 = signal * x_t - noise * mean_output
    else:
        x_0 = (x_t - noise * mean_output) / signal
    if clamp:
        x_0 = x_0.clamp(-1, 1)
    return Prediction(x_0, noise_of(schedule, x_0, x_t, t), learned_log_variance(schedule, nu, t))
