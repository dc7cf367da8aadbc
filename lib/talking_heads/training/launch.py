"""Starting a command in several processes of this machine with torchrun, and reporting how it ended."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

from talking_heads.files import SIGKILL_STATUS, SIGTERM_STATUS, stated_causes
from talking_heads.training.distributed import started_by_torchrun

SHUTDOWN = 110  # seconds in which ranks that are asked to end save their step; a job waits a little longer
LAST_LINES = 200  # of what torchrun and its processes write, shown where no process says what went wrong


def rank_count(ranks: int | None, device: str) -> int:
    """The number of processes for torchrun to start here: ``ranks``, by default one for each visible GPU.

    0 where this process is to train by itself, also because torchrun has started it.
    """
    import torch

    if started_by_torchrun():
        return 0
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    count = ranks or max(1, gpus)
    return count if count > 1 or "TALKING_HEADS_NODES" in os.environ else 0


def run_with_torchrun(ranks: int, arguments: Sequence[str]) -> int:
    """Run ``python -m talking_heads`` with these arguments in processes of a rank each; its exit status.

    An interrupt and SIGTERM are passed on; a training saves its step then.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous(), "--nproc-per-node", str(ranks)]
    command += ["--shutdown-timeout", str(SHUTDOWN)]
    process = subprocess.Popen(
        [*command, "-m", "talking_heads", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **os.environ, "PYTHONUTF8": "1"},
    )
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    lines: list[str] = []
    try:
        while True:
            try:
                lines += process.communicate()[1].splitlines()
                break
            except KeyboardInterrupt:
                process.terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
    if process.returncode == 0:
        return 0
    return report(lines)


def rendezvous() -> list[str]:
    """torchrun's options for one machine, or for the nodes of a cluster's job."""
    if nodes := os.environ.get("TALKING_HEADS_NODES"):
        meet = os.environ["TALKING_HEADS_MEET"]
        return ["--nnodes", nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", meet, "--rdzv-id", "training"]
    return ["--standalone"]


def report(lines: Sequence[str]) -> int:
    """Print the causes that processes stated before they ended, each line once; returns the exit status.

    "Another process has ended" is left out where the cause is known.
    """
    stated = stated_causes(lines)
    lost = [line for line in stated if "another process of this training has ended" in line]
    signals = ", ".join(dict.fromkeys(re.findall(r"Signal \d+ \((SIG\w+)\)", "\n".join(lines))))
    by = f" by {signals}" if signals else ""
    killed = [f"error: a process of this training was killed{by}; run the same command again"]
    causes = [line for line in stated if line not in lost]
    print("\n".join(causes or lost[:1] or [*killed, *lines[-LAST_LINES:]]), file=sys.stderr)
    if not causes:
        return SIGKILL_STATUS
    return SIGTERM_STATUS if causes[0].startswith("stopped by SIGTERM") else 2
