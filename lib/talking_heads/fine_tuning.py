"""Few-shot learning by fine-tuning (section 3.3): T frames of a new person to a head of its own."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from .meta_learning import Networks, adam, autocast, discriminator_step, generator_step, loss_weights
from .networks.discriminator import FineTunedDiscriminator
from .networks.generator import Generator
from .profiles import Profile


class Head(nn.Module):
    """G'(y; ψ, ψ'): one person's generator; ψ' starts as P ê_NEW and is a parameter of its own."""

    def __init__(self, generator: Generator, e_new: Tensor | None, psi: Tensor | None = None):
        super().__init__()
        self.generator = copy.deepcopy(generator)
        with torch.no_grad():
            psi = self.generator.projection(e_new.reshape(1, -1)).float() if psi is None else psi.clone()
        self.psi = nn.Parameter(psi)
        self.generator.projection.requires_grad_(False)  # P has done its work

    def forward(self, y: Tensor) -> Tensor:
        """Landmark images (B, 3, H, W) -> frames (B, 3, H, W) in [-1, 1]."""
        return self.generator.synthesise(y, self.psi)


@dataclass
class FineTuning:
    """A fine-tuning that has been set up: G', D', and what it learns from."""

    head: Head
    discriminator: FineTunedDiscriminator
    x: Tensor  # (T, 3, H, W)
    y: Tensor
    profile: Profile
    extractors: Sequence
    adversarial: bool = True
    rows: list[dict] = field(default_factory=list)

    def __post_init__(self):
        p, h = self.profile, self.head
        self.generator_optimiser = adam([v for v in h.parameters() if v.requires_grad], p.tune_rate, p.beta1)
        self.discriminator_optimiser = adam(self.discriminator.parameters(), p.tune_discriminator_rate, p.discriminator_beta1)
        self.weights = loss_weights(p)
        self.weights.adversarial = p.tune_adversarial_weight
        self.cast = autocast(p.precision, self.x.device)
        with self.cast, torch.no_grad():  # the same frames come in every epoch
            self.features = [extractor(self.x) for extractor in self.extractors]

    def step(self, index: Tensor) -> dict[str, float]:
        """One update of D' and of G' on the training frames ``index`` (B,): equations (10) and (9)."""
        x, y = self.x[index], self.y[index]
        with self.cast:
            x_hat = self.head(y)
        row = {}
        for _ in range(self.profile.discriminator_steps if self.adversarial else 0):
            row |= discriminator_step(self.discriminator, x, x_hat, y, None, [self.discriminator_optimiser], self.cast)
        row |= generator_step(x, x_hat, y, None, self.discriminator if self.adversarial else None, self.extractors,
                              self.weights, self.generator_optimiser, self.cast, known=[[f[index] for f in layers] for layers in self.features])
        return row


def set_up(nets: Networks, x: Tensor, y: Tensor, profile: Profile, extractors: Sequence, *,
           adversarial: bool = True, e_new: Tensor | None = None, psi: Tensor | None = None, w: Tensor | None = None) -> FineTuning:
    """G' and D' for T frames x with landmark images y, (T, 3, H, W), from meta-learned networks.

    ``adversarial``, ``e_new``, ``psi`` and ``w`` are what the ablations change: no L'_ADV, another ê_NEW, ψ' or w'.
    """
    nets.embedder.eval(), nets.generator.eval(), nets.discriminator.eval()
    with torch.no_grad(), autocast(profile.precision, x.device):
        e = nets.embedder.embed(x[None], y[None])[0].float() if e_new is None else e_new  # equation (7)
        head = Head(nets.generator, e, psi)
    discriminator = FineTunedDiscriminator(nets.discriminator, e, w)
    return FineTuning(head.train(), discriminator.train(), x, y, profile, extractors, adversarial)


def steps_per_epoch(frames: int, batch: int) -> int:
    """ceil(T / batch)."""
    return -(-frames // batch)


def batches(frames: int, batch: int, epochs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Shuffled batches of min(T, ``batch``) frames: ceil(T / batch) steps an epoch, the last one filled up from the first."""
    size = min(frames, batch)
    for _ in range(epochs):
        yield from np.resize(rng.permutation(frames), (steps_per_epoch(frames, size), size))


def fine_tune(tuning: FineTuning, seed: int = 0, *, epochs: int | None = None,
              watch: Callable[[int, FineTuning], bool | None] | None = None, log: bool = False) -> Head:
    """Run the profile's epochs; returns G' in eval mode.

    ``watch(step, tuning)`` is called before the first and after every step and stops the run by returning True.
    """
    p = tuning.profile
    epochs = p.tune_epochs if epochs is None else epochs
    rng = np.random.default_rng(seed)
    total = epochs * steps_per_epoch(len(tuning.x), p.tune_batch)
    start = said = time.time()
    if watch and watch(0, tuning):
        return tuning.head.eval()
    for step, index in enumerate(batches(len(tuning.x), p.tune_batch, epochs, rng), start=1):
        tuning.rows.append({"step": step, **tuning.step(torch.as_tensor(index, device=tuning.x.device))})
        if log and time.time() - said > 10:
            said = time.time()
            print(f"  fine-tuning step {step}/{total}, {(said - start) / step:.2f} s a step", flush=True)
        if watch and watch(step, tuning):
            break
    return tuning.head.eval()
