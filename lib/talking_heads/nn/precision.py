"""The precision of a forward pass: bf16 where the device multiplies it in hardware, else fp32.

Autocast stays inside the networks: each enters it in its forward pass, and returns fp32.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def autocast(precision: str, device: str | torch.device) -> torch.autocast:
    """bf16 where ``precision`` is "auto" and the device multiplies it in hardware, else fp32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "auto" and multiplies_bf16(kind))


def multiplies_bf16(kind: str) -> bool:
    """Whether a kind of device, "cuda" or "cpu", multiplies bf16 in hardware."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def mixed_precision(forward: Callable) -> Callable:
    """A forward pass with the ``precision`` of its module; a tensor that it returns is fp32.

    The module has an attribute ``precision``, "auto" or "fp32". The first argument is a tensor on its device.
    """

    @wraps(forward)
    def run(self, x: Tensor, *args: Any, **kwargs: Any):
        with autocast(self.precision, x.device):
            out = forward(self, x, *args, **kwargs)
        return out.float() if isinstance(out, Tensor) else out

    return run


def full_precision(device: str | torch.device) -> torch.autocast:
    """A context that computes in fp32, also inside another autocast."""
    return torch.autocast(torch.device(device).type, enabled=False)
