"""Table 2 (section A.1): measured seconds beside the paper's."""

from pathlib import Path

import pandas as pd

from talking_heads.config import Profile
from talking_heads.experiments.few_shot.tables import COLUMNS


def table2(rows: pd.DataFrame, device: str, run_id: str) -> pd.DataFrame:
    """Measured seconds beside the paper's, and whether the methods have the same order in both.

    ``rows`` are those of :func:`timing.table2` with a column ``size``; ``device`` is the name of the device
    that was timed. The columns of :func:`table1` come first: ``value`` is a median of seconds, ``ci_low`` and
    ``ci_high`` are its quartiles. ``rank`` and ``paper rank`` order the methods of one size, phase and T.
    Where the profile's own size is the paper's and was measured twice, the first measurement counts.
    """
    paper = pd.read_csv(Path(__file__).with_name("paper_timings.csv"))
    setting = ["size", "phase", "T"]
    columns = {"seconds": "value", "low": "ci_low", "high": "ci_high", "measured": "n_frames"}
    table = rows.rename(columns=columns).drop_duplicates([*setting, "method"])
    table = table.merge(paper, on=["method", "phase", "T"], how="left")
    table = table.assign(
        corpus="random weights",
        metric=table["phase"] + " [s], " + table["size"].astype(str) + "²",
        n_identities=0,
        n_seeds=0,
        seed_sd=float("nan"),
        verdict="not comparable",
        run_id=run_id,
        needs="",
        device=device,
    )
    in_paper = table[table["paper_value"].notna()]
    table["rank"] = in_paper.groupby(setting)["value"].rank()
    table["paper rank"] = table.groupby(setting)["paper_value"].rank()
    table["differs"] = table["rank"].notna() & (table["rank"] != table["paper rank"])
    by_setting = table.groupby(setting)
    order_holds = ~by_setting["differs"].transform("any")
    table["order holds"] = order_holds.where(
        by_setting["rank"].transform("count") > 0
    )  # else no paper's order
    others = [column for column in table if column not in (*COLUMNS, "differs")]
    return table[[*COLUMNS, *others]].sort_values([*setting, "value"], ignore_index=True)


# the columns of Table 2 for readers
TABLE2_COLUMNS = [
    "size",
    "phase",
    "T",
    "method",
    "predicted",
    "value",
    "ci_low",
    "ci_high",
    "paper_value",
    "paper_2080ti",
    "rank",
    "paper rank",
    "order holds",
    "memory [GiB]",
    "note",
]


def table2_caption(profile: Profile, device: str, clocks: str) -> str:
    """The caption of Table 2; ``device`` and ``clocks`` describe what was timed."""
    return (
        f"Table 2, profile {profile.name}, untrained weights: seconds on {device}, {clocks}; medians, and "
        "quartiles in ci_low and ci_high. Beside them the paper's, means over 100 iterations on a P40, and "
        "on a 2080 Ti: not comparable."
    )


def order_line(table: pd.DataFrame, phase: str) -> str:
    """The paper's order of the methods in a phase of :func:`table2`, how often it holds here, and the
    verdict.
    """
    rows = table[(table["phase"] == phase) & table["paper rank"].notna()]
    by_setting = rows.groupby(["size", "T"])["order holds"].first().astype(bool)
    order = ", ".join(rows.sort_values("paper rank")["method"].drop_duplicates())
    paper = f"{phase}, fastest first: {order} (section A.1, Table 2)"
    here = f"the same order in {by_setting.sum()} of {len(by_setting)} settings of size and T"
    return f"Paper: {paper}. Here: {here}. Verdict: {'yes' if by_setting.all() else 'no'}."
