"""Table 2 (section A.1): the time of few-shot learning and of inference, predicted and measured.

Weights do not matter for time, so the paper's sizes are timed on untrained networks. A fine-tuning is the
median of some of its steps, multiplied, and its row says so; inference has spectral norms folded into the
weights.
"""

import copy
import dataclasses
import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from talking_heads.config import Profile
from talking_heads.few_shot.baselines.training import build_pix2pixhd, build_x2face, pix2pixhd_step
from talking_heads.few_shot.fine_tuning import set_up, steps_per_epoch
from talking_heads.few_shot.networks.build import Networks, build_generator, build_networks
from talking_heads.metrics.timing import Machine, Timing, measure, operations
from talking_heads.nn.perceptual import make_extractors
from talking_heads.nn.spectral_norm import fold

VERSION = 2  # raised when the measured work changes
METHODS = ("X2Face", "Pix2pixHD", "Ours", "Ours-FF")
FINE_TUNED = ("Pix2pixHD", "Ours")
CASE = ["method", "phase", "T"]  # columns that name a row
LEARNING, INFERENCE = "few-shot learning", "inference"
LONG = 5  # times the seconds of a measurement
Work = Callable[[], object]


@dataclass
class Case:
    """A row of Table 2: ``work`` is one step (or one frame) on ``batch`` frames, of which the row counts
    ``steps``.

    ``once`` comes before them.
    """

    method: str
    phase: str
    t: int
    steps: int
    batch: int
    work: Work
    once: Work | None = None


def without_gradients(work: Work) -> Work:
    """The work without recording for gradients."""

    def run() -> object:
        with torch.no_grad():
            return work()

    return run


def allocate_states(optimisers: Iterable[torch.optim.Optimizer]) -> None:
    """Allocate the states of Adam, as a first step does, so that all steps count alike; no weight changes."""
    for optimiser in optimisers:
        for parameter in chain.from_iterable(group["params"] for group in optimiser.param_groups):
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad()


def _psi_hat(nets: Networks, x: Tensor, y: Tensor) -> Tensor:
    return nets.generator.project(nets.embedder.embed(x, y))


@dataclass
class Cases:
    """The rows of Table 2 for a profile's sizes, one method's networks in memory at a time."""

    profile: Profile
    extractors: Sequence
    device: torch.device
    methods: Sequence[str]
    shots: Sequence[int]

    def __iter__(self) -> Iterator[Case]:
        if "X2Face" in self.methods:
            yield from self.x2face()
        if "Pix2pixHD" in self.methods:
            yield from self.pix2pixhd()
        if "Ours-FF" in self.methods:
            yield from self.feed_forward()
        if "Ours" in self.methods:
            yield from self.fine_tuning()
        yield from self.inference()

    def frames(self, count: int) -> Tensor:
        """Random frames (count, 3, S, S) in [-1, 1]."""
        size = self.profile.data.image_size
        return torch.rand(count, 3, size, size, device=self.device) * 2 - 1

    def batch(self, t: int) -> int:
        """Frames of a fine-tuning step."""
        return min(t, self.profile.few_shot.fine_tuning.batch)

    def steps(self, t: int) -> int:
        """Fine-tuning steps on T frames: an epoch is ceil(T / batch) steps."""
        section = self.profile.few_shot.fine_tuning
        return section.epochs * steps_per_epoch(t, section.batch)

    def x2face(self) -> Iterator[Case]:
        """Embedding of T frames, and driving."""
        model = build_x2face(self.profile).to(self.device).eval()
        for t in self.shots:
            x = self.frames(t)[None]
            yield Case("X2Face", LEARNING, t, 1, t, without_gradients(partial(model.embed, x)))
        x, driver = self.frames(1), self.frames(1)
        yield Case("X2Face", INFERENCE, 1, 1, 1, without_gradients(partial(model.drive, x, driver)))

    def pix2pixhd(self) -> Iterator[Case]:
        """Fine-tuning of a copy, and translation."""
        generator, discriminator = (net.to(self.device) for net in build_pix2pixhd(self.profile))
        nets = [generator, discriminator]
        optimisers = [
            torch.optim.Adam(net.parameters(), lr=1e-6, betas=(0.5, 0.999), fused=True) for net in nets
        ]
        allocate_states(optimisers)
        for t in self.shots:
            batch = self.batch(t)
            x, y = self.frames(batch), self.frames(batch)
            yield Case(
                "Pix2pixHD",
                LEARNING,
                t,
                self.steps(t),
                batch,
                partial(pix2pixhd_step, x, y, generator, discriminator, self.extractors[0], optimisers),
                partial(copy.deepcopy, nets),
            )
        generator.eval()
        y = self.frames(1)
        yield Case("Pix2pixHD", INFERENCE, 1, 1, 1, without_gradients(partial(generator, y)))

    def feed_forward(self) -> Iterator[Case]:
        """Embedding of T frames and the projection."""
        nets = build_networks(self.profile.few_shot.networks, 1).to(self.device)
        for net in (nets.embedder, nets.generator):
            net.eval()
        for t in self.shots:
            x, y = self.frames(t)[None], self.frames(t)[None]
            yield Case("Ours-FF", LEARNING, t, 1, t, without_gradients(partial(_psi_hat, nets, x, y)))

    def fine_tuning(self) -> Iterator[Case]:
        """ê_NEW, copies of G and D and features of the T frames, then the steps."""
        nets = build_networks(self.profile.few_shot.networks, 1).to(self.device)
        for t in self.shots:
            batch = self.batch(t)
            tuning = set_up(nets, self.frames(batch), self.frames(batch), self.profile, self.extractors)
            allocate_states([tuning.generator_optimiser, tuning.discriminator_optimiser])
            index = torch.arange(batch, device=self.device)
            x, y = self.frames(t), self.frames(t)
            yield Case(
                "Ours",
                LEARNING,
                t,
                self.steps(t),
                batch,
                partial(tuning.step, index),
                partial(set_up, nets, x, y, self.profile, self.extractors),
            )

    def inference(self) -> Iterator[Case]:
        """A frame of a head, the same for both of ours."""
        work = self.frames_of_a_head(1)
        for method in ("Ours", "Ours-FF"):
            if method in self.methods:
                yield Case(method, INFERENCE, 1, 1, 1, work)

    def frames_of_a_head(self, count: int) -> Work:
        """Generates so many frames at once."""
        generator = fold(build_generator(self.profile.few_shot.networks).to(self.device))
        psi = torch.zeros(count, generator.person_parameters, device=self.device)
        return without_gradients(partial(generator.synthesise, self.frames(count), psi))


class Count(NamedTuple):
    """Operations and bytes (2,) of a case's step, and of what comes once before the steps."""

    step: np.ndarray
    once: np.ndarray


Counts = dict[tuple[str, str, int], Count]  # by method, phase and T


def count(cases: Cases) -> Counts:
    """The operations and bytes of all cases on one frame and on two, counted while their steps run once."""
    counts = {}
    for case in dataclasses.replace(cases, shots=(1, 2)):
        once = np.array(operations(case.once)) if case.once else np.zeros(2)
        counts[case.method, case.phase, case.t] = Count(np.array(operations(case.work)), once)
        gc.collect()
    return counts


def predictions(cases: Cases, machine: Machine, counts: Counts) -> pd.DataFrame:
    """The predicted time of every case, from the operations and bytes of :func:`count`.

    Both numbers are linear in the frames, so those of larger batches follow from those of one frame and of
    two. Columns method, phase, T, steps, operations, bytes, predicted (seconds) and arithmetic, its share of
    them.
    """
    rows = []
    for method in cases.methods:
        for t in cases.shots:
            steps, batch = (cases.steps(t), cases.batch(t)) if method in FINE_TUNED else (1, t)
            one, two = counts[method, LEARNING, 1], counts[method, LEARNING, 2]
            total = steps * _at(batch, one.step, two.step) + _at(t, one.once, two.once)
            rows.append(_prediction(method, LEARNING, t, steps, total, machine))
        rows.append(_prediction(method, INFERENCE, 1, 1, counts[method, INFERENCE, 1].step, machine))
    return pd.DataFrame(rows)


def _at(frames: int, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """A count on ``frames`` frames, from those on one and on two."""
    return one + (frames - 1) * (two - one)


def _prediction(
    method: str, phase: str, t: int, steps: int, total: np.ndarray, machine: Machine
) -> dict[str, Any]:
    flops, moved = total
    seconds = machine.predict(flops, moved)
    return {
        "method": method,
        "phase": phase,
        "T": t,
        "steps": steps,
        "operations": flops,
        "bytes": moved,
        "predicted": seconds,
        "arithmetic": flops / machine.flops / seconds,
    }


def measurements(cases: Cases, predicted: pd.DataFrame, seconds: float = 20.0) -> pd.DataFrame:
    """The rows of ``predicted`` with the median and quartiles of measured seconds."""
    return with_measurements(predicted, list(measured_rows(cases, predicted, seconds)))


def with_measurements(predicted: pd.DataFrame, rows: list[dict]) -> pd.DataFrame:
    """The predicted rows with the columns of the measured ones."""
    return predicted.merge(pd.DataFrame(rows), on=CASE, validate="one_to_one")


def measured_rows(
    cases: Cases, predicted: pd.DataFrame, seconds: float, done: Collection[tuple[str, str, int]] = ()
) -> Iterator[dict[str, Any]]:
    """The measured rows of all cases that are not ``done``, one by one. Equal steps are measured once.

    A step that is predicted to take longer than ``seconds`` is not warmed up and is repeated three times: the
    median is not the first, cold one. Where it takes ``LONG`` times as long, a cold start matters little, and
    it is measured once.
    """
    expected = predicted.set_index(CASE)["predicted"]
    measured: dict[tuple[str, str, int], Timing] = {}
    for case in cases:
        if (case.method, case.phase, case.t) in done:
            continue
        whole = expected[case.method, case.phase, case.t]
        prediction = whole / case.steps
        step = case.method, case.phase, case.batch
        if step not in measured:
            repetitions = 1 if prediction > LONG * seconds else 100
            warm_up = 0 if prediction > seconds else 2
            measured[step] = measure(case.work, cases.device, repetitions, seconds, warm_up)
        steps = measured[step].times(case.steps)
        once = Timing(0.0, 0.0, 0.0, 0, 0)
        if case.once:
            once = measure(case.once, cases.device, repetitions=1, warm_up=0)
        measured_steps = "one step" if steps.repetitions == 1 else f"the median of {steps.repetitions} steps"
        note = "" if case.steps == 1 else f"{case.steps} times {measured_steps}"
        total = once.median + steps.median
        row = f"{case.method} {case.phase} T = {case.t}"
        print(f"  {row}: predicted {whole:.3g} s, took {total:.3g} s", flush=True)
        yield {
            "method": case.method,
            "phase": case.phase,
            "T": case.t,
            "seconds": total,
            "low": once.low + steps.low,
            "high": once.high + steps.high,
            "measured": steps.repetitions,
            "memory [GiB]": max(once.memory, steps.memory) / 2**30,
            "note": note,
        }
        gc.collect()


def untrained_extractors(profile: Profile, device: torch.device) -> list:
    """A profile's feature networks, untrained: weights do not matter for time."""
    return [extractor.to(device) for extractor in make_extractors(profile, random=True)]
