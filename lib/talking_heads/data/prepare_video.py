"""Preparation of one video: landmarks of its clips or photographs, crops, and the files that hold them."""

import os
import shutil
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import numpy as np

from talking_heads.data import crops
from talking_heads.data.frame_files import PREPARED_FILES, SOUND, TRACK, CorpusDamaged, write_frames
from talking_heads.data.photographs import (
    PHOTOGRAPH_SUFFIXES,
    NotAPhotograph,
    UnreadablePhotograph,
    read_photograph,
)
from talking_heads.data.planning import PARTIAL, Settings
from talking_heads.data.shared_detector import Detect, DetectionFailed, detector_name
from talking_heads.data.sidecars import BadLandmarks, check_owner, find_sidecar, fit_to_frames, read_sidecar
from talking_heads.data.sound import FPS
from talking_heads.data.sources import Unit
from talking_heads.data.talking import Unusable, cut_talking
from talking_heads.data.video import UnreadableVideo, VideoFile, open_video

SHORT = 9  # frames of the shortest video from which meta-learning draws episodes
SMALLEST_FACE = 12  # pixels of the longer side of the landmarks' bounding box
DETECTED_AT_ONCE = 256 * 2**20  # bytes of frames handed to the detector in one call


class Rejected(ValueError):
    """A source cannot be used; the message becomes the note of its line in the manifest."""


def read_source(path: Path) -> VideoFile:
    """Open a clip, or a photograph as a clip of one frame.

    The suffix decides which reader is tried first; the other one is used where the content differs from it.
    Raises :class:`Rejected`, OSError where the file cannot be opened, and MemoryError.
    """
    photograph = path.suffix.lower() in PHOTOGRAPH_SUFFIXES
    try:
        return VideoFile.of_image(*read_photograph(path)) if photograph else open_video(path)
    except (UnreadableVideo, UnreadablePhotograph) as error:
        try:
            if not photograph:
                return VideoFile.of_image(*read_photograph(path))
            if isinstance(error, NotAPhotograph):
                return open_video(path)
        except (UnreadableVideo, UnreadablePhotograph):
            pass
        raise Rejected(str(error)) from error


def spread(n: int, most: int) -> np.ndarray:
    """At most ``most`` (0: all) of n indices, evenly spaced."""
    return np.arange(n) if not most or n <= most else np.linspace(0, n - 1, most).round().astype(int)


class Inspection(NamedTuple):
    """A source with the landmarks of k of its frames."""

    clip: VideoFile
    numbers: np.ndarray  # (k,) of the frames
    points: dict[str, np.ndarray]  # of these frames: landmarks (k, 68, 2), ...
    usable: np.ndarray  # (k,) bool
    notes: list[str]
    detector: str = ""  # that found the landmarks; "" for those beside the source


def inspect_source(path: Path, most: int, detect: Detect | None) -> Inspection:
    """Open a source, and read or detect its landmarks.

    Landmarks are detected in at most ``most`` frames (0: all). Raises :class:`Rejected` and MemoryError.
    """
    clip = read_source(path)
    notes = [clip.note] if clip.note else []
    sidecar = find_sidecar(path)
    if sidecar:
        numbers = clip.usable
        faces = np.ones(len(numbers), int)
        points = _read_landmarks(path, sidecar, clip, notes)
    else:  # detection costs more than all other steps, so only selected frames are processed
        if detect is None:
            raise ValueError("no landmarks beside it, and no detector is given")
        numbers = clip.usable[spread(len(clip.usable), most)]
        points, faces = detect_landmarks(clip, numbers, detect)
    usable = np.isfinite(points["landmarks"]).all((1, 2))
    if missing := int((~usable).sum()):
        cause = f"no face in {missing} of {len(usable)} frames"
        if sidecar:
            cause = f"landmarks missing or not finite in {missing} frames"
        notes.append(f"{cause}, which are left out")
    if (faces > 1).any():
        notes.append(f"two or more faces in {int((faces > 1).sum())} frames, which are left out")
        usable &= faces <= 1
    if sidecar and clip.scaled[numbers].any():
        notes.append(
            "landmarks beside a video are those of its most frequent size: the other frames are left out"
        )
        usable &= ~clip.scaled[numbers]
    if not usable.any():
        raise Rejected("; ".join(notes) + ": no usable frame")
    face = points["landmarks"][usable]
    box = float(np.median((face.max(1) - face.min(1)).max(1)))
    if box < SMALLEST_FACE:
        raise Rejected(f"the face is only {box:.0f} pixels large, {SMALLEST_FACE} are needed")
    detector = detector_name(detect) if detect and not sidecar else ""
    return Inspection(clip, numbers, points, usable, notes, detector)


def _read_landmarks(path: Path, sidecar: Path, clip: VideoFile, notes: list[str]) -> dict[str, np.ndarray]:
    """The checked landmarks of a clip's usable frames from its sidecar; doubts are added to ``notes``."""
    try:
        check_owner(path, sidecar)
        arrays = read_sidecar(sidecar, len(clip.times))
        if doubt := fit_to_frames(arrays, clip, sidecar.name):
            notes.append(doubt)
    except BadLandmarks as error:
        raise Rejected("; ".join([*notes, str(error)])) from error
    return {name: values[clip.usable] for name, values in arrays.items()}


def detect_landmarks(
    clip: VideoFile, numbers: np.ndarray, detect: Detect
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Detect landmarks (k, 68, 2), and pupils (k, 2, 2) where the detector returns them, in k frames.

    Returns these arrays by name, and the number of faces in each frame, (k,).
    """
    step = max(1, DETECTED_AT_ONCE // (3 * clip.size[0] * clip.size[1]))
    results, chunk = [], []
    for image in clip.frames(numbers):
        chunk.append(image)
        if len(chunk) == step:
            results.append(detect(chunk))
            chunk = []
    if chunk:
        results.append(detect(chunk))
    points, faces = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
    tracks = {"landmarks": points[:, :68]}
    if points.shape[1] == 70:
        tracks["pupils"] = points[:, 68:]
    return tracks, faces


def cut(
    inspection: Inspection, framing: np.ndarray, settings: Settings, most: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """Crop at most ``most`` (0: all) usable frames of a source to the square around landmarks (n, 68, 2).

    Returns the fields of the manifest's line, and arrays by name: frames (m, S, S, 3) uint8, landmarks
    (m, 68, 2) in pixels of the crop, time (m,) in seconds, and other tracks of the source.
    """
    clip, notes = inspection.clip, list(inspection.notes)
    height, width = clip.size
    if height > width:
        notes.append(f"portrait format {width}×{height}")
    usable = np.flatnonzero(inspection.usable)
    chosen = usable[spread(len(usable), most)]
    square = crops.keep_inside(crops.clip_square(framing), width, height)
    numbers = inspection.numbers[chosen]
    arrays = {
        "frames": np.stack([crops.crop(image, square, settings.size) for image in clip.frames(numbers)]),
        "time": (clip.times[numbers] if clip.fps else chosen).astype(np.float32),
    }
    for name, values in inspection.points.items():
        arrays[name] = values[chosen]
        if name != "hidden":
            arrays[name] = crops.to_crop(values[chosen], square, settings.size)
    fields = {
        "frames": len(chosen),
        "of": len(clip.times),
        "fps": round(clip.fps, 3),
        "square": [round(v, 3) for v in square],
        "note": "; ".join(notes),
    }
    return fields, arrays


def cut_with_sound(inspection: Inspection, settings: Settings) -> tuple[dict, dict[str, np.ndarray]]:
    """A source as a talking clip; returns what :func:`cut` does, with its sound among the arrays."""
    clip = inspection.clip
    landmarks = np.full((len(clip.times), 68, 2), np.nan, np.float32)
    landmarks[inspection.numbers] = inspection.points["landmarks"]
    usable = np.zeros(len(clip.times), bool)
    usable[inspection.numbers] = inspection.usable
    try:
        talking = cut_talking(
            clip, landmarks, usable, settings.size, settings.talking, settings.frames_per_video
        )
    except Unusable as error:
        raise Rejected("; ".join(dict.fromkeys([*inspection.notes, str(error)]))) from error
    fields = {
        "frames": len(talking.frames),
        "of": round(clip.seconds * FPS),
        "fps": FPS,
        "square": [round(v, 3) for v in talking.square],
        "note": "; ".join(inspection.notes),
    }
    arrays = talking._asdict()
    del arrays["square"]
    return fields, arrays


def prepare_unit(
    unit: Unit, out: Path, settings: Settings, key: str, detect: Detect | None = None
) -> list[dict]:
    """Prepare one video into its folder, which appears by rename; returns its lines of the manifest.

    ``key`` is the :func:`planning.fingerprint` of the video, which its lines record.

    A source that cannot be used never raises; the note of its line states the cause. Photographs of one size
    are frames of one video, as in VoxCeleb1 at 1 fps, and share a crop. Raises OSError where ``out`` cannot
    be written, and :class:`CorpusDamaged` where the folder holds files that were not prepared.
    """

    def line_of(path: Path, note: str = "") -> dict:
        return {
            "split": unit.split,
            "person": unit.person,
            "video": unit.video,
            "source": os.path.relpath(path, out),
            "frames": 0,
            "key": key,
            "size": settings.size,
            "note": note,
        }

    lines = [line_of(path) for path in unit.sources]
    clips, photographs = _prepare_clips(unit, lines, settings, detect)
    stills = _prepare_photographs(unit, lines, settings, photographs, shared_crop=not clips)
    if not all(line["key"] for line in lines):
        lines = [{**line, "key": ""} for line in lines]  # the next run prepares the whole video again
    total = sum(line["frames"] for line in lines)
    if clips and total < SHORT and not settings.talking:
        first = lines[min(clips | stills)]
        short = f"short: {total} frames, an episode of K = 8 needs {SHORT}"
        first["note"] = "; ".join(filter(None, [first["note"], short]))
    if clips or stills:
        write_unit(out, unit, dict(sorted((clips | stills).items())))
    return lines + [line_of(path, f"left out: {reason}") for path, reason in unit.left_out]


Arrays = dict[int, dict[str, np.ndarray]]  # number of the source -> arrays by name


def _prepare_clips(
    unit: Unit, lines: list[dict], settings: Settings, detect: Detect | None
) -> tuple[Arrays, dict[int, Inspection]]:
    """Inspect all sources and crop the clips; fills in the lines of the manifest.

    Returns the arrays of the clips, and the inspected photographs, which are cropped later, without pixels.
    """
    cap = 0 if settings.talking else settings.frames_per_video  # which all sources share
    chosen = {unit.sources[k] for k in spread(len(unit.sources), cap)}
    frames_left, sources_left = cap, len(chosen)
    clips: Arrays = {}
    photographs: dict[int, Inspection] = {}
    for number, path in enumerate(unit.sources):
        try:
            if path not in chosen:
                raise Rejected(f"not among {len(chosen)} evenly spaced ones of {len(unit.sources)}")
            most = -(-frames_left // sources_left)  # rounded up
            sources_left -= 1
            inspection = inspect_source(path, 0 if settings.talking else most, detect)
            if settings.talking and not inspection.clip.fps:
                raise Rejected("a photograph, which has no sound")
            if settings.talking:
                fields, clips[number] = cut_with_sound(inspection, settings)
                lines[number] |= fields
            elif inspection.clip.fps:
                framing = inspection.points["landmarks"][inspection.usable]
                fields, clips[number] = cut(inspection, framing, settings, most)
                lines[number] |= fields
            else:
                inspection.clip.cache = None
                photographs[number] = inspection
            if inspection.detector:
                lines[number]["detector"] = inspection.detector
            frames_left -= min(frames_left, lines[number]["frames"] or 1)
        except DetectionFailed:
            raise
        except Exception as error:  # a bad source must not stop the others
            lines[number] |= _rejection(error)
    return clips, photographs


def _prepare_photographs(
    unit: Unit,
    lines: list[dict],
    settings: Settings,
    photographs: dict[int, Inspection],
    shared_crop: bool,
) -> Arrays:
    """Crop the photographs of a video; fills in the lines of the manifest.

    With ``shared_crop``, photographs of one size have the same crop.
    """
    framing = {n: photo.points["landmarks"][photo.usable] for n, photo in photographs.items()}
    if shared_crop and len({photo.clip.size for photo in photographs.values()}) == 1:
        framing = dict.fromkeys(framing, np.concatenate(list(framing.values())))
    stills: Arrays = {}
    for number, photo in photographs.items():
        try:
            opened = photo._replace(clip=read_source(unit.sources[number]))
            fields, stills[number] = cut(opened, framing[number], settings, 1)
            lines[number] |= fields
        except Exception as error:  # a bad source must not stop the others
            lines[number] |= _rejection(error)
    return stills


def _rejection(error: Exception) -> dict:
    """Fields of the manifest's line of a source that raised.

    A source whose key is "" is prepared again by the next run.
    """
    if isinstance(error, MemoryError):
        cause = "memory ran out; close other programs or use --workers 1"
    elif isinstance(error, OSError):
        cause = f"cannot be read ({error.strerror or error})"
    elif isinstance(error, Rejected | UnreadableVideo | UnreadablePhotograph):
        return {"note": f"left out: {error}"}
    else:
        return {"note": f"left out: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"note": f"left out: {cause}; run the same command again when it can", "key": ""}


def write_unit(out: Path, unit: Unit, sources: Arrays) -> None:
    """Write the arrays of a video's sources into its folder, which appears by rename.

    Raises OSError where ``out`` cannot be written, and :class:`CorpusDamaged` where the folder holds files
    that were not prepared.
    """
    folder = out / unit.split / unit.person / unit.video
    if folder.exists() and (foreign := sorted({f.name for f in folder.iterdir()} - PREPARED_FILES)):
        raise CorpusDamaged(
            f"{folder}: holds files that were not prepared ({', '.join(foreign[:3])}); "
            "move them away, or prepare into another folder"
        )
    temporary = out / f"{PARTIAL}{token_hex(8)}"
    arrays = [
        {**source, "clip": np.full(len(source["time"]), number, np.int32)}
        for number, source in sources.items()
    ]
    common = sorted(set.intersection(*(set(a) for a in arrays)))  # the file is the same in every process
    track = {name: np.concatenate([a[name] for a in arrays]) for name in common}
    try:
        temporary.mkdir(parents=True)
        write_frames(temporary, track.pop("frames"))
        if "sound" in track:
            np.save(temporary / SOUND, track.pop("sound"))
        np.savez(temporary / TRACK, **track)  # type: ignore[arg-type]
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(folder)
    except OSError as error:
        raise OSError(
            f"{out}: cannot be written ({error.strerror or error}); make room or give another folder, "
            "and run the same command again: finished videos are kept"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
