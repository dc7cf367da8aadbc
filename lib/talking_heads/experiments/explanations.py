"""Why claims of the paper do not hold here: a paragraph for every *no* and *undecided*, from measurements.

A paragraph begins with the parts of the claim: how many hold, how many identities the undecided ones need,
and the weakest one. Causes follow, each only where the measurements show it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ["id", "claim", "holds", "why"]
NO_CAUSE = "The measurements show no cause."
LARGEST_COUNT = 1_000  # identities; larger numbers are given as "1000 or more"
VERDICT_TEXTS = {"yes": "as claimed", "no": "the opposite", "undecided": "undecided", "not run": "not run"}


Cause = Callable[[Any], str]  # describes what measurements show; raises NotShown where they do not


class NotShown(LookupError):
    """A cause was not measured, or the measurements do not show it."""


def only_if(condition: object) -> None:
    """Raises NotShown where the measurements do not show a cause, and the condition is false."""
    if not condition:
        raise NotShown("the measurements do not show this cause")


def interval_text(value: float, low: float, high: float) -> str:
    """A difference with its interval, with four digits where it is small."""
    digits = 4 if abs(value) < 0.01 else 3
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def explain(
    table: pd.DataFrame,
    causes: Mapping[int, Sequence[Cause]],
    data: Any,
    n_identities: Callable[[int, str], int | None],
) -> pd.DataFrame:
    """``explanations.csv``: a row for every *no* and *undecided* of a table of :func:`claims.evaluate`.

    ``causes`` by claim are called with ``data``. ``n_identities`` of a claim and a part is the number of
    identities that its interval is over, None where it is over something else.
    """
    rows, reasons = [], {}
    for _, parts in table[table["holds"].isin(["no", "undecided"])].groupby("id"):
        number, claim, verdict = parts[["id", "claim", "holds"]].iloc[0]
        found = find_causes(causes[number], data) or [NO_CAUSE]
        described = describe_parts(parts, [n_identities(number, part) for part in parts["part"]])
        reasons[number] = [described, describe_weakest(parts), *found]
        rows.append([number, claim, verdict, " ".join(reasons[number])])
    explanations = pd.DataFrame(rows, columns=COLUMNS)
    explanations.attrs["reasons"] = reasons
    return explanations


def as_list(explanations: pd.DataFrame) -> str:
    """A table of :func:`explain` as a Markdown list: a claim, and below it a point for each reason."""
    lines = []
    for row in explanations.itertuples():
        lines.append(f"* **{row.id}. {row.claim}: {row.holds}.**")
        lines += [f"    * {reason}" for reason in explanations.attrs["reasons"][row.id]]
    return "\n".join(lines) or "Every claim that was run holds."


def result_line(parts: pd.DataFrame) -> str:
    """What the paper states, what was measured here, and the verdict.

    ``parts`` are the rows of one claim in a table of :func:`claims.evaluate`.
    """
    claim, where, verdict = parts[["claim", "where", "holds"]].iloc[0]
    here = _counts(parts) if len(parts) > 1 else parts["part"].iloc[0]
    if parts["estimate"].notna().any():
        weakest = f"; weakest: {weakest_part(parts)['part']}" if len(parts) > 1 else ""
        here += f"{weakest}: {_weakest_estimate(parts)}"
    return f"Paper: {claim} (section {where}). Here: {here}. Verdict: {verdict}."


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for every claim of a table of :func:`claims.evaluate`, with what :func:`result_line` states."""
    rows = []
    for number, parts in table.groupby("id"):
        claim, where, verdict = parts[["claim", "where", "holds"]].iloc[0]
        row = {"id": number, "paper: claim": claim, "section": where, "here: parts": _counts(parts)}
        measured = parts["estimate"].notna().any()
        row["weakest part"] = weakest_part(parts)["part"] if measured else ""
        row["its estimate"] = _weakest_estimate(parts) if measured else ""
        rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


def _counts(parts: pd.DataFrame) -> str:
    """How many parts of a claim have which verdict."""
    counts = parts["part holds"].str.partition(":")[0].value_counts()
    kinds = ", ".join(f"{kind} {counts[kind]}" for kind in VERDICT_TEXTS if kind in counts)
    return f"{kinds} of {len(parts)} part{'s' if len(parts) > 1 else ''}"


def _weakest_estimate(parts: pd.DataFrame) -> str:
    return interval_text(*weakest_part(parts)[["estimate", "ci_low", "ci_high"]])


def find_causes(causes: Sequence[Cause], data: Any) -> list[str]:
    """The texts of the causes that the measurements show."""
    found = []
    for cause in causes:
        with suppress(NotShown):
            found.append(cause(data))
    return found


def describe_parts(parts: pd.DataFrame, n_identities: Sequence[int | None]) -> str:
    """How many parts of a claim hold, show the opposite or are undecided, and what the undecided ones need,
    where intervals are over identities.

    ``parts`` are the rows of one claim in a table of :func:`claims.evaluate`; ``n_identities`` as those of
    :func:`explain`, for each part.
    """
    parts = parts.assign(n_identities=pd.array(n_identities, "Int64"))
    counts = parts["part holds"].str.partition(":")[0].value_counts()
    texts = [f"{counts[verdict]} {text}" for verdict, text in VERDICT_TEXTS.items() if verdict in counts]
    sentences = [f"Parts: {', '.join(texts)}."]
    undecided = parts[(parts["part holds"] == "undecided") & (parts["estimate"] != 0)]
    undecided = undecided.dropna(subset=["ci_low", "n_identities"])
    if len(undecided):
        sentences += describe_undecided(undecided)
    return " ".join(sentences)


def describe_undecided(undecided: pd.DataFrame) -> list[str]:
    """The direction of undecided parts, and how many identities would give narrow enough intervals."""
    positive = (undecided["estimate"] > 0).sum()
    sentences = [f"Undecided estimates above zero, as the paper claims: {positive} of {len(undecided)}."]
    excludes_zero = (undecided["ci_low"] > 0) | (undecided["ci_high"] < 0)
    if excludes_zero.any():
        sentences.append(f"Undecided only because of Holm's correction: {excludes_zero.sum()}.")
    if not excludes_zero.all():
        wide = undecided[~excludes_zero]
        needed, measured = identities_needed(wide), wide["n_identities"].to_numpy(int)
        sentences.append(
            f"If the estimates are right, intervals over about {range_text(needed)} identities have an even "
            f"chance of excluding zero; {range_text(measured)} were measured."
        )
    return sentences


def identities_needed(undecided: pd.DataFrame) -> np.ndarray:
    """The numbers of identities (n,) at which intervals would reach from the estimates to zero.

    The width of an interval falls with the square root of the number of identities.
    """
    n_identities = undecided["n_identities"].to_numpy(int)
    half_width = (undecided["ci_high"] - undecided["ci_low"]).to_numpy() / 2
    needed = n_identities * (half_width / undecided["estimate"].abs().to_numpy()) ** 2
    return needed.clip(n_identities + 1, LARGEST_COUNT).round().astype(int)


def range_text(counts: np.ndarray) -> str:
    """The lowest and the highest of some numbers of identities."""
    texts = [f"{n} or more" if n == LARGEST_COUNT else str(n) for n in (counts.min(), counts.max())]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def describe_weakest(parts: pd.DataFrame) -> str:
    """The name and the estimate of :func:`weakest_part`, where a part has one."""
    if parts["estimate"].isna().all():
        return "No part has an estimate: nothing could be compared."
    name, *estimate = weakest_part(parts)[["part", "estimate", "ci_low", "ci_high"]]
    return f"Weakest part, relative to the width of its interval: {name}, {interval_text(*estimate)}."


def weakest_part(parts: pd.DataFrame) -> pd.Series:
    """The part, of those with an estimate, whose estimate is lowest relative to the width of its interval."""
    parts = parts.dropna(subset=["estimate"])
    width = (parts["ci_high"] - parts["ci_low"]).replace(0, np.nan)
    ratio = (parts["estimate"] / width).fillna(parts["estimate"])
    return parts.iloc[int(ratio.argmin())]
