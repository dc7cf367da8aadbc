"""FID and KID on Inception, CSIM on ArcFace: the paper's own metrics, where their networks have been fetched."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from .. import weights
from . import metrics
from .protocol import about, measured_in
from .statistics import per_seed, person_means

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


def look(paths: Sequence[Path], names: Sequence[str]) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """What Inception and ArcFace, each where it is there, make of every method's frames, by (method, T); says in a line what is not.

    A dictionary holds ``person`` and ``seed`` (n,) and, in the same order, ``made`` and ``true`` (n, 2048) of Inception and
    ``CSIM`` (n,) of ArcFace. Frames come in the order of :func:`protocol.measure`.
    """
    have = {}
    for name, make in (("inception", inception), ("arcface", arcface)):
        try:
            have[name] = make()
        except (FileNotFoundError, ValueError) as gap:
            print(f"  not measured: {gap}")
    groups: dict[tuple[str, int], list[dict[str, np.ndarray]]] = {}
    for path in paths if have else ():
        person, _, t, seed = about(path)
        with np.load(path) as cell:
            for method in measured_in(cell, names, seed):
                made, true, points = cell[method], cell["truth"], cell["points"]
                seen = {"person": np.full(len(true), person), "seed": np.full(len(true), seed)}
                if "inception" in have:
                    seen |= {"made": inception_features(made, have["inception"]), "true": inception_features(true, have["inception"])}
                if "arcface" in have:
                    seen["CSIM"] = metrics.cosine(arcface_features(made, points, have["arcface"]), arcface_features(true, points, have["arcface"]))
                groups.setdefault((method, t), []).append(seen)
    return {key: {k: np.concatenate([part[k] for part in parts]) for k in parts[0]} for key, parts in groups.items()}


def summarise(seen: dict[tuple[str, int], dict[str, np.ndarray]]) -> dict[tuple[str, int, str], float | np.ndarray]:
    """FID, KID (means over seeds) and every person's CSIM (people,) by (method, T, metric), of what :func:`look` saw."""
    out: dict[tuple[str, int, str], float | np.ndarray] = {}
    for (method, t), part in seen.items():
        if "made" in part:
            rows = np.column_stack([part["made"], part["true"], part["seed"]])
            for metric, distance in (("FID", metrics.frechet_distance), ("KID", metrics.kernel_distance)):
                enough = min(np.unique(part["seed"], return_counts=True)[1]) >= metrics.FEWEST_SAMPLES
                out[method, t, metric] = per_seed(lambda r, d=distance: d(*np.split(r, 2, axis=1)))(rows) if enough else float("nan")
        if "CSIM" in part:
            out[method, t, "CSIM"] = person_means(part["CSIM"], part["person"])
    return out
