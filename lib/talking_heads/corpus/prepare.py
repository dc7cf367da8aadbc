"""From source videos to a prepared corpus: landmarks, one crop, frames and tracks on disk, a line for
every source.

The same code prepares procedural speakers, somebody's own clips, VoxCeleb1 and VoxCeleb2. It runs in
parallel, may be killed at any moment, and goes on where it was.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import cv2
import numpy as np

from ..devices import cores
from ..files import write_text
from ..progress import Progress
from . import crops
from .photographs import PHOTOGRAPH_SUFFIXES, NotAPhotograph, UnreadablePhotograph, read_photograph
from .planning import PARTIAL, Settings, fingerprint, linked, locked, manifest_line, plan, refuse_overlap
from .sidecars import BadLandmarks, check_owner, find_sidecar, fit_to_frames, read_sidecar
from .sources import Unit, discover, place_of
from .store import FRAME_FILES, MANIFEST, TRACK, CorpusDamaged, write_frames
from .video import UnreadableVideo, VideoFile, open_video

SHORT = 9  # frames of the shortest video that meta-learning draws
SMALLEST_FACE = 12  # pixels across the landmarks' box
DETECTED_AT_ONCE = 256 * 2**20  # bytes of frames handed to the detector in one call
Detect = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]


class Rejected(ValueError):
    """A source that cannot be used; the message goes into the manifest."""


def read_source(path: Path) -> VideoFile:
    """A clip, or a photograph as a clip of one frame: what the ending says, or else what the content is.

    Raises :class:`Rejected`, OSError where the system refuses the file, and MemoryError.
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


class Look(NamedTuple):
    """A source with its landmarks: which frames were looked at, and which of these are good."""

    clip: VideoFile
    looked: np.ndarray  # (k,) numbers of frames
    known: dict[str, np.ndarray]  # of these frames: landmarks (k, 68, 2), ...
    good: np.ndarray  # (k,) bool
    notes: list[str]


def look(path: Path, most: int, detect: Detect | None) -> Look:
    """Open a source and find its landmarks. Raises :class:`Rejected` and MemoryError."""
    clip = read_source(path)
    notes = [clip.note] if clip.note else []
    beside = find_sidecar(path)
    looked = (
        clip.usable if beside else clip.usable[spread(len(clip.usable), most)]
    )  # detecting costs more than all else
    faces = np.ones(len(looked), int)
    if beside:
        try:
            check_owner(path, beside)
            arrays = read_sidecar(beside, len(clip.times))
            notes += filter(None, [fit_to_frames(arrays, clip, beside.name)])
        except BadLandmarks as error:
            raise Rejected("; ".join([*notes, str(error)])) from error
        known = {name: values[looked] for name, values in arrays.items()}
    else:
        known, faces = detected(clip, looked, detect)
    good = np.isfinite(known["landmarks"]).all((1, 2))
    if lost := int((~good).sum()):
        notes.append(
            f"landmarks missing or not finite in {lost} frames, which are left out"
            if beside
            else f"no face in {lost} of {len(good)} frames, which are left out"
        )
    if (faces > 1).any():
        notes.append(f"two or more faces in {int((faces > 1).sum())} frames, which are left out")
        good &= faces <= 1
    if beside and clip.scaled[looked].any():
        notes.append(
            "landmarks beside a video are those of its most frequent size: the other frames are left out"
        )
        good &= ~clip.scaled[looked]
    if not good.any():
        raise Rejected("; ".join(notes) + ": no usable frame")
    points = known["landmarks"][good]
    box = float(np.median((points.max(1) - points.min(1)).max(1)))
    if box < SMALLEST_FACE:
        raise Rejected(f"the face is only {box:.0f} pixels large, {SMALLEST_FACE} are needed")
    return Look(clip, looked, known, good, notes)


def detected(
    clip: VideoFile, numbers: np.ndarray, detect: Detect
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Landmarks, and pupils where the detector finds them, of a clip's frames, and the number of faces in
    each.
    """
    step = max(1, DETECTED_AT_ONCE // (3 * clip.size[0] * clip.size[1]))
    found, chunk = [], []
    for image in clip.frames(numbers):
        chunk.append(image)
        if len(chunk) == step:
            found.append(detect(chunk))
            chunk = []
    if chunk:
        found.append(detect(chunk))
    points, faces = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return {"landmarks": points[:, :68]} | (
        {"pupils": points[:, 68:]} if points.shape[1] == 70 else {}
    ), faces


def cut(seen: Look, framing: np.ndarray, settings: Settings, most: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Manifest fields and arrays (frames, landmarks, time, ...) of a source, cropped around the landmarks
    ``framing`` (n, 68, 2).
    """
    clip, notes = seen.clip, list(seen.notes)
    height, width = clip.size
    if height > width:
        notes.append(f"portrait format {width}×{height}")
    chosen = np.flatnonzero(seen.good)[spread(int(seen.good.sum()), most)]
    square = crops.keep_inside(crops.clip_square(framing), width, height)
    numbers = seen.looked[chosen]
    arrays = {
        "frames": np.stack([crops.crop(image, square, settings.size) for image in clip.frames(numbers)]),
        "time": (clip.times[numbers] if clip.fps else chosen).astype(np.float32),
    }
    for name, values in seen.known.items():
        arrays[name] = (
            values[chosen] if name == "hidden" else crops.to_crop(values[chosen], square, settings.size)
        )
    about = {
        "frames": len(chosen),
        "of": len(clip.times),
        "fps": round(clip.fps, 3),
        "square": [round(v, 3) for v in square],
        "note": "; ".join(notes),
    }
    return about, arrays


def prepare_unit(unit: Unit, out: Path, settings: Settings, detect: Detect | None = None) -> list[dict]:
    """Prepare one video into its folder, which appears by rename; returns its manifest lines. Never raises
    for bad input.

    Photographs of one size are frames of one video, as VoxCeleb1's at 1 fps: they share a crop. Raises
    OSError where ``out`` cannot be written, and :class:`CorpusDamaged` where the folder holds files of
    somebody else.
    """
    key = fingerprint(unit, settings)
    chosen = {unit.sources[i] for i in spread(len(unit.sources), settings.frames_per_video)}
    most = -(-settings.frames_per_video // max(1, len(chosen)))

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

    lines, parts = [], {}
    photographs: dict[int, Look] = {}  # cropped last, together; their pixels are read again
    for number, path in enumerate(unit.sources):
        lines.append(line_of(path))
        try:
            if path not in chosen:
                raise Rejected(f"not among {len(chosen)} evenly spaced ones of {len(unit.sources)}")
            seen = look(path, most, detect)
            if seen.clip.fps:
                about, parts[number] = cut(seen, seen.known["landmarks"][seen.good], settings, most)
                lines[number] |= about
            else:
                seen.clip.cache = None
                photographs[number] = seen
        except Exception as error:  # one bad source must never stop the others; its line says what happened
            lines[number] |= _rejection(error)
    tracks = {number: seen.known["landmarks"][seen.good] for number, seen in photographs.items()}
    if len({seen.clip.size for seen in photographs.values()}) == 1 and not parts:
        tracks = dict.fromkeys(tracks, np.concatenate(list(tracks.values())))
    filmed = bool(parts)
    for number, seen in photographs.items():
        try:
            seen = seen._replace(clip=read_source(unit.sources[number]))
            about, parts[number] = cut(seen, tracks[number], settings, most)
            lines[number] |= about
        except Exception as error:  # as above
            lines[number] |= _rejection(error)
    if not all(line["key"] for line in lines):
        lines = [{**line, "key": ""} for line in lines]  # the whole video is tried again
    total = sum(line["frames"] for line in lines)
    if filmed and total < SHORT:
        first = lines[min(parts)]
        first["note"] = "; ".join(
            filter(None, [first["note"], f"short: {total} frames, an episode of K = 8 needs {SHORT}"])
        )
    if parts:
        write_unit(out, unit, {number: parts[number] for number in sorted(parts)})
    return lines + [line_of(path, f"left out: {reason}") for path, reason in unit.left_out]


def _rejection(error: Exception) -> dict:
    """What the manifest says of a source that raised; without a key the source is tried again the next
    time.
    """
    if isinstance(error, MemoryError):
        cause = "memory ran out; close other programs or use --workers 1"
    elif isinstance(error, OSError):
        cause = f"cannot be read ({error.strerror or error})"
    else:
        known = isinstance(error, Rejected | UnreadableVideo | UnreadablePhotograph)
        return {
            "note": f"left out: {error}"
            if known
            else f"left out: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        }
    return {"note": f"left out: {cause}; run the same command again when it can", "key": ""}


def write_unit(out: Path, unit: Unit, parts: dict[int, dict[str, np.ndarray]]) -> None:
    """Write the arrays of a video's clips, by their numbers, into its folder, which appears by rename."""
    folder = out / unit.split / unit.person / unit.video
    if folder.exists() and (strange := sorted({f.name for f in folder.iterdir()} - {*FRAME_FILES, TRACK})):
        raise CorpusDamaged(
            f"{folder}: holds files that were not prepared ({', '.join(strange[:3])}); "
            "move them away, or prepare into another folder"
        )
    temporary = out / f"{PARTIAL}{token_hex(8)}"
    arrays = [{**p, "clip": np.full(len(p["time"]), number, np.int32)} for number, p in parts.items()]
    common = set.intersection(*(set(a) for a in arrays))
    track = {name: np.concatenate([a[name] for a in arrays]) for name in common}
    try:
        temporary.mkdir(parents=True)
        write_frames(temporary, track.pop("frames"))
        np.savez(temporary / TRACK, **track)
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(folder)
    except OSError as error:
        raise OSError(
            f"{out}: cannot be written ({error.strerror or error}); make room or give another folder, "
            "and run the same command again: what is finished is kept"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _work(job: tuple[Unit, Path, Settings]) -> list[dict]:
    cv2.setNumThreads(1)
    return prepare_unit(*job)


def prepare(
    source: Path,
    out: Path,
    settings: Settings,
    layout: str = "folder",
    device: str = "cpu",
    workers: int | None = None,
    detect: Detect | None = None,
    quiet: bool = False,
) -> list[dict]:
    """Prepare everything below ``source`` into ``out``; returns the manifest's lines of this and of
    earlier sources.

    Raises ValueError where there is no source, and where ``out`` overlaps it, belongs to something else, or
    is in use; FileNotFoundError, before anything is written, where landmarks must be found and
    face-alignment's weights are missing; OSError where ``out`` cannot be written; RuntimeError where a worker
    is killed.
    """
    source, out = place_of(source), out.resolve()
    refuse_overlap(source, out)
    units = discover(source, layout)
    for link in linked(units, source):
        refuse_overlap(link.resolve(), out)
    planned = plan(source, units, out, settings)
    blind = {u.key for u in planned.todo if not all(map(find_sidecar, u.sources))}
    if blind and detect is None:
        from .detector import Detector

        detect = Detector(device)
    with locked(out):
        kept, todo = plan(source, units, out, settings)
        manifest, text = out / MANIFEST, "".join(map(manifest_line, kept))
        if not manifest.exists() or manifest.read_text(encoding="utf-8", errors="surrogateescape") != text:
            write_text(manifest, text)
        if not todo:
            return kept
        progress = None if quiet else Progress("preparing", len(todo), "videos")
        with manifest.open("a", encoding="utf-8") as log:

            def finished(results: Iterable[list[dict]]) -> None:
                for lines in results:
                    kept.extend(lines)
                    log.write("".join(map(manifest_line, lines)))
                    log.flush()
                    if progress:
                        progress.add(1)

            ready = [(u, out, settings) for u in todo if u.key not in blind]
            if len(ready) > 4 and workers != 1:
                try:
                    with ProcessPoolExecutor(workers or cores(), mp_context=get_context("spawn")) as executor:
                        finished(executor.map(_work, ready, chunksize=4))
                except BrokenProcessPool as error:
                    raise RuntimeError(
                        "a worker was killed, probably because memory ran out; what is finished is kept: "
                        "run the same command again, with --workers 1"
                    ) from error
            else:
                finished(map(_work, ready))
            finished(
                prepare_unit(u, out, settings, detect) for u in todo if u.key in blind
            )  # the detector batches by itself
    return kept
