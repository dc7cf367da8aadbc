"""Talking clips of procedural speakers: consecutive frames with sound, one clip of each identity.

Those for training and validation are pools; on a GPU, those for training are rendered as training goes.
Those for evaluation and for its confirmation are written as video files and prepared, as real clips are.
"""

from dataclasses import replace
from pathlib import Path

import torch

from talking_heads.data.planning import Settings
from talking_heads.data.prepare import prepare
from talking_heads.data.sound import FPS
from talking_heads.data.speakers.clips import VERSION, spoken
from talking_heads.data.speakers.pool import LiveClips, Pool, PoolSettings, make_pool
from talking_heads.data.speakers.speech import Segment
from talking_heads.data.speakers.write import Job, write_clips
from talking_heads.data.store import Store
from talking_heads.files import waiting_lock
from talking_heads.sections.diffused import Diffused

SEED = 1
LIVE_IDENTITIES = 20_000  # of the training clips that a GPU renders as training goes
# first identity of every split; none is in a profile's few-shot corpus, and none in a pool of the judges but
# those for confirmation, which the lip reader was trained on: what reads lips is not measured there
FIRST = {"training": 6_000_000, "validation": 7_000_000, "evaluation": 8_000_000, "confirmation": 9_000_000}


def talking_settings(split: str, section: Diffused) -> PoolSettings:
    """The clips of a split of a profile. Raises ValueError for an alignment that they do not have."""
    if section.clips.alignment != "square":
        raise ValueError(
            f"section diffused.clips: alignment is {section.clips.alignment}, and rendered clips are not "
            "aligned; set it to square"
        )
    of = section.clips if split == "training" else section.protocol
    return PoolSettings(
        seed=SEED,
        first=FIRST[split],
        people=of.identities,
        videos=1,
        frames=round(of.seconds * FPS),
        size=section.clips.image_size,
        fps=FPS,
        sound=True,
        corpus=section.clips.corpus,
    )


def _name(split: str, settings: PoolSettings) -> str:
    """The name of a split's folder."""
    name = f"talking-{split}-{settings.people}x{settings.frames}-{settings.size}"
    return name + (f"-{settings.corpus}" if settings.corpus != "diverse" else "")


def talking_pool(split: str, section: Diffused, folder: Path, device: str | torch.device = "cpu") -> Pool:
    """A split of a profile's talking clips, rendered below ``folder`` where it is missing."""
    settings = talking_settings(split, section)
    name = _name(split, settings)
    if torch.device(device).type != "cpu":  # its frames differ in the last levels
        name += f"-{torch.device(device).type}"
    return make_pool(folder / name, settings, device=device)


def live_clips(section: Diffused, device: str | torch.device) -> LiveClips:
    """The training clips of a profile for a GPU: of more identities, rendered as training goes."""
    return LiveClips(replace(talking_settings("training", section), people=LIVE_IDENTITIES), device)


def evaluation_store(section: Diffused, root: Path, split: str = "evaluation") -> Store:
    """The clips of a profile for evaluation or confirmation, written and prepared below ``root`` where they
    are missing.
    """
    settings = talking_settings(split, section)
    name = _name(split, settings)
    folder = root / f"{name}-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    clips = [Job("test", settings.clip(number, 0)) for number in range(settings.people)]
    with waiting_lock(folder):
        write_clips(folder / "videos", clips)
        prepare(folder / "videos", folder / "prepared", Settings(settings.size, 0, section.clips.alignment))
    return Store(folder / "prepared", "test", settings.size)


def phonemes_of(identity: str, seconds: float) -> list[Segment]:
    """What an identity of these splits says in the first ``seconds`` of its clip."""
    return spoken(SEED, int(identity.removeprefix("id")), 0, seconds)
