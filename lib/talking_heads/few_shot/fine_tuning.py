"""Few-shot learning by fine-tuning (section 3.3): T training frames of a new identity to a head."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from talking_heads.config import Profile
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import Networks
from talking_heads.few_shot.networks.discriminator import FineTunedDiscriminator
from talking_heads.few_shot.updates import (
    Targets,
    adam,
    discriminator_step,
    generator_loss,
    generator_step,
    loss_weights,
)
from talking_heads.training.rows import read_row

VERSION = 1  # of fine-tuning and of generation: raised when the same weights and settings give other frames


@dataclass
class FineTuning:
    """A fine-tuning that has been set up: G', D' and the T training frames."""

    head: Head
    discriminator: FineTunedDiscriminator
    x: Tensor  # (T, 3, H, W)
    y: Tensor
    profile: Profile
    extractors: Sequence
    adversarial: bool = True
    rows: list[dict] = field(default_factory=list)

    def __post_init__(self):
        section, optimiser = self.profile.few_shot.fine_tuning, self.profile.few_shot.optimiser
        trained = [p for p in self.head.parameters() if p.requires_grad]
        self.generator_optimiser = adam(trained, section.learning_rate, optimiser.beta1)
        self.discriminator_optimiser = adam(
            self.discriminator.parameters(),
            section.discriminator_learning_rate,
            optimiser.discriminator_beta1,
        )
        weights = loss_weights(self.profile)
        self.weights = dataclasses.replace(weights, adversarial=section.adversarial_weight)
        with torch.no_grad():  # every epoch has the same frames
            self.features = [extractor(self.x) for extractor in self.extractors]

    def step(self, index: Tensor) -> dict[str, float]:
        """One update of D' and of G' on the training frames ``index`` (B,): equations (10) and (9)."""
        x, y = self.x[index], self.y[index]
        targets = Targets(x, self.head(y), y)
        row: dict[str, Tensor] = {}
        if self.adversarial:
            for _ in range(self.profile.few_shot.optimiser.discriminator_steps):
                row |= discriminator_step(self.discriminator, targets, [self.discriminator_optimiser])
        features = [[layer[index] for layer in layers] for layers in self.features]
        discriminator = self.discriminator if self.adversarial else None
        loss, terms = generator_loss(
            targets, discriminator, self.extractors, self.weights, real_features=features
        )
        return read_row(row | generator_step(loss, terms, self.generator_optimiser))


@dataclass(frozen=True)
class Ablation:
    """What an ablation changes: no L'_ADV, or other initial values of ê_NEW, ψ' and w' than the paper's."""

    adversarial: bool = True
    e_new: Tensor | None = None
    psi: Tensor | None = None
    w: Tensor | None = None


FULL = Ablation()


def set_up(
    nets: Networks, x: Tensor, y: Tensor, profile: Profile, extractors: Sequence, ablation: Ablation = FULL
) -> FineTuning:
    """G' and D' for T training frames x with landmark images y (T, 3, H, W), from meta-learned networks."""
    for net in (nets.embedder, nets.generator, nets.discriminator):
        net.eval()
    e_new = ablation.e_new
    if e_new is None:
        with torch.no_grad():
            e_new = nets.embedder.embed(x[None], y[None])[0]  # equation (7)
    head = Head(nets.generator, e_new, ablation.psi)
    discriminator = FineTunedDiscriminator(nets.discriminator, e_new, ablation.w)
    return FineTuning(head.train(), discriminator.train(), x, y, profile, extractors, ablation.adversarial)


def steps_per_epoch(frames: int, batch: int) -> int:
    """ceil(T / batch): the last batch is filled up."""
    return -(-frames // batch)


def batches(frames: int, batch: int, epochs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The indices of shuffled batches, min(T, ``batch``) frames each, ceil(T / batch) in an epoch.

    The last batch of an epoch is filled up with frames of the first.
    """
    size = min(frames, batch)
    for _ in range(epochs):
        yield from np.resize(rng.permutation(frames), (steps_per_epoch(frames, size), size))


def fine_tune(
    tuning: FineTuning,
    seed: int = 0,
    *,
    epochs: int | None = None,
    watch: Callable[[int, FineTuning], bool | None] | None = None,
    log: bool = False,
) -> Head:
    """Fine-tune for ``epochs``, the profile's number by default; returns G' in eval mode.

    ``watch(step, tuning)`` is called before the first step and after every step; the run stops where it
    returns True.
    """
    section = tuning.profile.few_shot.fine_tuning
    epochs = section.epochs if epochs is None else epochs
    total = epochs * steps_per_epoch(len(tuning.x), section.batch)
    start = reported = time.time()
    if watch and watch(0, tuning):
        return tuning.head.eval()
    order = batches(len(tuning.x), section.batch, epochs, np.random.default_rng(seed))
    for step, index in enumerate(order, start=1):
        tuning.rows.append({"step": step, **tuning.step(torch.as_tensor(index, device=tuning.x.device))})
        if log and time.time() - reported > 10:
            reported = time.time()
            pace = (reported - start) / step
            print(f"  fine-tuning step {step}/{total}, {pace:.2f} s a step", flush=True)
        if watch and watch(step, tuning):
            break
    return tuning.head.eval()
