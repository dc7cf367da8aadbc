"""``python -m talking_heads export``: a head, or a step of Diffused Heads, as a file for other programs."""

import copy
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.animation.face_rig import FaceRig
from talking_heads.animation.head_files import KeptHead, load_head
from talking_heads.data.frames import to_image
from talking_heads.data.windows import Windows
from talking_heads.diffused.diffusion import cosine_schedule, q_sample
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import Conditions, predict
from talking_heads.few_shot.head import FixedHead
from talking_heads.files import check_outputs, replacing
from talking_heads.metrics.images import ssim
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, import_optional, quantise, write_onnx

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
LEAST_SSIM = 0.99  # of exported frames to those of the head in fp32
CALIBRATION, CALIBRATED = 8, 4  # batches that calibrate a step, and the windows of each
LARGEST_ERROR = 0.02  # of an exported step: root mean square, relative to that of its output
YAWS, MOUTHS = (-15, 0, 15), (0.0, 0.25)  # degrees and openings of the poses of the check
INPUT, OUTPUT = "landmark_image", "frame"


@dataclass(frozen=True)
class Check:
    """An exported network against the untraced one in fp32."""

    values: dict[str, float]
    passed: bool

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())


@dataclass(frozen=True)
class Exported:
    """A network to export, and how the result is checked."""

    net: nn.Module
    inputs: Mapping[str, Tensor]  # examples of the arguments of its forward pass, by name
    metadata: dict
    check: Callable[[Callable[..., Tensor]], Check]
    calibration: Sequence[Mapping[str, np.ndarray]] = ()  # inputs, where it becomes int8


# -- a head -----------------------------------------------------------------------------------------
def export_head(source: Path, out: Path, target: str, int8: bool = False) -> Check:
    """Write the head of a file as ONNX or for OpenVINO, with its card; see :func:`write_head`.

    Raises ValueError and FileNotFoundError where that is not possible; nothing is written then.
    """
    check_name(out, target)
    check_outputs(outputs_of(out, target), [source])
    return write_head(load_head(source), out, target, int8)


def write_head(head: KeptHead, out: Path, target: str, int8: bool = False) -> Check:
    """Write a head as ONNX, or as ``target`` needs it.

    The network takes landmark images (B, 3, S, S) in [-1, 1], as :func:`landmarks.draw_all` draws them, and
    returns frames (B, 3, S, S) in [-1, 1]. Its activations in int8 are calibrated on the training frames.
    Raises ValueError, and writes nothing, where its frames differ from those of the head.
    """
    fixed, inputs = FixedHead(head.head), calibration_inputs(head)
    metadata = {
        "card": head.card,
        "settings": head.settings.model_dump(mode="json"),
        INPUT: "(B, 3, S, S), RGB in [-1, 1]",
        OUTPUT: "(B, 3, S, S), RGB in [-1, 1]; synthetic",
    }
    examples = torch.cat([inputs, inputs])[: max(2, len(inputs))]

    def check(network: Callable[..., Tensor]) -> Check:
        return check_frames(fixed, network, torch.cat([inputs, unseen_inputs(head)]))

    calibration = [{INPUT: image[None].numpy()} for image in inputs] if int8 else []
    return write_checked(Exported(fixed, {INPUT: examples}, metadata, check, calibration), out, target)


def calibration_inputs(head: KeptHead) -> Tensor:
    """The landmark images (T, 3, S, S) of a head's training frames."""
    return head.draw(head.points)


def unseen_inputs(head: KeptHead) -> Tensor:
    """Landmark images (n, 3, S, S) of poses that are none of the training frames'."""
    rig = FaceRig.fit(head.points)
    points = np.stack([rig.pose(yaw=yaw, mouth=mouth) for yaw in YAWS for mouth in MOUTHS])
    pupils = np.repeat(head.points[:1, 68:], len(points), 0)
    return head.draw(np.concatenate([points, pupils], 1))


@torch.no_grad()
def check_frames(
    network: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], y: Tensor
) -> Check:
    """Frames of an exported head against those of the head, for landmark images y (n, 3, S, S)."""
    true, frames = network(y), torch.cat([exported(image[None]) for image in y])
    pairs = zip(to_image(true), to_image(frames), strict=True)
    similarity = float(np.mean([ssim(a, b) for a, b in pairs]))
    levels = float((true - frames).abs().max()) * 127.5
    return Check({"SSIM": similarity, "maximum error in levels": levels}, similarity >= LEAST_SSIM)


# -- a step of Diffused Heads -----------------------------------------------------------------------
class DenoisingStep(nn.Module):
    """The denoising network with all its inputs as tensors, in fp32."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.unet = fp32_copy(generator)
        self.motion_grey = generator.section.conditions.motion_grey

    def forward(
        self, x_t: Tensor, t: Tensor, identity: Tensor, motion: Tensor, audio: Tensor, level: Tensor
    ) -> Tensor:
        """As :func:`model.predict`: (B, 6, H, W)."""
        return predict(self.unet, x_t, t, Conditions(identity, motion, audio, level), self.motion_grey)


def untraced(generator: Generator) -> nn.Module:
    """The denoising network of a generator, which may be traced."""
    return getattr(generator.unet, "net", generator.unet)


def fp32_copy(generator: Generator) -> nn.Module:
    """The denoising network of a generator once more, in fp32."""
    net = copy.deepcopy(untraced(generator)).requires_grad_(False).eval()
    net.precision = "fp32"
    return net


def check_output(true: Tensor, values: Tensor) -> Check:
    """The output of an exported network against that in fp32."""
    error = float((true - values).square().mean().sqrt() / true.square().mean().sqrt())
    largest = float((true - values).abs().max())
    return Check({"relative error": error, "maximum error": largest}, error <= LARGEST_ERROR)


def step_inputs(generator: Generator, batch: int = 4) -> dict[str, Tensor]:
    """Random inputs of a step, by name."""
    section, random = generator.section, torch.Generator().manual_seed(0)
    size, conditions = section.clips.image_size, section.conditions
    windows = 2 * conditions.audio_windows + 1
    shapes = {
        "x_t": (3, size, size),
        "identity": (3, size, size),
        "motion": (conditions.motion_frames, 3, size, size),
        "audio": (windows, section.audio_encoder.embedding),
    }
    values = {name: torch.randn(batch, *shape, generator=random) for name, shape in shapes.items()}
    t = torch.randint(section.diffusion.steps, (batch,), generator=random)
    level = torch.full((batch,), section.sampling.motion_noise)
    names = ("x_t", "t", "identity", "motion", "audio", "level")
    return {name: {**values, "t": t, "level": level}[name] for name in names}


def window_inputs(generator: Generator, encoder: nn.Module, windows: Windows, seed: int) -> dict[str, Tensor]:
    """Inputs of a step, by name: noisy targets of windows at the time steps of the sampling, and what the
    network is given with them.
    """
    sampling, random = generator.section.sampling, torch.Generator().manual_seed(seed)
    schedule = cosine_schedule(generator.section.diffusion.steps, sampling.steps, sampling.spacing)
    k = torch.randint(len(schedule), (len(windows.x_0),), generator=random)
    noise = torch.randn(windows.x_0.shape, generator=random)
    motion_noise = torch.randn(windows.motion.shape, generator=random)
    with torch.no_grad():
        audio = encoder(windows.sound)
    return {
        "x_t": q_sample(schedule, windows.x_0, k, noise),
        "t": schedule.timesteps[k],
        "identity": windows.identity,
        "motion": windows.motion + sampling.motion_noise * motion_noise,
        "audio": audio,
        "level": torch.full((len(k),), sampling.motion_noise),
    }


def export_step(
    generator: Generator,
    out: Path,
    target: str,
    metadata: dict,
    batches: Sequence[Mapping[str, Tensor]] = (),
) -> Check:
    """Write a step of Diffused Heads as ONNX or for OpenVINO, with its schedule.

    With ``batches`` of inputs (:func:`window_inputs`) its network becomes int8: all but the last calibrate
    it, and the last one checks it. Raises ValueError, and writes nothing, where its output differs from that
    of the network.
    """
    check_name(out, target)
    check_outputs(outputs_of(out, target), [])
    step, section = DenoisingStep(generator), generator.section
    schedule = cosine_schedule(section.diffusion.steps, section.sampling.steps, section.sampling.spacing)
    described = {
        **metadata,
        "settings": section.model_dump(mode="json"),
        "timesteps": schedule.timesteps.tolist(),
        "alpha_bar": schedule.alpha_bar.tolist(),
    }
    examples = step_inputs(generator)
    *calibrating, unseen = batches or [examples]

    @torch.no_grad()
    def check(network: Callable[..., Tensor]) -> Check:
        return check_output(step(*unseen.values()), network(*unseen.values()))

    calibration = [{name: value.numpy() for name, value in batch.items()} for batch in calibrating]
    return write_checked(Exported(step, examples, described, check, calibration), out, target)


# -- files ------------------------------------------------------------------------------------------
def check_name(out: Path, target: str) -> None:
    """Raises ValueError for an unknown format, or a name with another ending."""
    if target not in FORMATS:
        raise ValueError(f"{target!r} is no format of an export; there are: {', '.join(FORMATS)}")
    if out.suffix.lower() != FORMATS[target]:
        raise ValueError(f"--out {out}: a file for {target} ends in {FORMATS[target]}")


def outputs_of(out: Path, target: str) -> dict[str, Path]:
    """The files of an export: OpenVINO's has its weights in another one beside it."""
    weights = {"the weights beside --out": out.with_suffix(".bin")} if target == "openvino" else {}
    return {"--out": out, **weights}


def write_checked(exported: Exported, out: Path, target: str) -> Check:
    """Write a network. Raises ValueError, and writes nothing, where the check does not pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(path, exported.net, exported.inputs, OUTPUT, exported.metadata)
        if exported.calibration:
            path = quantise(path, Path(folder) / "int8.onnx", exported.calibration)
        result = exported.check(OnnxNetwork(path) if target == "onnx" else OpenVinoNetwork(path))
        if not result.passed:
            kind = "int8" if exported.calibration else target
            raise ValueError(f"{kind} differs too much from fp32, nothing is written: {result}")
        if out.suffix.lower() == FORMATS["openvino"]:
            write_openvino(path, out, exported.metadata)
        else:
            with replacing(out) as temporary:
                temporary.write_bytes(path.read_bytes())
    return result


def write_openvino(source: Path, out: Path, metadata: dict) -> None:
    """Write an ONNX file as OpenVINO's pair of files, ``out`` and its weights in .bin beside it."""
    openvino = import_optional("openvino")
    model = openvino.Core().read_model(str(source))
    model.set_rt_info(json.dumps(metadata), ["talking_heads"])
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"head{FORMATS['openvino']}"  # OpenVINO insists on this ending
        openvino.serialize(model, str(written))
        for path, target in ((written.with_suffix(".bin"), out.with_suffix(".bin")), (written, out)):
            with replacing(target) as temporary:
                temporary.write_bytes(path.read_bytes())
