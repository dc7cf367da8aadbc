"""Metrics of a talking video against its reference, whatever has generated it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from talking_heads.config import digest
from talking_heads.data.frames import to_tensor
from talking_heads.data.prepare_video import Rejected, inspect_source
from talking_heads.data.shared_detector import Detect, detector_name
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sound import FPS
from talking_heads.data.speakers.write import read_phonemes
from talking_heads.data.video import VideoFile, open_video
from talking_heads.experiments.diffused.clip_metrics import PER, face_metrics, pixel_metrics
from talking_heads.judges import lip_reading
from talking_heads.judges.faces import Face, networks_digest
from talking_heads.judges.use import judge
from talking_heads.metrics import lip_sync, recogniser
from talking_heads.metrics.flow import flow_by_region

VERSION = 4  # raised when the same videos give other values
FRAMES_AT_ONCE, BYTES_AT_ONCE = 64, 24_000_000  # of a video, at most
LEAST_FRAMES = 2
TOLERATED_FRAMES = 2  # by which lengths may differ without a note
FACES = "frames with faces"
SAME_SHAPE = 0.02  # relative difference of the ratios of sides


class Pair(NamedTuple):
    """A generated video and its reference."""

    identity: str
    clip: str  # the path of the reference without its ending, below its folder
    generated: Path
    reference: Path


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
    speakers are measured by the embedded judges, with PER-judge where the phonemes of what is said lie beside
    the reference, as in the corpora of the kit.
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
        visemes = self.visemes(pair.reference, (len(times) + 1) / FPS)
        row, output, true = self._measure_frames(videos, (output, exact), times, visemes)
        exact = exact or true
        faces = np.zeros(len(times), bool)
        if output and true and exact:
            sound = reference.video.sound()
            silent = None if sound is None else lip_sync.silent_frames(sound, len(times) + 1)[1:]
            faces = np.isfinite(output.landmarks + exact.landmarks).all((1, 2))
            row |= metrics_of_faces(output, true, exact.landmarks, silent, faces)
        return row | {"frames": len(times), FACES: int(faces.sum()), "note": "; ".join(notes)}

    def visemes(self, reference: Path, seconds: float) -> list[int]:
        """What a procedural speaker says in the first ``seconds``, where the sidecar states it."""
        sidecar = find_sidecar(reference) if self.procedural else None
        segments = read_phonemes(sidecar) if sidecar else []
        return lip_reading.visemes_of([segment for segment in segments if segment.start < seconds])

    def _measure_frames(
        self,
        videos: tuple[VideoFile, VideoFile],
        tracks: tuple[Face | None, Face | None],
        times: np.ndarray,
        visemes: Sequence[int],
    ) -> tuple[dict[str, Any], Face | None, Face | None]:
        """Metrics of pixels, optical flow and visemes at times (n,), and the faces of both videos, whose
        ``tracks`` of landmarks are given where they are known.
        """
        metrics: list[pd.DataFrame] = []
        seen: list[tuple[Face, Face]] = []
        flows = {"flow": Flow(), "true flow": Flow()}
        mouths = {PER: Mouth(), f"true {PER}": Mouth()} if visemes else {}
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
            for mouth, frames, face in zip(mouths.values(), (images, truth), faces, strict=False):
                mouth.add(frames, face.landmarks, self.device)
        row: dict[str, Any] = pd.concat(metrics).mean().to_dict()
        if seen:
            output, true = (concatenate(part) for part in zip(*seen, strict=True))
            for name, flow in flows.items():
                row |= flow.means(name)
            row |= {name: mouth.error_rate(visemes) for name, mouth in mouths.items()}
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


@dataclass
class Mouth:
    """The mouth of a video of a procedural speaker whose frames come in blocks."""

    strips: list[Tensor] = field(default_factory=list)

    def add(self, frames: np.ndarray, landmarks: np.ndarray, device: str | torch.device) -> None:
        """Go on with frames (n, S, S, 3) uint8 and their landmarks (n, 68, 2)."""
        self.strips.append(lip_reading.mouth_strip(to_tensor(frames, device), landmarks))

    def error_rate(self, visemes: Sequence[int]) -> float:
        """PER-judge: what the lip reader reads, against what is said."""
        strips = torch.cat(self.strips)
        return lip_reading.error_rate(lip_reading.read_strips(strips, judge("lips", strips.device)), visemes)


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
