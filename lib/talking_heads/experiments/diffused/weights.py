"""The weights of the denoising network: where they lie, and the network that they give."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from talking_heads.config import Profile
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.diffused.training import model_key
from talking_heads.experiments.reference import reference_weights
from talking_heads.files import sha256
from talking_heads.nn.weight_files import load_weights


def runs_folder(profile: Profile, results: Path) -> Path:
    """Where a profile's own trainings lie."""
    return Path(results) / profile.name / "runs" / "reference"


def weights_path(profile: Profile, weights: str, results: Path) -> Path:
    """Where the weights lie: committed for "reference", the profile's own run for "scratch".

    Raises FileNotFoundError where the file is not there.
    """
    if weights == "reference":
        return reference_weights("diffusion", results)
    path = runs_folder(profile, results) / "diffusion" / "weights.safetensors"
    if not path.exists():
        command = f"python -m talking_heads train-diffusion --profile {profile.name}"
        raise FileNotFoundError(f"{os.path.relpath(path)}: no weights of the denoising network; {command}")
    return path


def has_weights(profile: Profile, weights: str, results: Path) -> bool:
    """Whether there are weights of a finished training."""
    try:
        metadata = load_weights(weights_path(profile, weights, results))[1]
    except FileNotFoundError:
        return False
    return metadata["step"] >= metadata["of"]


def run_id(profile: Profile, weights: str, results: Path) -> str:
    """The name of the weights in records and folders."""
    return sha256(weights_path(profile, weights, results))[:12]


@dataclass(frozen=True)
class Model:
    """A trained network with the profile's settings of sampling, the audio encoder, and the provenance."""

    generator: Generator
    encoder: nn.Module
    metadata: dict


def load_model(profile: Profile, weights: str, results: Path, device: str | torch.device = "cpu") -> Model:
    """The trained model of a profile.

    Raises what :func:`weights_path` does, FileNotFoundError where there is no audio encoder, and ValueError
    where the weights belong to another network, another encoder or other conditions.
    """
    path, section = weights_path(profile, weights, results), profile.diffused
    state, metadata = load_weights(path)
    encoder = load_reader(section.audio_encoder).encoder
    unet = build_unet(section)
    try:
        if metadata.get("model") != model_key(section, encoder):
            raise RuntimeError("trained with another audio encoder, other conditions or sizes")
        unet.load_state_dict(state)
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"{path}: does not fit profile {profile.name}: {cause}; train it again") from error
    generator = Generator(unet.to(device).eval().requires_grad_(False), section)
    return Model(generator, encoder.to(device), metadata)
