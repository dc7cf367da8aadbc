"""A head as a file: the generator of one identity, its training frames, and a card with their provenance."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from talking_heads.config import Profile, fits
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.few_shot.head import BATCH, Head, generate
from talking_heads.few_shot.networks.build import build_generator
from talking_heads.nn.spectral_norm import fold
from talking_heads.nn.weight_files import load_metadata, load_weights, save_weights
from talking_heads.processes import prefetch
from talking_heads.sections.common import Section
from talking_heads.sections.few_shot import LandmarkImages, Networks

FORMAT = "talking head 2"
OLDER_FORMATS = ("talking head 1",)
KINDS = ("procedural speaker", "real person", "painting")
CARD = {"person": str, "kind": str, "origin": str, "T": int, "weights": str}
LARGEST = 10  # coordinate of a landmark, in sides of the crop


class HeadSettings(Section):
    """What is needed to build a head's generator and to draw its landmarks."""

    image_size: int
    landmark_images: LandmarkImages
    networks: Networks

    @classmethod
    def of_profile(cls, profile: Profile) -> "HeadSettings":
        """Those of a profile."""
        return cls(
            image_size=profile.data.image_size,
            landmark_images=profile.few_shot.landmark_images,
            networks=profile.few_shot.networks,
        )


@dataclass
class KeptHead:
    """G' of one identity, its training frames (T, S, S, 3), their landmarks, and its card.

    The landmarks are (T, 68, 2), or (T, 70, 2) with pupils; only in that case it is driven with pupils.
    """

    head: Head
    settings: HeadSettings
    images: np.ndarray
    points: np.ndarray
    card: dict
    square: tuple[float, ...] | None = None  # see Frames
    network: Callable[[Tensor], Tensor] | None = None  # of another engine than PyTorch

    def drive(self, points: np.ndarray) -> np.ndarray:
        """Frames (n, S, S, 3) uint8 of landmarks (n, 68, 2) or (n, 70, 2), in pixels of the crop."""
        return np.concatenate(list(self.batches(points)))

    def batches(self, points: np.ndarray) -> Iterator[np.ndarray]:
        """The frames of :meth:`drive`, as many at once as the network computes at once. Landmark images are
        drawn while it does.
        """
        points = points[:, : self.points.shape[1]]
        parts = np.array_split(points, max(1, -(-len(points) // BATCH)))
        for y in prefetch(map(self.draw, parts)):
            yield generate(self.network or self.head, y)

    def draw(self, points: np.ndarray) -> Tensor:
        """The landmark images (n, 3, S, S) of landmarks (n, 68, 2) or (n, 70, 2), as the head gets them."""
        size, line_width = self.settings.image_size, self.settings.landmark_images.line_width
        return to_tensor(draw_all(points, size, line_width), self.head.psi.device)


def check_card(card: Any) -> dict:
    """The card of a head, unchanged.

    It has the fields of ``CARD``: the person and their kind, the origin of the frames, T and the meta-learned
    weights. Raises ValueError where a field is missing or of another type, or the kind is unknown.
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
    """Raises ValueError for an unknown kind of person."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; there are: {', '.join(KINDS)}")


def keep_head(path: Path, head: Head, few: Frames, profile: Profile, card: dict) -> Path:
    """Write a head with its card. Raises as :func:`check_card` does."""
    check_card(card)
    state: dict[str, Tensor] = {f"generator.{k}": v for k, v in head.generator.state_dict().items()}
    state |= {"psi": head.psi, "images": torch.from_numpy(few.images), "points": torch.from_numpy(few.points)}
    metadata = {
        "format": FORMAT,
        "settings": HeadSettings.of_profile(profile).model_dump(mode="json"),
        "card": card,
        "square": few.square,
    }
    save_weights(path, state, metadata, half=True)
    return path


def owner_of(path: Path) -> str | None:
    """The person of a head's file, None where the file is not a head."""
    try:
        metadata = load_metadata(path)
        return str(metadata["card"]["person"]) if metadata["format"] == FORMAT else None
    except (ValueError, OSError, KeyError, TypeError):
        return None


def load_head(path: Path, device: str | torch.device = "cpu") -> KeptHead:
    """The head of a file, ready to be driven.

    Raises FileNotFoundError where it is missing, ValueError where the file is damaged or not a head.
    """
    state, metadata = load_weights(path)
    file_format = metadata.get("format", "none") if isinstance(metadata, dict) else "none"
    if file_format in OLDER_FORMATS:
        raise ValueError(f"{path}: a head of an older version ({file_format!r}); learn it again")
    if file_format != FORMAT:
        raise ValueError(
            f"{path}: not a head (format {file_format!r}, not {FORMAT!r}); "
            "heads are written by 'animate' and chapter 11"
        )
    try:
        settings, card = _settings(metadata), check_card(metadata.get("card"))
        square = _square(metadata.get("square"))
        images, points, psi = (_array(state, name) for name in ("images", "points", "psi"))
        _check_frames(images, points, settings.image_size)
        generator = build_generator(settings.networks)
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


def _settings(metadata: dict) -> HeadSettings:
    """The settings of a file's header. Raises ValueError, naming the field."""
    try:
        return HeadSettings.model_validate_json(json.dumps(metadata.get("settings")))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"])) or "settings"
        raise ValueError(f"settings: {field} is {fault['input']!r}: {fault['msg'].lower()}") from error


def _square(square: Any) -> tuple[float, float, float] | None:
    if square is None:
        return None
    if not fits(square, list[float]) or len(square) != 3 or not np.abs(square).max() < 1e5 or square[2] < 1:
        raise ValueError(f"square is {square!r}, not x, y and a side of at least 1")
    x, y, side = (float(v) for v in square)
    return x, y, side


def _array(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"no array {name}")
    return state.pop(name)


def _check_frames(images: Tensor, points: Tensor, size: int) -> None:
    """Raises ValueError where the training frames or their landmarks are not as in :class:`KeptHead`."""
    if images.dtype != torch.uint8 or not len(images) or images.shape[1:] != (size, size, 3):
        raise ValueError(
            f"images have shape {tuple(images.shape)} and type {images.dtype}, "
            f"not (T, {size}, {size}, 3) and uint8"
        )
    shape, t = tuple(points.shape), len(images)
    if not points.is_floating_point() or shape not in ((t, 68, 2), (t, 70, 2)):
        raise ValueError(f"points have shape {shape} and type {points.dtype}, not ({t}, 68 or 70, 2)")
    face = points[:, :68]
    if not face.isfinite().all():
        raise ValueError("points are not finite")
    if face.abs().max() > LARGEST * size or (face.amax(1) - face.amin(1)).max(1).values.min() < 1:
        raise ValueError("points are not a face in this picture")
