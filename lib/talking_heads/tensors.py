"""Weights on disk: safetensors with provenance in the header, written by rename, and a digest for everything."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import replacing


def save_weights(path: Path, state: dict[str, Tensor], about: dict, half: bool = False) -> None:
    """Write tensors and what made them; floating tensors as fp16 where ``half``. The file appears by rename."""
    def small(v: Tensor) -> Tensor:
        return v.detach().cpu().to(torch.float16 if half and v.is_floating_point() else v.dtype).contiguous()

    with replacing(path) as temporary:
        save_file({k: small(v) for k, v in state.items()}, temporary, metadata={"about": json.dumps(about)})


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors (fp16 widened to fp32) and what made them.

    Raises FileNotFoundError where there is no file, ValueError where it is none of ours.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such weights")
    try:
        with safe_open(path, "pt") as f:
            about = json.loads((f.metadata() or {}).get("about", "null"))
            state = {k: f.get_tensor(k) for k in f.keys()}
    except Exception as error:
        raise ValueError(f"{path}: not a safetensors file of this project ({error})") from error
    if about is None:
        raise ValueError(f"{path}: a safetensors file, but without this project's provenance header")
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}, about


def load_net(net: nn.Module, path: Path) -> nn.Module:
    """The network with the weights of a file, to be used and not trained. Raises what :func:`load_weights` does."""
    net.load_state_dict(load_weights(path)[0])
    return net.eval().requires_grad_(False)


def code_digest(*patterns: str) -> str:
    """Eight hex digits of the library's files that match (below ``talking_heads/``): they change whenever that code does."""
    root = Path(__file__).parent
    files = sorted({f for pattern in patterns for f in root.glob(pattern)})
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:8]


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
