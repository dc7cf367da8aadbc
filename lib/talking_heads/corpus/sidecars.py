"""Landmarks that lie beside a clip or a photograph: found, read, checked against the frames.

``clip.mp4.npz`` or, where no other source has that stem, ``clip.npz`` holds ``landmarks`` (frames, 68, 2) and optionally
``pupils`` (frames, 2, 2), both in pixels of the upright frame, and ``hidden`` (frames, 70).
"""

import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from ..files import appended
from .photographs import PHOTOGRAPH_SUFFIXES
from .video import VIDEO_SUFFIXES, VideoFile

SHAPES = {"landmarks": (68, 2), "pupils": (2, 2), "hidden": (70,)}
KINDS = {"landmarks": "fiu", "pupils": "fiu", "hidden": "biu"}  # numpy's kinds of numbers; hidden may be boolean
SCALES = (8, 4, 3, 2, 1.5, 2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 8)  # of pictures that landmarks may have been found in by mistake
CURVES = ((17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False), (36, 42, True), (42, 48, True), (48, 60, True))
EDGES = 1.25  # edges on the curves of a face over edges anywhere in it: at least 1.28 on real and 1.39 on rendered clips


class BadLandmarks(ValueError):
    """Landmarks beside a source cannot be used; the message says why, and what to do."""


def find_sidecar(path: Path) -> Path | None:
    """The file of a source's landmarks, None where there is none.

    Where a photograph and a video share a stem, ``stem.npz`` belongs to the one that its number of frames fits.
    """
    named = appended(path, ".npz")
    if named.exists():
        return named
    shared = path.with_suffix(".npz")
    if not shared.exists():
        return None
    photograph = path.suffix.lower() in PHOTOGRAPH_SUFFIXES
    others = VIDEO_SUFFIXES if photograph else PHOTOGRAPH_SUFFIXES
    if any(path.with_suffix(s).exists() or path.with_suffix(s.upper()).exists() for s in others):
        try:
            single = len(_load(shared).get("landmarks", ())) == 1
        except BadLandmarks:
            return shared
        return shared if single == photograph else None
    return shared


def read_sidecar(path: Path, frames: int) -> dict[str, np.ndarray]:
    """What lies beside a source of ``frames`` frames: landmarks, and pupils and hidden where they are there.

    Raises :class:`BadLandmarks`.
    """
    arrays = _load(path)
    if "landmarks" not in arrays:
        raise BadLandmarks(f"{path.name}: has no array 'landmarks'")
    for name, values in arrays.items():
        if values.dtype.kind not in KINDS[name]:
            raise BadLandmarks(f"{path.name}: {name} are of type {values.dtype}, not numbers")
        if values.ndim == 0 or values.shape[1:] != SHAPES[name] or (name != "landmarks" and len(values) != frames):
            wanted = ", ".join(map(str, (frames, *SHAPES[name])))
            raise BadLandmarks(f"{path.name}: {name} {'has' if name == 'hidden' else 'have'} shape {values.shape}, not ({wanted})")
        if len(values) != frames:
            raise BadLandmarks(f"{path.name}: landmarks for {len(values)} frames, the video has {frames}; write one set for every frame")
    return {name: values if name == "hidden" else values.astype(np.float32) for name, values in arrays.items()}


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in SHAPES if name in data}
    except MemoryError as error:
        raise BadLandmarks(f"{path.name}: states an array that does not fit into memory; write it anew") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, KeyError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise BadLandmarks(f"{path.name}: not a readable npz file ({type(error).__name__}); write it anew with numpy.savez") from error


def fit_to_frames(arrays: dict[str, np.ndarray], clip: VideoFile, name: str) -> None:
    """Check landmarks against a clip's frames, and scale them, in place, where its pixels are not square.

    Raises :class:`BadLandmarks` where they cannot be of these frames, with the likely cause.
    """
    points = arrays["landmarks"]
    good = clip.usable[np.isfinite(points[clip.usable]).all((1, 2)) & ~clip.scaled[clip.usable]]
    if not len(good):
        return
    chosen = good[np.linspace(0, len(good) - 1, min(5, len(good))).round().astype(int)]
    sample = points[chosen].astype(np.float64)
    # landmarks of a video whose pixels are not square: found in the frames as they are shown, or as they are stored
    placements = {1.0: sample} if np.allclose(clip.shape.stretch, 1) else {0.0: sample, 1.0: (sample + 0.5) * clip.shape.stretch - 0.5}
    scales = {s: (placements[1.0] + 0.5) * s - 0.5 for s in SCALES}
    placements |= {s: p for s, p in scales.items() if _inside(p, clip.size)}
    edges = on_edges(clip, chosen, placements)
    if 0.0 in edges and edges[0.0] < edges[1.0] + 0.1 and _inside(placements[1.0], clip.size):
        for key in arrays.keys() & {"landmarks", "pupils"}:
            arrays[key] = ((arrays[key] + 0.5) * clip.shape.stretch - 0.5).astype(np.float32)
        placements[0.0] = placements[1.0]
        edges[0.0] = edges[1.0]
    if cause := _misplaced(placements.get(0.0, sample), edges, clip.size):
        raise BadLandmarks(f"{name}: {cause}")


def _misplaced(points: np.ndarray, edges: dict[float, float], size: tuple[int, int]) -> str:
    """Why landmarks (k, 68, 2) cannot be of these pictures, "" where they can; ``edges`` are those of the points by scale."""
    height, width = size
    across = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    down = points[:, 48:60].mean(1) - points[:, 36:48].mean(1)
    if np.median(across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) < 0:
        return "landmarks are mirrored: x and y are swapped, or y counts from below; pixels (x, y) from the upper left corner are needed"
    if np.abs(points).max() <= 1.5:
        return "landmarks lie between 0 and 1: relative coordinates; pixels are needed"
    others = {scale: value for scale, value in edges.items() if scale not in (0.0, 1.0)}
    best = max(others, key=lambda scale: others[scale], default=None)
    advice = "write them in pixels of the video's own frames"
    if not _inside(points, size):
        low, high = points.min((0, 1)), points.max((0, 1))
        place = f"x from {low[0]:.0f} to {high[0]:.0f} and y from {low[1]:.0f} to {high[1]:.0f} in a picture of {width}×{height}"
        cause = "found at another scale?" if others else "found in another video or another crop?"
        return f"landmarks lie outside of the picture ({place}): {cause} {advice}"
    if best and edges.get(0.0, edges[1.0]) < EDGES < others[best] - 0.25:
        return f"landmarks lie beside the face, and on it when they are multiplied by {best:.3g}: found at another scale; {advice}"
    return ""


def _inside(points: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether at least two thirds of the points (k, 68, 2) lie within the picture; a jaw may reach out of a close-up."""
    height, width = size
    x, y = points[..., 0], points[..., 1]
    return float(((x > -1) & (x < width) & (y > -1) & (y < height)).mean()) > 2 / 3


def on_edges(clip: VideoFile, numbers: np.ndarray, placements: dict[float, np.ndarray]) -> dict[float, float]:
    """How much stronger edges are along brows, nose, eyes and lips than anywhere in the face: near 1 where points are misplaced.

    For several placements of the points of k frames, (k, 68, 2) each; the median over the frames.
    """
    values: dict[float, list[float]] = {name: [] for name in placements}
    for k, image in enumerate(clip.frames(numbers)):
        for name, points in placements.items():
            values[name].append(_edges_of_one(image, points[k]))
    return {name: float(np.median(of_frames)) for name, of_frames in values.items()}


def _edges_of_one(image: np.ndarray, points: np.ndarray) -> float:
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low) + 2
    left, top = np.floor(low - margin).astype(int).clip(0)
    right, bottom = np.ceil(high + margin).astype(int).clip(1)
    face = image[top:bottom, left:right]
    if min(face.shape[:2]) < 8:
        return 1.0
    scale = min(1.0, 256 / max(face.shape[:2]))
    points = ((points - [left, top] + 0.5) * scale - 0.5).astype(np.float32)
    grey = cv2.resize(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    eyes = float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.5, eyes / 30))
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))

    def at(places: np.ndarray) -> np.ndarray:
        x, y = (places[:, axis].clip(0, slope.shape[1 - axis] - 1).round().astype(int) for axis in (0, 1))
        return slope[y, x]

    along = []
    for first, end, closed in CURVES:
        curve = points[first:end]
        curve = np.concatenate([curve, curve[:1]]) if closed else curve
        steps = np.linspace(0, 1, 4, endpoint=False)[:, None, None]
        along.append((curve[:-1] + steps * np.diff(curve, axis=0)).reshape(-1, 2))
    grid = np.stack(np.meshgrid(*np.linspace(points.min(0), points.max(0), 20).T), -1).reshape(-1, 2)
    hull = cv2.convexHull(points)
    within = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), False) > 0 for x, y in grid])
    return float(at(np.concatenate(along)).mean() / (at(grid[within]).mean() + 1e-6)) if within.any() else 1.0
