"""Preparation of a corpus: from source videos to crops, landmark tracks and a manifest on disk.

Procedural speakers, your own clips, VoxCeleb1 and VoxCeleb2 are all prepared by this code. It runs in
parallel; an interrupted run continues where it stopped. Several machines prepare shards of one corpus.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from operator import itemgetter
from pathlib import Path

import cv2

from talking_heads.data.manifest import MANIFEST, manifest_line, read_index
from talking_heads.data.planning import (
    Settings,
    fingerprint,
    linked,
    locked,
    manifest_state,
    mark_complete,
    part_name,
    parts,
    plan,
    refuse_overlap,
    shard_of,
)
from talking_heads.data.prepare_video import prepare_unit
from talking_heads.data.shared_detector import BATCH, Detect, SharedDetector
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sources import Unit, discover, place_of
from talking_heads.devices import cores
from talking_heads.files import stating_full_disks, write_text
from talking_heads.processes import worker_pool
from talking_heads.progress import Progress
from talking_heads.shards import Shard


def prepare(
    source: Path,
    out: Path,
    settings: Settings,
    layout: str = "folder",
    device: str = "cpu",
    workers: int | None = None,
    detect: Detect | None = None,
    quiet: bool = False,
    shard: Shard | None = None,
) -> list[dict]:
    """Prepare all videos below ``source`` into ``out``, or one shard of them.

    Returns the lines of the manifest, also those of other sources that ``out`` holds already; of a shard its
    own. Landmarks that no file beside the source provides are detected. Raises

    - ValueError where there is no source, and where ``out`` overlaps it, is not a corpus, or is in use;
    - FileNotFoundError, before anything is written, where landmarks must be detected and the weights of
      face-alignment are missing;
    - OSError where ``out`` cannot be written;
    - RuntimeError where a worker is killed.
    """
    source, out = place_of(source), out.resolve()
    units = _units(source, out, layout)
    if shard:
        units = [unit for unit in units if shard.holds(*unit.key)]
    keys = {unit.key: fingerprint(unit, settings) for unit in units}
    state, before = manifest_state(out), plan(source, units, keys, out, settings)
    without_landmarks = {unit.key for unit in before.todo if not all(map(find_sidecar, unit.sources))}
    if without_landmarks and detect is None:
        from talking_heads.data.detection import shared_detector  # imports torch, which workers do not need

        detect = shared_detector(device)
    path = out / (part_name(shard) if shard else MANIFEST)
    with locked(out, shard), stating_full_disks(out):
        if manifest_state(out) != state:  # another run has prepared some meanwhile
            before = plan(source, units, keys, out, settings)
        manifest = before.of_units if shard else before.manifest
        if before.todo:
            mark_complete(out, settings, False)
        _write_manifest(path, manifest)
        clips = sum(len(unit.sources) + len(unit.left_out) for unit in before.todo)
        progress = Progress("preparing", clips, "clips")
        jobs = [(unit, out, settings, keys[unit.key]) for unit in before.todo]
        complete = [job for job in jobs if job[0].key not in without_landmarks]
        incomplete = [job for job in jobs if job[0].key in without_landmarks]
        with (
            path.open("a", encoding="utf-8") as log,
            closing(_prepare_all(complete, incomplete, detect, workers)) as results,
        ):
            for lines in results:
                manifest.extend(lines)
                log.write("".join(map(manifest_line, lines)))
                log.flush()
                if not quiet:
                    progress.add(len(lines))
        return _finish(path, manifest, out, settings, shard)


def merge(source: Path, out: Path, settings: Settings, layout: str = "folder") -> list[dict]:
    """Join the manifests of the shards of ``out``; returns the lines of the manifest.

    Raises ValueError where a video is not prepared yet, and as :func:`prepare` does.
    """
    source, out = place_of(source), out.resolve()
    units = _units(source, out, layout)
    keys = {unit.key: fingerprint(unit, settings) for unit in units}
    with locked(out), stating_full_disks(out):
        manifest, todo, _ = plan(source, units, keys, out, settings)
        if todo:
            totals = {shard_of(path).total for path in parts(out)}
            shards = [Shard(number, total) for total in totals for number in range(total)]
            missing = [str(shard) for shard in shards if any(shard.holds(*unit.key) for unit in todo)]
            names = f", of the shards {', '.join(missing)}" if missing else ""
            raise ValueError(
                f"{out}: {len(todo)} of {len(units)} videos are not prepared yet{names}; the first one is "
                f"{'/'.join(todo[0].key)}. Run the missing shards again"
            )
        return _finish(out / MANIFEST, manifest, out, settings, None)


def _units(source: Path, out: Path, layout: str) -> list[Unit]:
    """The videos of a source that does not overlap the output folder. Raises ValueError."""
    refuse_overlap(source, out)
    units = discover(source, layout)
    for link in linked(units, source):
        refuse_overlap(link.resolve(), out)
    return units


def _finish(
    path: Path, manifest: list[dict], out: Path, settings: Settings, shard: Shard | None
) -> list[dict]:
    """Sort the lines by video, and write them; the whole manifest replaces those of the shards."""
    manifest = sorted(manifest, key=itemgetter("split", "person", "video"))
    _write_manifest(path, manifest)
    if shard is None:
        for part in parts(out):
            part.unlink()
        read_index(out, "")  # makes it, so that opening the corpus takes no time
        mark_complete(out, settings, True)
    return manifest


def _write_manifest(path: Path, lines: list[dict]) -> None:
    """Write the manifest where its text would change."""
    text = "".join(map(manifest_line, lines))
    if not path.exists() or path.read_text(encoding="utf-8", errors="surrogateescape") != text:
        write_text(path, text)


Job = tuple[Unit, Path, Settings, str]


def _prepare_all(
    complete: list[Job], incomplete: list[Job], detect: Detect | None, workers: int | None
) -> Generator[list[dict]]:
    """Prepare the videos with landmarks in processes, then the others in threads that share the detector.

    Threads decode and write while the detector waits for a batch of frames.
    """
    if len(complete) > 4 and workers != 1:
        executor = worker_pool(workers or cores())
        try:
            for future in as_completed([executor.submit(_prepare_job, job) for job in complete]):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker was killed, probably because memory ran out; finished videos are kept: "
                "run the same command again, with --workers 1"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)
    else:
        yield from map(_prepare_job, complete)
    if not incomplete:
        return
    assert detect is not None
    shared = detect if isinstance(detect, SharedDetector) else SharedDetector([detect], BATCH)
    threads = ThreadPoolExecutor(workers or 2 * cores())
    try:
        for future in as_completed([threads.submit(prepare_unit, *job, shared) for job in incomplete]):
            yield future.result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
        shared.close()


def _prepare_job(job: Job) -> list[dict]:
    cv2.setNumThreads(1)
    return prepare_unit(*job)
