"""Profiles: validation, and the keys of corpora, checkpoints and cells.

The keys are tested on every field: a change of one must change exactly the keys of what depends on it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import talking_heads
from pydantic import ValidationError
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data import corpora
from talking_heads.diffused import training as diffusion_training
from talking_heads.diffused.baselines import training as talking_baselines
from talking_heads.diffused.control_training import ControlLearner
from talking_heads.diffused.distillation import DistillationLearner
from talking_heads.experiments.diffused import protocol as talking_protocol
from talking_heads.experiments.few_shot import protocol
from talking_heads.few_shot import fine_tuning, meta_learning
from talking_heads.few_shot.baselines import training as baselines
from talking_heads.sections.common import Section
from talking_heads.training.checkpoints import key_of

ROOT = Path("data")
ALL = {"corpus", "meta-learning", "Pix2pixHD", "X2Face", "cells"}
BASELINES = {"SDA", "landmarks"}
DIFFUSION = {"diffusion", "distilled", "control"}
TRAININGS = {"meta-learning", "Pix2pixHD", "X2Face"}
# the keys that a change of a field changes, by section; single fields take precedence
CHANGES = {
    "name": set(),
    "description": set(),
    "seed": {*ALL, *DIFFUSION, *BASELINES, "talking"},
    "data": ALL,
    "data.source": {*ALL, *DIFFUSION, *BASELINES},
    "data.speakers": ALL,
    "few_shot.landmark_images": {*TRAININGS, "cells"},
    "few_shot.networks": {"meta-learning", "cells"},
    "few_shot.networks.precision": {*TRAININGS, "cells"},
    "few_shot.losses": {*TRAININGS, "cells"},
    "few_shot.optimiser": {"meta-learning", "cells"},
    "few_shot.meta_learning": TRAININGS,
    "few_shot.trainings": set(),
    "few_shot.fine_tuning": {"cells"},
    "few_shot.pix2pixhd": {"Pix2pixHD", "cells"},
    "few_shot.x2face": {"X2Face"},
    "diffused.clips": {*DIFFUSION, *BASELINES, "talking"},
    "diffused.conditions": {*DIFFUSION, "talking"},
    "diffused.conditions.audio_windows": {*DIFFUSION, *BASELINES, "talking"},
    "diffused.audio_encoder": {*DIFFUSION, *BASELINES, "talking"},
    "diffused.network": {*DIFFUSION, "talking"},
    "diffused.network.precision": {*DIFFUSION, "SDA", "talking"},
    "diffused.diffusion": {*DIFFUSION, "talking"},
    "diffused.training": DIFFUSION,
    "diffused.sampling": {"talking"},
    "diffused.distillation": {"distilled"},
    "diffused.control": {"control"},
    "diffused.sda": {"SDA"},
    "diffused.landmarks": {"landmarks"},
    "diffused.protocol": set(),
    "protocol": set(),
    "timing": set(),
}


def keys(profile: config.Profile) -> dict[str, str]:
    return {
        "corpus": str(corpora.folder(profile, ROOT)),
        "meta-learning": key_of(meta_learning.training_settings(profile)),
        "Pix2pixHD": key_of(baselines.training_settings(profile, "pix2pixhd")),
        "X2Face": key_of(baselines.training_settings(profile, "x2face")),
        "cells": protocol.cell_key(profile),
        "diffusion": key_of(diffusion_training.training_settings(profile)),
        "distilled": key_of(diffusion_training.training_settings(profile, DistillationLearner.sections)),
        "control": key_of(diffusion_training.training_settings(profile, ControlLearner.sections)),
        "SDA": key_of(talking_baselines.training_settings(profile, "sda")),
        "landmarks": key_of(talking_baselines.training_settings(profile, "landmarks")),
        "talking": talking_protocol.generation_key(profile),
    }


def changed_keys(a: config.Profile, b: config.Profile) -> set[str]:
    before, after = keys(a), keys(b)
    return {name for name in before if before[name] != after[name]}


def fields(section: type[Section], prefix: str = "") -> dict[str, Any]:
    """The types of all fields below a section, by dotted name."""
    types = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            types |= fields(field.annotation, f"{prefix}{name}.")
        else:
            types[prefix + name] = field.annotation
    return types


FIELDS = fields(config.Profile)
FITTING = {  # one needs the other; an empty one has no other value
    "diffused.clips.image_size": 64,
    "diffused.network.unshuffle": 4,
    "diffused.network.attention": [1],
    "protocol.chapters": ["00"],
}


def value_of(profile: config.Profile, name: str) -> Any:
    value: Any = profile.model_dump(mode="json")
    for key in name.split("."):
        value = value[key]
    return value


def other_value(kind: Any, value: Any) -> Any:
    """A valid value of a field's type that differs from ``value``."""
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, str):
        return f"{value}-2"
    (element, _), (first, *rest) = get_args(kind), value
    return [other_value(element, first), *rest]


# -- keys -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def smoke():
    return config.load("smoke")


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_changes_the_keys_of_what_depends_on_it(smoke, name):
    value = value_of(smoke, name)
    changed = smoke.override({name: FITTING.get(name) or other_value(FIELDS[name], value)})
    assert value_of(changed, name) != value
    section = name.rpartition(".")[0]
    assert changed_keys(smoke, changed) == CHANGES.get(name, CHANGES.get(section))


def test_the_same_profile_has_the_same_keys(smoke):
    assert not changed_keys(smoke, config.load("smoke"))


@pytest.mark.parametrize("name", [name for name in FIELDS if name.startswith("data.")])
def test_the_folder_of_your_own_videos_is_named_after_their_layout(name):
    profile = config.load("voxceleb1")
    changed = profile.override({name: other_value(FIELDS[name], value_of(profile, name))})
    other_folder = corpora.folder(profile, ROOT) != corpora.folder(changed, ROOT)
    assert other_folder == (name in ("data.source", "data.layout"))


@pytest.mark.parametrize(
    "module, changes",
    [
        (corpora, {"corpus"}),
        (meta_learning, {"meta-learning"}),
        (baselines, {"Pix2pixHD", "X2Face", "cells"}),
        (fine_tuning, {"cells"}),
        (protocol, {"cells"}),
        (diffusion_training, DIFFUSION),
        (talking_baselines, BASELINES),
        (talking_protocol, {"talking"}),
    ],
)
def test_a_raised_version_changes_the_keys_of_what_its_code_computes(smoke, monkeypatch, module, changes):
    before = keys(smoke)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    after = keys(smoke)
    assert {name for name in before if before[name] != after[name]} == changes


def test_learners_have_these_keys(profile, videos, tmp_path):
    learner = meta_learning.MetaLearner(profile, "ft", videos, [])
    assert learner.key == learner.state(tmp_path)["key"] == key_of(meta_learning.training_settings(profile))
    for variant in ("pix2pixhd", "x2face"):
        baseline = baselines.BaselineLearner(profile, variant, videos, [])
        key = key_of(baselines.training_settings(profile, variant))
        assert baseline.key == baseline.state(tmp_path)["key"] == key


PRINT_KEYS = """
import json, test_config
print(json.dumps(test_config.keys(test_config.config.load("smoke"))), test_config.talking_heads.__file__)
"""


def test_a_comment_in_the_code_changes_no_key(smoke, tmp_path):
    """Keys of a copy of the library in which every module has one more comment."""
    package = tmp_path / "talking_heads"
    shutil.copytree(Path(talking_heads.__file__).parent, package, ignore=shutil.ignore_patterns("*.pyc"))
    for path in package.rglob("*.py"):
        with path.open("a", encoding="utf-8") as file:
            file.write("# one more comment\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", PRINT_KEYS]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    printed, _, imported = process.stdout.strip().rpartition(" ")
    assert Path(imported).parent == package and json.loads(printed) == keys(smoke)


# -- validation -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", config.names())
def test_every_profile_loads(name):
    profile = config.load(name)
    assert profile.name == name and profile.description
    assert config.validate(name, profile.model_dump(mode="json")) == profile
    assert profile.timing.profile in config.names()
    small = set(profile.protocol.small_shots)
    assert small <= set(profile.protocol.shots)
    section = profile.few_shot.meta_learning
    assert section.k_min <= section.k_shot


def test_a_profile_has_the_values_of_its_base_but_for_its_own():
    laptop, smoke = config.load("laptop"), config.load("smoke")
    assert smoke.few_shot.optimiser == laptop.few_shot.optimiser
    assert smoke.data.image_size == 32 and laptop.data.image_size == 64
    assert smoke.data.speakers.meta_videos == laptop.data.speakers.meta_videos


@pytest.mark.parametrize(
    "section, key, value, message",
    [
        ("data", "colour", 1, "unknown key colour"),
        ("data", "image_size", "64", "image_size is '64': input should be a valid integer"),
        ("data", "image_size", 64.5, "image_size is 64.5"),
        ("data", "image_size", True, "image_size is True"),
        ("data", "image_size", 8, "image_size is 8: input should be greater than or equal to 16"),
        ("few_shot.networks", "depth", 1, "unknown key depth"),
        ("few_shot.networks", "spectral_norm", 1, "spectral_norm is 1"),
        ("few_shot.networks", "generator_up", [], "generator_up is []"),
        ("few_shot.networks", "pool", "max", "pool is 'max': input should be 'sum_relu', 'relu_sum'"),
        ("few_shot.losses", "content_weights", [1.0], "content_weights has 1 values for 3 extractors"),
        ("few_shot.optimiser", "beta1", 1.5, "beta1 is 1.5"),
        ("few_shot.meta_learning", "learning_rate", -1.0, "learning_rate is -1.0"),
        ("few_shot.meta_learning", "learning_rate", float("inf"), "learning_rate is"),
        ("few_shot.trainings", "variants", [], "variants is empty"),
        ("diffused.clips", "image_size", 34, "image_size is 34, not a multiple of 8: diffused.network has"),
        ("diffused.sampling", "steps", 1001, "steps is higher than the 1000 of diffused.diffusion"),
    ],
)
def test_a_wrong_value_is_refused_with_its_section_and_key(smoke, section, key, value, message):
    with pytest.raises(ValueError) as refusal:
        smoke.override({f"{section}.{key}": value})
    assert str(refusal.value).startswith(f"profile smoke: section {section}: {message}")


@pytest.mark.parametrize(
    "key, low, sampling, message",
    [
        ("motion_noise", 0.3, 0.5, "motion_noise is higher than the 0.3 of diffused.conditions"),
        ("audio_dropout", 0.0, 2.0, "guidance is 2, not 1, which needs an audio_dropout"),
    ],
)
def test_generation_uses_only_what_the_network_was_trained_for(smoke, key, low, sampling, message):
    name = "guidance" if key == "audio_dropout" else key
    values = {f"diffused.conditions.{key}": low, f"diffused.sampling.{name}": sampling}
    with pytest.raises(ValueError, match=f"profile smoke: section diffused.sampling: {message}"):
        smoke.override({"diffused.sampling.motion_noise": 0.0} | values)


def test_a_wrong_element_of_a_list_is_named_by_its_position(smoke):
    with pytest.raises(ValueError, match=r"section few_shot\.networks\.generator_up: 1 is '8'"):
        smoke.override({"few_shot.networks.generator_up": [8, "8"]})
    with pytest.raises(ValueError, match=r"section few_shot\.trainings\.variants: 0 is 'fft'"):
        smoke.override({"few_shot.trainings.variants": ["fft"]})


def test_unknown_and_wrong_top_level_keys_are_named(smoke):
    with pytest.raises(ValueError, match=r"^profile smoke: unknown key weights$"):
        smoke.override({"weights": 1})
    with pytest.raises(ValueError, match=r"^profile smoke: protocol is 3"):
        smoke.override({"protocol": 3})


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_key_is_named_with_its_section(smoke, name):
    values = smoke.model_dump(mode="json")
    *path, key = name.split(".")
    section = values
    for part in path:
        section = section[part]
    del section[key]
    where = f"section {'.'.join(path)}: " if path else ""
    with pytest.raises(ValueError) as refusal:
        config.validate("smoke", values)
    assert str(refusal.value) == f"profile smoke: {where}missing key {key}"


def test_all_faults_of_a_profile_are_named(smoke):
    with pytest.raises(ValueError, match="section data: unknown key colour; section timing: seconds is 'x'"):
        smoke.override({"data.colour": 1, "timing.seconds": "x"})


def test_an_unknown_section_or_profile_is_named(smoke):
    with pytest.raises(ValueError, match=r"profile smoke: there is no section few_shot\.network$"):
        smoke.override({"few_shot.network.pool": "sum_relu"})
    with pytest.raises(ValueError, match="unknown profile 'labtop'; there are: crema, gpu, laptop"):
        config.load("labtop")


@pytest.fixture
def own_profiles(tmp_path, monkeypatch):
    monkeypatch.setenv(config.OWN_PROFILES, str(tmp_path))
    return tmp_path


def test_profiles_of_your_own_lie_in_a_folder_of_theirs(smoke, own_profiles):
    (own_profiles / "mine.yaml").write_text("base: smoke\nseed: 3\n")
    mine = config.load("mine")
    assert (mine.name, mine.seed, mine.few_shot) == ("mine", 3, smoke.few_shot) and "mine" in config.names()


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("smoke", "base: laptop", r"smoke\.yaml: there is a profile smoke already; rename the file"),
        ("mine", "base: mine", r"mine\.yaml: base leads back to this profile; change it"),
        ("mine", "base: [", r"mine\.yaml: not YAML: while parsing"),
        ("mine", "base", r"mine\.yaml: has no sections"),
        ("mine", "base: labtop", "unknown profile 'labtop'; there are: crema"),
        ("mine", "base: smoke\ndata:\n  colour: 1", "profile mine: section data: unknown key colour"),
    ],
)
def test_a_faulty_profile_of_your_own_is_named(own_profiles, name, text, message):
    (own_profiles / f"{name}.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        config.load(name)


def test_a_folder_of_profiles_that_does_not_exist_is_named(own_profiles, monkeypatch, capsys):
    monkeypatch.setenv(config.OWN_PROFILES, str(own_profiles / "nowhere"))
    with pytest.raises(ValueError, match=r"TALKING_HEADS_PROFILES: .*nowhere: no such folder"):
        config.load("smoke")
    assert main(["sizes"]) == 2 and "nowhere: no such folder" in capsys.readouterr().err


def test_profiles_are_frozen(smoke):
    with pytest.raises(ValidationError, match="frozen"):
        smoke.data.image_size = 64
    with pytest.raises(ValidationError, match="frozen"):
        smoke.seed = 1


@pytest.mark.parametrize(
    "value, kind, expected",
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        ([0.5, 1], list[float], True),
        (["a"], list[float], False),
        ({"a": 1}, dict, True),
        (None, str, False),
    ],
)
def test_plain_values_fit_a_type(value, kind, expected):
    assert config.fits(value, kind) == expected
