"""Which code and which device computed a result."""

import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import torch


def commit() -> str:
    """The git commit of the code, with "+" where it has uncommitted changes; "" outside a checkout."""
    dirty = "+" if _git("status", "--porcelain", "-uno") else ""
    return _git("rev-parse", "--short=12", "HEAD") + dirty


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    try:
        process = subprocess.run(["git", *words], capture_output=True, text=True, cwd=folder, check=False)
    except FileNotFoundError:
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


def device_name(device: str | torch.device) -> str:
    """The GPU, or the processor with the number of threads, that ``device`` stands for."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


@lru_cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()
