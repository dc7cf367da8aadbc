"""A finished head as one file: what is needed to drive it, and a card that says whose it is and what made it."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ..corpus.episodes import to_image, to_tensor
from ..corpus.landmarks import draw_all
from ..evaluation.methods import Frames
from ..fine_tuning import Head
from ..meta_learning import autocast, build_generator
from ..networks.blocks import fold
from ..profiles import Profile
from ..tensors import load_weights, save_weights

FORMAT = "talking head 1"
FIELDS = ("image_size", "line_width", "precision", "embedding", "generator_down", "generator_up", "generator_bottleneck",
          "generator_attention_down", "generator_attention_up", "spectral_norm_generator")
CARD = ("person", "kind", "origin", "T", "weights")
KINDS = ("procedural speaker", "real person", "painting")


@dataclass
class KeptHead:
    """G' of one person with the frames it was learned from, (T, S, S, 3), their landmarks, and its card.

    The landmarks are (T, 68, 2), or (T, 70, 2) where it was learned with pupils: only then is it driven with them.
    """

    head: Head
    settings: SimpleNamespace  # of FIELDS
    images: np.ndarray
    points: np.ndarray
    card: dict
    square: tuple[float, ...] | None = None  # see Frames

    @torch.no_grad()
    def drive(self, points: np.ndarray, batch: int = 32) -> np.ndarray:
        """Frames (n, S, S, 3) uint8 of landmarks (n, 68, 2), or (n, 70, 2) with pupils, in pixels of the head's crop."""
        s, device, points = self.settings, self.head.psi.device, points[:, :self.points.shape[1]]
        out = []
        with autocast(s.precision, device):
            for part in np.array_split(points, max(1, -(-len(points) // batch))):
                out.append(to_image(self.head(to_tensor(draw_all(part, s.image_size, s.line_width), device))))
        return np.concatenate(out)


def settings_of(profile: Profile) -> SimpleNamespace:
    """What of a profile a head needs."""
    return SimpleNamespace(**{f: getattr(profile, f) for f in FIELDS})


def check_card(card: dict) -> dict:
    """The card, which has the fields of ``CARD``: whom a head shows, of what kind, where the frames come from, T, and the weights.

    Raises ValueError where it lacks one or names another kind.
    """
    if missing := [f for f in CARD if f not in card]:
        raise ValueError(f"the card lacks {', '.join(missing)}: nobody could tell whose head this is")
    if card["kind"] not in KINDS:
        raise ValueError(f"kind {card['kind']!r}; there are: {', '.join(KINDS)}")
    return card


def keep_head(path: Path, head: Head, few: Frames, profile: Profile, card: dict) -> Path:
    """Write a head with its card. Raises what :func:`check_card` does."""
    check_card(card)
    state: dict[str, Tensor] = {f"generator.{k}": v for k, v in head.generator.state_dict().items()}
    state |= {"psi": head.psi, "images": torch.from_numpy(few.images), "points": torch.from_numpy(few.points)}
    save_weights(path, state, {"format": FORMAT, "settings": vars(settings_of(profile)), "card": card, "square": few.square}, half=True)
    return path


def load_head(path: Path, device: str | torch.device = "cpu") -> KeptHead:
    """A kept head, ready to be driven. Raises FileNotFoundError, or ValueError where the file is something else."""
    state, about = load_weights(path)
    if about.get("format") != FORMAT:
        raise ValueError(f"{path}: not a head (format {about.get('format', 'none')!r}, not {FORMAT!r}); heads are written by 'animate --keep' and chapter 11")
    try:
        settings = SimpleNamespace(**about["settings"])
        images, points, psi = state.pop("images").numpy(), state.pop("points").numpy(), state.pop("psi")
        generator = build_generator(settings)
        generator.load_state_dict({k.removeprefix("generator."): v for k, v in state.items()}, assign=True)
        card = about["card"]
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: a damaged head ({error}); keep it anew") from error
    head = Head(fold(generator), None, psi)
    return KeptHead(head.to(device).eval(), settings, images, points, card, about.get("square"))
