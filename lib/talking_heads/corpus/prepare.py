"""From source videos to a prepared corpus: landmarks, one crop, frames and tracks on disk, a line for every source.

The same code prepares procedural speakers, somebody's own clips, VoxCeleb1 and VoxCeleb2. It runs in
parallel, may be killed at any moment, and goes on where it was.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..progress import Progress
from . import crops, video
from .store import write_frames

SPLITS = ("meta", "validation", "test")
SHORT = 9  # frames of the shortest video that meta-learning draws
SMALLEST_FACE = 12  # pixels across the landmarks' box
# VoxCeleb1's speakers for verification tests, by number; as names, in the folders of frames, these are all that begin with E (Nagrani et al. 2017)
VOXCELEB1_TEST = {f"id{n}" for n in range(10270, 10310)}

Detect = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]


class Unit(NamedTuple):
    """One video of one person: its clips, or the photographs that stand for one."""

    split: str
    person: str
    video: str
    sources: tuple[Path, ...]


class Settings(NamedTuple):
    size: int
    frames_per_video: int  # 0 for all


def split_of(person: str, folder: str, layout: str) -> str:
    """The group a person belongs to, for good: named by its folder, by VoxCeleb's own lists, else drawn by hash.

    One's own folder without groups is all test. A fiftieth of VoxCeleb's development people are for validation.
    """
    if folder in SPLITS:
        return folder
    if layout == "folder" or (layout == "voxceleb1" and (person in VOXCELEB1_TEST or person.startswith("E"))):
        return "test"
    return "validation" if int(hashlib.sha256(person.encode()).hexdigest(), 16) % 50 == 0 else "meta"


def discover(source: Path, layout: str = "folder") -> list[Unit]:
    """The videos and photographs below ``source``.

    ``[<split>/][mp4/]<person>/<video>/<clip>.mp4`` is VoxCeleb's layout; a folder of photographs is one video of the
    person that the folder (or the folder above) is named after; a video in a folder is one of the person that this is named
    after, and any other video file a person of its own.
    Raises ValueError where there is nothing.
    """
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder")
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for path in sorted(p for p in source.rglob("*") if p.is_file() and not p.name.endswith(".part.mp4")):
        kind = path.suffix.lower()
        if kind not in video.VIDEO_SUFFIXES | video.IMAGE_SUFFIXES:
            continue
        above = [p for p in path.relative_to(source).parts[:-1] if p not in ("mp4", "dev", "unzippedFaces", "1.6")]
        folder = above.pop(0) if above and above[0] in SPLITS else ""
        if kind in video.IMAGE_SUFFIXES:
            name = above[-1] if above else source.name
            person = above[-2] if len(above) > 1 else name
        elif len(above) >= 2:
            person, name = above[-2], above[-1]
        else:
            person, name = above[0] if above else path.stem, path.stem
        groups.setdefault((split_of(person, folder, layout), person, name), []).append(path)
    if not groups:
        raise ValueError(f"{source}: holds no video and no photograph (known endings: "
                         f"{' '.join(sorted(video.VIDEO_SUFFIXES | video.IMAGE_SUFFIXES))})")
    return [Unit(*k, tuple(v)) for k, v in sorted(groups.items())]


class Rejected(ValueError):
    """A source that cannot be used; the message goes into the manifest."""


def sidecar(path: Path) -> Path:
    return path.with_suffix(".npz")


def read_sidecar(path: Path, frames: int) -> dict[str, np.ndarray]:
    """Existing landmarks of a clip and what stands beside them. Raises :class:`Rejected`."""
    try:
        with np.load(path, allow_pickle=False) as data:
            known = {k: data[k] for k in ("landmarks", "pupils", "hidden") if k in data}
    except (OSError, ValueError, EOFError) as error:
        raise Rejected(f"{path.name}: not a readable npz file") from error
    points = known.get("landmarks")
    if points is None:
        raise Rejected(f"{path.name}: has no array 'landmarks'")
    if points.ndim != 3 or points.shape[1:] != (68, 2):
        raise Rejected(f"{path.name}: landmarks have shape {points.shape}, not (frames, 68, 2)")
    if len(points) != frames:
        raise Rejected(f"{path.name}: landmarks for {len(points)} frames, the video has {frames}")
    if "pupils" in known and known["pupils"].shape != (frames, 2, 2):
        raise Rejected(f"{path.name}: pupils have shape {known['pupils'].shape}, not ({frames}, 2, 2)")
    if "hidden" in known and known["hidden"].shape != (frames, 70):
        raise Rejected(f"{path.name}: hidden has shape {known['hidden'].shape}, not ({frames}, 70)")
    return known


def read_source(path: Path) -> video.Video:
    """A clip's frames, or a photograph as a clip of one frame. Raises UnreadableVideo."""
    if path.suffix.lower() in video.VIDEO_SUFFIXES:
        return video.read(path)
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise video.UnreadableVideo("not a readable photograph")
    return video.Video([image[..., ::-1]], 0.0, None, "")


def spread(n: int, most: int) -> np.ndarray:
    """At most ``most`` (0: all) of n indices, evenly spaced."""
    return np.arange(n) if not most or n <= most else np.linspace(0, n - 1, most).round().astype(int)


class Look(NamedTuple):
    """A source with its landmarks: which frames were looked at, and which of these are good."""

    clip: video.Video
    looked: np.ndarray  # (k,)
    known: dict[str, np.ndarray]  # of these frames: landmarks (k, 68, 2), ...
    good: np.ndarray  # (k,) bool
    notes: list[str]


def look(path: Path, most: int, detect: Detect | None) -> Look:
    """Read a source and find its landmarks. Raises Rejected or UnreadableVideo."""
    clip = read_source(path)
    notes = [clip.note] if clip.note else []
    given = sidecar(path).exists()
    looked = np.arange(len(clip.frames)) if given else spread(len(clip.frames), most)  # detecting costs more than all else
    faces = np.ones(len(looked), int)
    if given:
        known = read_sidecar(sidecar(path), len(clip.frames))
    else:
        points, faces = detect([clip.frames[f] for f in looked])
        known = {"landmarks": points[:, :68]} | ({"pupils": points[:, 68:]} if points.shape[1] == 70 else {})
    good = np.isfinite(known["landmarks"]).all((1, 2))
    if lost := int((~good).sum()):
        notes.append(f"landmarks not finite in {lost} frames, which are left out" if given else f"no face in {lost} of {len(good)} frames, which are left out")
    if (faces > 1).any():
        notes.append(f"two or more faces in {int((faces > 1).sum())} frames, which are left out")
        good &= faces <= 1
    if not good.any():
        raise Rejected("; ".join(notes) + ": no usable frame")
    points = known["landmarks"][good]
    box = float(np.median((points.max(1) - points.min(1)).max(1)))
    if box < SMALLEST_FACE:
        raise Rejected(f"the face is only {box:.0f} pixels large, {SMALLEST_FACE} are needed")
    return Look(clip, looked, known, good, notes)


def cut(seen: Look, framing: np.ndarray, settings: Settings, most: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Manifest fields and arrays (frames, landmarks, time, ...) of a source, cropped around the landmarks ``framing`` (n, 68, 2)."""
    clip, notes = seen.clip, list(seen.notes)
    height, width = clip.frames[0].shape[:2]
    if height > width:
        notes.append(f"portrait format {width}×{height}")
    chosen = np.flatnonzero(seen.good)[spread(int(seen.good.sum()), most)]
    square = crops.keep_inside(crops.clip_square(framing), width, height)
    arrays = {"frames": np.stack([crops.crop(clip.frames[f], square, settings.size) for f in seen.looked[chosen]]),
              "time": (clip.numbers[seen.looked[chosen]] / clip.fps if clip.fps else chosen).astype(np.float32)}
    for name, values in seen.known.items():
        arrays[name] = values[chosen] if name == "hidden" else crops.to_crop(values[chosen], square, settings.size)
    about = {"frames": len(chosen), "of": len(clip.frames), "fps": round(clip.fps, 3), "square": [round(v, 3) for v in square],
             "note": "; ".join(notes)}
    return about, arrays


def fingerprint(unit: Unit, settings: Settings) -> str:
    """Changes whenever a source, its landmarks or the settings do."""
    files = [f for s in unit.sources for f in (s, sidecar(s)) if f.exists()]
    parts = [*settings, *(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def prepare_unit(unit: Unit, out: Path, settings: Settings, detect: Detect | None = None) -> list[dict]:
    """Prepare one video into its folder, which appears by rename; returns its manifest lines. Never raises for bad input.

    Photographs of one size are frames of one video, as VoxCeleb1's at 1 fps: they share a crop.
    """
    lines, seen, parts = [], {}, []
    sources = [unit.sources[i] for i in spread(len(unit.sources), settings.frames_per_video)]
    most = -(-settings.frames_per_video // len(sources))
    for path in unit.sources:
        line = {"split": unit.split, "person": unit.person, "video": unit.video, "source": os.path.relpath(path, out), "frames": 0, "key": fingerprint(unit, settings)}
        try:
            if path not in sources:
                raise Rejected(f"not among {len(sources)} evenly spaced ones of {len(unit.sources)}")
            seen[len(lines)] = look(path, most, detect)
        except (Rejected, video.UnreadableVideo) as error:
            line["note"] = f"left out: {error}"
        except Exception as error:  # one bad source must never stop the others; its line says what happened
            line["note"] = f"left out: {type(error).__name__}: {error}"
        lines.append(line)
    tracks = {number: s.known["landmarks"][s.good] for number, s in seen.items()}
    if len({s.clip.frames[0].shape for s in seen.values()}) == 1 and not any(s.clip.fps for s in seen.values()):
        tracks = dict.fromkeys(tracks, np.concatenate(list(tracks.values())))
    for number, s in seen.items():
        about, arrays = cut(s, tracks[number], settings, most)
        lines[number] |= about
        parts.append({**arrays, "clip": np.full(about["frames"], number, np.int32)})
    total = sum(line["frames"] for line in lines)
    if total < SHORT and any(s.clip.fps for s in seen.values()):
        number = min(seen)
        lines[number]["note"] = "; ".join(filter(None, [lines[number]["note"], f"short: {total} frames, an episode of K = 8 needs {SHORT}"]))
    if parts:
        folder = out / unit.split / unit.person / unit.video
        temporary = folder.with_name(folder.name + ".part")
        temporary.mkdir(parents=True, exist_ok=True)
        common = set.intersection(*(set(p) for p in parts))
        track = {k: np.concatenate([p[k] for p in parts]) for k in common}
        write_frames(temporary, track.pop("frames"))
        np.savez(temporary / "track.npz", **track)
        if folder.exists():
            for old in folder.iterdir():
                old.unlink()
            folder.rmdir()
        os.replace(temporary, folder)
    return lines


def _work(job: tuple[Unit, Path, Settings]) -> list[dict]:
    cv2.setNumThreads(1)
    return prepare_unit(*job)


def prepare(source: Path, out: Path, settings: Settings, layout: str = "folder", device: str = "cpu",
            workers: int | None = None, detect: Detect | None = None, quiet: bool = False) -> list[dict]:
    """Prepare everything below ``source`` into ``out``; returns the manifest.

    Raises ValueError where there is no source, FileNotFoundError, before anything is written, where landmarks must
    be found and face-alignment's weights are missing.
    """
    units = discover(source, layout)
    manifest = out / "manifest.jsonl"
    old = [json.loads(line) for line in manifest.read_text().splitlines()] if manifest.exists() else []
    wanted = {(u.split, u.person, u.video): fingerprint(u, settings) for u in units}
    kept = [r for r in old if wanted.get((r["split"], r["person"], r["video"])) == r["key"]]
    done = {(r["split"], r["person"], r["video"]) for r in kept}
    todo = [u for u in units if (u.split, u.person, u.video) not in done]
    blind = [u for u in todo if not all(sidecar(s).exists() for s in u.sources)]
    if blind and detect is None:
        from .detector import Detector
        detect = Detector(device)
    out.mkdir(parents=True, exist_ok=True)
    if kept != old:
        temporary = manifest.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))
        os.replace(temporary, manifest)
    if not todo:
        return kept
    progress = None if quiet else Progress("preparing", len(todo), "videos")
    with open(manifest, "a") as log:
        def finished(results: Iterable[list[dict]]) -> None:
            for lines in results:
                kept.extend(lines)
                log.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in lines))
                log.flush()
                if progress:
                    progress.add(1)

        ready = [(u, out, settings) for u in todo if u not in blind]
        if len(ready) > 4:
            with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as executor:
                finished(executor.map(_work, ready, chunksize=4))
        else:
            finished(map(_work, ready))
        finished(prepare_unit(u, out, settings, detect) for u in blind)  # the detector batches frames by itself
    return kept
