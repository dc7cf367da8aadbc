"""Claims of a paper and their verdicts.

A claim consists of comparisons, each positive where the claim holds. A comparison is decided where it differs
significantly from zero, with the family-wise error of the claim's comparisons held (Holm 1979). The
statistics are committed before the run that decides the claims.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from talking_heads.metrics.statistics import Estimate, holds, holm

NAN = float("nan")
ALPHA = 0.05  # family-wise error of the parts of a claim
PART_COLUMNS = ["part", "estimate", "ci_low", "ci_high", "p (Holm)", "part holds"]
COLUMNS = ["id", "claim", "where", "statistic", *PART_COLUMNS, "holds"]


class Part(NamedTuple):
    """One comparison of a claim: an estimate, positive where the claim holds, or what is ``missing``."""

    name: str
    estimate: Estimate = Estimate(NAN, NAN, NAN)
    missing: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, its section, and the statistic that decides it."""

    id: int
    text: str
    where: str
    statistic: str
    parts: Callable[[Any], list[Part]]  # of the measurements of a run


def evaluate(claims: Sequence[Claim], evidence: Any) -> pd.DataFrame:
    """``claims.csv``: a row for every part of every claim, with the part's verdict and the claim's."""
    rows = []
    for claim in claims:
        parts = claim.parts(evidence)
        p_values = adjusted_p_values(parts)
        part_verdicts = [part_verdict(part, p) for part, p in zip(parts, p_values, strict=True)]
        columns = [claim.id, claim.text, claim.where, claim.statistic]
        verdict = claim_verdict(part_verdicts)
        for part, p, part_holds in zip(parts, p_values, part_verdicts, strict=True):
            value, low, high, _ = part.estimate
            rows.append([*columns, part.name, value, low, high, p, part_holds, verdict])
    return pd.DataFrame(rows, columns=COLUMNS)


def adjusted_p_values(parts: Sequence[Part]) -> np.ndarray:
    """Holm-adjusted p-values (n,) of the parts of a claim; NaN for parts without a p-value."""
    p_values = np.array([part.estimate.p for part in parts])
    tested = np.isfinite(p_values)
    p_values[tested] = holm(p_values[tested])
    return p_values


def part_verdict(part: Part, p: float) -> str:
    """Whether a part holds: "yes", "no", "undecided" or "not run: ..."; ``p`` is the adjusted p-value.

    A part without a p-value is decided by its interval.
    """
    if part.missing:
        return f"not run: {part.missing}"
    if np.isnan(p):
        return holds(part.estimate.low, part.estimate.high)
    if p >= ALPHA:
        return "undecided"
    return "yes" if part.estimate.value > 0 else "no"


def claim_verdict(part_verdicts: Sequence[str]) -> str:
    """Whether a claim holds.

    "no" where a part shows the opposite, else "not run: ..." where one is missing, else "yes" where all hold.
    """
    if "no" in part_verdicts:
        return "no"
    for verdict in part_verdicts:
        if verdict.startswith("not run"):
            return verdict
    return "yes" if set(part_verdicts) == {"yes"} else "undecided"


def verdicts(table: pd.DataFrame) -> dict[int, str]:
    """The verdict of every claim of a table of :func:`evaluate`, by id."""
    return dict(table[["id", "holds"]].drop_duplicates("id").itertuples(index=False, name=None))
