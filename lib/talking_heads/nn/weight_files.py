"""Weights on disk: safetensors files with their provenance in the header."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from talking_heads.files import replacing

HEADER = "about"  # the header's entry with the provenance; files with this name exist


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict, half: bool = False) -> None:
    """Write tensors and their provenance; with ``half`` floating-point tensors become fp16.

    The file appears by rename.
    """
    tensors = {}
    for name, value in state.items():
        dtype = torch.float16 if half and value.is_floating_point() else value.dtype
        tensors[name] = value.detach().cpu().to(dtype).contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(metadata)})


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors (fp16 as fp32) and their provenance. Raises as :func:`load_metadata` does."""
    with _open(path) as (file, metadata):
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    widened = {name: v.float() if v.dtype == torch.float16 else v for name, v in state.items()}
    return widened, metadata


def load_metadata(path: Path) -> dict:
    """The provenance of a file of weights, whose tensors are not read.

    Raises FileNotFoundError where there is no file, ValueError where it is not a file of this project.
    """
    with _open(path) as (_, metadata):
        return metadata


@contextmanager
def _open(path: Path) -> Iterator[tuple[safe_open, dict]]:
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such weights")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(HEADER, "null"))
            if metadata is not None:
                yield file, metadata
                return
    except Exception as error:
        raise ValueError(f"{path}: not a safetensors file of this project ({error})") from error
    raise ValueError(f"{path}: a safetensors file, but without this project's provenance header")


def load_net(net: nn.Module, path: Path) -> nn.Module:
    """The network with the weights of a file, frozen, in eval mode. Raises as :func:`load_weights` does."""
    net.load_state_dict(load_weights(path)[0])
    return net.eval().requires_grad_(False)
