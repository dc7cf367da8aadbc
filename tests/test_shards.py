"""A corpus that several machines prepare, and processes that are killed while they do."""

import filecmp
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from films import film as write_film
from processes import limited, start, wait_until
from talking_heads.__main__ import main
from talking_heads.data import detection, planning, prepare
from talking_heads.data.manifest import INDEX, MANIFEST
from talking_heads.data.planning import Settings
from talking_heads.data.shared_detector import SharedDetector
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.store import Store
from talking_heads.shards import Shard

SETTINGS = Settings(16, 4)
IDENTITIES = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """VoxCeleb2's layout: an identity a folder, of two videos with two clips each; a clip is no video."""
    root = tmp_path_factory.mktemp("voxceleb") / "mp4"
    clip = make_clip(ClipSettings(3, 1, 0, 10, 12.5, 32), sound=False)
    for identity in range(IDENTITIES):
        for video in "ab":
            folder = root / f"id{identity:05d}" / video
            folder.mkdir(parents=True)
            for number in range(2):
                path = write_film(folder / f"{number:05d}.mp4", clip.frames, np.arange(10) / 12.5)
                np.savez(folder / f"{number:05d}.npz", landmarks=clip.landmarks)
                assert path.exists()
    (root / "id00003/a/00001.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The corpus as one run prepares it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True)
    return out


def files_of(folder):
    """Every file of a corpus by its path, but for locks and the index, which has a time in it."""
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.name.startswith(".") and name.name != INDEX}


def assert_same_corpus(out, whole):
    assert files_of(out) == files_of(whole)
    for name in files_of(whole) - {Path(MANIFEST)}:
        assert filecmp.cmp(out / name, whole / name, shallow=False), name
    texts = [(root / MANIFEST).read_text() for root in (out, whole)]
    first, second = (re.sub(r'"source": "[^"]*/', '"source": "', text) for text in texts)
    assert first == second  # but for the way from the folder to the source
    assert not list(out.glob(f"{planning.PARTIAL}*"))


def test_shards_joined_are_the_corpus_of_one_run(source, whole, tmp_path):
    """Byte for byte; every shard has its own videos."""
    out = tmp_path / "out"
    for number in range(4):
        lines = prepare.prepare(
            source, out, SETTINGS, "voxceleb2", workers=1, quiet=True, shard=Shard(number, 4)
        )
        assert 0 < len(lines) < 4 * IDENTITIES
    assert {path.name for path in planning.parts(out)} == {f"manifest-{n}of4.jsonl" for n in range(4)}
    joined = prepare.merge(source, out, SETTINGS, "voxceleb2")
    assert len(joined) == 4 * IDENTITIES and not planning.parts(out)
    assert_same_corpus(out, whole)
    assert len(Store(out, "meta")) == len(Store(whole, "meta"))
    assert len(prepare.merge(source, out, SETTINGS, "voxceleb2")) == 4 * IDENTITIES


@pytest.mark.parametrize(
    "most, message",
    [(1_000, r"cannot be written \(.*\); make room.*finished videos are kept"),
     (6_000, r"cannot be written \(File too large\); make room and run the same command again")],
    ids=["frames", "manifest"],
)  # fmt: skip
def test_a_full_disk_is_stated_and_the_same_command_goes_on(source, whole, tmp_path, most, message):
    """Full when a video's frames are written, or when lines are added to the manifest."""
    out = tmp_path / "out"
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True, shard=Shard(0, 8))
    with limited(resource.RLIMIT_FSIZE, most), pytest.raises(OSError, match=rf"^{out}: {message}"):
        prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True)
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True)
    assert_same_corpus(out, whole)


def test_what_is_missing_is_named_by_its_shard(source, tmp_path, capsys):
    command = ["prepare", str(source), str(tmp_path / "out"), "--size", "16", "--frames-per-video", "4"]
    command += ["--layout", "voxceleb2", "--workers", "1", "--device", "cpu"]
    for shard in ("0/3", "2/3"):
        assert main([*command, "--shard", shard]) == 0
        assert re.search(r"  preparing: (\d+)/\1 clips, .* 0\.0 min left\n", capsys.readouterr().out)
    assert main([*command, "--merge"]) == 2
    assert "videos are not prepared yet, of the shards 1/3; the first one is" in capsys.readouterr().err
    assert main([*command, "--shard", "1/3"]) == 0 and main([*command, "--merge"]) == 0
    assert main([*command, "--shard", "3/3"]) == 2
    assert "'3/3' is no shard; four shards are 0/4, 1/4, 2/4 and 3/4" in capsys.readouterr().err


def test_shards_run_beside_each_other_and_not_beside_a_whole_run(tmp_path):
    out, first, second = tmp_path / "out", Shard(0, 2), Shard(1, 2)
    with planning.locked(out, first), planning.locked(out, second):
        for other in (first, None):
            with pytest.raises(ValueError, match=f"process {os.getpid()} on .* prepares into this folder"):
                planning.locked(out, other).__enter__()
    with planning.locked(out), pytest.raises(ValueError, match="prepares into this folder"):
        planning.locked(out, first).__enter__()
    with planning.locked(out, first):
        pass


def test_a_later_whole_run_takes_in_shards_and_changes(source, whole, tmp_path):
    out = tmp_path / "out"
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True, shard=Shard(1, 3))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("track.npz")}
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same_corpus(out, whole)


# -- killed -----------------------------------------------------------------------------------------
def prepare_in_a_process(source, out, shard):
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=1, quiet=True, shard=shard)


def prepare_and_kill(source, out, shards):
    """Kill 50 runs at any moment. Uses fork, so call it from a process with a single thread."""
    rng, context = random.Random(0), multiprocessing.get_context("fork")
    began = time.monotonic()
    undisturbed = context.Process(target=prepare_in_a_process, args=(source, out.with_name("other"), None))
    undisturbed.start()
    undisturbed.join()
    seconds = min(0.5, (time.monotonic() - began) / shards)
    killed, counts = 0, set()
    while killed < 50:
        shard = Shard(killed % shards, shards) if shards > 1 else None
        process = context.Process(target=prepare_in_a_process, args=(source, out, shard))
        process.start()
        process.join(rng.uniform(0.1, 0.9) * seconds)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
            counts.add(len(list(out.glob("*/*/*"))))
        else:  # all is prepared: some videos are deleted
            assert process.exitcode == 0
            videos = sorted(out.glob("*/*/*"))
            for folder in rng.sample(videos, rng.randint(1, len(videos))):
                shutil.rmtree(folder)
        process.join()
    assert len(counts) > 5  # most were killed in the midst of their work


@pytest.mark.parametrize("shards", [1, 4], ids=["one run", "four shards"])
def test_processes_killed_at_any_moment_lose_and_double_nothing(source, whole, tmp_path, shards):
    """The last runs of all complete the corpus."""
    out = tmp_path / "out"
    process = start(prepare_and_kill, source, out, shards)
    process.join()
    assert process.exitcode == 0
    for number in range(shards if shards > 1 else 0):
        prepare_in_a_process(source, out, Shard(number, shards))
    prepare_in_a_process(source, out, None)
    assert_same_corpus(out, whole)


def prepare_with_workers(source, out):
    prepare.prepare(source, out, SETTINGS, "voxceleb2", workers=2, quiet=True)


def test_workers_of_a_killed_run_end_with_it(source, whole, tmp_path):
    """So that the next run has the folder for itself."""
    out = tmp_path / "out"
    process = start(prepare_with_workers, source, out)
    parent = psutil.Process(process.pid)
    wait_until(lambda: list(out.glob("[!.]*/*/*/*")))  # temporary folders may vanish meanwhile
    workers = parent.children(recursive=True)
    process.kill()
    process.join()
    assert len(workers) >= 3  # the process that they are forked from among them
    wait_until(lambda: not any(worker.is_running() for worker in workers))
    prepare_with_workers(source, out)
    assert_same_corpus(out, whole)


def kill_a_worker(out):
    wait_until(lambda: list(out.glob("[!.]*/*/*/*")))
    max(psutil.Process().children(recursive=True), key=psutil.Process.create_time).kill()


def test_a_run_whose_worker_is_killed_keeps_what_is_finished(source, whole, tmp_path):
    out = tmp_path / "out"
    threading.Thread(target=kill_a_worker, args=(out,), daemon=True).start()
    with pytest.raises(RuntimeError, match=r"a worker was killed.*finished videos are kept.*--workers 1"):
        prepare_with_workers(source, out)
    assert 0 < len(list(out.glob("[!.]*/*/*"))) < len(list(whole.glob("[!.]*/*/*")))
    prepare_with_workers(source, out)
    assert_same_corpus(out, whole)


def test_sources_are_walked_once_and_every_video_has_one_fingerprint(source, tmp_path, monkeypatch):
    calls = Counter()

    def count(name):
        function = getattr(prepare, name)
        monkeypatch.setattr(prepare, name, lambda *a: calls.update([name]) or function(*a))

    count("discover"), count("fingerprint")
    prepare.prepare(source, tmp_path / "out", SETTINGS, "voxceleb2", workers=1, quiet=True)
    videos = {folder for folder in (tmp_path / "out").glob("[!.]*/*/*") if folder.is_dir()}
    assert calls == {"discover": 1, "fingerprint": len(videos)} and len(videos) > IDENTITIES


def test_a_corrupt_shard_is_named(source, tmp_path):
    out = tmp_path / "out"
    prepare_in_a_process(source, out, Shard(0, 2))
    part = out / "manifest-0of2.jsonl"
    text = part.read_text()
    part.write_text("x" + text)
    with pytest.raises(
        ValueError, match=r"manifest-0of2\.jsonl, line 1: .*move the file away and prepare again"
    ):
        prepare.merge(source, out, SETTINGS, "voxceleb2")
    part.unlink()
    for number in (0, 1):
        prepare_in_a_process(source, out, Shard(number, 2))
    assert len(prepare.merge(source, out, SETTINGS, "voxceleb2")) == 4 * IDENTITIES


# -- one detector for many clips --------------------------------------------------------------------
def test_several_detectors_work_at_the_same_time():
    """As those of several GPUs: neither answers before both have begun. Closing ends both."""
    both, used = threading.Barrier(2), set()

    def detector(name):
        def detect(frames):
            used.add(name)
            both.wait(10)
            return np.zeros((len(frames), 68, 2), np.float32), np.ones(len(frames), int)

        return detect

    before = threading.active_count()
    shared = SharedDetector([detector("a"), detector("b")], batch=1)
    frame = [np.zeros((8, 8, 3), np.uint8)]
    threads = [threading.Thread(target=shared, args=(frame,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert used == {"a", "b"}
    shared.close()
    wait_until(lambda: threading.active_count() <= before)


@pytest.mark.parametrize(
    "device, expected, batch",
    [("cuda", ["cuda:0", "cuda:1"], 128), ("cuda:1", ["cuda:1"], 128), ("cpu", ["cpu"], 16)],
)
def test_every_visible_gpu_has_a_detector(monkeypatch, device, expected, batch):
    made = []

    def make_detector(device):
        made.append(str(device))
        return lambda frames: (np.zeros((len(frames), 68, 2), np.float32), np.ones(len(frames), int))

    monkeypatch.setattr(detection, "make_detector", make_detector)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    shared = detection.shared_detector(device)
    shared.close()
    assert made == expected and shared.batch == batch


def test_frames_of_several_clips_are_detected_together():
    batches = []

    def detect(frames):
        batches.append(len(frames))
        time.sleep(0.02)
        marks = np.array([frame[0, 0, 0] for frame in frames])
        return np.tile(marks[:, None, None], (1, 68, 2)).astype(np.float32), marks % 2

    shared, results = SharedDetector([detect], batch=16), {}

    def ask(number):
        size = 8 if number % 5 else 12
        results[number] = shared([np.full((size, size, 3), number, np.uint8)] * 4)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.close()
    for number, (points, faces) in results.items():
        assert points.shape == (4, 68, 2) and (points == number).all() and (faces == number % 2).all()
    assert sum(batches) == 160 and len(batches) < 20, batches


def test_an_error_of_the_detector_reaches_the_clip_that_asked():
    def detect(frames):
        raise RuntimeError("no memory on the device")

    shared = SharedDetector([detect], batch=4)
    with pytest.raises(RuntimeError, match="no memory on the device"):
        shared([np.zeros((8, 8, 3), np.uint8)])
    shared.close()


def test_clips_without_landmarks_are_prepared_in_threads(source, tmp_path, monkeypatch):
    """As with landmarks beside them, whatever the order in which they end."""
    bare = tmp_path / "mp4"
    for path in sorted(source.rglob("*.mp4"))[:16]:
        target = bare / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    landmarks = np.load(next(source.rglob("*.npz")))["landmarks"]
    threads = set()

    def detect(frames):
        threads.add(threading.current_thread().name)
        return np.repeat(landmarks[:1], len(frames), 0), np.ones(len(frames), int)

    for name in ("one", "two"):
        prepare.prepare(bare, tmp_path / name, SETTINGS, "voxceleb2", detect=detect, quiet=True)
    assert_same_corpus(tmp_path / "one", tmp_path / "two")
    assert len(Store(tmp_path / "one", "meta")) == 8 and len(threads) == 2, "one detector a run"
