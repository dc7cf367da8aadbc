"""Time and memory of work: predicted from operations and bytes, and measured."""

import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from talking_heads.nn.precision import autocast


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Reset :func:`peak_memory`; outside Linux a process keeps its peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (kernel := Path("/proc/self/clear_refs")).exists():
        with suppress(AttributeError):  # else glibc would count memory that was freed before
            ctypes.CDLL(None).malloc_trim(0)
        kernel.write_text("5")


def peak_memory(device: torch.device) -> int:
    """The most bytes held since :func:`reset_peak`: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if (status := Path("/proc/self/status")).exists():
        return next(
            int(line.split()[1]) * 1024
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM")
        )
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
        return Timing(
            self.median * factor, self.low * factor, self.high * factor, self.repetitions, self.memory
        )


def measure(
    work: Callable[[], object],
    device: torch.device,
    repetitions: int = 100,
    seconds: float = 20.0,
    warm_up: int = 2,
) -> Timing:
    """Time ``work`` after a warm-up: at most ``repetitions`` times and, from the third on, ``seconds``."""
    for _ in range(warm_up):
        work()
        synchronise(device)
    synchronise(device)
    reset_peak(device)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < repetitions and (len(times) < 3 or time.perf_counter() - start < seconds):
        before = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - before)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    return Timing(float(median), float(low), float(high), len(times), peak_memory(device))


class Stopwatch:
    """Seconds and peak memory of stages."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rows: list[dict] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        start = time.time()
        yield
        seconds, peak = time.time() - start, peak_memory(self.device) / 2**30
        self.rows.append({"stage": name, "seconds": seconds, "peak GiB so far": peak})
        print(f"  {name}: {seconds:.1f} s, peak memory so far {peak:.1f} GiB", flush=True)


# -- the prediction ---------------------------------------------------------------------------
class _Bytes(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read = _tensors(args)
        storages = {t.untyped_storage().data_ptr() for t in read}
        written = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in storages]
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written += _tensors(value)
        if written:  # else a view: nothing moves
            self.total += sum(t.numel() * t.element_size() for t in read + written)
        return result


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def operations(work: Callable[[], object]) -> tuple[float, float]:
    """Floating-point operations and bytes moved of one call of ``work``, counted while it runs."""
    with FlopCounterMode(display=False) as flops, _Bytes() as moved:
        work()
    return float(flops.get_total_flops()), float(moved.total)


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations of one call of ``work``, which may contain sparse gradients."""
    with FlopCounterMode(display=False) as flops:
        work()
    return float(flops.get_total_flops())


@dataclass(frozen=True)
class Machine:
    """Operations and bytes a second of a machine."""

    flops: float
    bandwidth: float

    def predict(self, flops: float, moved: float) -> float:
        """Seconds, if arithmetic and memory took turns and each ran at the measured rate."""
        return flops / self.flops + moved / self.bandwidth


RATE_SECONDS = 2.0  # of repetitions, after which a rate hardly changes


def rates(
    device: torch.device, precision: str = "auto", size: int = 64, seconds: float = RATE_SECONDS
) -> Machine:
    """Measured rates of a device: a 3×3 convolution of 128 channels for arithmetic, a copy for memory.

    Each is repeated for ``seconds`` at most, or for ``RATE_SECONDS``.
    """
    x = torch.randn(8, 128, size, size, device=device)
    conv = torch.nn.Conv2d(128, 128, 3, padding=1).to(device)
    big = torch.randn(2**24, device=device)

    def convolve() -> None:
        with torch.no_grad(), autocast(precision, device):
            conv(x)

    flops = 2 * 9 * 128 * 128 * 8 * size * size
    moved = 2 * big.numel() * 4
    seconds = min(seconds, RATE_SECONDS)
    convolution, copy = (measure(work, device, 20, seconds).median for work in (convolve, big.clone))
    return Machine(flops / convolution, moved / copy)


# operations a second, in a bf16 convolution, of the machine on which stated minutes and speeds were measured
MEASURED_AT = 400e9


def slowness(device: torch.device) -> float:
    """How much slower arithmetic is here than on that machine; at least 1."""
    return max(1.0, MEASURED_AT / rates(device).flops)


def clocks(device: torch.device) -> str:
    """Clock rates of the device's processors as the system reports them."""
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"]
        query.append(f"--id={device.index or 0}")
        with suppress(OSError, subprocess.CalledProcessError):
            answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
            sm, memory = answer.strip().split(", ")
            return f"multiprocessors at {sm}, memory at {memory}"
        return "clocks unknown (nvidia-smi reports them)"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    mhz = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    ends = sorted({round(end(mhz)) for end in (min, max)}) if mhz else []
    speed = f" at {' to '.join(map(str, ends))} MHz" if ends else ""
    return f"{os.cpu_count()} cores{speed}"
