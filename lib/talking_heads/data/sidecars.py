"""Sidecars: npz files with the landmarks of the clip or photograph beside them.

``clip.mp4.npz``, or else ``clip.npz``, holds ``landmarks`` (frames, 68, 2) and optionally ``pupils``
(frames, 2, 2), both in pixels of the upright frame, and ``hidden`` (frames, 70). Landmarks are checked
against the frames before they are used.
"""

import os
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from talking_heads.data.landmarks import interocular
from talking_heads.data.photographs import PHOTOGRAPH_SUFFIXES
from talking_heads.data.video import VIDEO_SUFFIXES, VideoFile
from talking_heads.files import appended

SHAPES = {"landmarks": (68, 2), "pupils": (2, 2), "hidden": (70,)}
# permitted dtype kinds of numpy
KINDS = {"landmarks": "fiu", "pupils": "fiu", "hidden": "biu"}
# factors by which landmarks are multiplied to test whether they belong to frames of another size: 1/8 to 8
SCALES = [2 ** (k / 16) for k in range(-48, 49) if abs(k) > 3]
CURVES = (
    (17, 22, False),
    (22, 27, False),
    (27, 31, False),
    (31, 36, False),
    (36, 42, True),
    (42, 48, True),
    (48, 60, True),
)
# edge strength along the curves of a face over edge strength anywhere in the face: 1.3 to 2.1 on real clips,
# at least 1.0 where they are blurred or have 32 pixels, 0.6 to 1.3 where landmarks miss the face
ON_FACE, WEAK, DOUBTFUL = 1.25, 1.1, 0.9
DOUBT = "landmarks lie on few edges of the pictures: are they of these frames?"
SMALLEST_EYES = 12.0  # pixels between the eyes; edges of smaller faces are not conclusive


class BadLandmarks(ValueError):
    """The landmarks beside a source cannot be used; the message states the cause and the remedy."""


def find_sidecar(path: Path) -> Path | None:
    """The sidecar of a source, None where there is none.

    Where a photograph and a video share a stem, ``stem.npz`` belongs to the photograph if it has the
    landmarks of one frame, and otherwise to the video.
    """
    suffixes = (".npz", ".NPZ")
    whole_name = [appended(path, suffix) for suffix in suffixes]
    stem_only = [path.with_suffix(suffix) for suffix in suffixes]
    # lexists: a broken link counts as a sidecar that cannot be read
    sidecar = next(filter(os.path.lexists, whole_name + stem_only), None)
    if sidecar is None or sidecar in whole_name:
        return sidecar
    photograph = path.suffix.lower() in PHOTOGRAPH_SUFFIXES
    if not _siblings(path) & (VIDEO_SUFFIXES if photograph else PHOTOGRAPH_SUFFIXES):
        return sidecar
    try:
        single = len(_load(sidecar).get("landmarks", ())) == 1
    except (BadLandmarks, OSError, TypeError):
        return sidecar
    return sidecar if single == photograph else None


def check_owner(path: Path, sidecar: Path) -> None:
    """Raise :class:`BadLandmarks` where a sidecar named after a stem may belong to another source."""
    kind = PHOTOGRAPH_SUFFIXES if path.suffix.lower() in PHOTOGRAPH_SUFFIXES else VIDEO_SUFFIXES
    rivals = sorted((_siblings(path) & kind) - {path.suffix.lower()})
    if path.suffix and sidecar.stem == path.stem and rivals:
        other = f"{path.stem}{rivals[0]}"
        raise BadLandmarks(
            f"{sidecar.name}: may be of {path.name} or of {other}; name it {path.name}.npz or {other}.npz"
        )


def _siblings(path: Path) -> frozenset[str]:
    """The suffixes of the files that share a file's folder and stem."""
    return _suffixes(path.parent, path.parent.stat().st_mtime_ns).get(path.stem, frozenset())


@lru_cache(maxsize=64)
def _suffixes(folder: Path, modified: int) -> dict[str, frozenset[str]]:
    """The suffixes of the files in a folder by their stems.

    ``modified`` is the folder's time of change, which makes cached results of older states obsolete.
    """
    suffixes: dict[str, set[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 - faster than Path objects for many thousand clips
        stem, dot, suffix = name.rpartition(".")
        suffixes.setdefault(stem, set()).add(f"{dot}{suffix}".lower())
    return {stem: frozenset(group) for stem, group in suffixes.items()}


def read_sidecar(path: Path, frames: int) -> dict[str, np.ndarray]:
    """Read the arrays of a source with ``frames`` frames: landmarks, and pupils and hidden where present.

    Raises :class:`BadLandmarks` where an array has the wrong type, shape or length.
    """
    arrays = _load(path)
    if "landmarks" not in arrays:
        raise BadLandmarks(f"{path.name}: has no array 'landmarks'")
    for name, values in arrays.items():
        if values.dtype.kind not in KINDS[name]:
            raise BadLandmarks(f"{path.name}: {name} are of type {values.dtype}, not numbers")
        if (
            values.ndim == 0
            or values.shape[1:] != SHAPES[name]
            or (name != "landmarks" and len(values) != frames)
        ):
            expected = ", ".join(map(str, (frames, *SHAPES[name])))
            verb = "has" if name == "hidden" else "have"
            raise BadLandmarks(f"{path.name}: {name} {verb} shape {values.shape}, not ({expected})")
        if len(values) != frames:
            raise BadLandmarks(
                f"{path.name}: landmarks for {len(values)} frames, the video has {frames}; "
                "is it cut short, or another one?"
            )
    return {
        name: values if name == "hidden" else values.astype(np.float32) for name, values in arrays.items()
    }


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a sidecar. Raises :class:`BadLandmarks`, and OSError where it cannot be opened."""
    with path.open("rb"):  # raises OSError where the system refuses access
        pass
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in SHAPES if name in data}
    except MemoryError as error:
        raise BadLandmarks(
            f"{path.name}: states an array that does not fit into memory; write it again"
        ) from error
    except Exception as error:  # of zipfile, zlib, tokenize and numpy's parser
        raise BadLandmarks(
            f"{path.name}: not a readable npz file ({type(error).__name__}); write it again with numpy.savez"
        ) from error


def fit_to_frames(arrays: dict[str, np.ndarray], clip: VideoFile, name: str) -> str:
    """Check landmarks against a clip's frames; changes the arrays.

    Landmarks far outside the frame become NaN, and landmarks of frames whose pixels are not square are
    scaled to the displayed frames. Returns a doubt about the landmarks, "" if there is none. Raises
    :class:`BadLandmarks` with the likely cause where they cannot belong to these frames.
    """
    points = arrays["landmarks"]
    with np.errstate(invalid="ignore"):  # of infinite points
        size = np.ptp(points, axis=1).max(1)
    points[~((size > 1e-3) & (size < 1e5))] = np.nan  # zeros and the like, which mark frames without a face
    complete = np.isfinite(points[clip.usable]).all((1, 2)) & ~clip.scaled[clip.usable]
    numbers = clip.usable[complete]
    if not len(numbers):
        return ""
    numbers = numbers[np.linspace(0, len(numbers) - 1, min(5, len(numbers))).round().astype(int)]
    if _of_stored_frames(points[numbers].astype(np.float64), clip, numbers):
        for key in arrays.keys() & {"landmarks", "pupils"}:
            arrays[key] = _stretched(arrays[key], clip.shape.stretch).astype(np.float32)
    points = arrays["landmarks"]
    sample = points[numbers].astype(np.float64)
    if cause := _impossible(sample, clip.size):
        raise BadLandmarks(f"{name}: {cause}")
    points[~_inside(points, clip.size, each=True)] = np.nan
    (edges,) = on_edges(clip, numbers, [sample])
    if edges >= ON_FACE:
        return ""
    if scale := _better_scale(sample, edges, clip, numbers):
        raise BadLandmarks(
            f"{name}: landmarks lie beside the face (multiplied by {scale:.3g} they would lie on edges): "
            "detected at another scale, or in another crop? Write them in pixels of the video's frames"
        )
    return DOUBT if edges < DOUBTFUL and np.median(interocular(sample)) >= SMALLEST_EYES else ""


def _stretched(points: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    """Points (..., 2) of an image that is resized by a factor."""
    return (points + 0.5) * factor - 0.5


def _of_stored_frames(sample: np.ndarray, clip: VideoFile, numbers: np.ndarray) -> bool:
    """Whether landmarks (k, 68, 2) belong to frames as they are stored, not as they are displayed."""
    stretch = clip.shape.stretch
    if np.allclose(stretch, 1):
        return False
    stretched = _stretched(sample, stretch)
    edges, stretched_edges = on_edges(clip, numbers, [sample, stretched])
    return edges < stretched_edges + 0.1 and bool(_inside(stretched, clip.size))


def _better_scale(sample: np.ndarray, edges: float, clip: VideoFile, numbers: np.ndarray) -> float | None:
    """The scale at which landmarks (k, 68, 2) fit a face much better, None if there is none.

    ``edges`` is their edge strength at scale 1. Smaller scales need a larger gain: they always fit into the
    frame, and are better by chance more often.
    """
    eyes = np.median(interocular(sample))
    placements, required = {}, {}
    for scale in SCALES:
        points = _stretched(sample, scale)
        conclusive = scale * eyes >= SMALLEST_EYES and (scale > 1 or edges < WEAK)
        if conclusive and _inside(points, clip.size):
            placements[scale] = points
            required[scale] = edges + (0.4 if scale > 1 else 0.6)
    measured = dict(zip(placements, on_edges(clip, numbers, list(placements.values())), strict=True))
    best = max(measured, key=lambda scale: measured[scale] - required[scale], default=None)
    if best is None or measured[best] <= max(ON_FACE, required[best]):
        return None
    return best


def _impossible(points: np.ndarray, size: tuple[int, int]) -> str:
    """Why landmarks (k, 68, 2) cannot belong to frames of this (height, width), "" where they can."""
    height, width = size
    eye_axis = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    face_axis = points[:, 48:60].mean(1) - points[:, 36:48].mean(1)
    if np.median(eye_axis[:, 0] * face_axis[:, 1] - eye_axis[:, 1] * face_axis[:, 0]) < 0:
        return (
            "landmarks are mirrored: x and y are swapped, or y counts from below; "
            "pixels (x, y) from the upper left corner are needed"
        )
    if np.abs(points).max() <= 1.5:
        return "landmarks lie between 0 and 1: relative coordinates; pixels are needed"
    if _inside(points, size):
        return ""
    (left, top), (right, bottom) = points.min((0, 1)), points.max((0, 1))
    fits = any(_inside(_stretched(points, scale), size) for scale in SCALES)
    elsewhere = "" if fits else ", in another crop or another video"
    return (
        f"landmarks lie outside of the picture (x from {left:.0f} to {right:.0f} and y from {top:.0f} to "
        f"{bottom:.0f} in a picture of {width}×{height}): detected at another scale{elsewhere}? "
        "Write them in pixels of the video's frames"
    )


def _inside(points: np.ndarray, size: tuple[int, int], each: bool = False) -> np.ndarray | bool:
    """Whether more than two thirds of all points (k, 68, 2) lie within the frame.

    With ``each``, whether more than a third of a frame's points do, (k,): the jaw may extend beyond a
    close-up.
    """
    height, width = size
    x, y = points[..., 0], points[..., 1]
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    return inside.mean(1) > 1 / 3 if each else bool(inside.mean() > 2 / 3)


def on_edges(clip: VideoFile, numbers: np.ndarray, placements: list[np.ndarray]) -> list[float]:
    """Edge strength along brows, nose, eyes and lips over edge strength anywhere in the face.

    The ratio is near 1 where landmarks are misplaced. ``placements`` are alternative landmarks (k, 68, 2) of
    the k frames ``numbers``; returns the median over the frames for each of them.
    """
    ratios = [
        [_edge_ratio(image, points[k]) for points in placements]
        for k, image in enumerate(clip.frames(numbers))
    ]
    return np.median(ratios, axis=0).tolist() if placements else []


def _edge_ratio(image: np.ndarray, points: np.ndarray) -> float:
    """The ratio of :func:`on_edges` for one image and its landmarks (68, 2)."""
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low) + 2
    left, top = np.floor(low - margin).astype(int).clip(0)
    right, bottom = np.ceil(high + margin).astype(int).clip(1)
    face = image[top:bottom, left:right]
    if min(face.shape[:2]) < 8:
        return 1.0
    scale = min(1.0, 256 / max(face.shape[:2]))
    points = _stretched(points - [left, top], scale).astype(np.float32)
    slope = _gradient(face, scale, points)

    def slope_at(positions: np.ndarray) -> np.ndarray:
        limits = np.array(slope.shape[::-1]) - 1
        x, y = np.clip(positions, 0, limits).round().astype(int).T
        return slope[y, x]

    anywhere = _points_in_hull(points)
    average = slope_at(anywhere).mean() if len(anywhere) else 0.0
    if average <= 1:  # a face without visible edges
        return ON_FACE
    return float(slope_at(_points_on_curves(points)).mean() / average)


def _gradient(face: np.ndarray, scale: float, points: np.ndarray) -> np.ndarray:
    """Gradient magnitude of a face that is resized, and blurred in proportion to the interocular distance."""
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    eyes = float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.5, eyes / 30))
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _points_on_curves(points: np.ndarray) -> np.ndarray:
    """Four points (n, 2) on every line of ``CURVES``."""
    steps = np.linspace(0, 1, 4, endpoint=False)[:, None, None]
    positions = []
    for first, end, closed in CURVES:
        curve = points[first:end]
        curve = np.concatenate([curve, curve[:1]]) if closed else curve
        positions.append((curve[:-1] + steps * np.diff(curve, axis=0)).reshape(-1, 2))
    return np.concatenate(positions)


def _points_in_hull(points: np.ndarray) -> np.ndarray:
    """The points (n, 2) of a grid of 20 × 20 that lie inside the convex hull of landmarks (68, 2)."""
    grid = np.stack(np.meshgrid(*np.linspace(points.min(0), points.max(0), 20).T), -1).reshape(-1, 2)
    hull = cv2.convexHull(points)
    inside = [cv2.pointPolygonTest(hull, (float(x), float(y)), False) > 0 for x, y in grid]
    return grid[np.array(inside)]
