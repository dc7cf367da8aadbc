"""Programs that compute a head, or the denoising network, on a CPU: PyTorch, onnxruntime and OpenVINO; and
which one is the fastest.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from talking_heads.animation.export import (
    calibration_inputs,
    check_output,
    fp32_copy,
    step_inputs,
    untraced,
    write_head,
)
from talking_heads.animation.head_files import KeptHead
from talking_heads.data.windows import CONTROLS
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import Conditions, network_input
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, import_optional, write_onnx

Result = TypeVar("Result")
AUTO, PYTORCH = "auto", "pytorch"
ONNX, INT8 = "onnxruntime", "onnxruntime-int8"
OPENVINO, OPENVINO_INT8 = "openvino", "openvino-int8"
ENGINES = (PYTORCH, ONNX, INT8, OPENVINO, OPENVINO_INT8)
PACKAGES: dict[str, tuple[str, ...]] = {
    name: ("onnx", "onnxscript", name.partition("-")[0]) for name in ENGINES[1:]
}
PACKAGES[OPENVINO_INT8] += (ONNX,)  # which quantises the network
REPETITIONS = 3  # of a measurement, of which the fastest counts


def with_engine(head: KeptHead, name: str, batch: int = 1) -> tuple[KeptHead, str]:
    """The head, computed by an engine, and the engine's name; "auto" is the fastest one here for so many
    frames at once.

    A head on a GPU stays with PyTorch. Raises ValueError for an unknown engine, where its package is missing,
    and where its frames differ from those of the head (:func:`export.check_frames`).
    """
    check_engine(name)
    if name == PYTORCH or head.head.psi.device.type != "cpu":
        return dataclasses.replace(head, network=None), PYTORCH
    if name == AUTO:
        name, network = choose_engine(head, batch)
        print(f"engine: {name}", flush=True)
    else:
        network = make_network(head, name)
    return dataclasses.replace(head, network=network), name


def check_engine(name: str) -> None:
    """Raises ValueError for an unknown engine, and where its package is missing."""
    if name not in (AUTO, *ENGINES):
        raise ValueError(f"{name!r} is no engine; there are: {', '.join((AUTO, *ENGINES))}")
    for package in PACKAGES.get(name, ()):
        import_optional(package)


def make_network(head: KeptHead, name: str) -> Callable[[Tensor], Tensor] | None:
    """The network of an engine, None for PyTorch. Raises ValueError as :func:`with_engine` does."""
    if name == PYTORCH:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        program, _, kind = name.partition("-")
        write_head(head, path, "openvino" if program == OPENVINO else "onnx", int8=bool(kind))
        return OpenVinoNetwork(path) if program == OPENVINO else OnnxNetwork(path)


def choose_engine(head: KeptHead, batch: int = 1) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """The engine that takes the least time for so many frames, and its network; those whose packages are
    missing, or whose frames differ, are left out.
    """
    return choose_fastest(
        ENGINES,
        lambda name: make_network(head, name),
        lambda network: seconds(network or head.head, head, batch),
    )


def choose_fastest(
    names: Sequence[str], make: Callable[[str], Result], time_of: Callable[[Result], float]
) -> tuple[str, Result]:
    """The engine that takes the least time, and what ``make`` makes of its name; those for which it raises
    ValueError are left out.
    """
    times = {}
    for name in names:
        try:
            result = make(name)
        except ValueError as error:
            print(f"  {name}: left out, {error}", flush=True)
        else:
            times[name] = time_of(result), result
    fastest = min(times, key=lambda name: times[name][0])
    return fastest, times[fastest][1]


def seconds(network: Callable[[Tensor], Tensor], head: KeptHead, batch: int) -> float:
    """Seconds for so many frames of a head."""
    inputs = calibration_inputs(head)
    return least_seconds(network, inputs[torch.arange(batch) % len(inputs)])


@torch.no_grad()
def least_seconds(network: Callable[..., Tensor], *inputs: Tensor | None) -> float:
    """Seconds of a call of a network, the least of ``REPETITIONS``."""
    network(*inputs)  # the first call takes longer
    measured = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        network(*inputs)
        measured.append(time.perf_counter() - start)
    return min(measured)


# -- the denoising network --------------------------------------------------------------------------
DENOISERS = (AUTO, PYTORCH, ONNX, OPENVINO)
INPUTS = ("x", "t", "y", "level", "control")  # of the network; it need not have the last two


class Denoiser(nn.Module):
    """The denoising network, computed by another engine."""

    def __init__(self, network: Callable[..., Tensor], names: Collection[str]):
        super().__init__()
        self.network, self.names = network, names  # of the inputs that it has

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """As :meth:`UNet.forward`: (B, 6, H, W)."""
        named = zip(INPUTS, inputs, strict=False)
        return self.network(*(value for name, value in named if name in self.names and value is not None))


def with_denoiser(generator: Generator, name: str) -> tuple[Generator, str]:
    """The generator with its network computed by an engine, and the engine's name; "auto" is the fastest one
    here for one clip.

    A network on a GPU stays with PyTorch. Raises ValueError for an unknown engine, where its package is
    missing, and where its output differs from that in fp32.
    """
    if name not in DENOISERS:
        raise ValueError(f"{name!r} is no engine of the denoising network; there are: {', '.join(DENOISERS)}")
    if name == PYTORCH or next(generator.unet.parameters()).device.type != "cpu":
        return generator, PYTORCH
    inputs = network_inputs(generator)

    def make(engine: str) -> nn.Module:
        return generator.unet if engine == PYTORCH else make_denoiser(generator, inputs, engine)

    if name == AUTO:
        one = [None if value is None else value[:1] for value in inputs.values()]
        name, unet = choose_fastest(DENOISERS[1:], make, lambda net: least_seconds(net, *one))
    else:
        unet = make(name)
    print(f"engine: {name}", flush=True)
    return dataclasses.replace(generator, unet=unet), name


def network_inputs(generator: Generator) -> dict[str, Tensor | None]:
    """Random inputs of the denoising network, by name; None for those that it does not have."""
    step, random = step_inputs(generator), torch.Generator().manual_seed(1)
    conditions = Conditions(step["identity"], step["motion"], step["audio"], step["level"])
    x = network_input(step["x_t"], conditions, generator.section.conditions.motion_grey)
    net = untraced(generator)
    control = torch.rand(len(x), CONTROLS, generator=random) if net.control_mlp is not None else None
    level = step["level"] if net.level_mlp is not None else None
    return dict(zip(INPUTS, (x, step["t"], step["audio"].flatten(1), level, control), strict=True))


def make_denoiser(generator: Generator, inputs: dict[str, Tensor | None], name: str) -> nn.Module:
    """The network of an engine. Raises ValueError as :func:`with_denoiser` does."""
    net = fp32_copy(generator)
    given = {name: value for name, value in inputs.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        path = write_onnx(Path(folder) / "unet.onnx", net, given, "output", {})
        denoiser = Denoiser(OpenVinoNetwork(path) if name == OPENVINO else OnnxNetwork(path), set(given))
    with torch.no_grad():
        result = check_output(net(*inputs.values()), denoiser(*inputs.values()))
    if not result.passed:
        raise ValueError(f"{name} differs too much from fp32: {result}")
    return denoiser
