"""FID and KID on Inception, CSIM on ArcFace: the paper's own metrics, where their networks have been fetched."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from .. import weights
from . import metrics
from .protocol import about
from .statistics import person_means

# Five points of the 112² face that ArcFace was trained on: eyes, nose, corners of the mouth (Deng et al. 2019)
ARCFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32)
_keep_alive: list[torch.library.Library] = []


def torchvision_beside_cpu_torch() -> None:
    """Let torchvision be imported where its compiled operators do not load.

    Its wheels are built against a CUDA torch; beside another one its import fails on two missing operators, which no
    feature network needs. Only then they are declared.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import sys
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)
        import torchvision  # noqa: F401


@lru_cache
def inception() -> torch.nn.Module:
    """pytorch-fid's Inception, pool features of 2048. Raises FileNotFoundError with the remedy where its weights are missing."""
    weights.find("inception")
    torchvision_beside_cpu_torch()
    from pytorch_fid.inception import InceptionV3
    return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval().requires_grad_(False)


@torch.no_grad()
def inception_features(images: np.ndarray, net: torch.nn.Module | None = None, batch: int = 32) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, 2048), as pytorch-fid computes them."""
    net = net or inception()
    parts = [torch.from_numpy(np.ascontiguousarray(images[k:k + batch])).permute(0, 3, 1, 2).float() / 255 for k in range(0, len(images), batch)]
    return np.concatenate([net(x)[0].flatten(1).numpy() for x in parts])


@lru_cache
def arcface():
    """An onnxruntime session of ArcFace. Raises FileNotFoundError where the network or onnxruntime is missing."""
    path = weights.find("arcface")
    try:
        import onnxruntime
    except ImportError as error:
        raise FileNotFoundError("CSIM on ArcFace needs onnxruntime: pip install onnxruntime") from error
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def aligned(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face of an image by a similarity on five points of its landmarks (68, 2): (112, 112, 3) uint8."""
    import cv2
    five = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]).astype(np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(five, ARCFACE_POINTS, method=cv2.LMEDS)
    return cv2.warpAffine(image, matrix, (112, 112))


def arcface_features(images: np.ndarray, points: np.ndarray, session=None) -> np.ndarray:
    """(n, H, W, 3) uint8 with landmarks (n, 68, 2) -> (n, 512)."""
    session = session or arcface()
    faces = np.stack([aligned(i, p) for i, p in zip(images, points)]).astype(np.float32)
    x = ((faces - 127.5) / 127.5).transpose(0, 3, 1, 2)
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: x[k:k + 32]})[0] for k in range(0, len(x), 32)])


def measure(paths: Sequence[Path], names: Sequence[str]) -> dict[tuple[str, int, str], float | np.ndarray]:
    """FID, KID and every person's CSIM (people,) by (method, T, metric), each where its network is there; says in a line what is not."""
    out: dict[tuple[str, int, str], float | np.ndarray] = {}
    have = {}
    for name, make in (("inception", inception), ("arcface", arcface)):
        try:
            have[name] = make()
        except (FileNotFoundError, ValueError) as gap:
            print(f"  not measured: {gap}")
    if not have:
        return out
    groups: dict[tuple[str, int], list] = {}
    for path in paths:
        with np.load(path) as cell:
            for method in (m for m in names if m in cell):
                groups.setdefault((method, about(path)[2]), []).append((cell[method], cell["truth"], cell["points"], np.full(len(cell["truth"]), about(path)[0])))
    for (method, t), parts in groups.items():
        made, true, points, people = (np.concatenate(p) for p in zip(*parts))
        if "inception" in have and len(made) >= metrics.FEWEST_SAMPLES:
            a, b = inception_features(made, have["inception"]), inception_features(true, have["inception"])
            out[method, t, "FID"], out[method, t, "KID"] = metrics.frechet_distance(a, b), metrics.kernel_distance(a, b)
        if "arcface" in have:
            similar = metrics.cosine(arcface_features(made, points, have["arcface"]), arcface_features(true, points, have["arcface"]))
            out[method, t, "CSIM"] = person_means(similar, people)
    return out
