"""Features for FID and KID (Inception) and CSIM (ArcFace), where their networks have been fetched."""

import sys
from functools import lru_cache
from importlib import import_module

import numpy as np
import torch

from talking_heads.nn import pretrained

# five points of the 112² face that ArcFace was trained on: eyes, nose, corners of the mouth (Deng et al.)
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
_keep_alive: list[torch.library.Library] = []


def torchvision_beside_cpu_torch() -> None:
    """Let torchvision be imported where its compiled operators do not load.

    Its wheels are built against a CUDA torch; beside another one its import fails on two missing operators,
    which no feature network needs. Only then they are declared.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)


@lru_cache
def inception(device: str | torch.device = "cpu") -> torch.nn.Module:
    """pytorch-fid's Inception, pool features of 2048. Raises FileNotFoundError, with the remedy, without its
    weights.
    """
    pretrained.find("inception")
    torchvision_beside_cpu_torch()
    from pytorch_fid.inception import InceptionV3

    net = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    return net.eval().requires_grad_(False).to(device)


@torch.no_grad()
def inception_features(images: np.ndarray, net: torch.nn.Module | None = None, batch: int = 32) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, 2048), as pytorch-fid computes them, on the network's device."""
    net = net or inception()
    device = next(iter(net.parameters()), torch.zeros(0)).device
    features = []
    for k in range(0, len(images), batch):
        batch_images = torch.from_numpy(np.ascontiguousarray(images[k : k + batch])).to(device)
        features.append(net(batch_images.permute(0, 3, 1, 2).float() / 255)[0].flatten(1).cpu().numpy())
    return np.concatenate(features)


@lru_cache
def arcface(device: str | torch.device = "cpu"):
    """An onnxruntime session of ArcFace, on a GPU where onnxruntime has one and ``device`` is one.

    Raises FileNotFoundError where the network or onnxruntime is missing.
    """
    path = pretrained.find("arcface")
    try:
        import onnxruntime
    except ImportError as error:
        raise FileNotFoundError("CSIM on ArcFace needs onnxruntime: pip install onnxruntime") from error
    providers = ["CPUExecutionProvider"]
    if (
        torch.device(device).type == "cuda"
        and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    ):
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(str(path), providers=providers)


def aligned(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face of an image by a similarity on five points of its landmarks (68, 2): (112, 112, 3) uint8."""
    import cv2

    five = np.stack(
        [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    ).astype(np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(five, ARCFACE_POINTS, method=cv2.LMEDS)
    return cv2.warpAffine(image, matrix, (112, 112))


def arcface_features(images: np.ndarray, points: np.ndarray, session=None) -> np.ndarray:
    """(n, H, W, 3) uint8 with landmarks (n, 68, 2) -> (n, 512)."""
    session = session or arcface()
    faces = np.stack([aligned(i, p) for i, p in zip(images, points, strict=True)]).astype(np.float32)
    x = ((faces - 127.5) / 127.5).transpose(0, 3, 1, 2)
    return np.concatenate(
        [session.run(None, {session.get_inputs()[0].name: x[k : k + 32]})[0] for k in range(0, len(x), 32)]
    )
