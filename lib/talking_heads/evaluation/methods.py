"""The rows of Table 1 and of the ablations: T frames of a person and landmark images in, frames out.

A method makes hold-out frames of one person from that person's training frames. It carries the digest of the weights it
started from, so that results of other weights are never mixed in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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

RANDOM_E, RANDOM_PSI, NORMAL_PSI, OTHERS_E = "random ê", "random ψ̂", "standard normal ψ̂", "another person's ê"
NO_MATCH, NO_MATCH_ONE_SHOT, NO_ADVERSARIAL = "no L_MCH, random w′", "no L_MCH (K = 1), random w′", "no L′_ADV"
ABLATIONS = (RANDOM_E, RANDOM_PSI, NORMAL_PSI, OTHERS_E, NO_MATCH, NO_MATCH_ONE_SHOT, NO_ADVERSARIAL)


@dataclass
class Frames:
    """Frames with their landmarks: images (n, S, S, 3) uint8, points (n, 68, 2), tensors x and y (n, 3, S, S)."""

    images: np.ndarray
    points: np.ndarray
    x: Tensor
    y: Tensor


@dataclass
class Method:
    """``make(train, test, seed)`` gives the hold-out frames (n, S, S, 3) of a person; ``key`` says which weights it is about."""

    name: str
    key: str
    make: Callable[[Frames, Frames, int], np.ndarray]


@torch.no_grad()
def feed_forward(nets: Networks, train: Frames, y: Tensor, profile: Profile) -> np.ndarray:
    """G(y, ê_NEW): frames (n, S, S, 3) without any fine-tuning."""
    with autocast(profile.precision, y.device):
        e = nets.embedder.eval().embed(train.x[None], train.y[None])
        return to_image(torch.cat([nets.generator.eval()(part, e) for part in y.split(32)]))


@torch.no_grad()
def drive(head: torch.nn.Module, y: Tensor, profile: Profile) -> np.ndarray:
    """G'(y): frames (n, S, S, 3) of a fine-tuned head."""
    with autocast(profile.precision, y.device):
        return to_image(torch.cat([head(part) for part in y.split(32)]))


@torch.no_grad()
def imitate(model: X2Face, train: Frames, test: Frames, profile: Profile) -> np.ndarray:
    """X2Face: the T frames' embedded face, driven by the true hold-out frames."""
    with autocast(profile.precision, test.x.device):
        embedded = model.eval().embed(train.x[None])
        return to_image(torch.cat([model.drive(embedded.expand(len(part), -1, -1, -1), part) for part in test.x.split(32)]))


def nearest_frames(train: Frames, points: np.ndarray) -> np.ndarray:
    """For every wanted pose the training frame with the nearest landmarks."""
    distance = ((train.points[None] - points[:, None]) ** 2).sum((2, 3))
    return train.images[distance.argmin(1)]


def mean_frame(train: Frames, count: int) -> np.ndarray:
    mean = train.images.astype(np.float32).mean(0).round().astype(np.uint8)
    return np.broadcast_to(mean, (count, *mean.shape)).copy()


def trivial() -> list[Method]:
    """The rows that learn nothing."""
    return [Method(NEAREST, "", lambda train, test, seed: nearest_frames(train, test.points)),
            Method(MEAN, "", lambda train, test, seed: mean_frame(train, len(test.images)))]


def ours(nets: Networks, key: str, profile: Profile, extractors: Sequence, before: str, after: str) -> list[Method]:
    """Our method before and after fine-tuning."""
    def tuned(train: Frames, test: Frames, seed: int) -> np.ndarray:
        return drive(fine_tune(set_up(nets, train.x, train.y, profile, extractors), seed), test.y, profile)

    return [Method(before, key, lambda train, test, seed: feed_forward(nets, train, test.y, profile)), Method(after, key, tuned)]


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


def ablations(small: Networks, no_match: dict[str, tuple[Networks, Tensor, Tensor]], e_hats: Tensor, keys: dict[str, str],
              profile: Profile, extractors: Sequence) -> list[Method]:
    """Section A.2 on the networks of the small corpus.

    ``no_match`` maps a row to networks without L_MCH and the mean and spread of W's columns, ``e_hats`` (people, N) are real
    embeddings, of validation people.
    """
    psi_hats = small.generator.projection(e_hats)

    def like(values: Tensor, seed: int) -> Tensor:
        """A draw with the mean and spread of ``values`` (n, d) in every component: (d,)."""
        return values.mean(0) + values.std(0) * noise(values.shape[1], seed).to(values.device)

    def noise(size: int, seed: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed + 1))

    def method(name: str, key: str, nets: Networks, changes: Callable[[int], dict], adversarial: bool = True) -> Method:
        def tuned(train: Frames, test: Frames, seed: int) -> np.ndarray:
            tuning = set_up(nets, train.x, train.y, profile, extractors, adversarial=adversarial, **changes(person_seed(train, seed)))
            return drive(fine_tune(tuning, seed), test.y, profile)
        return Method(name, key, tuned)

    key = keys["small"]
    out = [method(RANDOM_E, key, small, lambda s: {"e_new": like(e_hats, s)[None]}),
           method(RANDOM_PSI, key, small, lambda s: {"psi": like(psi_hats, s)[None]}),
           method(NORMAL_PSI, key, small, lambda s: {"psi": noise(psi_hats.shape[1], s).to(psi_hats.device)[None]}),
           method(OTHERS_E, key, small, lambda s: {"e_new": e_hats[s % len(e_hats)][None]}),
           method(NO_ADVERSARIAL, key, small, lambda s: {}, adversarial=False)]
    for name, (nets, mean, spread) in no_match.items():
        out.append(method(name, keys[name], nets, lambda s, n=nets, m=mean, d=spread: {"w": n.discriminator.w0 + m + d * noise(len(m), s).to(m.device)}))
    return out


def person_seed(train: Frames, seed: int) -> int:
    """A seed that differs between people and is the same for all methods."""
    return int(train.images[0].astype(np.int64).sum() % 100_003) + seed


def embeddings(nets: Networks, people: Iterable[Frames]) -> Tensor:
    """ê of people's training frames: (people, N)."""
    with torch.no_grad():
        return torch.cat([nets.embedder.eval().embed(f.x[None], f.y[None]) for f in people])
