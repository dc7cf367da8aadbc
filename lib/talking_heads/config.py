"""Profiles: every size, schedule, corpus and budget of a run, in typed and frozen
:mod:`sections`.

A profile is one YAML file in ``profiles/``, or in the folder that the environment variable
``TALKING_HEADS_PROFILES`` names; ``base:`` names another profile whose values it starts from. An unknown key,
a missing key or a value of the wrong type is an error that names the section and the key. The keys of
corpora, checkpoints and evaluated frames are digests of whole sections (:func:`digest`).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from talking_heads.sections.common import Data, Protocol, Section, Timing
from talking_heads.sections.diffused import Diffused
from talking_heads.sections.few_shot import FewShot

FOLDER = Path(__file__).parent / "profiles"
OWN_PROFILES = "TALKING_HEADS_PROFILES"  # environment variable: a folder of your own profiles


class Profile(Section):
    """A run's configuration."""

    name: str
    description: str  # for whom, what it costs, what to expect
    seed: int
    data: Data
    few_shot: FewShot
    diffused: Diffused
    protocol: Protocol
    timing: Timing

    def override(self, values: Mapping[str, Any]) -> "Profile":
        """This profile with other values, by dotted name: ``{"few_shot.meta_learning.steps": 100}``.

        Raises ValueError as :func:`load` does.
        """
        plain = self.model_dump(mode="json")
        for name, value in values.items():
            *path, key = name.split(".")
            section = plain
            for part in path:
                inner = section.get(part)
                if not isinstance(inner, dict):
                    raise ValueError(f"profile {self.name}: there is no section {'.'.join(path)}")
                section = inner
            section[key] = value
        return validate(self.name, plain)


def names() -> list[str]:
    """Names of all profiles."""
    return sorted(path.stem for folder in _folders() for path in folder.glob("*.yaml"))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """The named profile, with ``overrides`` by dotted name.

    Raises ValueError, naming the profile, the section and the key, for anything unknown, missing or of the
    wrong type.
    """
    profile = validate(name, {**_read(name), "name": name})
    return profile.override(overrides) if overrides else profile


def validate(name: str, values: Mapping[str, Any]) -> Profile:
    """A profile from plain values. Raises ValueError as :func:`load` does."""
    try:
        profile = Profile.model_validate_json(json.dumps(values))
    except (ValidationError, TypeError) as error:
        raise ValueError(f"profile {name}: {_explain(error)}") from error
    if faults := "; ".join(_contradictions(profile)):
        raise ValueError(f"profile {name}: {faults}")
    return profile


def _contradictions(profile: Profile) -> Iterator[str]:
    """What is wrong with values that are valid one by one."""
    few_shot, diffused = profile.few_shot, profile.diffused
    extractors, weights = few_shot.losses.extractors, few_shot.losses.content_weights
    if len(extractors) != len(weights):
        yield (
            f"section few_shot.losses: content_weights has {len(weights)} values for {len(extractors)} "
            "extractors"
        )
    if not few_shot.trainings.variants:
        yield "section few_shot.trainings: variants is empty"
    conditions, network, sampling = diffused.conditions, diffused.network, diffused.sampling
    factor, size = network.unshuffle * 2 ** (len(network.multipliers) - 1), diffused.clips.image_size
    if size % factor:
        yield (
            f"section diffused.clips: image_size is {size}, not a multiple of {factor}: diffused.network has "
            f"unshuffle {network.unshuffle} and halves {len(network.multipliers) - 1} times"
        )
    if any(level >= len(network.multipliers) for level in network.attention):
        yield (
            f"section diffused.network: attention names resolution {max(network.attention)}, but multipliers "
            f"has those from 0 to {len(network.multipliers) - 1} alone"
        )
    if sampling.steps > diffused.diffusion.steps:
        yield (
            f"section diffused.sampling: steps is higher than the {diffused.diffusion.steps} of "
            "diffused.diffusion"
        )
    if sampling.guidance != 1 and not conditions.audio_dropout:
        yield (
            f"section diffused.sampling: guidance is {sampling.guidance:g}, not 1, which needs an "
            "audio_dropout in diffused.conditions: the network must have been trained without sound, too"
        )
    if sampling.motion_noise > conditions.motion_noise:
        yield (
            f"section diffused.sampling: motion_noise is higher than the {conditions.motion_noise} of "
            "diffused.conditions, the highest level in training"
        )
    if sampling.distilled and sampling.control:
        yield "section diffused.sampling: the distilled network has no control; one of both must be false"


def digest(*parts: Any) -> str:
    """Twelve hex digits of sections and plain values; they change whenever one of them does."""
    plain = [part.model_dump(mode="json") if isinstance(part, Section) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type, such as ``list[float]``; a boolean is no number."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _folders() -> list[Path]:
    """The folders of profiles. Raises ValueError for one that does not exist."""
    folder = os.environ.get(OWN_PROFILES)
    if folder and not Path(folder).is_dir():
        raise ValueError(f"{OWN_PROFILES}: {folder}: no such folder")
    return [FOLDER, Path(folder)] if folder else [FOLDER]


def _read(name: str, heirs: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a profile over those of its base; ``heirs`` are the profiles whose base it is."""
    paths = [path for folder in _folders() if (path := folder / f"{name}.yaml").exists()]
    if not paths:
        raise ValueError(f"unknown profile {name!r}; there are: {', '.join(names())}")
    path = paths[-1]
    if len(paths) > 1:
        raise ValueError(f"{path}: there is a profile {name} already; rename the file")
    if name in heirs:
        raise ValueError(f"{path}: base leads back to this profile; change it")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: has no sections")
    base = values.pop("base", None)
    return _merged(_read(base, (*heirs, name)), values) if base else values


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over those of a base, section by section."""
    merged = dict(base)
    for key, value in values.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged


def _explain(error: ValidationError | TypeError) -> str:
    """Section, key, cause: one clause for each fault."""
    if isinstance(error, TypeError):
        return f"a value is no plain YAML ({error})"
    return "; ".join(
        _fault(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors()
    )


def _fault(location: Sequence[str | int], kind: str, message: str, value: Any) -> str:
    section, key = ".".join(str(part) for part in location[:-1]), location[-1] if location else ""
    where = f"section {section}: " if section else ""
    if kind == "extra_forbidden":
        return f"{where}unknown key {key}"
    if kind == "missing":
        return f"{where}missing key {key}"
    return f"{where}{key} is {value!r}: {message[0].lower()}{message[1:]}"
