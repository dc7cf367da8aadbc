"""The two updates of a step, of D and of E and G (sections 3.2 and 3.3), which meta-learning and fine-tuning
share.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from talking_heads.config import Profile
from talking_heads.few_shot import losses
from talking_heads.training.distributed import average_gradients

CLIP = 100.0  # norm of the gradient of E and G, about ten times the usual one


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of equation (3)."""

    adversarial: float
    feature_matching: float
    feature_matching_reduce: str
    match: float


def loss_weights(profile: Profile) -> LossWeights:
    """The profile's weights in meta-learning."""
    section = profile.few_shot.losses
    return LossWeights(
        section.adversarial_weight,
        section.feature_matching_weight,
        section.feature_matching_reduce,
        section.match_weight,
    )


@dataclass
class Targets:
    """Real frames x, generated frames x̂, landmark images y (B, 3, H, W), numbers of their videos i (B,).

    In fine-tuning i is None, because D' has one vector w'.
    """

    x: Tensor
    x_hat: Tensor
    y: Tensor
    i: Tensor | None = None


def discriminator_step(
    discriminator: Callable, targets: Targets, optimisers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """One update of D on L_DSC, equation (6). E and G get no gradient."""
    x, y, i = torch.cat([targets.x_hat.detach(), targets.x]), targets.y, targets.i
    r, _ = discriminator(x, torch.cat([y, y]), None if i is None else torch.cat([i, i]))
    r_fake, r_real = r.chunk(2)
    loss = losses.discriminator_loss(r_fake, r_real)
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    parameters = [p for group in optimisers[0].param_groups for p in group["params"]]
    table = [p for optimiser in optimisers[1:] for group in optimiser.param_groups for p in group["params"]]
    average_gradients(parameters, table)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    step_if_finite(optimisers[0], norm)
    for optimiser in optimisers[1:]:
        if torch.isfinite(norm):  # SparseAdam waits for the device in any case
            optimiser.step()
    return {"dsc": loss, "r_real": r_real.mean(), "r_fake": r_fake.mean(), "d_grad_norm": norm}


def generator_loss(
    targets: Targets,
    discriminator: nn.Module | None,
    extractors: Sequence,
    weights: LossWeights,
    match: Tensor | None = None,
    real_features: Sequence | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation (3), or (9) of fine-tuning: the loss of E and G, and its terms.

    ``discriminator=None`` omits L_ADV; ``match=None`` omits L_MCH.
    ``real_features`` are those of :func:`losses.content_loss`. The parameters of D get no gradient.
    """
    x, x_hat, y, i = targets.x, targets.x_hat, targets.y, targets.i
    terms = {"cnt": losses.content_loss(x_hat, x, extractors, real_features)}
    loss = terms["cnt"]
    if discriminator is not None:
        discriminator.requires_grad_(False)
        r_fake, fake = discriminator(x_hat, y, i)
        with torch.no_grad():
            _, real = discriminator(x, y, i)
        discriminator.requires_grad_(True)
        terms["adv"] = losses.realism_loss(r_fake)
        terms["fm"] = losses.feature_matching_loss(fake, real, weights.feature_matching_reduce)
        loss = loss + weights.adversarial * terms["adv"] + weights.feature_matching * terms["fm"]
    if match is not None:
        terms["mch"] = match
        loss = loss + weights.match * match
    return loss, terms


def generator_step(
    loss: Tensor,
    terms: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    table: Sequence[nn.Parameter] = (),
) -> dict[str, Tensor]:
    """One update of E and G (or G') on :func:`generator_loss`, with gradients clipped to ``CLIP``.

    ``table`` is W where L_MCH moves it; it gets its gradient, and is not updated.
    """
    optimiser.zero_grad()
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    average_gradients(parameters, table)
    norm = nn.utils.clip_grad_norm_(parameters, CLIP)
    step_if_finite(optimiser, norm)
    return terms | {"grad_norm": norm}


def step_if_finite(optimiser: torch.optim.Optimizer, norm: Tensor) -> None:
    """A step of a fused Adam, unless the norm () of the gradient is not finite; the device itself decides.

    Without the step the alarm ends the training with the weights of the step before.
    """
    optimiser.found_inf = (~torch.isfinite(norm)).float()
    optimiser.step()


def adam(parameters: Iterable[nn.Parameter], learning_rate: float, beta1: float) -> torch.optim.Adam:
    """The optimiser of E, G and D (section 3.4: Adam; β and ε as in SAGAN)."""
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(float(beta1), 0.999), eps=1e-5, fused=True)
