"""The weights of the denoising network: where they lie, and the network that they give."""

import os
from pathlib import Path

import torch

from talking_heads.config import Profile
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.experiments.reference import reference_weights
from talking_heads.nn.weight_files import load_weights


def weights_path(profile: Profile, weights: str, results: Path) -> Path:
    """Where the weights lie: committed for "reference", the profile's own run for "scratch".

    Raises FileNotFoundError where the file is not there.
    """
    if weights == "reference":
        return reference_weights("diffusion", results)
    path = Path(results) / profile.name / "runs" / "reference" / "diffusion" / "weights.safetensors"
    if not path.exists():
        command = f"python -m talking_heads train-diffusion --profile {profile.name}"
        raise FileNotFoundError(f"{os.path.relpath(path)}: no weights of the denoising network; {command}")
    return path


def load_generator(
    profile: Profile, weights: str, results: Path, device: str | torch.device = "cpu"
) -> tuple[Generator, dict]:
    """The trained network with the profile's settings of sampling, and its provenance.

    Raises what :func:`weights_path` does, and ValueError where the weights are those of another network.
    """
    path = weights_path(profile, weights, results)
    state, metadata = load_weights(path)
    unet = build_unet(profile.diffused)
    try:
        unet.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: weights of another network than profile {profile.name}'s ({str(error).splitlines()[0]})"
        ) from error
    return Generator(unet.to(device).eval().requires_grad_(False), profile.diffused), metadata
