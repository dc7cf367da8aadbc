"""Pools of procedural speakers on which the judges are trained and verified."""

from pathlib import Path
from typing import Any

import numpy as np

from talking_heads.data.sound import FPS
from talking_heads.data.speakers.clips import speaker
from talking_heads.data.speakers.pool import Pool, PoolSettings, make_pool
from talking_heads.data.speakers.traits import NAMES, VOICE, unit_vector
from talking_heads.nn.feature_networks import SIDE

SEED = 1
# the identities of the pools are distinct, and distinct from those of every profile's corpus
POOLS: dict[str, dict[str, Any]] = {
    "features": {"first": 1_000_000, "people": 1400, "videos": 2, "frames": 10},
    "verification": {"first": 2_000_000, "people": 2400, "videos": 4, "frames": 2},
    "verification_test": {"first": 3_000_000, "people": 100, "videos": 3, "frames": 8},
    "lips": {"first": 9_000_000, "people": 500, "videos": 1, "frames": 50, "fps": FPS},
    "lips_test": {"first": 10_000_000, "people": 20, "videos": 1, "frames": 100, "fps": FPS},
}
VISIBLE = [number for number, name in enumerate(NAMES) if name not in VOICE]


def pool(name: str, folder: Path, size: int = SIDE) -> Pool:
    """A pool of ``POOLS``, rendered below ``folder`` where it is missing; ``size`` is its frames' side."""
    place = folder / (name if size == SIDE else f"{name}-{size}")
    return make_pool(place, PoolSettings(seed=SEED, size=size, **POOLS[name]))


def trait_table(name: str) -> np.ndarray:
    """Visible traits of the identities of a pool, scaled to [0, 1]: (identities, traits) float32."""
    first, count = POOLS[name]["first"], POOLS[name]["people"]
    return np.stack([unit_vector(speaker(SEED, first + number))[VISIBLE] for number in range(count)])
