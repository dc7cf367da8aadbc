"""Metrics of any folder of talking videos against references, so that outputs of other code become rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from talking_heads.config import digest
from talking_heads.data.prepare_video import Rejected, inspect_source
from talking_heads.data.shared_detector import Detect
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sound import FPS
from talking_heads.data.sources import discover, walk
from talking_heads.data.video import VIDEO_SUFFIXES, VideoFile, open_video
from talking_heads.experiments.diffused.clip_metrics import Face, face_metrics, pixel_metrics
from talking_heads.files import replacing
from talking_heads.metrics import lip_sync
from talking_heads.metrics.statistics import identity_means, mean_estimate
from talking_heads.progress import Progress

VERSION = 1  # raised when the same videos give other values
FRAMES_AT_ONCE = 64  # in memory
LEAST_FRAMES = 2
SAME_SHAPE = 0.02  # relative difference of the ratios of sides
COLUMNS = ("method", "identity", "clip", "frames", "frames with faces", "note", "key")


class Pair(NamedTuple):
    """A generated video and its reference."""

    identity: str
    clip: str  # the path of the reference without its ending, below its folder
    generated: Path
    reference: Path


def videos_below(folder: Path) -> dict[str, Path]:
    """The videos of a folder by their paths below it, without endings. Raises ValueError for two of one
    name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path, problem in walk(folder):
        if problem or path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{path} and {found[name]}: two videos of one name; move one of them away")
        found[name] = path
    return found


def find_pairs(generated: Path, reference: Path, layout: str = "folder") -> tuple[list[Pair], list[str]]:
    """Every generated video with the reference of the same path, or of the same name where that is unique;
    and what has no counterpart.

    Raises ValueError where nothing matches, and as :func:`videos_below` does.
    """
    outputs, references = videos_below(generated), videos_below(reference)
    by_name: dict[str, list[str]] = {}
    for clip in references:
        by_name.setdefault(Path(clip).name, []).append(clip)
    matches: dict[str, Path] = {}
    unmatched = []
    for name, path in outputs.items():
        same_name = by_name.get(Path(name).name, [])
        clip = name if name in references else same_name[0] if len(same_name) == 1 else ""
        if not clip:
            unmatched.append(f"{path}: no reference of this name")
        elif clip in matches:
            raise ValueError(
                f"{path} and {matches[clip]}: both match {references[clip]}; move one of them away"
            )
        else:
            matches[clip] = path
    if not matches:
        raise ValueError(
            f"{generated}: none of its {len(outputs)} videos has the name of one of the {len(references)} in "
            f"{reference}; give generated videos the names of their references"
        )
    identity_of = {path: unit.person for unit in discover(reference, layout) for path in unit.sources}
    root = reference.resolve()
    pairs = [
        Pair(
            identity_of.get(root / references[clip].relative_to(reference), clip),
            clip,
            path,
            references[clip],
        )
        for clip, path in sorted(matches.items())
    ]
    unmatched += [f"{references[clip]}: not generated" for clip in references if clip not in matches]
    return pairs, unmatched


class Opened(NamedTuple):
    """A video, and landmarks (n, 68, 2) of all its frames, NaN where there is no face; None where none are
    known.
    """

    video: VideoFile
    points: np.ndarray | None


@dataclass(frozen=True)
class Scorer:
    """Compares videos.

    The landmarks of real faces are read from files beside the videos or detected; without either the lips are
    not measured. Procedural speakers (``drawn``) are seen by the embedded judges.
    """

    drawn: bool = False
    detect: Detect | None = None
    device: str | torch.device = "cpu"

    def key(self, pair: Pair) -> str:
        """Changes with the videos, with landmarks beside them, and with how these are found."""
        files = [pair.generated, pair.reference, find_sidecar(pair.generated), find_sidecar(pair.reference)]
        states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files if path]
        return digest(VERSION, self.drawn, self.detect is not None, pair.clip, states)

    def score(self, pair: Pair) -> dict[str, Any]:
        """The metrics of a clip, and the number of its frames and of those with a face in both videos.

        Frames are compared 25 times a second, from the second one on (methods are given the first), at the
        size of the reference. Raises :class:`Rejected` with the file and the reason.
        """
        generated, reference = self._open(pair.generated), self._open(pair.reference)
        check_shapes(pair, generated.video, reference.video)
        seconds = min(generated.video.seconds, reference.video.seconds)
        times = np.arange(1, round(seconds * FPS)) / FPS
        if len(times) < LEAST_FRAMES:
            raise Rejected(f"{pair.generated}: {seconds:.2f} seconds, too short to compare")
        metrics: list[pd.DataFrame] = []
        faces: list[tuple[Face, Face]] = []
        for images, truth in blocks(generated.video, reference.video, times):
            metrics.append(pd.DataFrame(pixel_metrics(images, truth)))
            if self.drawn:
                faces.append((Face.of(images, self.device), Face.of(truth, self.device)))
        row = pd.concat(metrics).mean().to_dict()
        output = landmarks_at(generated, times, reference.video)
        true = exact = landmarks_at(reference, times, reference.video)
        if self.drawn:
            output, true = (concatenate(part) for part in zip(*faces, strict=True))
            exact = exact or true
        faces_found = np.zeros(len(times), bool)
        if output and true and exact:
            sound = reference.video.sound()
            silent = None if sound is None else lip_sync.silent_frames(sound, len(times) + 1)[1:]
            faces_found = np.isfinite(output.landmarks + exact.landmarks).all((1, 2))
            row |= metrics_of_faces(output, true, exact.landmarks, silent, faces_found)
        return row | {"frames": len(times), "frames with faces": int(faces_found.sum())}

    def _open(self, path: Path) -> Opened:
        detect = None if self.drawn else self.detect
        try:
            if not find_sidecar(path) and detect is None:
                return Opened(open_video(path), None)
            found = inspect_source(path, 0, detect)
        except ValueError as error:  # also UnreadableVideo and Rejected
            raise Rejected(f"{path}: {error}") from error
        points = np.full((len(found.clip.times), 68, 2), np.nan)
        points[found.numbers[found.usable]] = found.points["landmarks"][found.usable]
        return Opened(found.clip, points)


def check_shapes(pair: Pair, generated: VideoFile, reference: VideoFile) -> None:
    """Raises :class:`Rejected` for frames of different shapes."""
    (height, width), (true_height, true_width) = generated.size, reference.size
    if abs(width * true_height / (height * true_width) - 1) > SAME_SHAPE:
        raise Rejected(
            f"{pair.generated}: {width}×{height} pixels, the reference has {true_width}×{true_height}; "
            "crop both alike"
        )


def blocks(
    generated: VideoFile, reference: VideoFile, times: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames of both videos at times (n,), in blocks (m, H, W, 3) uint8 of the reference's size."""
    frames, true_frames = (video.frames(video.shown_at(times)) for video in (generated, reference))
    height, width = reference.size
    while truth := list(islice(true_frames, FRAMES_AT_ONCE)):
        images = list(islice(frames, len(truth)))
        if generated.size != reference.size:
            way = cv2.INTER_AREA if generated.size[0] > height else cv2.INTER_CUBIC
            images = [cv2.resize(image, (width, height), interpolation=way) for image in images]
        yield np.stack(images), np.stack(truth)


def landmarks_at(opened: Opened, times: np.ndarray, reference: VideoFile) -> Face | None:
    """The landmarks of a video at times (n,), in pixels of the reference; None where it has none."""
    if opened.points is None:
        return None
    scale = np.array(reference.size[::-1]) / np.array(opened.video.size[::-1])
    return Face(opened.points[opened.video.shown_at(times)] * scale)


def concatenate(faces: Sequence[Face]) -> Face:
    """Faces of several blocks."""
    features = [face.features for face in faces if face.features is not None]
    return Face(
        np.concatenate([face.landmarks for face in faces]), np.concatenate(features) if features else None
    )


def metrics_of_faces(
    generated: Face, truth: Face, points: np.ndarray, silent: np.ndarray | None, found: np.ndarray
) -> dict[str, float]:
    """:func:`face_metrics` of the frames in which faces were ``found`` (n,), each as one number."""
    if found.sum() < LEAST_FRAMES:
        return {}

    def chosen(face: Face) -> Face:
        return Face(face.landmarks[found], None if face.features is None else face.features[found])

    silent = None if silent is None else silent[found]
    by_frame, of_clip = face_metrics(chosen(generated), chosen(truth), points[found], silent)
    return {name: float(values.mean()) for name, values in by_frame.items()} | of_clip


def score(
    generated: Path, reference: Path, out: Path, method: str, scorer: Scorer, layout: str = "folder"
) -> pd.DataFrame:
    """Score a folder of videos: a row for each clip, which ``out`` (CSV) gets as soon as it is known.

    Rows that are there already are computed again only where a video has changed. Columns method, identity,
    clip, the metrics, frames, frames with faces, note (why a clip has no metrics) and key. Raises ValueError
    as :func:`find_pairs` does, and where no clip could be compared.
    """
    pairs, unmatched = find_pairs(generated, reference, layout)
    for line in unmatched:
        print(f"  left out: {line}", flush=True)
    earlier = pd.read_csv(out, keep_default_na=False, na_values=[""]) if out.exists() else pd.DataFrame()
    known = {row["key"]: row for row in earlier.to_dict("records")} if "key" in earlier else {}
    progress, rows = Progress("scoring", len(pairs), "clips"), []
    for pair in pairs:
        key = scorer.key(pair)
        row = known.get(key)
        if row is None:
            row = {"identity": pair.identity, "clip": pair.clip}
            try:
                row |= scorer.score(pair) | {"note": ""}
            except Rejected as error:
                row["note"] = str(error)
                print(f"  left out: {error}", flush=True)
        rows.append({"method": method, **row, "key": key} | {"method": method})
        with replacing(out) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
        progress.add(1)
    table = pd.DataFrame(rows)
    if "MSE" not in table:
        raise ValueError(f"{generated}: no clip could be compared; {table['note'].iloc[0]}")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The means of a table of :func:`score` over identities, with intervals: a row for each metric."""
    names = [name for name in table if name not in COLUMNS]
    rows = []
    for name in names:
        values = table[table[name].notna()]
        if len(values):
            means = identity_means(values[name].to_numpy(float), values["identity"].to_numpy())
            estimate = mean_estimate(means)
            rows.append((name, estimate.value, estimate.low, estimate.high, len(means), len(values)))
    return pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high", "n_identities", "n_clips"])
