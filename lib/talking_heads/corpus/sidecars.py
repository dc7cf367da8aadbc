"""Landmarks that lie beside a clip or a photograph: found, read, checked against the frames.

``clip.mp4.npz``, or else ``clip.npz``, holds ``landmarks`` (frames, 68, 2) and
optionally ``pupils`` (frames, 2, 2), both in pixels of the upright frame, and ``hidden`` (frames, 70).
"""

import os
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from ..files import appended
from .landmarks import interocular
from .photographs import PHOTOGRAPH_SUFFIXES
from .video import VIDEO_SUFFIXES, VideoFile

SHAPES = {"landmarks": (68, 2), "pupils": (2, 2), "hidden": (70,)}
# numpy's kinds of numbers; hidden may be boolean
KINDS = {"landmarks": "fiu", "pupils": "fiu", "hidden": "biu"}
# factors from a picture that landmarks may have been found in by mistake: 1/8 to 8, not those near 1
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
# edges on the curves of a face over edges anywhere in it: 1.3 to 2.1 on real clips, 1.0 at least where they
# are blurred or of 32 pixels; a face that landmarks miss has 0.6 to 1.3
ON_FACE, WEAK, DOUBTFUL = 1.25, 1.1, 0.9
DOUBT = "landmarks lie on few edges of the pictures: are they of these frames?"
SMALLEST_EYES = 12.0  # pixels between the eyes, from which on edges say something


class BadLandmarks(ValueError):
    """Landmarks beside a source cannot be used; the message says why, and what to do."""


def find_sidecar(path: Path) -> Path | None:
    """The file of a source's landmarks, None where there is none.

    Where a photograph and a video share a stem, ``stem.npz`` belongs to the one that its number of frames
    fits.
    """
    candidates = [
        place(ending) for place in (partial(appended, path), path.with_suffix) for ending in (".npz", ".NPZ")
    ]
    shared = next(filter(os.path.lexists, candidates), None)  # a link to nothing is one that cannot be read
    if shared is None or shared in candidates[:2]:
        return shared
    photograph = path.suffix.lower() in PHOTOGRAPH_SUFFIXES
    if not _siblings(path) & (VIDEO_SUFFIXES if photograph else PHOTOGRAPH_SUFFIXES):
        return shared
    try:
        single = len(_load(shared).get("landmarks", ())) == 1
    except (BadLandmarks, OSError, TypeError):
        return shared
    return shared if single == photograph else None


def check_owner(path: Path, beside: Path) -> None:
    """Raises :class:`BadLandmarks` where landmarks without a source's whole name may be of another one."""
    kind = PHOTOGRAPH_SUFFIXES if path.suffix.lower() in PHOTOGRAPH_SUFFIXES else VIDEO_SUFFIXES
    rivals = sorted((_siblings(path) & kind) - {path.suffix.lower()})
    if path.suffix and beside.stem == path.stem and rivals:
        other = f"{path.stem}{rivals[0]}"
        raise BadLandmarks(
            f"{beside.name}: may be of {path.name} or of {other}; name it {path.name}.npz or {other}.npz"
        )


def _siblings(path: Path) -> frozenset[str]:
    """The endings of the files that share a file's folder and stem."""
    return _endings(path.parent, path.parent.stat().st_mtime_ns).get(path.stem, frozenset())


@lru_cache(maxsize=64)
def _endings(folder: Path, modified: int) -> dict[str, frozenset[str]]:
    """The endings of the files in a folder by their stems; ``modified`` is when it last changed."""
    found: dict[str, set[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 - a folder of many thousand clips
        stem, dot, ending = name.rpartition(".")
        found.setdefault(stem, set()).add(f"{dot}{ending}".lower())
    return {stem: frozenset(endings) for stem, endings in found.items()}


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
        if (
            values.ndim == 0
            or values.shape[1:] != SHAPES[name]
            or (name != "landmarks" and len(values) != frames)
        ):
            wanted = ", ".join(map(str, (frames, *SHAPES[name])))
            raise BadLandmarks(
                f"{path.name}: {name} {'has' if name == 'hidden' else 'have'} shape {values.shape}, "
                f"not ({wanted})"
            )
        if len(values) != frames:
            raise BadLandmarks(
                f"{path.name}: landmarks for {len(values)} frames, the video has {frames}; "
                "is it cut short, or another one?"
            )
    return {
        name: values if name == "hidden" else values.astype(np.float32) for name, values in arrays.items()
    }


def _load(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb"):  # what the system refuses is no fault of the file
        pass
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in SHAPES if name in data}
    except MemoryError as error:
        raise BadLandmarks(
            f"{path.name}: states an array that does not fit into memory; write it anew"
        ) from error
    except Exception as error:  # numpy raises what zipfile, zlib, tokenize and its own parser do
        raise BadLandmarks(
            f"{path.name}: not a readable npz file ({type(error).__name__}); write it anew with numpy.savez"
        ) from error


def fit_to_frames(arrays: dict[str, np.ndarray], clip: VideoFile, name: str) -> str:
    """Check landmarks against a clip's frames, and scale them, in place, where its pixels are not square.

    Returns what is doubtful about them, "" if nothing. Raises :class:`BadLandmarks` where they cannot be of
    these frames, with the likely cause.
    """
    points = arrays["landmarks"]
    with np.errstate(invalid="ignore"):  # of infinite points
        size = np.ptp(points, axis=1).max(1)
    points[~((size > 1e-3) & (size < 1e5))] = np.nan  # zeros and the like, which say that no face was found
    good = clip.usable[np.isfinite(points[clip.usable]).all((1, 2)) & ~clip.scaled[clip.usable]]
    if not len(good):
        return ""
    chosen = good[np.linspace(0, len(good) - 1, min(5, len(good))).round().astype(int)]
    sample = points[chosen].astype(np.float64)
    stretch = clip.shape.stretch
    if not np.allclose(stretch, 1):  # landmarks of the frames as they are shown, or as they are stored?
        stored = (sample + 0.5) * stretch - 0.5
        shown_edges, stored_edges = on_edges(clip, chosen, [sample, stored])
        if shown_edges < stored_edges + 0.1 and _inside(stored, clip.size):
            for key in arrays.keys() & {"landmarks", "pupils"}:
                arrays[key] = ((arrays[key] + 0.5) * stretch - 0.5).astype(np.float32)
            sample = stored
    if cause := _impossible(sample, clip.size):
        raise BadLandmarks(f"{name}: {cause}")
    points = arrays["landmarks"]  # stretched, maybe
    points[~_inside(points, clip.size, each=True)] = np.nan
    eyes = np.median(interocular(sample))
    (edges,) = on_edges(clip, chosen, [sample])
    if edges >= ON_FACE:
        return ""
    # smaller placements always fit, and are better by chance more often
    least = {
        s: edges + (0.4 if s > 1 else 0.6)
        for s in SCALES
        if s * eyes >= SMALLEST_EYES and (s > 1 or edges < WEAK)
    }
    placed = {s: (sample + 0.5) * s - 0.5 for s in least}
    placed = {s: points for s, points in placed.items() if _inside(points, clip.size)}
    found = dict(zip(placed, on_edges(clip, chosen, list(placed.values())), strict=True))
    scale = max(found, key=lambda s: found[s] - least[s], default=1.0)
    if found.get(scale, 0.0) > max(ON_FACE, least.get(scale, np.inf)):
        raise BadLandmarks(
            f"{name}: landmarks lie beside the face (multiplied by {scale:.3g} they would lie on edges): "
            "found at another scale, or in another crop? Write them in pixels of the video's own frames"
        )
    return DOUBT if edges < DOUBTFUL and eyes >= SMALLEST_EYES else ""


def _impossible(points: np.ndarray, size: tuple[int, int]) -> str:
    """Why landmarks (k, 68, 2) cannot be of pictures of this (height, width), "" where they can."""
    height, width = size
    across = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    down = points[:, 48:60].mean(1) - points[:, 36:48].mean(1)
    if np.median(across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) < 0:
        return (
            "landmarks are mirrored: x and y are swapped, or y counts from below; "
            "pixels (x, y) from the upper left corner are needed"
        )
    if np.abs(points).max() <= 1.5:
        return "landmarks lie between 0 and 1: relative coordinates; pixels are needed"
    if _inside(points, size):
        return ""
    (left, top), (right, bottom) = points.min((0, 1)), points.max((0, 1))
    fits = any(_inside((points + 0.5) * scale - 0.5, size) for scale in SCALES)
    elsewhere = "" if fits else ", in another crop or another video"
    return (
        f"landmarks lie outside of the picture (x from {left:.0f} to {right:.0f} and y from {top:.0f} to "
        f"{bottom:.0f} in a picture of {width}×{height}): found at another scale{elsewhere}? "
        "Write them in pixels of the video's own frames"
    )


def _inside(points: np.ndarray, size: tuple[int, int], each: bool = False) -> np.ndarray | bool:
    """Whether two thirds of all points (k, 68, 2) lie within the picture, or a third of ``each`` frame's.

    A jaw may reach out of a close-up.
    """
    height, width = size
    x, y = points[..., 0], points[..., 1]
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    return inside.mean(1) > 1 / 3 if each else bool(inside.mean() > 2 / 3)


def on_edges(clip: VideoFile, numbers: np.ndarray, placements: list[np.ndarray]) -> list[float]:
    """How much stronger edges are along brows, nose, eyes and lips than anywhere in the face: near 1 where
    points are misplaced.

    For several placements of the points of k frames, (k, 68, 2) each; the median over the frames.
    """
    values = [
        [_edges_of_one(image, points[k]) for points in placements]
        for k, image in enumerate(clip.frames(numbers))
    ]
    return np.median(values, axis=0).tolist() if placements else []


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
    grey = cv2.resize(
        cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    ).astype(np.float32)
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
    anywhere = at(grid[within]).mean() if within.any() else 0.0
    return (
        float(at(np.concatenate(along)).mean() / anywhere) if anywhere > 1 else ON_FACE
    )  # nothing is to be seen
