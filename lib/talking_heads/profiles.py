"""Profiles: every size, schedule, corpus and budget of a run, as one frozen dataclass.

A profile is a YAML file of ``profiles/``; ``base:`` names another one whose values it starts from.
Unknown keys and wrong types are errors.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

FOLDER = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    name: str
    about: str  # for whom, what it costs, what to expect
    seed: int
    image_size: int
    # corpus
    corpus: str  # "speakers" (rendered) or "videos" (the user's own)
    corpus_layout: str  # of videos: "voxceleb1", "voxceleb2" or "folder"
    frames_per_video: int  # cap on what is prepared of a video, evenly spaced; 0 for all
    meta_people: int  # procedural speakers for meta-learning
    meta_videos: int
    meta_frames: int
    meta_fps: float
    eval_people: int  # procedural speakers, each for validation and for testing
    eval_videos: int  # the first has eval_frames, the others eval_frames_other
    eval_frames: int
    eval_frames_other: int
    eval_fps: float
    line_width: float  # of landmark images, pixels
    pupils: float  # share of the episodes whose landmark images show pupils too; 0 for none, as in the paper
    # networks
    embedding: int  # N
    embedder_channels: list[int]
    embedder_attention: int  # after this many blocks; 0 for none
    discriminator_channels: list[int]
    discriminator_attention: int
    generator_down: list[int]
    generator_up: list[int]
    generator_bottleneck: int
    generator_attention_down: int
    generator_attention_up: int
    spectral_norm_generator: bool  # in G and E; D always has it
    pool: str  # of E: "sum_relu", "relu_sum" or "relu_mean"
    pool_discriminator: str  # of V
    # baselines
    pix2pixhd_channels: list[int]  # of the generator, from full resolution down
    pix2pixhd_blocks: int
    pix2pixhd_discriminator: int  # width of the first layer
    pix2pixhd_halvings: int  # of the patch discriminators; three give patches of 70²
    pix2pixhd_rate: float
    pix2pixhd_tune_rate: float
    x2face_channels: list[int]
    x2face_embedding: int
    x2face_driving: int
    x2face_rate: float
    # losses
    extractors: list[str]  # "vgg19", "vggface" or the embedded "attributes", "people"; "attributes@eyes" looks at the eyes alone
    content_weights: list[float]  # one per extractor
    adversarial_weight: float
    feature_matching_weight: float
    feature_matching_reduce: str  # "mean" or "sum"
    match_weight: float
    match_pulls: str  # "embedder" (W detached) or "both"
    # meta-learning
    k_shot: int  # K
    k_min: int  # every batch draws its K from k_min to k_shot
    targets: int  # target frames per embedding
    batch_videos: int
    meta_steps: int  # of FT; FF takes twice as many
    small_share: float  # of the people, as the small corpus; 1 where the corpus is the paper's small one
    small_steps: int  # of trainings on it
    meta_epochs: int  # where not 0, counts in epochs of one episode per video instead of steps
    chapter_steps: int  # of the chapter that always trains from nothing
    content_steps: int  # L_CNT alone, before the discriminator joins; FT and FF share them
    discriminator_steps: int
    rate: float  # of E and G
    discriminator_rate: float
    table_rate: float  # of W
    table_start: str  # "random", or "embeddings": W starts as the videos' ê when D joins
    rate_decay: bool  # cosine to a twentieth after the content steps
    beta1: float  # Adam, E and G
    discriminator_beta1: float
    ema: float
    precision: str  # "auto" (bf16 where the device is good at it) or "fp32"
    variants: list[str]  # what is trained: see reproduce/trainings.py
    reference_weights: bool  # whether the committed weights fit this profile
    # fine-tuning
    tune_epochs: int
    tune_batch: int
    tune_rate: float
    tune_discriminator_rate: float
    tune_adversarial_weight: float
    # protocol
    test_videos: int  # to evaluate: one of every person, then a second one, until there are so many
    holdout_frames: int
    shots: list[int]  # T
    small_shots: list[int]  # of these, those at which the small corpus's rows of Table 1 are computed
    tune_seeds: int
    observer_steps: int  # of the USER-proxy's observers
    stability_steps: int  # of the trainings with and without L_FM
    stability_seeds: int  # of each; 0 shows the reference's
    timing_profile: str  # whose sizes Table 2 times beside this profile's
    timing_seconds: float  # at most, for each row


VARIANTS = ("ft", "ff", "small", "no-match", "no-match-one-shot", "pix2pixhd", "x2face")
POOLS = ("sum_relu", "relu_sum", "relu_mean")
CHOICES = {"corpus": ("speakers", "videos"), "corpus_layout": ("folder", "voxceleb1", "voxceleb2"), "pool": POOLS, "pool_discriminator": POOLS,
           "feature_matching_reduce": ("mean", "sum"), "match_pulls": ("embedder", "both"), "table_start": ("random", "embeddings"), "precision": ("auto", "fp32")}


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"unknown profile {name!r}; there are: {', '.join(names())}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = values.pop("base", None)
    return {**(_read(base) if base else {}), **values}


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type, ``list[int]`` and unions included; a boolean is no number."""
    if isinstance(kind, UnionType):
        return any(fits(value, k) for k in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(v, get_args(kind)[0]) for v in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def make(name: str, values: dict[str, Any]) -> Profile:
    """A profile from plain values. Raises ValueError that names what is unknown, missing or of a wrong type."""
    fields = {f.name: f.type for f in dataclasses.fields(Profile)}
    values = {"name": name, **values}
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"profile {name}: unknown keys {', '.join(unknown)}; known are {', '.join(fields)}")
    if missing := [f for f in fields if f not in values]:
        raise ValueError(f"profile {name}: missing keys {', '.join(missing)}")
    for key, kind in fields.items():
        if not fits(values[key], kind):
            raise ValueError(f"profile {name}: {key} is {values[key]!r}, not {getattr(kind, '__name__', kind)}")
    if strangers := sorted(set(values["variants"]) - set(VARIANTS)):
        raise ValueError(f"profile {name}: variants {', '.join(strangers)}; there are: {', '.join(VARIANTS)}")
    for key, known in CHOICES.items():
        if values[key] not in known:
            raise ValueError(f"profile {name}: {key} is {values[key]!r}; there are: {', '.join(known)}")
    return Profile(**{k: float(v) if fields[k] is float else v for k, v in values.items()})


def load(name: str, **changes: Any) -> Profile:
    """The named profile, with ``changes`` on top. Raises ValueError as :func:`make` does."""
    return make(name, {**_read(name), **changes})


def key(profile: Profile, *fields: str) -> str:
    """Twelve hex digits that change whenever one of the fields (all of them by default) does."""
    values = dataclasses.asdict(profile)
    chosen = {f: values[f] for f in fields or values}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]
