"""The talking clips of a profile: those that it is trained on, and those that it is evaluated on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.speakers.talking import evaluation_store, talking_pool, talking_settings
from talking_heads.data.windows import StoreClips, TalkingClips


@dataclass(frozen=True)
class ClipData:
    """Clips to train on, validation clips, and the provenance of the former."""

    training: TalkingClips
    validation: TalkingClips
    origin: dict[str, Any]


def clip_data(profile: Profile, root: Path, device: torch.device) -> ClipData:
    """The training clips of a profile: its own videos, or rendered ones, who belong to no few-shot corpus.

    Raises what :func:`corpora.ensure` and :func:`corpora.store` do.
    """
    if profile.data.source == "videos":
        corpora.ensure(profile, root, str(device), talking=True)
        training, validation = (
            StoreClips(corpora.store(profile, root, split, talking=True)) for split in ("meta", "validation")
        )
        return ClipData(training, validation, {"corpus": profile.data.layout, "videos": len(training)})
    training_pool, validation_pool = (
        PoolVideos(talking_pool(split, profile.diffused, root / "pools", device))
        for split in ("training", "validation")
    )
    origin = talking_settings("training", profile.diffused).metadata()
    return ClipData(training_pool, validation_pool, origin)


def evaluation_clips(profile: Profile, root: Path, device: torch.device) -> StoreClips:
    """The evaluation clips of a profile: the test split of its own videos, or rendered ones, prepared as real
    ones are. Raises what :func:`clip_data` does.
    """
    if profile.data.source == "videos":
        corpora.ensure(profile, root, str(device), talking=True)
        return StoreClips(corpora.store(profile, root, "test", talking=True))
    return StoreClips(evaluation_store(profile.diffused, root))
