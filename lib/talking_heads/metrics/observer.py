"""USER-proxy: a network in place of the raters of the paper's user study (section 4).

It gets three images of one identity and chooses the fake. The two real ones come from other videos of that
identity, so a fake gives itself away by artefacts or by an identity that does not match. Observers are
cross-fitted: each is tested on methods and identities that it was not trained on. Chance is one third; lower
is better for a method.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.data.frames import to_tensor
from talking_heads.metrics.cross_fitting import convolutional_body, cross_fit, fit, methods_by_group
from talking_heads.nn.precision import mixed_precision

VERSION = 2  # of USER-proxy: raised when the same frames give other rates
CHANCE = 1 / 3
BATCH = 24  # triplets of a training step
COLUMNS = ["method", "identity", "USER-proxy", "control"]

FramesByIdentity = Mapping[str, np.ndarray]  # generated frames (n, S, S, 3) uint8
VideosByIdentity = Mapping[str, Sequence[np.ndarray]]  # real frames (m, S, S, 3) uint8 of each video


class Observer(nn.Module):
    """Scores how likely each of three images (B, 3, 3, S, S) is the fake: (B, 3) logits."""

    precision = "auto"

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 96)):
        super().__init__()
        self.body = convolutional_body(3, widths)
        self.head = nn.Sequential(nn.Linear(8 * widths[-1], 96), nn.ReLU(), nn.Linear(96, 1))

    @mixed_precision
    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # (B, 3, 4 * widths[-1])
        others = (z.sum(1, keepdim=True) - z) / 2  # the mean of the other two images
        differences = (z - others).abs()
        return self.head(torch.cat([z, differences], -1))[..., 0]


@dataclass(frozen=True)
class ObserverSettings:
    """How observers are trained and tested."""

    steps: int = 200  # of training each observer
    triplets: int = 32  # of each method and identity, in a test
    seed: int = 0
    device: str | torch.device = "cpu"


DEFAULT_SETTINGS = ObserverSettings()


# -- triplets ---------------------------------------------------------------------------------------
def draw_triplets(
    fakes: np.ndarray, reals: Sequence[np.ndarray], count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """``count`` triplets of one identity, each in random order.

    ``fakes`` (n, S, S, 3) are generated frames, ``reals`` the frames (m, S, S, 3) of each of the identity's
    other videos. The two real images come from two videos where there are two, so that no two of the three
    images share clothes and light. Returns images (count, 3, 3, S, S) in [-1, 1] and the fakes' positions
    (count,).
    """
    images = np.stack([_draw_images(fakes, reals, rng) for _ in range(count)])
    order = np.argsort(rng.random((count, 3)), axis=1)
    shuffled = np.take_along_axis(images, order[:, :, None, None, None], axis=1)
    positions = (order == 0).argmax(1)
    return to_tensor(shuffled), torch.from_numpy(positions)


def _draw_images(fakes: np.ndarray, reals: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A fake and two real images, in this order: (3, S, S, 3)."""
    images = [_draw_one(fakes, rng)]
    for video in rng.choice(len(reals), 2, replace=len(reals) < 2):
        images.append(_draw_one(reals[video], rng))
    return np.stack(images)


def _draw_one(values: Sequence | np.ndarray, rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def _concatenate(triplets: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several results of :func:`draw_triplets` as one."""
    images, positions = zip(*triplets, strict=True)
    return torch.cat(images), torch.cat(positions)


# -- training and test ------------------------------------------------------------------------------
def train_observer(
    groups: Sequence[Sequence[FramesByIdentity]],
    reals: VideosByIdentity,
    identities: Sequence[str],
    settings: ObserverSettings = DEFAULT_SETTINGS,
) -> Observer:
    """An observer trained on these identities and groups of methods; every group is drawn equally often."""
    rng = np.random.default_rng(settings.seed)

    def batch_loss(observer: Observer) -> Tensor:
        images, positions = _draw_batch(groups, reals, identities, rng)
        logits = observer(images.to(settings.device))
        return F.cross_entropy(logits, positions.to(settings.device), label_smoothing=0.05)

    return fit(Observer, batch_loss, settings.steps, settings.seed, settings.device)


def _draw_batch(
    groups: Sequence[Sequence[FramesByIdentity]],
    reals: VideosByIdentity,
    identities: Sequence[str],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """``BATCH`` triplets of random groups, methods and identities."""
    methods = []
    for _ in range(BATCH):
        group = _draw_one(groups, rng)
        methods.append(_draw_one(group, rng))
    triplets = []
    for fakes, identity in zip(methods, rng.choice(identities, BATCH), strict=True):
        triplets.append(draw_triplets(fakes[identity], reals[identity], 1, rng))
    return _concatenate(triplets)


@torch.no_grad()
def detection_rate(
    observer: Observer, triplets: Sequence[tuple[Tensor, Tensor]], device: str | torch.device = "cpu"
) -> float:
    """Share of triplets, as :func:`draw_triplets` returns them, in which the observer chooses the fake."""
    images, positions = _concatenate(triplets)
    choices = observer(images.to(device)).argmax(1).cpu()
    return (choices == positions).float().mean().item()


@dataclass(frozen=True)
class CrossFitting:
    """The frames of an experiment, from which triplets are drawn; see :func:`observe`."""

    fakes: Mapping[str, FramesByIdentity]
    reals: VideosByIdentity
    groups: Mapping[str, str]
    settings: ObserverSettings

    def rate(self, observer: Observer, labels: Sequence[str], identity: str) -> float:
        """How often an observer finds these methods' fakes, in ``settings.triplets`` of all together."""
        count = math.ceil(self.settings.triplets / len(labels))
        number = sorted(self.reals).index(identity)
        triplets = []
        for k, label in enumerate(labels):
            rng = np.random.default_rng([self.settings.seed, number, k])
            triplets.append(draw_triplets(self.fakes[label][identity], self.reals[identity], count, rng))
        return detection_rate(observer, triplets, self.settings.device)

    def test(self, group: str, training_groups: Sequence[str], identities: Sequence[str]) -> list[tuple]:
        """Rows of a group's methods and these identities, by an observer trained on the other identities."""
        labels_of = methods_by_group(self.groups)
        training_labels = [labels_of[name] for name in training_groups]
        training_fakes = [[self.fakes[label] for label in labels] for labels in training_labels]
        training_identities = [i for i in sorted(self.reals) if i not in identities]
        observer = train_observer(training_fakes, self.reals, training_identities, self.settings)
        control_labels = list(chain.from_iterable(training_labels))
        rows = []
        for identity in identities:
            control = self.rate(observer, control_labels, identity)
            for label in labels_of[group]:
                rows.append((label, identity, self.rate(observer, [label], identity), control))
        return rows


def observe(
    fakes: Mapping[str, FramesByIdentity],
    reals: VideosByIdentity,
    groups: Mapping[str, str] | None = None,
    real_groups: Collection[str] = (),
    settings: ObserverSettings = DEFAULT_SETTINGS,
    folder: Path | None = None,
) -> pd.DataFrame:
    """How often observers find each method's fakes: columns method, identity, USER-proxy and control.

    ``fakes`` maps a method to the generated frames of every identity, ``reals`` an identity to the frames of
    each of its other videos. Methods of one group, such as one method at several T, are left out of training
    together; by default every method is a group. Groups in ``real_groups`` consist of real images and are
    never trained on. ``control`` is the rate at which the same observer finds the fakes of methods that it
    was trained on, in as many triplets of the same identity: near chance, it has learned nothing.

    In a ``folder`` for these frames and settings what was measured is kept, so that an interrupted experiment
    goes on. Raises ValueError for fewer than two groups to train on, or fewer than two identities.
    """
    groups = {label: (groups or {}).get(label, label) for label in fakes}
    experiment = CrossFitting(fakes, reals, groups, settings)
    rows = cross_fit(experiment.test, groups.values(), real_groups, reals, settings.device, folder)
    return pd.DataFrame(rows, columns=COLUMNS)
