"""Checkpoints and logs of a training on disk."""

import json
from pathlib import Path

import torch

from talking_heads.files import replacing


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a learner's state; the file appears by rename."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, key: str) -> dict:
    """A learner's state. Raises ValueError where the file belongs to other settings or cannot be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(
            f"{path}: a damaged checkpoint ({error}); delete it, and the training starts anew"
        ) from error
    if state["key"] != key:
        raise ValueError(f"{path}: belongs to other settings or another version; move it away to train anew")
    return state


def check_videos(trained_on: int, videos: int) -> None:
    """Raises ValueError for a checkpoint that was trained on another number of videos."""
    if trained_on != videos:
        raise ValueError(
            f"the checkpoint was trained on {trained_on} videos, these are {videos}; "
            "move it away to train anew"
        )


def rows_before(log: Path, step: int) -> list[str]:
    """The rows of a log before a step, without an incomplete last row."""
    rows: list[str] = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            if json.loads(line)["step"] >= step:
                break
        except json.JSONDecodeError:
            break
        rows.append(line)
    return rows
