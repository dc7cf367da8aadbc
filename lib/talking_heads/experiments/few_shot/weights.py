"""The weights of a profile's trainings: where they lie, what they are, and the networks that they give."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from talking_heads.config import Profile
from talking_heads.experiments.reference import reference_weights
from talking_heads.few_shot.baselines.training import restore_baseline
from talking_heads.few_shot.networks.build import Networks, restore_networks
from talking_heads.files import sha256
from talking_heads.nn.weight_files import load_weights

BASELINES = ("x2face", "pix2pixhd")
CPU = torch.device("cpu")


def weights_path(profile: Profile, variant: str, weights: str, results: Path) -> Path:
    """Where the weights of a variant lie: committed for "reference", the profile's own run for "scratch".

    Raises ValueError where a profile has no reference weights, and FileNotFoundError where the file is not
    there, as :func:`reference_weights` does.
    """
    if weights == "reference":
        if not profile.few_shot.trainings.reference_weights:
            raise ValueError(f"profile {profile.name} has no reference weights; use --weights scratch")
        return reference_weights(variant, results, profile.few_shot.trainings.reference_part)
    path = Path(results) / profile.name / "runs" / f"meta-{variant}" / "weights.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{os.path.relpath(path)}: no {variant} weights; chapter 03_meta_learning trains them"
        )
    return path


def load_networks(
    profile: Profile, variant: str, weights: str, results: Path, device: torch.device = CPU
) -> tuple[Networks, dict]:
    """Meta-learned networks and their provenance. Raises what :func:`weights_path` does."""
    state, metadata = load_weights(weights_path(profile, variant, weights, results))
    return restore_networks(profile, state, device), metadata


def training_identities(metadata: dict) -> int:
    """How many identities the weights were trained on; where only videos are recorded, how many of these."""
    origin = metadata["people"]
    return round(origin.get("people", origin.get("videos", 0)) * origin.get("share", 1))


def describe(metadata: dict) -> str:
    """The provenance of weights in a line, which every table about them shows."""
    unit = "identities" if "people" in metadata["people"] else "videos"
    number = training_identities(metadata)
    collapsed = f", collapsed: {metadata['collapsed']}" if "collapsed" in metadata else ""
    return (
        f"{metadata['variant']} weights: profile {metadata['profile']}, "
        f"step {metadata['step']} of {metadata['of']}, {number} {unit}, "
        f"code {metadata['commit'] or 'unknown'}{collapsed}"
    )


def weights_key(profile: Profile, variant: str, weights: str, results: Path) -> str:
    """Twelve hex digits of a variant's file, or "absent"."""
    try:
        return sha256(weights_path(profile, variant, weights, results))[:12]
    except FileNotFoundError:
        return "absent"


def weights_keys(profile: Profile, weights: str, results: Path) -> dict[str, str]:
    """Every variant's :func:`weights_key`."""
    return {v: weights_key(profile, v, weights, results) for v in profile.few_shot.trainings.variants}


def digest_of(keys: dict[str, str]) -> str:
    """Twelve hex digits of the :func:`weights_keys` of a profile."""
    return hashlib.sha256("".join(keys.values()).encode()).hexdigest()[:12]


def run_id(profile: Profile, weights: str, results: Path) -> str:
    """Twelve hex digits of all of a profile's weights, as they are now."""
    return digest_of(weights_keys(profile, weights, results))


def main_variant(profile: Profile) -> str:
    """The variant that a profile's heads are learned from: "ft", else the small corpus's, else the first."""
    variants = profile.few_shot.trainings.variants
    return next((variant for variant in ("ft", "small") if variant in variants), variants[0])


@dataclass
class LoadedWeights:
    """The weights of a profile that are there: networks, keys and tensors by variant; a description."""

    networks: dict[str, Any]
    keys: dict[str, str]
    states: dict[str, dict]
    description: str = ""

    def ablated(self, profile: Profile) -> str:
        """The variant that the ablations change: the small corpus's full model, or the profile's main one."""
        return "small" if "small" in self.networks else main_variant(profile)


def load_all(
    profile: Profile,
    weights: str,
    results: Path,
    device: torch.device = CPU,
    only: Sequence[str] | None = None,
) -> LoadedWeights:
    """Networks of every variant of the profile (or of ``only``) that is there."""
    loaded, lines = LoadedWeights({}, {}, {}), []
    for variant in only or profile.few_shot.trainings.variants:
        try:
            state, metadata = load_weights(weights_path(profile, variant, weights, results))
        except FileNotFoundError:
            lines.append(f"{variant} weights: not there")
            continue
        if variant in BASELINES:
            loaded.networks[variant] = restore_baseline(profile, variant, state, device)
        else:
            loaded.networks[variant] = restore_networks(profile, state, device)
        loaded.keys[variant] = weights_key(profile, variant, weights, results)
        loaded.states[variant] = state
        lines.append(describe(metadata))
    loaded.description = ". ".join(lines)
    return loaded
