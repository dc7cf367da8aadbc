"""The talking clips of a profile: those that it is trained on, and those that it is evaluated on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.speakers.talking import evaluation_store, talking_pool
from talking_heads.data.windows import StoreClips, TalkingClips
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.training import distributed


def first_clips(clips: TalkingClips, frames: int) -> dict[str, int]:
    """The number of the first clip of each identity that has at least so many frames."""
    first: dict[str, int] = {}
    for number in range(len(clips)):
        if clips.frame_count(number) >= frames:
            first.setdefault(clips.identity(number), number)
    return first


def embed_beginning(
    encoder: nn.Module, clips: TalkingClips, number: int, frames: int, each_side: int
) -> Tensor:
    """Motion audio embeddings (frames, 2 m_y + 1, A) of the first frames of a clip, whose sound goes on."""
    count = min(clips.frame_count(number), frames + each_side)
    device = next(encoder.parameters()).device
    return embed_clip(encoder, clips.sound(number), count, each_side, device)[:frames]


@dataclass(frozen=True)
class ClipData:
    """Clips to train on, validation clips, and the provenance of the former."""

    training: TalkingClips
    validation: TalkingClips
    origin: dict[str, Any]


def clip_data(profile: Profile, root: Path, device: torch.device) -> ClipData:
    """The clips of a profile for training: its own videos, or rendered identities of no few-shot corpus.

    Raises what :func:`corpora.ensure` and :func:`corpora.store` do.
    """
    if profile.data.source == "videos":
        training, validation = _own_clips(profile, root, device, "meta", "validation")
        return ClipData(training, validation, {"corpus": profile.data.layout, "videos": len(training)})
    pool = talking_pool("training", profile.diffused, root / "pools", device)
    return ClipData(PoolVideos(pool), validation_clips(profile, root, device), pool.metadata())


def _own_clips(profile: Profile, root: Path, device: torch.device, *splits: str) -> list[StoreClips]:
    """Splits of a profile's own videos, which are prepared where that is missing."""
    if not distributed.started_by_torchrun():  # which starts processes once everything is prepared
        corpora.ensure(profile, root, str(device), talking=True)
    return [StoreClips(corpora.store(profile, root, split, talking=True)) for split in splits]


def validation_clips(profile: Profile, root: Path, device: torch.device) -> TalkingClips:
    """The validation clips of a profile. Raises what :func:`clip_data` does."""
    if profile.data.source == "videos":
        return _own_clips(profile, root, device, "validation")[0]
    return PoolVideos(talking_pool("validation", profile.diffused, root / "pools", device))


def evaluation_clips(profile: Profile, root: Path, device: torch.device) -> StoreClips:
    """The evaluation clips of a profile: the test split of its own videos, or rendered ones, prepared as real
    ones are. Raises what :func:`clip_data` does.
    """
    if profile.data.source == "videos":
        return _own_clips(profile, root, device, "test")[0]
    return StoreClips(evaluation_store(profile.diffused, root))
