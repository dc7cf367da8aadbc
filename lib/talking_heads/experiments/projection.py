"""Days of the large profiles' trainings, from the time of their steps on one device."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from talking_heads.config import Profile
from talking_heads.config import load as load_profile
from talking_heads.experiments.few_shot.trainings import TRAININGS
from talking_heads.few_shot.meta_learning import MetaLearner

VIDEOS = {"voxceleb1": 22_496, "voxceleb2": 145_569}  # of VoxCeleb1 and of VoxCeleb2's dev part
CLIPS = {"voxceleb1": 153_516, "voxceleb2": 1_092_009}
LARGE = ("voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2")
DAY = 86_400.0


class Projection(NamedTuple):
    """The length of a training on one device."""

    profile: str
    variant: str
    steps: int
    days: float

    @property
    def quantity(self) -> str:
        """Its line in the table of a benchmark."""
        return quantity(self.profile, self.variant)


def quantity(profile: str, variant: str) -> str:
    """The line of a training in the table of a benchmark."""
    return f"{profile}, {variant}"


def timed_variant(variant: str) -> str:
    """The variant whose step takes as long: itself where its network or K differs from those of "ft"."""
    training = TRAININGS[variant]
    return variant if training.overrides or training.learner is not MetaLearner else "ft"


def projections(profile: Profile, seconds: Mapping[str, float]) -> Iterator[Projection]:
    """The trainings of the large profiles, from the seconds of a step by :func:`timed_variant`.

    Profiles whose networks or batches differ from the measured one's are left out.
    """
    section = profile.few_shot
    for name in LARGE:
        large = load_profile(name)
        other = large.few_shot
        same = other.networks == section.networks and large.data.image_size == profile.data.image_size
        if not same or other.meta_learning.batch_videos != section.meta_learning.batch_videos:
            continue
        for variant in other.trainings.variants:
            steps = steps_of(large, variant)
            yield Projection(name, variant, steps, steps * seconds[timed_variant(variant)] / DAY)


def steps_of(large: Profile, variant: str) -> int:
    """Steps of a training on one device; the small corpus counts with its share of the videos."""
    section = large.few_shot
    share = section.trainings.small_share if TRAININGS[variant].small else 1.0
    batches = math.ceil(VIDEOS[large.data.layout] * share / section.meta_learning.batch_videos)
    return section.meta_learning.epochs * batches * (2 if variant == "ff" else 1)
