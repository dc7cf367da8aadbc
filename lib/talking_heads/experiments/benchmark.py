"""``python -m talking_heads benchmark``: what a machine does in a second, and how long a profile takes on it.

Weights and pictures do not matter for time: networks are untrained, and a corpus of random frames is written
for the loader.
"""

import math
import tempfile
import time
import tracemalloc
from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from talking_heads.animation.engines import INT8, ONNX, OPENVINO
from talking_heads.animation.export import INPUT, OUTPUT
from talking_heads.config import Profile
from talking_heads.config import load as load_profile
from talking_heads.data.episodes import EpisodeDataset, EpisodeSettings
from talking_heads.data.frame_files import write_frames
from talking_heads.data.loader import Batches, worker_count
from talking_heads.data.manifest import MANIFEST, manifest_line
from talking_heads.data.planning import Settings, fingerprint
from talking_heads.data.prepare_video import prepare_unit
from talking_heads.data.sound import FPS
from talking_heads.data.sources import TALKING_LAYOUTS, discover
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.store import Store
from talking_heads.data.video import write as write_video
from talking_heads.data.windows import LENGTH
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.distillation import distilled_sampling
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.experiments.few_shot.timing import Cases, untrained_extractors
from talking_heads.experiments.few_shot.trainings import TRAININGS
from talking_heads.few_shot.head import FixedHead, Head
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.few_shot.networks.build import build_generator
from talking_heads.metrics.timing import Timing, clocks, flops_of, measure, peak_memory, rates
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, quantise, write_onnx
from talking_heads.nn.tracing import Traced
from talking_heads.provenance import device_name
from talking_heads.workbook.write_table import write_table

VIDEOS = {"voxceleb1": 22_496, "voxceleb2": 145_569}  # of VoxCeleb1 and of VoxCeleb2's dev part
CLIPS = {"voxceleb1": 153_516, "voxceleb2": 1_092_009}
TABLE = "benchmark"
LARGE = ("voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2")
FACE = 68  # landmarks
DAY = 86_400.0


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    quantity: str
    value: float
    unit: str
    note: str = ""


@dataclass
class Bench:
    """A benchmark of a profile's sizes; ``quick`` repeats less, and fits into minutes."""

    profile: Profile
    device: torch.device
    folder: Path
    quick: bool

    @property
    def seconds(self) -> float:
        """For the repetitions of a row."""
        return 4.0 if self.quick else 30.0

    def rows(self) -> Iterator[Row]:
        """All lines, each as soon as it is measured."""
        self.corpus = random_corpus(self.folder / "corpus/prepared", self.profile, 24)
        yield from self.loading()
        yield from self.preparing()
        yield from self.opening()
        step = yield from self.meta_learning()
        yield from self.heads()
        if self.device.type == "cpu":
            yield from self.engines()
        yield from projected_days(self.profile, step)
        if not self.profile.data.real or self.profile.data.layout in TALKING_LAYOUTS:
            yield from self.talking()

    def time(self, work: Callable[[], object]) -> Timing:
        """The time of some work on this device; with ``quick``, long work is done once, without a warm-up."""
        if self.quick:
            once = measure(work, self.device, 1, 0.0, 0)
            if once.median > self.seconds:
                return once
        return measure(work, self.device, 20, self.seconds, 1)

    def loading(self) -> Iterator[Row]:
        """Batches of episodes that the loader brings to the device."""
        settings = EpisodeSettings.of_profile(self.profile)
        dataset = EpisodeDataset(Store(self.corpus, "meta"), settings, 0)
        for workers in sorted({0, worker_count(None, self.device) or 1}):
            batches = Batches(dataset, self.device, workers)
            next(batches)
            timing = measure(partial(next, batches), self.device, 40, self.seconds, 0)
            rate = settings.batch / timing.median
            yield Row("loader", rate, "episodes/s", f"{workers} workers, K = {settings.k_max}")

    def preparing(self) -> Iterator[Row]:
        """Clips with landmarks beside them; one process."""
        size = 224
        clip = make_clip(ClipSettings(0, 1, 0, 100, 25.0, size), sound=False)
        path = self.folder / "videos/id00001/a/00001.mp4"
        path.parent.mkdir(parents=True)
        write_video(path, clip.frames, clip.fps, None)
        np.savez(path.with_suffix(".npz"), landmarks=clip.landmarks)
        (unit,) = discover(self.folder / "videos", "voxceleb2")
        settings = Settings(self.profile.data.image_size, 12)
        key = fingerprint(unit, settings)
        work = partial(prepare_unit, unit, self.folder / "out", settings, key)
        timing = measure(work, torch.device("cpu"), 10, self.seconds, 1)
        yield Row(
            "preparing", 1 / timing.median, "clips/s", "100 frames of 224², 12 kept, one core, no detector"
        )

    def opening(self) -> Iterator[Row]:
        """A corpus of VoxCeleb2's size: its manifest and index."""
        videos = VIDEOS["voxceleb2"]
        lines = write_manifest(self.folder / "large/prepared", videos, 7)
        store = Store(self.folder / "large/prepared", "meta")  # makes the index
        note = f"{videos:,} videos, {lines:,} lines of the manifest"
        start = time.perf_counter()
        store = Store(self.folder / "large/prepared", "meta")
        yield Row("opening the store", time.perf_counter() - start, "s", note)
        del store
        tracemalloc.start()
        store = Store(self.folder / "large/prepared", "meta")
        yield Row("memory of the store", tracemalloc.get_traced_memory()[1] / 1e6, "MB", f"{note}, at most")
        tracemalloc.stop()
        numbers = np.random.default_rng(0).integers(len(store), size=100)
        start = time.perf_counter()
        for number in numbers:
            store.first_source(int(number))
        yield Row("first source of a video", (time.perf_counter() - start) * 10, "ms", note)

    def meta_learning(self) -> abc.Generator[Row, None, float]:
        """A step with D, its operations, and its share of the device's peak; returns its seconds."""
        precision = self.profile.few_shot.networks.precision
        peak = rates(self.device, precision, self.profile.data.image_size // 4).flops
        yield Row("peak arithmetic", peak / 1e12, "TFLOP/s", "a 3×3 convolution of 128 channels")
        changed = self.profile.override(
            {"few_shot.meta_learning.content_steps": 0, "few_shot.meta_learning.table_start": "random"}
        )
        extractors = untrained_extractors(changed, self.device)
        store = Store(self.corpus, "meta")
        learner = MetaLearner(changed, "ft", store, extractors, self.device, worker_count(None, self.device))
        flops = flops_of(learner.train_step)
        timing = self.time(learner.train_step)
        batch = changed.few_shot.meta_learning.batch_videos
        rate = flops / timing.median
        yield Row(
            "meta-learning step", timing.median, "s", f"batch of {batch} episodes, {flops / 1e12:.3g} TFLOP"
        )
        yield Row("meta-learning", 1 / timing.median, "steps/s")
        yield Row("meta-learning arithmetic", rate / 1e12, "TFLOP/s", f"{rate / peak:.0%} of the peak")
        yield Row("memory of meta-learning", timing.memory / 2**30, "GiB", "at most")
        return timing.median

    def heads(self) -> Iterator[Row]:
        """Fine-tuning, from the time of its steps; and frames of a head."""
        extractors = untrained_extractors(self.profile, self.device)
        cases = Cases(self.profile, extractors, self.device, ("Ours",), self.profile.protocol.shots)
        steps: dict[int, Timing] = {}  # by their frames
        for case in cases.fine_tuning():
            assert case.once is not None
            if case.batch not in steps:
                steps[case.batch] = self.time(case.work)
            once = measure(case.once, self.device, 1, 0.0, 0)
            seconds = steps[case.batch].times(case.steps).median + once.median
            note = f"{case.steps} steps of {case.batch} frames"
            yield Row(f"fine-tuning, T = {case.t}", seconds, "s", note)
        for batch in (1, 32):
            timing = self.time(cases.frames_of_a_head(batch))
            yield Row(f"a frame, batch of {batch}", timing.median / batch * 1000, "ms")
        yield Row("memory of everything", peak_memory(self.device) / 2**30, "GiB", "at most")

    def engines(self) -> Iterator[Row]:
        """A frame of a head by every engine that is installed, beside PyTorch in fp32."""
        size = self.profile.data.image_size
        generator = build_generator(self.profile.few_shot.networks)
        head = Head(generator, torch.zeros(1, self.profile.few_shot.networks.embedding)).eval()
        fixed, path = FixedHead(head), self.folder / "head.onnx"
        y = torch.randn(2, 3, size, size)
        networks: dict[str, Callable[[], Callable]] = {
            "PyTorch, fp32": lambda: fixed,
            "PyTorch, the profile's precision": lambda: head,
            ONNX: lambda: OnnxNetwork(write_onnx(path, fixed, {INPUT: y}, OUTPUT, {})),
            INT8: lambda: OnnxNetwork(quantise(path, self.folder / "int8.onnx", [{INPUT: y.numpy()}])),
            OPENVINO: lambda: OpenVinoNetwork(path),
        }
        eager = 0.0
        for name, build in networks.items():
            try:
                network = build()
            except ValueError as error:  # its package is missing
                print(f"  a frame, {name}: left out, {error}", flush=True)
                continue
            with torch.no_grad():
                milliseconds = self.time(partial(network, y[:1])).median * 1000
            eager = eager or milliseconds
            note = f"batch of 1, {eager / milliseconds:.2g} times as fast as PyTorch in fp32"
            note += "; whether export accepts it depends on the head" if name == INT8 else ""
            yield Row(f"a frame, {name}", milliseconds, "ms", note)

    def talking(self) -> Iterator[Row]:
        """Frames of a talking head, from its sound on: the profile's sampling, and a distilled network's."""
        section = self.profile.diffused
        samplings = {"talking head": section}
        if section.distillation.training_steps:
            samplings["talking head, distilled"] = distilled_sampling(section)
        unet, encoder = build_unet(section), build_encoder(section.audio_encoder)
        encoder.to(self.device).eval().requires_grad_(False)
        unet = Traced(unet.to(self.device))
        size, windows = section.clips.image_size, 2 * section.conditions.audio_windows + 1
        sound = torch.zeros(1, windows, LENGTH, device=self.device)
        for name, chosen in samplings.items():
            generator = Generator(unet, chosen)
            identity = torch.zeros(1, 3, size, size, device=self.device)
            motion = generator.first_motion(identity)

            def frame(generator=generator, identity=identity, motion=motion) -> torch.Tensor:
                return generator.next_frame(identity, motion, encoder(sound), [0], 0)

            rate, sampling = 1 / self.time(frame).median, chosen.sampling
            note = f"{size}², {sampling.sampler.upper()}, {sampling.steps} steps; real time is {FPS:g}"
            yield Row(name, rate, "frames/s", note)


def random_corpus(root: Path, profile: Profile, videos: int) -> Path:
    """A prepared corpus of noise at a profile's size, with enough frames in each video for an episode."""
    rng, size = np.random.default_rng(0), profile.data.image_size
    frames = profile.few_shot.meta_learning.k_shot + profile.few_shot.meta_learning.targets
    write_manifest(root, videos, 1, frames, size)
    for number in range(videos):
        folder = root / "meta" / identity_of(number) / f"{number:06d}"
        folder.mkdir(parents=True)
        coarse = rng.integers(0, 256, (frames, size // 8, size // 8, 3), np.uint8)
        write_frames(folder, coarse.repeat(8, 1).repeat(8, 2))
        points = rng.uniform(0.2 * size, 0.8 * size, (frames, FACE, 2)).astype(np.float32)
        np.savez(folder / "track.npz", landmarks=points)
    return root


def identity_of(number: int) -> str:
    """The identity of a video of the random corpora: as many videos each as in VoxCeleb2, on average."""
    return f"id{number // 25:05d}"


def write_manifest(root: Path, videos: int, clips: int, frames: int = 12, size: int = 8) -> int:
    """A manifest of so many videos of so many clips; returns the number of its lines."""
    root.mkdir(parents=True)
    with (root / MANIFEST).open("w", encoding="utf-8") as log:
        for number in range(videos):
            line = {
                "split": "meta",
                "person": identity_of(number),
                "video": f"{number:06d}",
                "frames": frames,
                "key": "benchmark",
                "size": size,
                "note": "",
                "of": 200,
                "fps": 25.0,
                "square": [0.0, 0.0, 224.0],
            }
            for clip in range(clips):
                source = f"../videos/{line['person']}/{line['video']}/{clip:05d}.mp4"
                log.write(manifest_line({**line, "source": source}))
    return videos * clips


def projected_days(profile: Profile, seconds: float) -> Iterator[Row]:
    """Days of the large profiles' trainings on one device and on eight, from the time of a step.

    Profiles whose networks or batches differ from the measured ones are left out. Eight devices take an
    eighth of the steps, each as long as one's: the time for sending gradients is not measured.
    """
    section = profile.few_shot
    for name in LARGE:
        large = load_profile(name)
        other = large.few_shot
        same = other.networks == section.networks and large.data.image_size == profile.data.image_size
        if not same or other.meta_learning.batch_videos != section.meta_learning.batch_videos:
            continue
        batches = math.ceil(VIDEOS[large.data.layout] / other.meta_learning.batch_videos)
        for variant in other.trainings.variants:
            training = TRAININGS[variant]
            whole = not training.small or other.trainings.small_share == 1
            if whole and training.learner is MetaLearner:
                steps = other.meta_learning.epochs * batches * (2 if variant == "ff" else 1)
                days = steps * seconds / DAY
                yield Row(
                    f"{name}, {variant}", days, "days", f"{steps:,} steps; {days / 8:.1f} days on eight"
                )


def benchmark(profile: Profile, results: Path, device: torch.device, quick: bool) -> pd.DataFrame:
    """Measure, print every line as it comes, and write ``tables/benchmark.*`` of the profile."""
    rows = []
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for row in Bench(profile, device, Path(folder), quick).rows():
            rows.append(row)
            print(
                f"  {row.quantity}: {row.value:.4g} {row.unit}{f' ({row.note})' if row.note else ''}",
                flush=True,
            )
    table = pd.DataFrame([vars(row) for row in rows])
    caption = (
        f"Benchmark of profile {profile.name} at {profile.data.image_size}² on {device_name(device)}, "
        f"{clocks(device)}, PyTorch {torch.__version__}, in {time.time() - start:.0f} s"
        f"{', quick' if quick else ''}. Networks are untrained; days are projected from the step's time."
    )
    shown = table.assign(value=[f"{value:.4g}" for value in table["value"]])
    write_table(table, shown, Path(results) / profile.name / "tables", TABLE, caption)
    return table
