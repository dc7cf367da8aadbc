"""An identity frame as a file: the picture that a talking head begins with, and a card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from talking_heads.animation.head_files import check_kind
from talking_heads.nn.weight_files import load_weights, save_weights

FORMAT = "identity frame 1"
CARD = ("person", "kind", "origin")


@dataclass(frozen=True)
class IdentityFrame:
    """A cropped frame (S, S, 3) uint8 with its card: the person, their kind, and the frame's origin."""

    image: np.ndarray
    card: dict[str, str]


def check_identity_card(card: Any) -> dict[str, str]:
    """The card, unchanged. Raises ValueError where a field is missing or the kind is unknown."""
    if not isinstance(card, dict) or not all(isinstance(card.get(field), str) for field in CARD):
        raise ValueError(f"the card is {card!r}; it needs {', '.join(CARD)}")
    check_kind(card["kind"])
    return card


def keep_identity(path: Path, frame: IdentityFrame) -> Path:
    """Write an identity frame. Raises as :func:`check_identity_card` does."""
    metadata = {"format": FORMAT, "card": check_identity_card(frame.card)}
    save_weights(path, {"image": torch.from_numpy(frame.image)}, metadata)
    return path


def load_identity(path: Path) -> IdentityFrame:
    """The identity frame of a file.

    Raises FileNotFoundError where it is missing, ValueError where the file is damaged or another one.
    """
    state, metadata = load_weights(path)
    file_format = metadata.get("format") if isinstance(metadata, dict) else None
    if file_format != FORMAT:
        raise ValueError(
            f"{path}: not an identity frame (format {file_format!r}, not {FORMAT!r}); 'speak' writes them"
        )
    try:
        card, image = check_identity_card(metadata.get("card")), state["image"]
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape != (len(image), len(image), 3):
            raise ValueError(f"the image has shape {tuple(image.shape)} and type {image.dtype}")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: a damaged identity frame ({error}); make it again") from error
    return IdentityFrame(image.numpy(), card)


def person_of(path: Path) -> str | None:
    """The person of an identity frame's file, None where the file is not one."""
    try:
        return load_identity(path).card["person"]
    except (ValueError, OSError):
        return None
