"""Programs that compute a head on a CPU: PyTorch, onnxruntime and OpenVINO; and which one is the fastest."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from talking_heads.animation.export import calibration_inputs, write_head
from talking_heads.animation.head_files import KeptHead
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, optional

AUTO, PYTORCH = "auto", "pytorch"
ONNX, INT8, OPENVINO = "onnxruntime", "onnxruntime-int8", "openvino"
ENGINES = (PYTORCH, ONNX, INT8, OPENVINO)
PACKAGES = {name: ("onnx", "onnxscript", name.partition("-")[0]) for name in ENGINES[1:]}
REPETITIONS = 3  # of a measurement, of which the fastest counts


def with_engine(head: KeptHead, name: str, batch: int = 1) -> KeptHead:
    """The head, computed by an engine; "auto" is the fastest one here for so many frames at once.

    A head on a GPU stays with PyTorch. Raises ValueError for an unknown engine, where its package is missing,
    and where its frames differ from those of the head (:func:`export.check_frames`).
    """
    check_engine(name)
    if name == PYTORCH or head.head.psi.device.type != "cpu":
        return dataclasses.replace(head, network=None)
    if name == AUTO:
        name, network = fastest(head, batch)
        print(f"engine: {name}", flush=True)
    else:
        network = make_network(head, name)
    return dataclasses.replace(head, network=network)


def check_engine(name: str) -> None:
    """Raises ValueError for an unknown engine, and where its package is missing."""
    if name not in (AUTO, *ENGINES):
        raise ValueError(f"{name!r} is no engine; there are: {', '.join((AUTO, *ENGINES))}")
    for package in PACKAGES.get(name, ()):
        optional(package)


def make_network(head: KeptHead, name: str) -> Callable[[Tensor], Tensor] | None:
    """The network of an engine, None for PyTorch. Raises ValueError as :func:`with_engine` does."""
    if name == PYTORCH:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        write_head(head, path, "openvino" if name == OPENVINO else "onnx", name == INT8)
        return OpenVinoNetwork(path) if name == OPENVINO else OnnxNetwork(path)


def fastest(head: KeptHead, batch: int = 1) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """The engine that takes the least time for so many frames, and its network; those whose packages are
    missing, or whose frames differ, are left out.
    """
    times = {}
    for name in ENGINES:
        try:
            network = make_network(head, name)
        except ValueError as error:
            print(f"  {name}: left out, {error}", flush=True)
        else:
            times[name] = seconds(network or head.head, head, batch), network
    name = min(times, key=lambda name: times[name][0])
    return name, times[name][1]


@torch.no_grad()
def seconds(network: Callable[[Tensor], Tensor], head: KeptHead, batch: int) -> float:
    """Seconds for so many frames of a head, the least of ``REPETITIONS``."""
    inputs = calibration_inputs(head)
    y = inputs[torch.arange(batch) % len(inputs)]
    network(y)  # the first call takes longer
    measured = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        network(y)
        measured.append(time.perf_counter() - start)
    return min(measured)
