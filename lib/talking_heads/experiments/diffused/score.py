"""Metrics of any folder of talking videos against references, so that outputs of other code become rows."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from talking_heads.config import digest
from talking_heads.data.prepare_video import Rejected, inspect_source
from talking_heads.data.shared_detector import Detect, detector_name
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sound import FPS
from talking_heads.data.sources import discover, unusable, walk
from talking_heads.data.video import VIDEO_SUFFIXES, VideoFile, open_video
from talking_heads.experiments.diffused.clip_metrics import face_metrics, pixel_metrics
from talking_heads.files import check_outputs, replacing
from talking_heads.judges.faces import Face, networks_digest
from talking_heads.metrics import lip_sync, recogniser
from talking_heads.metrics.flow import flow_by_region
from talking_heads.metrics.statistics import identity_means, mean_estimate
from talking_heads.progress import Progress

VERSION = 3  # raised when the same videos give other values
FRAMES_AT_ONCE, BYTES_AT_ONCE = 64, 24_000_000  # of a video, at most
LEAST_FRAMES = 2
TOLERATED_FRAMES = 2  # by which lengths may differ without a note
WRITTEN_EVERY = 5.0  # seconds
EXAMPLES = 3  # of files without a counterpart that are printed
FACES = "frames with faces"
SAME_SHAPE = 0.02  # relative difference of the ratios of sides
COLUMNS = ("method", "identity", "clip", "frames", FACES, "note", "key")


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
        if problem or path.suffix.lower() not in VIDEO_SUFFIXES or unusable(path):
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
        if name in references:
            same_name = [name]
        if len(same_name) != 1:
            reason = f"{len(same_name)} references have this name, and none this path"
            unmatched.append(f"{path}: {reason if same_name else 'no reference has this name'}")
        elif same_name[0] in matches:
            both = f"{path} and {matches[same_name[0]]}"
            raise ValueError(f"{both}: both match {references[same_name[0]]}; move one of them away")
        else:
            matches[same_name[0]] = path
    if not matches:
        example = f" ({unmatched[0]})" if unmatched else ""
        raise ValueError(
            f"{generated}: none of its {len(outputs)} videos matches one of the {len(references)} in "
            f"{reference}{example}; give generated videos the names of their references"
        )
    identity_of = {path: unit.person for unit in discover(reference, layout) for path in unit.sources}
    pairs = []
    for clip, path in sorted(matches.items()):
        source = reference.resolve() / references[clip].relative_to(reference)
        pairs.append(Pair(identity_of.get(source, clip), clip, path, references[clip]))
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
    not measured. Their identity similarity is CSIM-dlib, where dlib is installed. Faces of ``procedural``
    speakers are measured by the embedded judges.
    """

    procedural: bool = False
    detect: Detect | None = None
    device: str | torch.device = "cpu"

    def key(self, pair: Pair) -> str:
        """Changes with the videos, with the landmarks beside them, and with how these are found."""
        files = [pair.generated, pair.reference, find_sidecar(pair.generated), find_sidecar(pair.reference)]
        states = [(path.stat().st_size, path.stat().st_mtime_ns) if path else None for path in files]
        detector = self.detect and detector_name(self.detect)
        real = not self.procedural
        networks = networks_digest(real) if self.procedural or recogniser.is_installed() else ""
        return digest(VERSION, networks, detector if real else "", pair.clip, states)

    def score(self, pair: Pair) -> dict[str, Any]:
        """The metrics of a clip, the number of its frames, that of frames with a face in both videos, and a
        note on what is unusual.

        Frames are compared 25 times a second, from the second one on (methods are given the first), at the
        size of the reference. Raises ValueError, OSError and MemoryError where the clip cannot be compared.
        """
        reference = self._open(pair.reference)
        try:
            generated, notes = self._open(pair.generated), []
        except Rejected as error:  # frames without a face are a result of the method
            generated, notes = Opened(open_video(pair.generated), None), [f"{pair.generated}: {error}"]
        check_shapes(pair, generated.video, reference.video)
        lengths = generated.video.seconds, reference.video.seconds
        times = np.arange(1, round(min(lengths) * FPS)) / FPS
        if len(times) < LEAST_FRAMES:
            raise Rejected(f"{pair.generated}: {min(lengths):.2f} seconds, too short to compare")
        if abs(lengths[0] - lengths[1]) * FPS > TOLERATED_FRAMES:
            notes.append(f"{lengths[0]:.2f} seconds long, the reference {lengths[1]:.2f}")
        output, exact = (landmarks_at(one, times, reference.video) for one in (generated, reference))
        videos = generated.video, reference.video
        row, output, true = self._measure_frames(videos, (output, exact), times)
        exact = exact or true
        faces = np.zeros(len(times), bool)
        if output and true and exact:
            sound = reference.video.sound()
            silent = None if sound is None else lip_sync.silent_frames(sound, len(times) + 1)[1:]
            faces = np.isfinite(output.landmarks + exact.landmarks).all((1, 2))
            row |= metrics_of_faces(output, true, exact.landmarks, silent, faces)
        return row | {"frames": len(times), FACES: int(faces.sum()), "note": "; ".join(notes)}

    def _measure_frames(
        self, videos: tuple[VideoFile, VideoFile], tracks: tuple[Face | None, Face | None], times: np.ndarray
    ) -> tuple[dict[str, Any], Face | None, Face | None]:
        """Metrics of pixels and optical flow at times (n,), and the faces of both videos, whose ``tracks`` of
        landmarks are given where they are known.
        """
        metrics: list[pd.DataFrame] = []
        seen: list[tuple[Face, Face]] = []
        flows = {"flow": Flow(), "true flow": Flow()}
        output, true = tracks
        for first, images, truth in blocks(*videos, times):
            metrics.append(pd.DataFrame(pixel_metrics(images, truth)))
            if self.procedural:
                faces = Face.of(images, device=self.device), Face.of(truth, device=self.device)
            elif output and true:
                shown = slice(first, first + len(images))
                faces = real_face(images, output.landmarks[shown]), real_face(truth, true.landmarks[shown])
            else:
                continue
            seen.append(faces)
            for flow, frames, face in zip(flows.values(), (images, truth), faces, strict=True):
                flow.add(frames, face.landmarks)
        row: dict[str, Any] = pd.concat(metrics).mean().to_dict()
        if seen:
            output, true = (concatenate(part) for part in zip(*seen, strict=True))
            for name, flow in flows.items():
                row |= flow.means(name)
        return row, output, true

    def _open(self, path: Path) -> Opened:
        detect = None if self.procedural else self.detect
        if not find_sidecar(path) and detect is None:
            return Opened(open_video(path), None)
        inspection = inspect_source(path, 0, detect)
        points = np.full((len(inspection.clip.times), 68, 2), np.nan)
        usable = inspection.usable
        points[inspection.numbers[usable]] = inspection.points["landmarks"][usable]
        return Opened(inspection.clip, points)


@dataclass
class Flow:
    """The mean optical flow of a video whose frames come in blocks."""

    values: list[pd.DataFrame] = field(default_factory=list)
    last: tuple[np.ndarray, ...] = ()  # frame and landmarks

    def add(self, frames: np.ndarray, landmarks: np.ndarray) -> None:
        """Go on with frames (n, H, W, 3) uint8 and their landmarks (n, 68, 2), NaN where there is no face."""
        last, self.last = self.last, (frames[-1:], landmarks[-1:])
        if last:
            frames, landmarks = np.concatenate([last[0], frames]), np.concatenate([last[1], landmarks])
        if len(frames) > 1:
            self.values.append(pd.DataFrame(flow_by_region(frames, landmarks)))

    def means(self, name: str) -> dict[str, float]:
        """As :func:`mean_flow`, over the frames with faces."""
        return {f"{name} of the {region}": value for region, value in pd.concat(self.values).mean().items()}


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
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Frames of both videos at times (n,), in blocks (m, H, W, 3) uint8 of the reference's size, with the
    number of its first frame.
    """
    first = 0
    frames, true_frames = (video.frames(video.shown_at(times)) for video in (generated, reference))
    height, width = reference.size
    at_once = max(1, min(FRAMES_AT_ONCE, BYTES_AT_ONCE // (3 * height * width)))
    while truth := list(islice(true_frames, at_once)):
        images = list(islice(frames, len(truth)))
        if generated.size != reference.size:
            kind = cv2.INTER_AREA if generated.size[0] > height else cv2.INTER_CUBIC
            images = [cv2.resize(image, (width, height), interpolation=kind) for image in images]
        yield first, np.stack(images), np.stack(truth)
        first += len(truth)


def landmarks_at(opened: Opened, times: np.ndarray, reference: VideoFile) -> Face | None:
    """The landmarks of a video at times (n,), in pixels of the reference; None where it has none."""
    if opened.points is None:
        return None
    scale = np.array(reference.size[::-1]) / np.array(opened.video.size[::-1])
    return Face(opened.points[opened.video.shown_at(times)] * scale)


def real_face(images: np.ndarray, landmarks: np.ndarray) -> Face:
    """Landmarks (n, 68, 2) of real people in images (n, H, W, 3) uint8, with identity features where dlib is
    installed; both are NaN where there is no face.
    """
    if not recogniser.is_installed():
        return Face(landmarks)
    found = np.isfinite(landmarks).all((1, 2))
    features = np.full((len(images), recogniser.FEATURES), np.nan)
    if found.any():
        features[found] = recogniser.face_features(images[found], landmarks[found])
    return Face(landmarks, features, recogniser.CSIM)


def concatenate(faces: Sequence[Face]) -> Face:
    """Faces of several blocks."""
    features = [face.features for face in faces if face.features is not None]
    landmarks = np.concatenate([face.landmarks for face in faces])
    return Face(landmarks, np.concatenate(features) if features else None, faces[0].similarity)


def metrics_of_faces(
    generated: Face, truth: Face, points: np.ndarray, silent: np.ndarray | None, usable: np.ndarray
) -> dict[str, float]:
    """:func:`face_metrics` of the frames (n,) that are ``usable``, as one number each; the others are taken
    out, as if the frames on both sides were neighbours.
    """
    if usable.sum() < LEAST_FRAMES:
        return {}

    def selected(face: Face) -> Face:
        features = None if face.features is None else face.features[usable]
        return Face(face.landmarks[usable], features, face.similarity)

    silent = None if silent is None else silent[usable]
    by_frame, of_clip = face_metrics(selected(generated), selected(truth), points[usable], silent)
    return {name: float(values.mean()) for name, values in by_frame.items()} | of_clip


def score(
    generated: Path, reference: Path, out: Path, method: str, scorer: Scorer, layout: str = "folder"
) -> pd.DataFrame:
    """Score a folder of videos: a row for each clip in ``out`` (CSV), which is written on the way.

    Rows that are there already are computed again only where a video has changed. Columns method, identity,
    clip, the metrics, frames, frames with faces, note and key. A clip that cannot be compared has a note and
    no metrics. Raises ValueError as :func:`find_pairs` does, for a file ``out`` that is no table of this
    method, and where no clip can be compared.
    """
    pairs, unmatched = find_pairs(generated, reference, layout)
    check_outputs({"--out": out}, [path for pair in pairs for path in (pair.generated, pair.reference)])
    report_unmatched(unmatched)
    earlier = read_scores(out, method) if out.exists() else {}
    rows, progress = dict(earlier), Progress("scoring", len(pairs), "clips")
    written = time.time()
    try:
        for pair in pairs:
            row = score_pair(pair, scorer, earlier.get(pair.clip, {}))
            rows[pair.clip] = {"method": method, "identity": pair.identity, "clip": pair.clip, **row}
            progress.add(1)
            if time.time() - written > WRITTEN_EVERY:
                write_scores(out, list(rows.values()))
                written = time.time()
    finally:
        write_scores(out, list(rows.values()))
    table = pd.DataFrame([rows[pair.clip] for pair in pairs])
    write_scores(out, list(table.to_dict("records")))  # without clips that are not there any more
    if "MSE" not in table or table["MSE"].isna().all():
        raise ValueError(f"{generated}: no clip could be compared; {table['note'].iloc[0]}")
    return table


def score_pair(pair: Pair, scorer: Scorer, earlier: dict[str, Any]) -> dict[str, Any]:
    """The row of a clip: the earlier one where nothing has changed, or else one with a note and no metrics
    where it cannot be compared. What may be possible later has no key, and is tried again by the next run.
    """
    key = ""
    try:
        key = scorer.key(pair)
        if earlier.get("key") == key:
            return {k: v for k, v in earlier.items() if k not in ("method", "identity", "clip")}
        return {**scorer.score(pair), "key": key}
    except (ValueError, RuntimeError) as error:  # also UnreadableVideo, Rejected and DetectionFailed
        cause = str(error)
    except OSError as error:
        cause, key = f"cannot be read ({error.strerror or error})", ""
    except MemoryError:
        cause, key = "memory ran out; close other programs", ""
    note = cause if str(pair.generated) in cause else f"{pair.generated} or {pair.reference}: {cause}"
    print(f"  left out: {note}", flush=True)
    return {"note": note, "key": key}


def report_unmatched(lines: list[str]) -> None:
    """Print what has no counterpart, a few examples of each kind."""
    for missing in (True, False):
        kind = [line for line in lines if line.endswith("not generated") == missing]
        for line in kind[:EXAMPLES]:
            print(f"  left out: {line}", flush=True)
        if len(kind) > EXAMPLES:
            what = "references that were not generated" if missing else "videos without a reference"
            print(f"  ... and {len(kind) - EXAMPLES} more {what}", flush=True)


def read_table(path: Path) -> pd.DataFrame:
    """A table of :func:`score`. Raises ValueError for another file."""
    text = dict.fromkeys(("method", "identity", "clip", "note", "key"), str)
    try:
        table = pd.read_csv(path, dtype=text)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error})") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{path}: is no table of scores ({missing[0]} is missing)")
    return table.fillna(dict.fromkeys(text, ""))


def read_scores(path: Path, method: str) -> dict[str, dict[str, Any]]:
    """The rows of a table of :func:`score`, by clip. Raises ValueError for another file."""
    try:
        table = read_table(path)
        if others := set(table["method"]) - {method}:
            raise ValueError(f"{path}: is the table of {', '.join(others)}")
    except ValueError as error:
        raise ValueError(f"{error}; choose another --out") from error
    return {row["clip"]: row for row in table.to_dict("records")}


def write_scores(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a table; it appears by rename."""
    table = pd.DataFrame(rows, columns=list(dict.fromkeys((*COLUMNS[:3], *chain(*rows), *COLUMNS[3:]))))
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The means of a table of :func:`score` over identities, with intervals: a row for each metric, and for
    the share of frames with faces.
    """
    shares = table[FACES] / table["frames"]
    table = table.assign(**{f"share of {FACES}": shares})
    rows = []
    for name in [name for name in table if name not in COLUMNS]:
        values = table[table[name].notna()]
        if len(values):
            means = identity_means(values[name].to_numpy(float), values["identity"].to_numpy())
            estimate = mean_estimate(means)
            rows.append((name, estimate.value, estimate.low, estimate.high, len(means), len(values)))
    return pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high", "n_identities", "n_clips"])
