"""Profiles: every size, schedule, corpus and budget of a run, in typed and frozen sections.

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
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

FOLDER = Path(__file__).parent / "profiles"
OWN_PROFILES = "TALKING_HEADS_PROFILES"  # environment variable: a folder of your own profiles

Variant = Literal["ft", "ff", "small", "no-match", "no-match-one-shot", "pix2pixhd", "x2face"]
VARIANTS: tuple[str, ...] = get_args(Variant)
Layout = Literal["folder", "voxceleb1", "voxceleb2", "crema", "lrw"]
Pooling = Literal["sum_relu", "relu_sum", "relu_mean"]
Precision = Literal["auto", "fp32"]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[tuple[Positive, ...], Field(min_length=1)]


class Section(BaseModel):
    """A frozen group of values; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Speakers(Section):
    """Sizes of the corpus of procedural speakers; unused where ``data.source`` is "videos"."""

    meta_identities: Count  # for meta-learning
    meta_videos: Positive  # of each identity
    meta_frames: Positive  # of each video
    meta_fps: Amount
    evaluation_identities: Count  # for validation, and as many for the evaluation set
    evaluation_videos: Positive  # the first has evaluation_frames, the others evaluation_frames_other
    evaluation_frames: Positive
    evaluation_frames_other: Positive
    evaluation_fps: Amount


class Data(Section):
    """The corpus: what is rendered or read, and how it is prepared."""

    source: Literal["speakers", "videos"]  # rendered, or your own
    layout: Layout  # of your own videos
    image_size: Annotated[int, Field(ge=16)]  # pixels of a side
    frames_per_video: Count  # at most, evenly spaced over all clips of a video; 0 keeps all
    speakers: Speakers

    @property
    def real(self) -> bool:
        """Whether the identities are real people, on whom the embedded judges were not trained."""
        return self.source == "videos"


class LandmarkImages(Section):
    """How landmarks are drawn."""

    line_width: Annotated[float, Field(gt=0, le=100)]  # pixels
    pupils: Share  # of the episodes whose landmark images show pupils; 0 as in the paper


class Networks(Section):
    """E, G and V (section 3.4)."""

    embedding: Positive  # N
    embedder_channels: Channels
    embedder_attention: Count  # after this many blocks; 0 for none
    discriminator_channels: Channels
    discriminator_attention: Count
    generator_down: Channels
    generator_up: Channels
    generator_bottleneck: Count
    generator_attention_down: Count
    generator_attention_up: Count
    spectral_norm: bool  # in E and G; D always has it
    pool: Pooling  # of E
    pool_discriminator: Pooling  # of V
    precision: Precision  # "auto" is bf16 where the device multiplies it in hardware


class Losses(Section):
    """Terms and weights of equations (3) and (4)."""

    extractors: tuple[
        str, ...
    ]  # "vgg19", "vggface", "attributes", "people"; "attributes@eyes" crops the eyes, "@twice" enlarges
    content_weights: tuple[Amount, ...]  # one for each extractor
    adversarial_weight: Amount
    feature_matching_weight: Amount
    feature_matching_reduce: Literal["mean", "sum"]  # over the residual blocks
    match_weight: Amount
    match_pulls: Literal["embedder", "both"]  # what L_MCH moves: E alone (W is detached), or E and W


class Optimiser(Section):
    """Adam, and the updates of D for each update of G."""

    beta1: Share  # of E and G
    discriminator_beta1: Share
    discriminator_steps: Positive
    shared_episode: bool  # whether one episode serves all updates of a step, not one each


class MetaLearning(Section):
    """Section 3.2."""

    k_shot: Positive  # K
    k_min: Positive  # each batch draws its K from k_min to k_shot
    targets: Positive  # target frames for each embedding
    batch_videos: Positive
    steps: Count  # of FT; FF takes twice as many
    epochs: Count  # of one episode for each video; where not 0, it replaces steps
    content_steps: Count  # with L_CNT alone, before D joins; FT and FF share them
    learning_rate: Amount  # of E and G
    discriminator_learning_rate: Amount
    table_learning_rate: Amount  # of W
    table_start: Literal["random", "embeddings"]  # "embeddings": W starts as the videos' ê when D joins
    learning_rate_decay: bool  # a cosine to a twentieth after the content steps
    ema: Share


class Trainings(Section):
    """What is trained, and for how long on the small corpus and in a chapter."""

    variants: tuple[Variant, ...]
    reference_weights: bool  # whether committed weights fit this profile
    reference_part: str  # the folder among the committed results that has them; "" for the main one
    start_profile: str  # whose reference weights a training starts from, one level deeper; "" for none
    pool: bool  # whether meta-learn trains on identities rendered for it, not on the profile's corpus
    small_share: Share  # of the identities, as the small corpus; 1 where the corpus is the paper's small one
    small_steps: Count
    chapter_steps: Count  # of the chapter that always trains from nothing


class FineTuning(Section):
    """Section 3.3."""

    epochs: Count
    batch: Positive
    learning_rate: Amount
    discriminator_learning_rate: Amount
    adversarial_weight: Amount


class Pix2pixHD(Section):
    """The baseline of Wang et al. 2018."""

    channels: Channels  # of the generator, from full resolution down
    blocks: Count
    discriminator_channels: Positive  # of the first layer
    halvings: Count  # of the patch discriminators; three give patches of 70²
    learning_rate: Amount
    fine_tuning_learning_rate: Amount


class X2Face(Section):
    """The baseline of Wiles et al. 2018."""

    channels: Channels
    embedding: Positive
    driving: Positive
    learning_rate: Amount


class FewShot(Section):
    """The system of Zakharov et al. 2019, and its baselines."""

    landmark_images: LandmarkImages
    networks: Networks
    losses: Losses
    optimiser: Optimiser
    meta_learning: MetaLearning
    trainings: Trainings
    fine_tuning: FineTuning
    pix2pixhd: Pix2pixHD
    x2face: X2Face


Corpus = Literal["diverse", "plain"]  # of rendered talking clips


class TalkingClips(Section):
    """Training clips with sound at 25 frames a second; all but size and alignment is of rendered ones."""

    image_size: Annotated[int, Field(ge=16)]  # pixels of a side
    alignment: Literal["square", "similarity"]  # one crop for a clip, or every frame to a mean face
    corpus: Corpus  # plain: heads that hardly turn, before few backgrounds
    identities: Count  # one clip of each
    seconds: Amount


class Conditions(Section):
    """What the denoising network is given beside the noisy frame (sections 4.1 to 4.3)."""

    motion_frames: Count  # m_x
    motion_grey: bool
    motion_noise: Share  # the highest level of noise on motion frames in training; 0 as in the paper
    audio_windows: Count  # m_y, on each side
    audio_dropout: Share  # of the training samples, whose sound is left out; 0 as in the paper


class AudioEncoder(Section):
    """The encoder of a window of sound: the paper's on the waveform, or a small one on log-mel spectra."""

    kind: Literal["waveform", "log_mel"]
    embedding: Positive


class DiffusionNetwork(Section):
    """The UNet (section 5.1)."""

    unshuffle: Positive  # pixels of a side that become channels before the first convolution
    channels: Positive
    multipliers: Channels  # of the channels at every resolution
    blocks: Positive  # at every resolution
    embedding: Positive  # width of the embeddings of time and sound
    attention: tuple[Count, ...]  # resolutions (0 the highest) whose blocks attend, beside the middle
    head_channels: Positive  # of the attention
    dropout: Share
    precision: Precision


class Diffusion(Section):
    """The diffusion process and the loss (sections 3 and 4.4)."""

    steps: Positive  # T
    prediction: Literal["epsilon", "velocity"]
    vlb_weight: Amount  # λ_vlb
    lip_weight: Amount  # λ_ls
    min_snr: Amount  # γ of min-SNR weighting (Hang et al. 2023); 0 for none, as in the paper


class DiffusionTraining(Section):
    """Optimisation of the denoising network."""

    steps: Count
    batch: Positive  # of all ranks together
    micro_batch: Positive  # samples whose gradients are computed at once
    learning_rate: Amount
    learning_rate_decay: Share  # of the steps, the last ones, in which it falls to zero; 1 for all
    ema: Share  # 0 for none, as in the paper
    identity_frame: Literal["random", "first"]  # of the clip; random as in the paper
    # self-rollouts: in a share of the batches, or of their parts, the newest motion frames are the network's
    rollout_share: Share  # 0 for none, as in the paper
    rollout_frames: Positive
    rollout_steps: Positive  # denoising steps of a frame, by DDIM


class Sampling(Section):
    """Generation (section 4.5)."""

    sampler: Literal["ddpm", "ddim", "dpm_solver"]
    steps: Positive
    # of the steps among the T: from the last to the first of them, as in the paper; or from the last, without
    # the first, at which hardly any noise is left (Lin et al. 2024)
    spacing: Literal["linspace", "trailing"]
    guidance: Amount  # of the sound; 1 for none, as in the paper
    motion_noise: Share  # level of noise on motion frames (Ho et al. 2022); 0 for none, as in the paper
    # frames after which the identity frame takes the place of the oldest motion frame; 0 for never, as in the
    # paper's text; the authors' code does it after 15
    identity_every: Count
    distilled: bool  # whether the distilled network generates, with its own sampler and steps
    control: bool  # whether head motion and blinks are as the next two say, not as the network draws them
    head_motion: Amount  # speed of the head, relative to the training clips
    blink_rate: Amount  # blinks a second
    blink_guidance: Amount  # how far lids go beyond what the network makes of shut eyes; 1 for not at all


class Control(Section):
    """Layers beside the trained network that learn to obey the controls; the paper has none."""

    steps: Count
    learning_rate: Amount


class Distillation(Section):
    """A network that samples in fewer steps (Salimans & Ho 2022); the paper has none."""

    teacher_steps: Positive  # of DDIM with the trained network
    steps: Positive  # of the distilled one: the teacher's, halved once or more
    training_steps: Count  # of each halving
    learning_rate: Amount


class Sda(Section):
    """The baseline of Vougioukas et al. 2019, a GAN."""

    channels: Positive  # of the generator, at half of the resolution
    identity: Positive  # width of the latent code of the identity frame
    content: Positive  # width of the latent code of the sound
    noise: Positive  # width of the latent code of the noise
    discriminator_channels: Positive
    hidden: Positive  # width of the discriminators of sequences and of synchronisation
    frames: Annotated[int, Field(ge=10)]  # of a training sequence: at least two snippets of 0.2 s
    steps: Count
    batch: Positive  # of all ranks together
    learning_rate: Amount
    sequence_learning_rate: Amount  # of the discriminators of sequences and of synchronisation
    learning_rate_decay: Share  # of the steps, the last ones, in which both fall to zero
    frame_weight: Amount  # λ_img
    sequence_weight: Amount  # λ_seq
    sync_weight: Amount  # λ_sync
    reconstruction_weight: Amount  # λ_rec, of L1


class LandmarkPrediction(Section):
    """The baseline that predicts landmarks from sound, for a few-shot head."""

    hidden: Positive
    components: Positive  # of the motion that the sound does not explain
    frames: Annotated[int, Field(ge=3)]  # of a training sequence
    steps: Count
    batch: Positive  # of all ranks together
    learning_rate: Amount
    mouth_weight: Amount


class TalkingProtocol(Section):
    """What is generated and measured, and what the chapters do beside it."""

    # clips for validation, and as many for the evaluation: one of every identity, then a second one
    identities: Positive
    seconds: Amount  # of each
    batch: Positive  # clips that are generated at once; their frames depend on it, in the last digits
    chapter_identities: Positive  # of the short training in chapter 20; ten times as many in chapter 24
    chapter_steps: Count
    chapter_clips: Positive  # validation clips that chapters 21 and 22 generate
    chapter_seconds: Amount  # of the clips in which chapter 22 measures drift
    chapter_trains: bool  # whether chapter 21 trains the network where there are no weights
    ablation_steps: Count  # of each training of the ablations; 0 for none
    ablation_seconds: Amount  # of the clips in which these are measured
    long_identities: Count  # of the clips that show how long quality lasts; 0 for none
    long_seconds: Amount


class Diffused(Section):
    """The system of Stypułkowski et al. 2023."""

    clips: TalkingClips
    conditions: Conditions
    audio_encoder: AudioEncoder
    network: DiffusionNetwork
    diffusion: Diffusion
    training: DiffusionTraining
    sampling: Sampling
    distillation: Distillation
    control: Control
    sda: Sda
    landmarks: LandmarkPrediction
    protocol: TalkingProtocol


class Protocol(Section):
    """What is evaluated (section 4)."""

    test_videos: Positive  # one of every identity, then a second one, until there are so many
    holdout_frames: Positive
    shots: Channels  # T
    small_shots: Channels  # of these, those at which the rows of the small corpus are computed
    seeds: Positive  # of fine-tuning
    observer_steps: Count  # of training the observers of USER-proxy and Turing-proxy; 0 for none
    stability_steps: Count  # of the trainings with and without L_FM
    stability_seeds: Count  # of each; 0 shows the reference's
    chapters: tuple[str, ...]  # by number, as in "04"; empty for all that the corpus is for
    jobs: bool  # whether jobs prepare, train, evaluate and measure, and chapters read what they left


class Timing(Section):
    """Table 2."""

    profile: str  # whose sizes are timed beside this profile's
    seconds: Amount  # at most, for each row


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
