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
            each = max(1e-6, now - self.start) / max(1, self.done)
            pace = f"{1 / each:.0f} a second" if each < 0.5 else f"{each:.1f} s each"
            print(f"  {self.what}: {self.done}/{self.total} {self.unit}, {pace}, {(self.total - self.done) * each / 60:.1f} min left", flush=True)
