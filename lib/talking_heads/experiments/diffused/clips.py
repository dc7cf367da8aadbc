"""The talking clips of a profile: those that it is trained on, and those that it is evaluated on."""

from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.speakers.talking import evaluation_store, live_clips, talking_pool
from talking_heads.data.windows import StoreClips, TalkingClips, WindowDataset, Windows, WindowSettings
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.training import distributed


def choose_clips(clips: TalkingClips, count: int, frames: int, seed: int) -> list[int]:
    """At most ``count`` clips of at least so many frames: one of every identity, then a second one of each.

    Their order, and which of an identity's come first, is random and depends on the seed.
    """
    rng = np.random.default_rng(seed)
    of_identity: dict[str, list[int]] = {}
    for number in rng.permutation(len(clips)).tolist():
        if clips.frame_count(number) >= frames:
            of_identity.setdefault(clips.identity(number), []).append(number)
    rounds = zip_longest(*of_identity.values())
    chosen = (number for numbers in rounds for number in numbers if number is not None)
    return list(islice(chosen, count))


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
    """The clips of a profile for training: its own videos, or rendered identities of no few-shot corpus; a
    GPU renders these as training goes.

    Raises what :func:`corpora.find` and :func:`corpora.store` do.
    """
    if profile.data.real:
        training, validation = _own_clips(profile, root, device, "meta", "validation")
        return ClipData(training, validation, {"corpus": profile.data.layout, "videos": len(training)})
    if device.type == "cuda":
        live = live_clips(profile.diffused, device)
        return ClipData(live, validation_clips(profile, root, device), live.metadata())
    pool = talking_pool("training", profile.diffused, root / "pools", device)
    return ClipData(PoolVideos(pool), validation_clips(profile, root, device), pool.metadata())


def training_windows(profile: Profile, root: Path, batches: int, size: int) -> list[Windows]:
    """Batches of windows of the training clips, for a CPU; rendered clips are rendered here, without a pool.

    Raises what :func:`clip_data` does.
    """
    device, section = torch.device("cpu"), profile.diffused
    real = profile.data.real
    clips = _own_clips(profile, root, device, "meta")[0] if real else live_clips(section, device)
    settings = WindowSettings(size, section.conditions.motion_frames, section.conditions.audio_windows)
    dataset = WindowDataset(clips, settings, profile.seed)
    return [dataset[number] for number in range(batches)]


def _own_clips(profile: Profile, root: Path, device: torch.device, *splits: str) -> list[StoreClips]:
    """Splits of a profile's own videos, which are prepared where that is missing."""
    if not distributed.started_by_torchrun():  # which starts processes once everything is prepared
        corpora.find(profile, root, str(device), talking=True)
    return [StoreClips(corpora.store(profile, root, split, talking=True)) for split in splits]


def validation_clips(profile: Profile, root: Path, device: torch.device) -> TalkingClips:
    """The validation clips of a profile. Raises what :func:`clip_data` does."""
    if profile.data.real:
        return _own_clips(profile, root, device, "validation")[0]
    return PoolVideos(talking_pool("validation", profile.diffused, root / "pools", device))


def evaluation_clips(
    profile: Profile, root: Path, device: torch.device, split: str = "evaluation"
) -> StoreClips:
    """The evaluation clips of a profile: the test split of its own videos, or rendered ones, prepared as real
    ones are; or rendered ones for confirmation, on which nothing has been decided before.

    Raises what :func:`clip_data` does, and ValueError for the confirmation of a profile with own videos.
    """
    if profile.data.real:
        if split != "evaluation":
            raise ValueError(f"profile {profile.name}: own videos have one test split, none for confirmation")
        return _own_clips(profile, root, device, "test")[0]
    return StoreClips(evaluation_store(profile.diffused, root, split))
