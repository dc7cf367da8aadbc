"""A finished head as one file: what is needed to drive it, and a card that says whose it is and what made it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..corpus.episodes import to_image, to_tensor
from ..corpus.landmarks import draw_all
from ..evaluation.methods import Frames
from ..fine_tuning import Head
from ..meta_learning import autocast, build_generator
from ..networks.blocks import fold
from ..profiles import CHOICES, Profile, fits
from ..tensors import load_weights, save_weights

FORMAT = "talking head 1"
FIELDS = ("image_size", "line_width", "precision", "embedding", "generator_down", "generator_up", "generator_bottleneck",
          "generator_attention_down", "generator_attention_up", "spectral_norm_generator")
CARD = {"person": str, "kind": str, "origin": str, "T": int, "weights": str}
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

    Raises ValueError where it lacks one, one is of another type, or it names another kind.
    """
    if not isinstance(card, dict):
        raise ValueError(f"the card is {card!r}, not a table")
    if missing := [f for f in CARD if f not in card]:
        raise ValueError(f"the card lacks {', '.join(missing)}: nobody could tell whose head this is")
    for field, kind in CARD.items():
        if not fits(card[field], kind):
            raise ValueError(f"the card's {field} is {card[field]!r}, not {kind.__name__}")
    if card["T"] < 1:
        raise ValueError(f"the card's T is {card['T']}, not a number of frames")
    check_kind(card["kind"])
    return card


def check_kind(kind: str) -> None:
    """Raises ValueError for a kind of person that does not exist."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; there are: {', '.join(KINDS)}")


def keep_head(path: Path, head: Head, few: Frames, profile: Profile, card: dict) -> Path:
    """Write a head with its card. Raises what :func:`check_card` does."""
    check_card(card)
    state: dict[str, Tensor] = {f"generator.{k}": v for k, v in head.generator.state_dict().items()}
    state |= {"psi": head.psi, "images": torch.from_numpy(few.images), "points": torch.from_numpy(few.points)}
    save_weights(path, state, {"format": FORMAT, "settings": vars(settings_of(profile)), "card": card, "square": few.square}, half=True)
    return path


def owner_of(path: Path) -> str | None:
    """The person of a kept head, None where the file is no head."""
    try:
        about = load_weights(path)[1]
        return str(about["card"]["person"]) if about["format"] == FORMAT else None
    except (ValueError, OSError, KeyError, TypeError):
        return None


def load_head(path: Path, device: str | torch.device = "cpu") -> KeptHead:
    """A kept head, ready to be driven. Raises FileNotFoundError, or ValueError where the file is something else."""
    state, about = load_weights(path)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path}: not a head (format {(about.get('format', 'none') if isinstance(about, dict) else 'none')!r}, not {FORMAT!r}); heads are written by 'animate' and chapter 11")
    try:
        settings, card, square = _settings(about), check_card(about.get("card")), _square(about.get("square"))
        images, points, psi = (_array(state, name) for name in ("images", "points", "psi"))
        _check_frames(images, points, settings.image_size)
        generator = build_generator(settings)
        generator.load_state_dict({k.removeprefix("generator."): v for k, v in state.items()}, assign=True)
        head = Head(fold(generator), None, psi)
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        raise _damaged(path, error) from error
    kept = KeptHead(head.to(device).eval(), settings, images.numpy(), points.numpy(), card, square)
    try:
        if not all(value.isfinite().all() for value in (*head.state_dict().values(), psi)):
            raise ValueError("weights are not finite")
        kept.drive(kept.points[:1])
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise _damaged(path, error) from error
    return kept


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: a damaged head ({' '.join(str(error).split())[:200]}); learn it again")


def _settings(about: dict) -> SimpleNamespace:
    """The settings of a file's header. Raises ValueError, naming the field."""
    settings = about.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"settings are {settings!r}, not a table")
    kinds = {f.name: f.type for f in dataclasses.fields(Profile)}
    for field in FIELDS:
        if not fits(settings.get(field), kinds[field]):
            raise ValueError(f"settings: {field} is {settings.get(field)!r}, not {getattr(kinds[field], '__name__', kinds[field])}")
    if not 0 < settings["line_width"] <= 100 or settings["precision"] not in CHOICES["precision"]:
        raise ValueError(f"settings: line_width is {settings['line_width']}, precision {settings['precision']!r}")
    return SimpleNamespace(**settings)


def _square(square: Any) -> tuple[float, float, float] | None:
    if square is None:
        return None
    if not fits(square, list[float]) or len(square) != 3 or not np.abs(square).max() < 1e5 or square[2] < 1:
        raise ValueError(f"square is {square!r}, not x, y and a side of at least 1")
    return tuple(float(v) for v in square)


def _array(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"no array {name}")
    return state.pop(name)


def _check_frames(images: Tensor, points: Tensor, size: int) -> None:
    """Raises ValueError where the training frames or their landmarks have another form than :class:`KeptHead` has."""
    if images.dtype != torch.uint8 or not len(images) or images.shape[1:] != (size, size, 3):
        raise ValueError(f"images have shape {tuple(images.shape)} and type {images.dtype}, not (T, {size}, {size}, 3) and uint8")
    if not points.is_floating_point() or tuple(points.shape) not in ((len(images), 68, 2), (len(images), 70, 2)):
        raise ValueError(f"points have shape {tuple(points.shape)} and type {points.dtype}, not ({len(images)}, 68 or 70, 2)")
    face = points[:, :68]
    if not face.isfinite().all():
        raise ValueError("points are not finite")
    if face.abs().max() > 10 * size or (face.amax(1) - face.amin(1)).max(1).values.min() < 1:
        raise ValueError("points are no face of this picture")
