"""Networks as ONNX files, and the programs that compute them.

onnx, onnxruntime and OpenVINO are optional packages, which ``EXTRA`` installs.
"""

import importlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.files import replacing

EXTRA = "./run_all.sh --with export"
OPSET = 20
METADATA = "talking_heads"  # name of the metadata of this project
COMPILED = 2  # batch sizes for which a network of OpenVINO is kept: parts of a clip have at most two


def import_optional(name: str) -> ModuleType:
    """A module of an optional package. Raises ValueError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name.partition('.')[0]} is not installed: {EXTRA}") from error


@contextmanager
def stating_failures(what: str) -> Iterator[None]:
    """Raises ValueError in place of the errors of the packages."""
    try:
        yield
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"the network cannot be {what} ({cause})") from error


def write_onnx(path: Path, net: nn.Module, inputs: Mapping[str, Tensor], output: str, metadata: dict) -> Path:
    """Write a network in eval mode as one ONNX file, whose batch size is free.

    ``inputs`` are examples of the arguments of its forward pass, (B, ...) with B ≥ 2, by their names in the
    file. Raises ValueError where a package is missing.
    """
    onnx = import_optional("onnx")
    import_optional("onnxscript")
    batch = torch.export.Dim("batch", min=1)
    # of deprecated functions that PyTorch calls
    with stating_failures("exported"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    _save(program.model_proto, path, metadata, onnx)
    return path


def quantise(source: Path, path: Path, calibration: Iterable[Mapping[str, np.ndarray]]) -> Path:
    """Write an int8 version of an ONNX file, with its metadata.

    The ranges of activations are those of ``calibration``: inputs of batches by name. Weights have a scale
    for each channel. Raises ValueError where a package is missing.
    """
    onnx, quantization = import_optional("onnx"), import_optional("onnxruntime.quantization")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # onnxruntime recommends a preprocessing
    try:
        with replacing(path) as temporary:
            quantization.quantize_static(
                str(source),
                str(temporary),
                _Batches(iter(calibration)),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            )
            _save(onnx.load(str(temporary)), temporary, metadata_of(source), onnx)
    finally:
        root.setLevel(level)
    return path


class _Batches:
    """Batches as onnxruntime reads them."""

    def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]):
        self.batches = batches

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.batches, None)


def _save(model: object, path: Path, metadata: dict, onnx: ModuleType) -> None:
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))


def metadata_of(path: Path) -> dict:
    """The metadata of an ONNX file of this project.

    Raises FileNotFoundError where there is no file, ValueError where it is not one of this project.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        model = import_optional("onnx").load(str(path), load_external_data=False)
        return next(json.loads(entry.value) for entry in model.metadata_props if entry.key == METADATA)
    except Exception as error:
        raise ValueError(f"{path}: not an ONNX file that 'export' wrote ({error})") from error


class OnnxNetwork:
    """An ONNX file that onnxruntime computes on the CPU. Raises ValueError where the package is missing."""

    def __init__(self, path: Path, threads: int = 0):
        runtime = import_optional("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors
        with stating_failures("read by onnxruntime"):
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor:
        arrays = {name: value.numpy() for name, value in zip(self.names, inputs, strict=True)}
        return torch.from_numpy(self.session.run(None, arrays)[0])


class OpenVinoNetwork:
    """An ONNX file, or one of OpenVINO's, that OpenVINO computes on the CPU, by default in bf16 where it can.

    It is compiled for each batch size, which saves up to a third of the time of a free one; the latest
    ``COMPILED`` are kept. Raises ValueError where the package is missing.
    """

    def __init__(self, path: Path, threads: int = 0):
        openvino = import_optional("openvino")
        self.settings = {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
        with stating_failures("read by OpenVINO"):
            self.core = openvino.Core()
            self.model = self.core.read_model(str(path))
        self.requests: dict[tuple, Any] = {}  # by the shapes of the inputs

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple(tuple(value.shape) for value in inputs)
        if shapes not in self.requests:
            self.requests = dict(list(self.requests.items())[-(COMPILED - 1) :])
            self.requests[shapes] = self._compile(shapes)
        return torch.from_numpy(self.requests[shapes].infer([value.numpy() for value in inputs])[0])

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """A request to the network for inputs of these shapes."""
        with stating_failures("compiled by OpenVINO"):
            model = self.model.clone()
            model.reshape(dict(enumerate(map(list, shapes))))
            return self.core.compile_model(model, "CPU", self.settings).create_infer_request()
