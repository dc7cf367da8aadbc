"""Progress as lines that make sense in a log: one every few seconds, with pace and time left."""

import time


class Progress:
    def __init__(self, what: str, total: int, unit: str, every: float = 10.0):
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.done, self.start, self.said = 0, time.time(), time.time()

    def add(self, n: int) -> None:
        self.done += n
        now = time.time()
        if now - self.said >= self.every or self.done >= self.total:
            self.said = now
            pace = self.done / max(1e-6, now - self.start)
            left = (self.total - self.done) / pace
            print(f"  {self.what}: {self.done}/{self.total} {self.unit}, {pace:.0f} a second, {left / 60:.1f} min left", flush=True)
