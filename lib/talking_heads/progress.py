"""Progress as lines of a log: one every few seconds, with the pace and the time left."""

import threading
import time


class Progress:
    """Prints how many of ``total`` units of a task are done, at most once in ``every`` seconds."""

    def __init__(self, task: str, total: int, unit: str, every: float = 10.0):
        self.task, self.total, self.unit, self.every = task, total, unit, every
        self.done = 0
        self.start = self.printed = time.time()
        self.lock = threading.Lock()

    def add(self, n: int) -> None:
        """Count n more units as done; threads may call this at once."""
        with self.lock:
            self.done += n
            now = time.time()
            if now - self.printed < self.every and self.done < self.total:
                return
            self.printed = now
            seconds = max(1e-6, now - self.start) / max(1, self.done)
            pace = f"{1 / seconds:.0f} a second" if seconds < 0.5 else f"{seconds:.1f} s each"
            left = (self.total - self.done) * seconds / 60
            print(
                f"  {self.task}: {self.done}/{self.total} {self.unit}, {pace}, {left:.1f} min left",
                flush=True,
            )
