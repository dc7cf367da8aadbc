"""Turing-proxy: networks in place of the raters of a Turing test with clips (section 5.3, Table 2).

An observer sees some consecutive frames of a clip, without its sound, and votes whether they are real.
Observers are cross-fitted: each votes on methods and identities that it was not trained on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.data.frames import to_tensor
from talking_heads.metrics.cross_fitting import convolutional_body, cross_fit, fit, methods_by_group
from talking_heads.nn.precision import mixed_precision

VERSION = 1  # raised when the same clips give other votes
SNIPPET = 8  # frames that an observer sees
BATCH = 32  # snippets of a training step, half of them real
VOTES = "votes for real"
COLUMNS = ["method", "identity", VOTES, "true clips", "control"]

ClipsByIdentity = Mapping[str, np.ndarray]  # frames (n, S, S, 3) uint8 of a clip of every identity


class ClipObserver(nn.Module):
    """Scores how real snippets (B, L, 3, S, S) are, by a frame and the changes from each to the next: (B,)
    logits.
    """

    precision = "auto"

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 96)):
        super().__init__()
        self.body = convolutional_body(3 * SNIPPET, widths)
        self.head = nn.Sequential(nn.Linear(4 * widths[-1], 96), nn.ReLU(), nn.Linear(96, 1))

    @mixed_precision
    def forward(self, x: Tensor) -> Tensor:
        changes = (x[:, 1:] - x[:, :-1]).abs()
        return self.head(self.body(torch.cat([x[:, :1], changes], 1).flatten(1, 2)))[:, 0]


@dataclass(frozen=True)
class ClipObserverSettings:
    """How observers are trained and tested."""

    steps: int = 200  # of training each observer
    snippets: int = 16  # of each clip, in a test
    seed: int = 0
    device: str | torch.device = "cpu"


def draw_snippet(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``SNIPPET`` consecutive frames of a clip (n, S, S, 3), without its first frame, which may be given."""
    start = int(rng.integers(1, len(clip) - SNIPPET + 1))
    return clip[start : start + SNIPPET]


def train_observer(
    groups: Sequence[Sequence[ClipsByIdentity]],
    reals: ClipsByIdentity,
    identities: Sequence[str],
    settings: ClipObserverSettings,
) -> ClipObserver:
    """An observer trained on these identities and groups of methods; every group is drawn equally often."""
    rng = np.random.default_rng(settings.seed)
    real = (torch.arange(BATCH, device=settings.device) % 2).float()

    def batch_loss(observer: ClipObserver) -> Tensor:
        snippets = []
        for number in range(BATCH):
            group = groups[int(rng.integers(len(groups)))]
            clips = reals if number % 2 else group[int(rng.integers(len(group)))]
            snippet = draw_snippet(clips[str(rng.choice(identities))], rng)
            snippets.append(snippet[:, :, ::-1] if rng.random() < 0.5 else snippet)
        logits = observer(_as_input(snippets, settings.device))
        return F.binary_cross_entropy_with_logits(logits, 0.05 + 0.9 * real)  # smoothed labels

    return fit(ClipObserver, batch_loss, settings.steps, settings.seed, settings.device)


def _as_input(snippets: Sequence[np.ndarray], device: str | torch.device) -> Tensor:
    """Snippets (B, L, 3, S, S) in [-1, 1]."""
    return to_tensor(np.stack(snippets), device)


@dataclass(frozen=True)
class CrossFitting:
    """The clips of an experiment; see :func:`observe`."""

    fakes: Mapping[str, ClipsByIdentity]
    reals: ClipsByIdentity
    groups: Mapping[str, str]
    settings: ClipObserverSettings

    @torch.no_grad()
    def votes(self, observer: ClipObserver, clip: np.ndarray) -> float:
        """The share of a clip's snippets that an observer takes for real."""
        rng = np.random.default_rng(self.settings.seed)
        snippets = [draw_snippet(clip, rng) for _ in range(self.settings.snippets)]
        return float((observer(_as_input(snippets, self.settings.device)) > 0).float().mean())

    def test(self, group: str, training_groups: Sequence[str], identities: Sequence[str]) -> list[tuple]:
        """Rows of a group's methods and these identities, by an observer trained on the other identities."""
        methods = methods_by_group(self.groups)
        training = [[self.fakes[method] for method in methods[name]] for name in training_groups]
        training_identities = [i for i in sorted(self.reals) if i not in identities]
        observer = train_observer(training, self.reals, training_identities, self.settings)
        rows = []
        for identity in identities:
            real = self.votes(observer, self.reals[identity])
            control = np.mean([self.votes(observer, clips[identity]) for clips in chain(*training)])
            for method in methods[group]:
                share = self.votes(observer, self.fakes[method][identity])
                rows.append((method, identity, share, real, float(control)))
        return rows


def observe(
    fakes: Mapping[str, ClipsByIdentity],
    reals: ClipsByIdentity,
    groups: Mapping[str, str],
    test_only: Collection[str] = (),
    settings: ClipObserverSettings | None = None,
) -> pd.DataFrame:
    """The share of snippets that observers take for real: columns method, identity and those of ``COLUMNS``.

    ``fakes`` maps a method to a generated clip of every identity, ``reals`` an identity to its true clip;
    clips have more than ``SNIPPET`` frames. Methods of one group are left out of training together; those of
    groups in ``test_only`` are never trained on. "true clips" is the share of the true clip of the same
    identity, and "control" that of the methods that the observer was trained on, both by the same observer:
    near "true clips", it has learned nothing.

    Raises ValueError for clips that are too short, fewer than two groups to train on, or fewer than two
    identities.
    """
    settings = settings or ClipObserverSettings()
    shortest = min(len(clip) for clips in (reals, *fakes.values()) for clip in clips.values())
    if shortest <= SNIPPET:
        raise ValueError(f"a clip has {shortest} frames; observers need {SNIPPET + 1}")
    experiment = CrossFitting(fakes, reals, groups, settings)
    rows = cross_fit(experiment.test, groups.values(), test_only, reals, settings.device)
    return pd.DataFrame(rows, columns=COLUMNS)
