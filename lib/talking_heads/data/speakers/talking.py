"""Talking clips of procedural speakers: pools of consecutive frames with sound, one clip of each identity."""

from pathlib import Path

from talking_heads.config import TalkingClips
from talking_heads.data.speakers.pool import Pool, PoolSettings, make_pool
from talking_heads.data.windows import FPS

SEED = 1
# first identity of every split; none is in a profile's few-shot corpus or in a pool of the judges
FIRST = {"training": 6_000_000, "validation": 7_000_000, "evaluation": 8_000_000}


def talking_settings(split: str, section: TalkingClips) -> PoolSettings:
    """The clips of a split of a profile."""
    training = split == "training"
    return PoolSettings(
        seed=SEED,
        first=FIRST[split],
        people=section.identities if training else section.evaluation_identities,
        videos=1,
        frames=round((section.seconds if training else section.evaluation_seconds) * FPS),
        size=section.image_size,
        fps=FPS,
        sound=True,
    )


def talking_pool(split: str, section: TalkingClips, folder: Path) -> Pool:
    """A split of a profile's talking clips, rendered below ``folder`` where it is missing."""
    settings = talking_settings(split, section)
    name = f"talking-{split}-{settings.people}x{settings.frames}-{settings.size}"
    return make_pool(folder / name, settings)
