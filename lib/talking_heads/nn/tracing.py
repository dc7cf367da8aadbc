"""Faster inference on a CPU: networks as graphs whose constants are folded."""

import warnings

import torch
from torch import Tensor, nn


class Traced(nn.Module):
    """A network that is traced once for each shape of its inputs, on a CPU and without gradients.

    Its output stays the same to the last bit. Weights are no longer converted to bf16 in every call, so they
    must not change any more. Elsewhere the network itself is called.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.requires_grad_(False)
        self.graphs: dict[tuple, torch.jit.ScriptModule] = {}  # by shapes, and which inputs are given
        self.eval()

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Tensors or None, as the network's forward pass takes them."""
        given = [value for value in inputs if value is not None]
        if torch.is_grad_enabled() or any(value.device.type != "cpu" for value in given):
            return self.net(*inputs)
        key = tuple(None if value is None else (value.shape, value.dtype) for value in inputs)
        if key not in self.graphs:
            self.graphs[key] = _trace(self.net, given, [value is not None for value in inputs])
        return self.graphs[key](*given)


class _Given(nn.Module):
    """A network of the inputs that are not None: tracing knows no others."""

    def __init__(self, net: nn.Module, is_given: list[bool]):
        super().__init__()
        self.net, self.is_given = net, is_given

    def forward(self, *given: Tensor) -> Tensor:
        remaining = iter(given)
        return self.net(*(next(remaining) if is_given else None for is_given in self.is_given))


def _trace(net: nn.Module, given: list[Tensor], is_given: list[bool]) -> torch.jit.ScriptModule:
    module = _Given(net, is_given).eval()
    with warnings.catch_warnings():  # PyTorch prefers torch.compile, which needs a C++ compiler
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(module, tuple(given), check_trace=False))
