"""Jobs of a run: commands in processes of their own, on this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from talking_heads.files import stated_causes
from talking_heads.workbook.stages import Job

PATIENCE = 120.0  # seconds in which a job that is asked to end saves its state


Report = Callable[[str], None]


@dataclass
class Commands:
    """How the commands of a run are started, and those that are running."""

    options: tuple[str, ...] = ()  # of all commands: where data and results lie
    environment: dict[str, str] = field(default_factory=dict)
    running: set[subprocess.Popen] = field(default_factory=set)

    def execute(self, job: Job, report: Report, key: str = "") -> str:
        """Run a job to its end; "" if it succeeded, else its error. Progress lines are passed on.

        ``key`` changes with all that the job depends on.
        """
        process = start((*self.options, *job.command), self.environment)
        self.running.add(process)
        lines: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("  ") and line.strip():
                    report(f"  {job.name} {line.strip()}")
            status = process.wait()
        finally:
            self.running.discard(process)
        return "" if status == 0 else fault(lines, status)

    def end(self) -> None:
        """Ask what is running to end, which saves its state, and end it where it does not."""
        for process in list(self.running):
            end(process)


def start(words: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process of ``python -m talking_heads`` that writes everything to its stdout."""
    return subprocess.Popen(
        [sys.executable, "-m", "talking_heads", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
    )


def end(process: subprocess.Popen) -> None:
    """Ask a job to end, which saves its state, and end it where it does not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def fault(lines: list[str], status: int) -> str:
    """Why a command failed: what it says, else its last lines, else the signal that ended it."""
    causes = stated_causes(lines)
    if status < 0:
        causes.append(f"ended by {signal.Signals(-status).name}")
    return "; ".join(causes) or "\n".join(lines[-5:]) or f"exit status {status}"
