"""The rows of Table 1 and of the ablations: T frames of a person and landmark images in, frames out.

A method makes hold-out frames of one person from that person's training frames. It carries the digest of the weights it
started from, so that results of other weights are never mixed in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..baselines.pix2pixhd import GlobalGenerator
from ..baselines.training import fine_tune_pix2pixhd
from ..baselines.x2face import X2Face
from ..corpus.episodes import to_image
from ..fine_tuning import fine_tune, set_up
from ..meta_learning import Networks, autocast
from ..profiles import Profile

SMALL, LARGE = "small", "large"
BEFORE, AFTER, FEED_FORWARD = "Ours-FT before fine-tuning", "Ours-FT", "Ours-FF"
OURS, OURS_BEFORE, X2FACE, PIX2PIXHD = "Ours", "Ours before fine-tuning", "X2Face", "Pix2pixHD"
NEAREST, MEAN = "nearest training frame", "mean training frame"
TRIVIAL = (NEAREST, MEAN)
CORPUS = {X2FACE: SMALL, PIX2PIXHD: SMALL, OURS_BEFORE: SMALL, OURS: SMALL, FEED_FORWARD: LARGE, BEFORE: LARGE, AFTER: LARGE, NEAREST: "", MEAN: ""}
TABLE1 = tuple(CORPUS)  # the order of its rows

FAMILY = {OURS: "ours", OURS_BEFORE: "ours", FEED_FORWARD: "ours", BEFORE: "ours", AFTER: "ours"}  # an observer of one has seen the others' habits

RANDOM_E, RANDOM_PSI, NORMAL_PSI, OTHERS_E = "random ê", "random ψ̂", "standard normal ψ̂", "another person's ê"
NO_MATCH, NO_MATCH_ONE_SHOT, NO_ADVERSARIAL = "no L_MCH, random w′", "no L_MCH (K = 1), random w′", "no L′_ADV"
ABLATIONS = (RANDOM_E, RANDOM_PSI, NORMAL_PSI, OTHERS_E, NO_MATCH, NO_MATCH_ONE_SHOT, NO_ADVERSARIAL)


@dataclass
class Frames:
    """Frames with their landmarks: images (n, S, S, 3) uint8, points (n, 68, 2), tensors x and y (n, 3, S, S).

    ``square`` is the crop that the landmarks ask for, in pixels of the one that there is: another one only where the picture
    ended before it.
    """

    images: np.ndarray
    points: np.ndarray
    x: Tensor
    y: Tensor
    square: tuple[float, float, float] | None = None


@dataclass
class Method:
    """``make(train, test, seed)`` gives the hold-out frames (n, S, S, 3) of a person; ``key`` says which weights it is about.

    ``rows`` are the losses of the fine-tuning that it did last.
    """

    name: str
    key: str
    make: Callable[[Frames, Frames, int], np.ndarray]
    rows: list[dict[str, float]] = field(default_factory=list)


def in_batches(network: Callable[[Tensor], Tensor], inputs: Tensor) -> np.ndarray:
    """Frames (n, S, S, 3) uint8 that a network makes of (n, 3, S, S), 32 at a time."""
    return to_image(torch.cat([network(part) for part in inputs.split(32)]))


@torch.no_grad()
def feed_forward(nets: Networks, train: Frames, y: Tensor, profile: Profile) -> np.ndarray:
    """G(y, ê_NEW): frames (n, S, S, 3) without any fine-tuning."""
    with autocast(profile.precision, y.device):
        e = nets.embedder.eval().embed(train.x[None], train.y[None])
        return in_batches(lambda part: nets.generator.eval()(part, e), y)


@torch.no_grad()
def drive(head: torch.nn.Module, y: Tensor, profile: Profile) -> np.ndarray:
    """G'(y): frames (n, S, S, 3) of a fine-tuned head."""
    with autocast(profile.precision, y.device):
        return in_batches(head, y)


@torch.no_grad()
def imitate(model: X2Face, train: Frames, test: Frames, profile: Profile) -> np.ndarray:
    """X2Face: the T frames' embedded face, driven by the true hold-out frames."""
    with autocast(profile.precision, test.x.device):
        embedded = model.eval().embed(train.x[None])
        return in_batches(lambda part: model.drive(embedded.expand(len(part), -1, -1, -1), part), test.x)


def nearest_frames(train: Frames, points: np.ndarray) -> np.ndarray:
    """For every wanted pose the training frame with the nearest landmarks."""
    distance = ((train.points[None] - points[:, None]) ** 2).sum((2, 3))
    return train.images[distance.argmin(1)]


def mean_frame(train: Frames, count: int) -> np.ndarray:
    """The mean of the training frames, ``count`` times: (count, S, S, 3) uint8."""
    mean = train.images.astype(np.float32).mean(0).round().astype(np.uint8)
    return np.broadcast_to(mean, (count, *mean.shape)).copy()


def trivial() -> list[Method]:
    """The rows that learn nothing."""
    return [Method(NEAREST, "", lambda train, test, seed: nearest_frames(train, test.points)),
            Method(MEAN, "", lambda train, test, seed: mean_frame(train, len(test.images)))]


def ours(nets: Networks, key: str, profile: Profile, extractors: Sequence, before: str, after: str) -> list[Method]:
    """Our method before and after fine-tuning."""
    return [Method(before, key, lambda train, test, seed: feed_forward(nets, train, test.y, profile)), tuned(after, key, nets, profile, extractors)]


def tuned(name: str, key: str, nets: Networks, profile: Profile, extractors: Sequence, adversarial: bool = True,
          changes: Callable[[int], dict] = lambda seed: {}) -> Method:
    """A method that fine-tunes; ``changes(seed of the person)`` are what :func:`set_up` is to do otherwise."""
    rows: list[dict[str, float]] = []

    def make(train: Frames, test: Frames, seed: int) -> np.ndarray:
        tuning = set_up(nets, train.x, train.y, profile, extractors, adversarial=adversarial, **changes(person_seed(train, seed)))
        head = fine_tune(tuning, seed)
        rows[:] = tuning.rows
        return drive(head, test.y, profile)

    return Method(name, key, make, rows)


def baselines(x2face: X2Face | None, pix2pixhd: Sequence[torch.nn.Module] | None, keys: dict[str, str], profile: Profile,
              extractors: Sequence) -> list[Method]:
    """X2Face as it is, and Pix2pixHD fine-tuned on the T frames; each where it is there."""
    out = []
    if x2face is not None:
        out.append(Method(X2FACE, keys["x2face"], lambda train, test, seed: imitate(x2face, train, test, profile)))
    if pix2pixhd is not None:
        def tuned(train: Frames, test: Frames, seed: int) -> np.ndarray:
            generator: GlobalGenerator = fine_tune_pix2pixhd(*pix2pixhd, train.x, train.y, profile, extractors, seed)
            return drive(generator, test.y, profile)
        out.append(Method(PIX2PIXHD, f"{keys['pix2pixhd']} tuned at {profile.pix2pixhd_tune_rate:g}", tuned))
    return out


def ablations(full: Networks, no_match: dict[str, tuple[Networks, Tensor, Tensor]], e_hats: Tensor, keys: dict[str, str],
              profile: Profile, extractors: Sequence) -> list[Method]:
    """Section A.2, on the networks of the full model.

    ``no_match`` maps a row to networks without L_MCH and the mean and spread of W's columns, ``e_hats`` (people, N) are real
    embeddings, of validation people.
    """
    psi_hats = full.generator.projection(e_hats)

    def like(values: Tensor, seed: int) -> Tensor:
        """A draw with the mean and spread of ``values`` (n, d) in every component: (d,)."""
        return values.mean(0) + values.std(0) * noise(values.shape[1], seed).to(values.device)

    def noise(size: int, seed: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed + 1))

    changed = {RANDOM_E: lambda s: {"e_new": like(e_hats, s)[None]}, RANDOM_PSI: lambda s: {"psi": like(psi_hats, s)[None]},
               NORMAL_PSI: lambda s: {"psi": noise(psi_hats.shape[1], s).to(psi_hats.device)[None]}, OTHERS_E: lambda s: {"e_new": e_hats[s % len(e_hats)][None]}}
    out = [tuned(name, keys["full"], full, profile, extractors, changes=changes) for name, changes in changed.items()]
    out.append(tuned(NO_ADVERSARIAL, keys["full"], full, profile, extractors, adversarial=False))
    for name, (nets, mean, spread) in no_match.items():
        random = lambda s, n=nets, m=mean, d=spread: {"w": n.discriminator.w0 + m + d * noise(len(m), s).to(m.device)}
        out.append(tuned(name, keys[name], nets, profile, extractors, changes=random))
    return out


def person_seed(train: Frames, seed: int) -> int:
    """A seed that differs between people and is the same for all methods."""
    return int(train.images[0].astype(np.int64).sum() % 100_003) + seed


def embeddings(nets: Networks, people: Iterable[Frames]) -> Tensor:
    """ê of people's training frames: (people, N)."""
    with torch.no_grad():
        return torch.cat([nets.embedder.eval().embed(f.x[None], f.y[None]) for f in people])
