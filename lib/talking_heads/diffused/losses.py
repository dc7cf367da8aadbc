"""The losses of sections 3 and 4.4: pure functions that return one value for each sample.

Network outputs and targets are ε or v, (B, 3, H, W). The expectation over t, x_0 and ε in the equations is
the mean over the batch, which the training step takes.
"""

import math

import torch
from torch import Tensor

from talking_heads.diffused.diffusion import Schedule, at, interpret, posterior_mean

HALF_LEVEL = 1 / 255  # half the distance of two levels of uint8 in [-1, 1]


def simple_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """L_simple of equation (9), a mean over pixels: (B,)."""
    return (predicted - target).square().mean((1, 2, 3))


def lip_loss(predicted: Tensor, target: Tensor, mouth: Tensor) -> Tensor:
    """L_ls of equation (18), a mean over the pixels of the target frame's mouth: (B,).

    ``mouth`` (B, 4) are boxes left, top, right, bottom in pixels; right and bottom lie outside.
    """
    height, width = target.shape[-2:]
    left, top, right, bottom = mouth.to(target.device)[:, :, None].unbind(1)
    x, y = (torch.arange(n, device=target.device) for n in (width, height))
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    error = (predicted - target).square().mean(1) * inside
    return error.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def min_snr_weight(schedule: Schedule, t: Tensor, gamma: float, prediction: str) -> Tensor:
    """The weight (B,) of L_simple by Hang et al. 2023: min(SNR, γ) over SNR for ε, over SNR + 1 for v."""
    alpha_bar = schedule.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar)
    return (snr.clamp(max=gamma) / (snr + 1 if prediction == "velocity" else snr)).float()


def variational_bound(
    schedule: Schedule, output: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, prediction: str
) -> Tensor:
    """The term of L_vlb that belongs to t, equations (11) and (12), in bits per dimension: (B,).

    The mean of the network's output is detached, so that this loss trains the variance alone.
    """
    mean_output, nu = output.chunk(2, dim=1)
    frozen = torch.cat([mean_output.detach(), nu], dim=1)
    predicted = interpret(schedule, frozen, x_t, t, prediction, clamp=False)
    mean = posterior_mean(schedule, predicted.x_0, x_t, t)
    true_mean = posterior_mean(schedule, x_0, x_t, t)
    true_log_variance = at(schedule.posterior_log_variance, t).float()
    kl = normal_kl(true_mean, true_log_variance, mean, predicted.log_variance)
    decoder = -discretised_log_likelihood(x_0, mean, 0.5 * predicted.log_variance)
    nats = torch.where((t == 0)[:, None, None, None], decoder, kl)
    return nats.mean((1, 2, 3)) / math.log(2)


def normal_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL divergence of two normal distributions, elementwise, in nats."""
    difference = log_variance_1 - log_variance_2
    distance = (mean_1 - mean_2).square() * torch.exp(-log_variance_2)
    return 0.5 * (-1 - difference + difference.exp() + distance)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability, elementwise, of levels x of uint8 in [-1, 1] under a discretised normal distribution.

    The outermost levels take the tails (Ho et al. 2020, equation 13).
    """
    scale = log_scale.exp()
    above = torch.special.ndtr((x + HALF_LEVEL - mean) / scale)
    below = torch.special.ndtr((x - HALF_LEVEL - mean) / scale)
    above = torch.where(x > 0.999, torch.ones_like(above), above)
    below = torch.where(x < -0.999, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-12).log()
