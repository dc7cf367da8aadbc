"""How long things take (section A.1, Table 2): a prediction from operations and bytes, then the measurement.

Weights do not matter for time, so the paper's sizes are timed on networks as they are born. A fine-tuning is the median of some
of its steps, multiplied, and its row says so; inference has the spectral norms folded into the weights.
"""

import copy
import ctypes
import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..baselines.training import build_pix2pixhd, build_x2face, pix2pixhd_step
from ..fine_tuning import set_up, steps_per_epoch
from ..meta_learning import autocast, build, build_generator
from ..networks.blocks import fold
from ..profiles import Profile


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Let :func:`peak_memory` begin anew; outside Linux a process remembers its peak for ever."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (kernel := Path("/proc/self/clear_refs")).exists():
        with suppress(AttributeError):  # glibc keeps what was freed before, which is none of the work's own
            ctypes.CDLL(None).malloc_trim(0)
        kernel.write_text("5")


def peak_memory(device: torch.device) -> int:
    """The most bytes held since :func:`forget_peak`: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if (status := Path("/proc/self/status")).exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass
class Timing:
    """Seconds over repetitions: median and quartiles; peak memory in bytes."""

    median: float
    low: float
    high: float
    repetitions: int
    memory: int

    def times(self, factor: float) -> "Timing":
        """The same for ``factor`` repetitions in a row: an extrapolation."""
        return Timing(self.median * factor, self.low * factor, self.high * factor, self.repetitions, self.memory)


def measure(work: Callable[[], object], device: torch.device, repetitions: int = 100, seconds: float = 20.0, warm_up: int = 2) -> Timing:
    """Time ``work`` after a warm-up, at most ``repetitions`` times and, from the third on, for ``seconds``."""
    for _ in range(warm_up):
        work()
        synchronise(device)
    synchronise(device)
    forget_peak(device)
    spent, start = [], time.perf_counter()
    while len(spent) < repetitions and (len(spent) < 3 or time.perf_counter() - start < seconds):
        before = time.perf_counter()
        work()
        synchronise(device)
        spent.append(time.perf_counter() - before)
    low, median, high = np.quantile(spent, [0.25, 0.5, 0.75])
    return Timing(float(median), float(low), float(high), len(spent), peak_memory(device))


# -- the prediction ---------------------------------------------------------------------------
class _Bytes(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = lambda tree: [t for t in tree_leaves(tree) if isinstance(t, Tensor)]
        read, known = tensors(args), {t.untyped_storage().data_ptr() for t in tensors(args)}
        written = [t for t in tensors(out) if t.untyped_storage().data_ptr() not in known]
        for argument, value in zip(function._schema.arguments, args):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written += tensors(value)
        if written:  # else a view: nothing moves
            self.total += sum(t.numel() * t.element_size() for t in read + written)
        return out


def operations(work: Callable[[], object]) -> tuple[float, float]:
    """Floating-point operations and bytes moved of one call of ``work``, counted while it runs."""
    with FlopCounterMode(display=False) as flops, _Bytes() as moved:
        work()
    return float(flops.get_total_flops()), float(moved.total)


@dataclass(frozen=True)
class Machine:
    """What a machine reaches: operations and bytes a second."""

    flops: float
    bandwidth: float

    def predict(self, flops: float, moved: float) -> float:
        """Seconds, if arithmetic and memory took turns and each ran at the measured rate."""
        return flops / self.flops + moved / self.bandwidth


def rates(device: torch.device, precision: str = "auto", size: int = 64) -> Machine:
    """The device's own rates: a 3×3 convolution of 128 channels for arithmetic, a large copy for memory."""
    cast = autocast(precision, device)
    x, conv = torch.randn(8, 128, size, size, device=device), torch.nn.Conv2d(128, 128, 3, padding=1).to(device)
    big = torch.randn(2 ** 24, device=device)

    @torch.no_grad()
    def convolve() -> None:
        with cast:
            conv(x)

    done = 2 * 9 * 128 * 128 * 8 * size * size / measure(convolve, device, 20, 2.0).median
    return Machine(done, 2 * big.numel() * 4 / measure(big.clone, device, 20, 2.0).median)


MEASURED_AT = 400e9  # operations a second, in a bf16 convolution, of the machine on which the minutes and speeds that we state were measured


def slowness(device: torch.device) -> float:
    """How much slower than there arithmetic is here; 1 at least."""
    return max(1.0, MEASURED_AT / rates(device).flops)


# -- what Table 2 times -----------------------------------------------------------------------
@dataclass
class Case:
    """A row of Table 2: ``work`` is one step (or one frame) on ``batch`` frames, of which the row counts ``steps``, after ``once``."""

    method: str
    phase: str  # "few-shot learning" or "inference"
    t: int
    steps: int
    batch: int
    work: Callable[[], object]
    once: Callable[[], object] | None = None


def steps_of(profile: Profile, t: int) -> int:
    """Fine-tuning steps on T frames: an epoch is ceil(T / batch) steps."""
    return profile.tune_epochs * steps_per_epoch(t, profile.tune_batch)


def cases(profile: Profile, extractors: Sequence, device: torch.device, methods: Sequence[str], shots: Sequence[int]) -> Iterator[Case]:
    """Rows of Table 2, one network in memory at a time. Weights are as they are born."""
    p = profile
    cast = autocast(p.precision, device)
    frames = lambda n: torch.rand(n, 3, p.image_size, p.image_size, device=device) * 2 - 1

    def without_gradients(f: Callable) -> Callable:
        def run():
            with torch.no_grad(), cast:
                return f()
        return run

    if "X2Face" in methods:
        model = build_x2face(p).to(device).eval()
        for t in shots:
            x = frames(t)[None]
            yield Case("X2Face", "few-shot learning", t, 1, t, without_gradients(lambda: model.embed(x)))
        x, driver = frames(1), frames(1)
        yield Case("X2Face", "inference", 1, 1, 1, without_gradients(lambda: model.drive(x, driver)))
        del model
    if "Pix2pixHD" in methods:
        g, d = (n.to(device) for n in build_pix2pixhd(p))
        optimisers = tuple(torch.optim.Adam(n.parameters(), lr=1e-6, betas=(0.5, 0.999), fused=True) for n in (g, d))
        for t in shots:
            x, y = frames(min(t, p.tune_batch)), frames(min(t, p.tune_batch))
            yield Case("Pix2pixHD", "few-shot learning", t, steps_of(p, t), len(x), lambda: pix2pixhd_step(x, y, g, d, extractors[0], optimisers, cast),
                       lambda: copy.deepcopy((g, d)))
        one = frames(1)
        g.eval()
        yield Case("Pix2pixHD", "inference", 1, 1, 1, without_gradients(lambda: g(one)))
        del g, d, optimisers
    if "Ours" in methods or "Ours-FF" in methods:
        nets = build(p, 1).to(device)
        one = frames(1)
        nets.embedder.eval(), nets.generator.eval()
        folded = fold(build_generator(p).to(device))
        for t in shots if "Ours-FF" in methods else ():
            x, y = frames(t)[None], frames(t)[None]
            yield Case("Ours-FF", "few-shot learning", t, 1, t, without_gradients(lambda: nets.generator.projection(nets.embedder.embed(x, y))))
        for t in shots if "Ours" in methods else ():
            x, y = frames(min(t, p.tune_batch)), frames(min(t, p.tune_batch))
            tuning = set_up(nets, x, y, p, extractors)
            index = torch.arange(len(x), device=device)
            all_x, all_y = frames(t), frames(t)  # ê_NEW, copies of G and D, features of the T frames
            yield Case("Ours", "few-shot learning", t, steps_of(p, t), len(x), lambda: tuning.step(index), lambda: set_up(nets, all_x, all_y, p, extractors))
            del tuning
        psi = torch.zeros(1, nets.generator.person_parameters, device=device)
        for method in (m for m in ("Ours", "Ours-FF") if m in methods):
            yield Case(method, "inference", 1, 1, 1, without_gradients(lambda: folded.synthesise(one, psi)))


METHODS = ("X2Face", "Pix2pixHD", "Ours", "Ours-FF")


def predictions(profile: Profile, extractors: Sequence, device: torch.device, machine: Machine, *, methods: Sequence[str] = METHODS,
                shots: Sequence[int] = (1, 8, 32)) -> pd.DataFrame:
    """What every case should take, from operations and bytes that are counted while its step runs once; equal steps are counted once.

    Columns method, phase, T, steps, operations, bytes, predicted (seconds) and arithmetic, its share of them.
    """
    rows, known = [], {}
    for case in cases(profile, extractors, device, methods, shots):
        step = case.method, case.phase, case.batch
        if step not in known:
            known[step] = np.array(operations(case.work))
        flops, moved = case.steps * known[step] + (operations(case.once) if case.once else 0)
        seconds = machine.predict(flops, moved)
        rows.append({"method": case.method, "phase": case.phase, "T": case.t, "steps": case.steps, "operations": flops, "bytes": moved,
                     "predicted": seconds, "arithmetic": flops / machine.flops / seconds})
        gc.collect()
    return pd.DataFrame(rows)


def table2(predicted: pd.DataFrame, profile: Profile, extractors: Sequence, device: torch.device, *, seconds: float = 20.0) -> pd.DataFrame:
    """Measure what was ``predicted``; its rows, each with median and quartiles of seconds. Equal steps are measured once.

    What is predicted to take longer than ``seconds`` is not warmed up: of three repetitions the median is not the first, cold one.
    """
    rows, known = predicted.set_index(["method", "phase", "T"]), {}
    out = []
    learned = predicted[predicted["phase"] == "few-shot learning"]
    for case in cases(profile, extractors, device, predicted["method"].unique(), learned["T"].unique()):
        row, step = rows.loc[(case.method, case.phase, case.t)], (case.method, case.phase, case.batch)
        if step not in known:
            known[step] = measure(case.work, device, seconds=seconds, warm_up=0 if row["predicted"] / case.steps > seconds else 2)
        timing = known[step].times(case.steps)
        first = measure(case.once, device, repetitions=1, warm_up=0) if case.once else Timing(0.0, 0.0, 0.0, 0, 0)
        out.append({"seconds": first.median + timing.median, "low": first.low + timing.low, "high": first.high + timing.high, "measured": timing.repetitions,
                    "memory [GiB]": max(first.memory, timing.memory) / 2**30, "note": "" if case.steps == 1 else f"{case.steps} times the median of {timing.repetitions} steps"})
        print(f"  {case.method} {case.phase} T = {case.t}: predicted {row['predicted']:.3g} s, took {out[-1]['seconds']:.3g} s", flush=True)
        gc.collect()
    return pd.concat([predicted.reset_index(drop=True), pd.DataFrame(out)], axis=1)


def clocks(device: torch.device) -> str:
    """Clock rates of the device's processors as the system reports them."""
    if device.type == "cuda":
        asked = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader", f"--id={device.index or 0}"]
        with suppress(OSError, subprocess.CalledProcessError):
            sm, memory = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip().split(", ")
            return f"multiprocessors at {sm}, memory at {memory}"
        return "clocks unknown (nvidia-smi tells them)"
    info = Path("/proc/cpuinfo")
    mhz = [float(line.split(":")[1]) for line in info.read_text().splitlines() if line.startswith("cpu MHz")] if info.exists() else []
    return f"{os.cpu_count()} cores" + (f" at {min(mhz):.0f} to {max(mhz):.0f} MHz" if mhz else "")
