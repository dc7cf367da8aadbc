"""Alarms that end a diverged or collapsed training."""

import math
from collections.abc import Callable

LEAD = 20.0  # of D's scores of real frames over those of generated ones; beyond it G learns nothing
LEAST_SPREAD = 0.02  # of the estimates of x_0 at high noise, relative to the true frames
SAME = 1e-6  # difference of scores that count as equal


class Collapsed(RuntimeError):
    """The training has diverged or collapsed; the message states the symptom."""


class Alarm:
    """Checks the last ``window`` steps for values that are not finite, a dead or winning D, equal outputs."""

    def __init__(self, window: int = 100):
        self.window = window
        self.history: list[dict[str, float]] = []

    def check(self, row: dict[str, float]) -> None:
        """Add the log's row of a step. Raises :class:`Collapsed`."""
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        if bad := [name for name, value in numbers.items() if not math.isfinite(value)]:
            raise Collapsed(f"step {row['step']}: {', '.join(bad)} not finite")
        self.history = [*self.history, row][-self.window :]
        if len(self.history) < self.window:
            return
        during = f"step {row['step']}: for {self.window} steps"
        if self._always(_discriminator_died):
            raise Collapsed(
                f"{during} D scores real and generated frames alike: it has died; "
                "lower discriminator_learning_rate"
            )
        if self._always(_discriminator_wins):
            raise Collapsed(
                f"{during} D scores real frames above generated ones by more than {LEAD:g}, and its loss "
                "is 0; lower discriminator_learning_rate or raise feature_matching_weight"
            )
        if self._always(_outputs_are_equal):
            raise Collapsed(f"{during} all generated frames are equal; lower learning_rate")
        if self._always(_estimates_are_equal):
            raise Collapsed(
                f"{during} the frames that are estimated from noise are equal, whatever the conditions; "
                "lower learning_rate"
            )

    def _always(self, condition: Callable[[dict[str, float]], bool]) -> bool:
        return all(condition(row) for row in self.history)


def _discriminator_died(row: dict[str, float]) -> bool:
    return "dsc" in row and abs(row["r_real"] - row["r_fake"]) < SAME


def _discriminator_wins(row: dict[str, float]) -> bool:
    return row.get("dsc", 1.0) < 1e-3 and row.get("r_real", 0) - row.get("r_fake", 0) > LEAD


def _outputs_are_equal(row: dict[str, float]) -> bool:
    return row.get("output_spread", math.inf) < 1e-3


def _estimates_are_equal(row: dict[str, float]) -> bool:
    return row.get("x_0_spread", math.inf) < LEAST_SPREAD
