"""The weights of the denoising network and of the baselines: where they lie, and what they give."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from talking_heads.config import Profile, digest
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.baselines.landmarks import LandmarkPredictor
from talking_heads.diffused.baselines.sda import SdaTalker
from talking_heads.diffused.baselines.training import VERSION, baseline_key, build_generator, build_predictor
from talking_heads.diffused.distillation import distilled_sampling
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet, control_state
from talking_heads.diffused.training import START, model_key
from talking_heads.experiments.reference import PLAIN, is_plain, reference_weights
from talking_heads.files import sha256
from talking_heads.nn.tracing import Traced
from talking_heads.nn.weight_files import load_metadata, load_weights

# by the name of a training
COMMANDS = {
    "diffusion": "train-diffusion",
    "distilled": "distill",
    "control": "train-control",
    "sda": "train-baseline --method sda",
    "landmarks": "train-baseline --method landmarks",
}
EXTRAS = ("distilled", "control")  # trainings that begin with the denoising network; sampling may use them


def runs_folder(profile: Profile, results: Path) -> Path:
    """Where a profile's own trainings lie."""
    return Path(results) / profile.name / "runs" / "reference"


def weights_path(profile: Profile, weights: str, results: Path, name: str = "diffusion") -> Path:
    """Where the weights of a training lie: committed for "reference", the profile's own run for "scratch".

    What a profile has trained beside the committed network comes before what is committed. On the plain
    corpus, weights are those of the diverse one where none are committed for it; but for SDA, which was
    trained on each, they are the profile's own run. Raises FileNotFoundError where the file is not there.
    """
    path = runs_folder(profile, results) / name / "weights.safetensors"
    if weights == "reference" and not (name in EXTRAS and _fits(path, profile, results)):
        if is_plain(profile):
            with suppress(FileNotFoundError):
                return reference_weights(name, results, PLAIN)
        if not (is_plain(profile) and name == "sda"):
            return reference_weights(name, results)
    if not path.exists():
        command = f"python -m talking_heads {COMMANDS[name]} --profile {profile.name}"
        command += f" --weights {weights}" if name in EXTRAS else ""
        raise FileNotFoundError(f"{os.path.relpath(path)}: no weights of this training; {command}")
    return path


def _fits(path: Path, profile: Profile, results: Path) -> bool:
    """Whether a finished training of ``EXTRAS`` began with the committed network."""
    if not path.exists():
        return False
    metadata = load_metadata(path)
    finished = metadata["step"] >= metadata["of"]
    start = sha256(weights_path(profile, "reference", results))
    return finished and metadata.get(START) == start


def has_weights(profile: Profile, weights: str, results: Path, name: str = "diffusion") -> bool:
    """Whether there are weights of a finished training."""
    try:
        metadata = load_metadata(weights_path(profile, weights, results, name))
    except FileNotFoundError:
        return False
    return metadata["step"] >= metadata["of"]


def finished_weights(profile: Profile, weights: str, results: Path) -> Path:
    """The weights of the denoising network. Raises ValueError where its training is not at its end."""
    if not has_weights(profile, weights, results):
        command = f"python -m talking_heads {COMMANDS['diffusion']} --profile {profile.name}"
        remedy = f"{command}, then --weights scratch"
        raise ValueError(f"profile {profile.name}: no finished weights to begin with; {remedy}")
    return weights_path(profile, weights, results)


def available(profile: Profile, weights: str, results: Path) -> tuple[Path, ...]:
    """The weights that are there, of what a profile's sampling needs and of the baselines."""
    wanted = [name for name in COMMANDS if name not in EXTRAS or name in needed(profile)]
    names = [name for name in wanted if has_weights(profile, weights, results, name)]
    return tuple(weights_path(profile, weights, results, name) for name in names)


def needed(profile: Profile) -> tuple[str, ...]:
    """The trainings whose weights a profile's sampling uses, that of the denoising network first."""
    sampling = profile.diffused.sampling
    return ("distilled" if sampling.distilled else "diffusion", *(["control"] if sampling.control else []))


def run_id(profile: Profile, weights: str, results: Path) -> str:
    """The name of the weights that a profile's sampling uses, in records and folders."""
    hashes = [sha256(weights_path(profile, weights, results, name)) for name in needed(profile)]
    return digest(*hashes) if len(hashes) > 1 else hashes[0][:12]


@dataclass(frozen=True)
class Model:
    """A trained network with the profile's settings of sampling, the audio encoder, and the provenance."""

    generator: Generator
    encoder: nn.Module
    metadata: dict


def load_model(profile: Profile, weights: str, results: Path, device: str | torch.device = "cpu") -> Model:
    """The trained model of a profile, as its sampling needs it: distilled, or with controls.

    Raises what :func:`weights_path` does, FileNotFoundError where there is no audio encoder, and ValueError
    where the weights belong to another network, another encoder or other conditions.
    """
    section, encoder = profile.diffused, load_reader(profile.diffused.audio_encoder).encoder
    control, key, speed = section.sampling.control, model_key(section, encoder), 0.0
    path = weights_path(profile, weights, results, needed(profile)[0])
    unet = build_unet(section, control)
    metadata = load_into(unet, path, key, profile, control_state(unet))
    if control:
        layers = weights_path(profile, weights, results, "control")
        others = {k: v for k, v in unet.state_dict().items() if k not in control_state(unet)}
        provenance = load_into(unet, layers, key, profile, others)
        if provenance[START] != sha256(path):
            command = f"python -m talking_heads {COMMANDS['control']} --profile {profile.name}"
            command += f" --weights {weights}"
            raise ValueError(f"{layers}: trained beside other weights than {path}; {command}")
        speed = provenance["head speed"]
    if section.sampling.distilled:
        section = distilled_sampling(section)
        steps = metadata["sampling steps"]
        if metadata["step"] < metadata["of"] or steps != section.sampling.steps:
            command = f"python -m talking_heads {COMMANDS['distilled']} --profile {profile.name}"
            command += f" --weights {weights}"
            raise ValueError(
                f"{path}: samples in {steps} steps, and {section.sampling.steps} are needed; {command}"
            )
    metadata = {**metadata, "run": run_id(profile, weights, results)}
    generator = Generator(Traced(unet.to(device)), section, speed)
    return Model(generator, encoder.to(device), metadata)


def load_sda(
    profile: Profile, weights: str, results: Path, device: str | torch.device = "cpu"
) -> tuple[SdaTalker, str]:
    """SDA as a profile trains it, and the digest of its weights. Raises as :func:`load_model` does."""
    net = build_generator(profile.diffused)
    return SdaTalker(net), _load_baseline(net, "sda", profile, weights, results, device)


def load_predictor(
    profile: Profile, weights: str, results: Path, device: str | torch.device = "cpu"
) -> tuple[LandmarkPredictor, str]:
    """The predictor of landmarks, and the digest of its weights. Raises as :func:`load_model` does."""
    net = build_predictor(profile.diffused)
    return net, _load_baseline(net, "landmarks", profile, weights, results, device)


def _load_baseline(
    net: nn.Module, name: str, profile: Profile, weights: str, results: Path, device: str | torch.device
) -> str:
    """Load a baseline's weights into its network, ready for use; returns their digest."""
    section, path = profile.diffused, weights_path(profile, weights, results, name)
    encoder = load_reader(section.audio_encoder).encoder
    load_into(net, path, baseline_key(section, name, encoder), profile)
    net.to(device).eval().requires_grad_(False)
    return digest(VERSION, sha256(path))


def load_into(
    net: nn.Module, path: Path, key: str, profile: Profile, others: Mapping[str, Tensor] | None = None
) -> dict:
    """Load the weights of a file, which must have been trained for ``key``, and all that the file must not
    have from ``others``; returns the file's provenance.

    Raises ValueError where they belong to another network, another encoder or other conditions.
    """
    state, metadata = load_weights(path)
    try:
        if metadata.get("model") != key:
            raise RuntimeError("trained with another audio encoder, other conditions or sizes")
        net.load_state_dict({**state, **(others or {})})
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"{path}: does not fit profile {profile.name}: {cause}; train it again") from error
    return metadata
