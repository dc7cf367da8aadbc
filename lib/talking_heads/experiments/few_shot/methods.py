"""The rows of Table 1 and of the ablations: from T frames of an identity and landmark images to frames.

A method generates held-out frames of one identity from that identity's training frames. It carries a key of
the weights and settings that it depends on, so that results of other weights are never mixed in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from talking_heads.config import Profile, digest
from talking_heads.data.frames import Frames
from talking_heads.experiments.few_shot.weights import LoadedWeights
from talking_heads.few_shot.baselines.training import fine_tune_pix2pixhd, reenact
from talking_heads.few_shot.baselines.trivial import mean_frame, nearest_frames
from talking_heads.few_shot.fine_tuning import FULL, Ablation, fine_tune, set_up
from talking_heads.few_shot.head import feed_forward, generate
from talking_heads.few_shot.networks.build import Networks

SMALL, LARGE = "small", "large"
BEFORE, AFTER, FEED_FORWARD = "Ours-FT before fine-tuning", "Ours-FT", "Ours-FF"
OURS, OURS_BEFORE, X2FACE, PIX2PIXHD = "Ours", "Ours before fine-tuning", "X2Face", "Pix2pixHD"
NEAREST, MEAN = "nearest training frame", "mean training frame"
TRIVIAL = (NEAREST, MEAN)
CORPUS = {
    X2FACE: SMALL,
    PIX2PIXHD: SMALL,
    OURS_BEFORE: SMALL,
    OURS: SMALL,
    FEED_FORWARD: LARGE,
    BEFORE: LARGE,
    AFTER: LARGE,
    NEAREST: "",
    MEAN: "",
}
TABLE1 = tuple(CORPUS)  # the order of its rows
# an observer that was trained on one of a family has seen the artefacts of all
FAMILY = dict.fromkeys((OURS, OURS_BEFORE, FEED_FORWARD, BEFORE, AFTER), "ours")

RANDOM_E, RANDOM_PSI, NORMAL_PSI = "random ê", "random ψ̂", "standard normal ψ̂"
OTHERS_E = "another person's ê"
NO_MATCH, NO_MATCH_ONE_SHOT = "no L_MCH, random w′", "no L_MCH (K = 1), random w′"
NO_ADVERSARIAL = "no L′_ADV"
ABLATIONS = (RANDOM_E, RANDOM_PSI, NORMAL_PSI, OTHERS_E, NO_MATCH, NO_MATCH_ONE_SHOT, NO_ADVERSARIAL)


class Generated(NamedTuple):
    """Held-out frames (n, S, S, 3) uint8 of an identity, and the losses of the fine-tuning before them."""

    frames: np.ndarray
    rows: Sequence[dict[str, float]] = ()


Generate = Callable[[Frames, Frames, int], Generated]
MakeAblation = Callable[[int], Ablation]  # from the seed of the identity


@dataclass(frozen=True)
class Method:
    """``generate(train, test, seed)`` gives the held-out frames of an identity; threads may call it at once.

    ``key`` changes with the weights and settings of the method.
    """

    name: str
    key: str
    generate: Generate


@dataclass
class FineTunedMethod:
    """Fine-tunes and drives a head, in an ablation with what ``ablation`` changes."""

    nets: Networks
    profile: Profile
    extractors: Sequence
    ablation: MakeAblation | None = None

    def method(self, name: str, key: str) -> Method:
        """The row of a table."""

        def generate_frames(train: Frames, test: Frames, seed: int) -> Generated:
            ablation = self.ablation(identity_seed(train, seed)) if self.ablation else FULL
            tuning = set_up(self.nets, train.x, train.y, self.profile, self.extractors, ablation)
            return Generated(generate(fine_tune(tuning, seed), test.y), tuning.rows)

        return Method(name, key, generate_frames)


def ours_before(name: str, key: str, nets: Networks) -> Method:
    """Our method without fine-tuning."""
    return Method(name, key, lambda train, test, seed: Generated(feed_forward(nets, train, test.y)))


def ours(
    nets: Networks, key: str, profile: Profile, extractors: Sequence, before: str, after: str
) -> list[Method]:
    """Our method before and after fine-tuning."""
    return [ours_before(before, key, nets), FineTunedMethod(nets, profile, extractors).method(after, key)]


def x2face(loaded: LoadedWeights) -> Method:
    """X2Face, which is not fine-tuned."""
    (model,) = loaded.networks["x2face"]
    return Method(
        X2FACE, loaded.keys["x2face"], lambda train, test, seed: Generated(reenact(model, train, test))
    )


def pix2pixhd(loaded: LoadedWeights, profile: Profile, extractors: Sequence) -> Method:
    """Pix2pixHD, fine-tuned on the T frames."""
    nets = loaded.networks["pix2pixhd"]

    def generate_frames(train: Frames, test: Frames, seed: int) -> Generated:
        tuned = fine_tune_pix2pixhd(nets, train.x, train.y, profile, extractors, seed)
        return Generated(generate(tuned, test.y))

    key = f"{loaded.keys['pix2pixhd']} {digest(profile.few_shot.pix2pixhd)}"
    return Method(PIX2PIXHD, key, generate_frames)


def trivial() -> list[Method]:
    """The baselines that learn nothing."""
    return [
        Method(NEAREST, "", lambda train, test, seed: Generated(nearest_frames(train, test.points))),
        Method(MEAN, "", lambda train, test, seed: Generated(mean_frame(train, len(test.images)))),
    ]


def table1_methods(loaded: LoadedWeights, profile: Profile, extractors: Sequence) -> list[Method]:
    """Table 1's methods, as far as their weights are there, and the baselines that learn nothing."""
    nets, keys = loaded.networks, loaded.keys
    rows: list[Method] = []
    if "ft" in nets:
        rows += ours(nets["ft"], keys["ft"], profile, extractors, BEFORE, AFTER)
    if "ff" in nets:
        rows.append(ours_before(FEED_FORWARD, keys["ff"], nets["ff"]))
    if "small" in nets:
        rows += ours(nets["small"], keys["small"], profile, extractors, OURS_BEFORE, OURS)
    if "x2face" in nets:
        rows.append(x2face(loaded))
    if "pix2pixhd" in nets:
        rows.append(pix2pixhd(loaded, profile, extractors))
    return rows + trivial()


# -- section A.2 ------------------------------------------------------------------------------------
def normal(size: int, seed: int) -> Tensor:
    """Standard normal values (size,)."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed + 1))


def draw_like(mean: Tensor, std: Tensor, seed: int) -> Tensor:
    """A normal draw (d,) with this mean and deviation (d,) in every component."""
    return mean + std * normal(len(mean), seed).to(mean.device)


def random_starts(full: Networks, e_hats: Tensor) -> dict[str, MakeAblation]:
    """Other starts of fine-tuning than ê_NEW; ``e_hats`` (identities, N) are embeddings of validation
    identities.
    """
    psi_hats = full.generator.project(e_hats).detach()

    def random_e(seed: int) -> Ablation:
        return Ablation(e_new=draw_like(e_hats.mean(0), e_hats.std(0), seed)[None])

    def random_psi(seed: int) -> Ablation:
        return Ablation(psi=draw_like(psi_hats.mean(0), psi_hats.std(0), seed)[None])

    def normal_psi(seed: int) -> Ablation:
        return Ablation(psi=normal(psi_hats.shape[1], seed).to(psi_hats.device)[None])

    def others_e(seed: int) -> Ablation:
        return Ablation(e_new=e_hats[seed % len(e_hats)][None])

    return {RANDOM_E: random_e, RANDOM_PSI: random_psi, NORMAL_PSI: normal_psi, OTHERS_E: others_e}


def random_w(nets: Networks, state: dict[str, Tensor]) -> MakeAblation:
    """w′ = w₀ + r, where r has the mean and the deviation of W's columns."""
    w0 = nets.discriminator.w0
    mean, std = state["w.mean"].to(w0.device), state["w.std"].to(w0.device)

    def random(seed: int) -> Ablation:
        return Ablation(w=w0 + draw_like(mean, std, seed))

    return random


def no_adversarial(_: int) -> Ablation:
    """Fine-tuning without L′_ADV."""
    return Ablation(adversarial=False)


def ablation_methods(
    loaded: LoadedWeights, profile: Profile, extractors: Sequence, e_hats: Tensor
) -> list[Method]:
    """The ablations and the full model that they change; ``e_hats`` are validation identities' embeddings."""
    variant = loaded.ablated(profile)
    full, key = loaded.networks[variant], loaded.keys[variant]
    ablations = random_starts(full, e_hats) | {NO_ADVERSARIAL: no_adversarial}
    rows = [
        FineTunedMethod(full, profile, extractors, ablation).method(name, key)
        for name, ablation in ablations.items()
    ]
    for no_match, name in (("no-match", NO_MATCH), ("no-match-one-shot", NO_MATCH_ONE_SHOT)):
        if no_match in loaded.networks:
            nets = loaded.networks[no_match]
            ablation = random_w(nets, loaded.states[no_match])
            rows.append(
                FineTunedMethod(nets, profile, extractors, ablation).method(name, loaded.keys[no_match])
            )
    return [*rows, *ours(full, key, profile, extractors, OURS_BEFORE, OURS)]


def ablation_cells(runs: Path, variant: str) -> Path:
    """Where the ablations' cells lie: among Table 1's where the full model is the small corpus's, whose rows
    are there.
    """
    return runs / ("cells" if variant == "small" else f"cells-{variant}")


def identity_seed(train: Frames, seed: int) -> int:
    """A seed that differs between identities and is the same for all methods."""
    return int(train.images[0].astype(np.int64).sum() % 100_003) + seed


def embeddings(nets: Networks, identities: Iterable[Frames]) -> Tensor:
    """ê of identities' training frames: (identities, N)."""
    embedder = nets.embedder.eval()
    with torch.no_grad():
        return torch.cat([embedder.embed(frames.x[None], frames.y[None]) for frames in identities])
