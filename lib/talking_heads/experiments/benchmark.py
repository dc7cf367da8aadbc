"""``python -m talking_heads benchmark``: what a machine does in a second, and how long a profile takes on it.

Weights and pictures do not matter for time: networks are untrained, and a corpus of random frames is written
for the loader.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from talking_heads.animation.engines import INT8, ONNX, OPENVINO, OPENVINO_INT8
from talking_heads.animation.export import INPUT, OUTPUT
from talking_heads.config import Profile
from talking_heads.data.episodes import EpisodeDataset, EpisodeSettings
from talking_heads.data.loader import Batches, worker_count
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
from talking_heads.experiments.projection import VIDEOS, projections
from talking_heads.experiments.random_corpora import CLIPS_EACH, random_corpus, write_tiny_corpus
from talking_heads.few_shot.head import BATCH, FixedHead, Head
from talking_heads.few_shot.networks.build import build_generator
from talking_heads.metrics.timing import Timing, clocks, flops_of, measure, peak_memory, rates
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, quantise, write_onnx
from talking_heads.nn.tracing import Traced
from talking_heads.provenance import device_name
from talking_heads.workbook.write_table import write_table

TABLE = "benchmark"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    quantity: str
    value: float
    unit: str
    note: str = ""
    on_eight: float | None = None  # the value on eight such devices, where it is projected


@dataclass
class Bench:
    """A benchmark of a profile's sizes; ``quick`` repeats less, and fits into minutes."""

    profile: Profile
    device: torch.device
    folder: Path
    quick: bool
    steps: dict[str, float] = field(default_factory=dict, init=False)  # seconds of a step by variant

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
        yield from self.meta_learning()
        yield from self.other_steps()
        yield from self.heads()
        if self.device.type == "cpu":
            yield from self.engines()
        yield from self.projected_days()
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
        """A corpus of VoxCeleb2's size with frames of 8²: its manifest and index, and an episode's frames."""
        root = write_tiny_corpus(self.folder / "large/prepared", VIDEOS["voxceleb2"])
        store = Store(root, "meta")  # makes the index
        note = f"{len(store):,} videos, {CLIPS_EACH * len(store):,} lines of the manifest"
        start = time.perf_counter()
        store = Store(root, "meta")
        yield Row("opening the store", time.perf_counter() - start, "s", note)
        del store
        tracemalloc.start()
        store = Store(root, "meta")
        yield Row("memory of the store", tracemalloc.get_traced_memory()[1] / 1e6, "MB", f"{note}, at most")
        tracemalloc.stop()
        numbers = np.random.default_rng(0).integers(len(store), size=100)
        start = time.perf_counter()
        for number in numbers:
            store.first_source(int(number))
        yield Row("first source of a video", (time.perf_counter() - start) * 10, "ms", note)
        section, rng = self.profile.few_shot.meta_learning, np.random.default_rng(0)
        frames = section.k_shot + section.targets
        start = time.perf_counter()
        for number in numbers:
            store.read(int(number), rng.permutation(store.frame_count(int(number)))[:frames])
        note = f"{frames} frames of {store.size}² with their landmarks"
        yield Row("reading an episode", (time.perf_counter() - start) * 10, "ms", note)

    def learner(self, variant: str) -> Any:
        """A learner of the corpus of noise that trains with D from its first step."""
        changes = {"few_shot.meta_learning.content_steps": 0, "few_shot.meta_learning.table_start": "random"}
        training = TRAININGS[variant]
        changed = self.profile.override({**changes, **training.overrides})
        extractors = untrained_extractors(changed, self.device)
        workers = worker_count(None, self.device)
        return training.learner(
            changed, variant, Store(self.corpus, "meta"), extractors, self.device, workers
        )

    def meta_learning(self) -> Iterator[Row]:
        """A step with D, its operations, and its share of the device's peak."""
        precision = self.profile.few_shot.networks.precision
        peak = rates(self.device, precision, self.profile.data.image_size // 4).flops
        yield Row("peak arithmetic", peak / 1e12, "TFLOP/s", "a 3×3 convolution of 128 channels")
        learner = self.learner("ft")
        flops = flops_of(learner.train_step)
        timing = self.time(learner.train_step)
        self.steps["ft"] = timing.median
        batch = self.profile.few_shot.meta_learning.batch_videos
        rate = flops / timing.median
        yield Row(
            "meta-learning step", timing.median, "s", f"batch of {batch} episodes, {flops / 1e12:.3g} TFLOP"
        )
        yield Row("meta-learning", 1 / timing.median, "steps/s")
        yield Row("meta-learning arithmetic", rate / 1e12, "TFLOP/s", f"{rate / peak:.0%} of the peak")
        yield Row("memory of meta-learning", timing.memory / 2**30, "GiB", "at most")

    def other_steps(self) -> Iterator[Row]:
        """Steps of the trainings that take another time."""
        notes = {"no-match-one-shot": "K = 1", "pix2pixhd": "", "x2face": "the mean of its two stages"}
        for variant, note in notes.items():
            learner = self.learner(variant)
            seconds = [self.time(learner.train_step).median]
            if variant == "x2face":
                learner.step = learner.total // 2
                seconds.append(self.time(learner.train_step).median)
            self.steps[variant] = sum(seconds) / len(seconds)
            yield Row(f"step of {variant}", self.steps[variant], "s", note)
            del learner  # before the next one takes memory

    def projected_days(self) -> Iterator[Row]:
        """Days of the large profiles' trainings on one device and on eight.

        Eight take an eighth of the steps, each as long as one's: sending gradients is not measured.
        """
        for training in projections(self.profile, self.steps):
            note = f"{training.steps:,} steps"
            yield Row(training.quantity, training.days, "days", note, training.days / 8)

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
        """A frame of a head by every engine that is installed, beside PyTorch in fp32: alone, and in batches
        as ``animate`` computes them.
        """
        size = self.profile.data.image_size
        generator = build_generator(self.profile.few_shot.networks)
        head = Head(generator, torch.zeros(1, self.profile.few_shot.networks.embedding)).eval()
        fixed, path = FixedHead(head), self.folder / "head.onnx"
        y = torch.randn(BATCH, 3, size, size)
        int8 = cache(lambda: quantise(path, self.folder / "int8.onnx", [{INPUT: y[:2].numpy()}]))
        networks: dict[str, Callable[[], Callable]] = {
            "PyTorch, fp32": lambda: fixed,
            "PyTorch, the profile's precision": lambda: head,
            ONNX: lambda: OnnxNetwork(write_onnx(path, fixed, {INPUT: y[:2]}, OUTPUT, {})),
            INT8: lambda: OnnxNetwork(int8()),
            OPENVINO: lambda: OpenVinoNetwork(path),
            OPENVINO_INT8: lambda: OpenVinoNetwork(int8()),
        }
        eager: dict[int, float] = {}
        for name, build in networks.items():
            try:
                network = build()
            except ValueError as error:  # its package is missing
                print(f"  a frame, {name}: left out, {error}", flush=True)
                continue
            for batch in (1, BATCH):
                with torch.no_grad():
                    milliseconds = self.time(partial(network, y[:batch])).median / batch * 1000
                ratio = eager.setdefault(batch, milliseconds) / milliseconds
                note = f"batch of {batch}, {ratio:.3g} times as fast as PyTorch in fp32"
                note += "; whether export accepts it depends on the head" if name.endswith("int8") else ""
                yield Row(f"a frame{'' if batch == 1 else f' of {batch}'}, {name}", milliseconds, "ms", note)

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


def benchmark(profile: Profile, results: Path, device: torch.device, quick: bool) -> pd.DataFrame:
    """Measure, print every line as it comes, and write ``tables/benchmark.*`` of the profile."""
    rows = []
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for row in Bench(profile, device, Path(folder), quick).rows():
            rows.append(row)
            on_eight = f"; on eight {row.on_eight:.4g}" if row.on_eight else ""
            note = f" ({row.note})" if row.note else ""
            print(f"  {row.quantity}: {row.value:.4g} {row.unit}{on_eight}{note}", flush=True)
    table = pd.DataFrame([vars(row) for row in rows])
    caption = (
        f"Benchmark of profile {profile.name} at {profile.data.image_size}² on {device_name(device)}, "
        f"{clocks(device)}, PyTorch {torch.__version__}, in {time.time() - start:.0f} s"
        f"{', quick' if quick else ''}. Networks are untrained; days are projected from the step's time."
    )
    shown = table.assign(value=[f"{value:.4g}" for value in table["value"]])
    shown["on eight devices"] = [f"{row.on_eight:.4g}" if row.on_eight else "" for row in rows]
    shown = shown[["quantity", "value", "on eight devices", "unit", "note"]]
    write_table(table, shown, Path(results) / profile.name / "tables", TABLE, caption)
    return table
