"""Table 1 with the paper's numbers beside ours (section 4), and the sizes of the networks."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.paper_numbers import (
    LOWER_IS_BETTER,
    corpus_name,
    paper_corpus,
)
from talking_heads.experiments.few_shot.table1_rows import METRICS, Measured, MethodRows
from talking_heads.few_shot.baselines.training import build_pix2pixhd, build_x2face
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.judges.faces import reliability

VERSION = 1  # of Table 1's statistics: raised when the same frames give other values or intervals

COLUMNS = [
    "corpus",
    "method",
    "T",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n_identities",
    "n_frames",
    "n_seeds",
    "seed_sd",
    "paper_value",
    "verdict",
    "run_id",
    "needs",
]


def table1(
    measured: Measured, profile: Profile, run_id: str, names: Sequence[str] = methods.TABLE1
) -> pd.DataFrame:
    """Every metric of every method of ``names`` at every T: a row each, with columns ``COLUMNS``.

    Intervals are over identities; ``seed_sd`` is the standard deviation between fine-tuning seeds. What was
    not measured has a row without a value, with the verdict "not run" and what it ``needs``.
    """
    records: list[dict[str, Any]] = []
    for method, t in product(names, sorted(measured.frames["T"].unique().tolist())):
        rows = MethodRows(measured, method, t).build(profile)
        records += [row.record(profile, run_id) for row in rows]
    return pd.DataFrame(records, columns=COLUMNS)


def wide_table(table: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """The paper's layout: a row for each T, corpus and method, a column for each metric."""
    keys = ["T", "corpus", "method"]
    table = table.assign(
        corpus=table["corpus"].str.partition(", ")[2],
        text=[_cell_text(row) for row in table.to_dict("records")],
    )
    order = table.sort_values("T", kind="stable")[keys].drop_duplicates()
    cells = table.pivot(index=keys, columns="metric", values="text")
    columns = [metric for metric in metrics if metric in cells.columns]
    return cells.loc[list(order.itertuples(index=False, name=None)), columns].reset_index()


def _cell_text(row: Mapping[str, Any]) -> str:
    """``value [low, high] (paper value, verdict)``, as far as a row has them."""
    is_decided = row["verdict"] not in ("not comparable", "not run")
    verdict_text = f", {row['verdict']}" if is_decided else ""
    paper = ""
    if not np.isnan(row["paper_value"]):
        paper = f" (paper {row['paper_value']:g}{verdict_text})"
    if np.isnan(row["value"]):
        return f"not run: needs {row['needs']}{paper}"
    digits = 1 if abs(row["value"]) >= 10 else 3
    interval = ""
    if not np.isnan(row["ci_low"]):
        interval = f" [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
    return f"{row['value']:.{digits}f}{interval}{paper}"


def add_arrows(table: pd.DataFrame) -> pd.DataFrame:
    """A wide table whose metrics are marked ↓ where lower is better and ↑ elsewhere."""
    arrows = {metric: "↓" if metric in LOWER_IS_BETTER else "↑" for metric in METRICS}
    return table.rename(columns={metric: f"{metric} {arrow}" for metric, arrow in arrows.items()})


def table1_caption(table: pd.DataFrame, profile: Profile, weights: str) -> str:
    """The caption of Table 1; ``weights`` describes the networks."""
    if set(table["verdict"]) - {"not comparable", "not run"}:
        paper = "the paper's numbers, each with a verdict"
    else:
        paper = "the paper's numbers, on other data or at another size: not comparable"
    sentences = (
        f"Table 1, profile {profile.name}, on {corpus_name(profile)}.",
        f"Square brackets: 95 % intervals over identities; round brackets: {paper}.",
        "X2Face is driven by the true frame, all others by its landmarks.",
        "USER-proxy: share of fakes that an observer network finds; chance is 0.33.",
        reliability(profile.data.real),
        f"{weights}.",
    )
    return " ".join(filter(None, sentences))


def paper_lines(table: pd.DataFrame, metric: str, t: int) -> list[str]:
    """For every row of :func:`table1` with this metric and T that was measured: what the paper reports, what
    was measured here, and the verdict. Rows that the paper does not have are left out.
    """
    rows = table[(table["metric"] == metric) & (table["T"] == t) & table["value"].notna()]
    lines = []
    for row in rows.dropna(subset="paper_value").itertuples():
        interval = "" if np.isnan(row.ci_low) else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        setting = f"{metric} of {row.method}, T = {t}"
        paper = f"{row.paper_value:g} ({paper_corpus(row.method)})"
        lines.append(f"Paper: {setting}: {paper}. Here: {row.value:.3f}{interval}. Verdict: {row.verdict}.")
    return lines


def parameter_counts(profile: Profile) -> dict[str, int]:
    """Parameters of every network of a profile, and the number of person-specific ones of G (section 3.4)."""
    with torch.device("meta"):  # counted, never filled
        networks, x2face = build_networks(profile.few_shot.networks, 1), build_x2face(profile)
        pix2pixhd, patches = build_pix2pixhd(profile)
    modules: dict[str, torch.nn.Module] = {
        "embedder": networks.embedder,
        "discriminator_convnet": networks.discriminator.convnet,
        "generator": networks.generator,
        "pix2pixhd_generator": pix2pixhd,
        "pix2pixhd_discriminator": patches,
        "x2face_embedding": x2face.embedding,
        "x2face_driving": x2face.driving,
    }
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    return {**counts, "person_parameters": networks.generator.person_parameters}
