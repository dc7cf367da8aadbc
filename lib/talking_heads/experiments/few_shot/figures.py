"""Figures of evaluated frames in the paper's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from talking_heads.experiments.few_shot import methods as names
from talking_heads.experiments.few_shot.cells import Cell, opened_cell
from talking_heads.experiments.few_shot.paper_numbers import LOWER_IS_BETTER
from talking_heads.experiments.few_shot.timing import INFERENCE
from talking_heads.workbook.figures import sheet

MOST = 6  # identities in a figure
BLANK = 235  # grey level of a picture that is not there
UNITS = {"landmark error": "[distance of the eyes' outer corners]"}
COLOURS = {
    names.X2FACE: "tab:purple",
    names.PIX2PIXHD: "tab:brown",
    names.OURS_BEFORE: "tab:cyan",
    names.OURS: "tab:blue",
    names.FEED_FORWARD: "tab:green",
    names.BEFORE: "tab:cyan",
    names.AFTER: "tab:blue",
    names.NEAREST: "0.35",
    names.MEAN: "0.65",
}


class Selection(NamedTuple):
    """Cells of three figures: two identities for each T, two identities at every T, many at the middle T."""

    each: list[Path]
    two: list[Path]
    many: list[Path]


def select_cells(cells: Sequence[Path], shots: Sequence[int]) -> Selection:
    """Cells of the first fine-tuning seed for the figures."""
    by_t = {t: [c for c in cells if Cell.of(c).t == t and Cell.of(c).seed == 0] for t in shots}
    repeated: list[int] = np.repeat(shots, 2).tolist()
    each = [by_t[t][k % len(by_t[t])] for k, t in enumerate(repeated)]
    two = [by_t[t][0] for t in shots] + [by_t[t][-1] for t in shots]
    return Selection(each, two, by_t[shots[len(shots) // 2]][:MOST])


def comparison(cells: Sequence[Path], methods: Sequence[str], title: str = "") -> Figure:
    """Rows as in the paper's Figures 3 and 4: T, source, ground truth, and the methods that are there."""
    rows, labels = [], []
    for path in cells:
        with opened_cell(path) as cell:
            middle = len(cell["truth"]) // 2
            blank = np.full_like(cell["source"], BLANK)
            generated = [cell[name][middle] if name in cell else blank for name in methods]
            rows.append([cell["source"], cell["truth"][middle], *generated])
            labels.append(f"T = {Cell.of(path).t}")
    columns = [
        name.replace(" before", "\nbefore").replace(", ", ",\n")
        for name in ("source", "ground truth", *methods)
    ]
    return sheet(rows, columns, labels, title)


def metrics_by_shots(table: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Metrics of :func:`tables.table1` against T, with their intervals, and the paper's numbers as hollow
    squares.

    A column of panels for each metric, a row for the methods of each corpus; both rows have the trivial
    baselines. Landmark errors have a logarithmic axis.
    """
    corpora = (names.SMALL, names.LARGE)
    shape, size = (2, len(metrics)), (2.0 * len(metrics) + 1.9, 4.6)
    figure, axes = plt.subplots(*shape, figsize=size, sharey="col", squeeze=False, layout="constrained")
    for (row, column), axis in np.ndenumerate(axes):
        metric, corpus = metrics[column], corpora[row]
        trained = [method for method, part in names.CORPUS.items() if part == corpus]
        _draw_methods(axis, table[table["metric"] == metric], [*trained, *names.TRIVIAL])
        arrow = "lower" if metric in LOWER_IS_BETTER else "higher"
        unit = f"\n{UNITS[metric]}" if metric in UNITS else ""
        axis.set_title(f"{metric}{unit}\n({arrow} is better)" if row == 0 else "", fontsize=8)
        if metric == "landmark error":
            _set_log_scale(axis)
        axis.set_xlabel("training frames T" if row else "", fontsize=8)
    for axes_of_row, corpus in zip(axes, corpora, strict=True):
        axes_of_row[0].set_ylabel(f"{corpus} corpus", fontsize=8)
        axes_of_row[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return figure


def _set_log_scale(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5 of each decade."""
    axis.set_yscale("log", nonpositive="clip")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_methods(axis: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> None:
    """One line for each method over the places of T, shifted a little so that intervals do not overlap."""
    shots = sorted(rows["T"].unique().tolist())
    for number, method in enumerate(methods):
        measured = rows[(rows["method"] == method) & rows["value"].notna()].sort_values("T")
        places = np.array([shots.index(t) for t in measured["T"]]) + 0.09 * (number - (len(methods) - 1) / 2)
        value, low, high, paper = (
            measured[name].to_numpy(float) for name in ("value", "ci_low", "ci_high", "paper_value")
        )
        errors, dashes = [value - low, high - value], "--" if method in names.TRIVIAL else "-"
        axis.errorbar(
            places, value, errors, color=COLOURS[method], marker="o", ms=3.5, ls=dashes, lw=1, capsize=2
        )
        axis.plot([], [], "o", ms=3.5, ls=dashes, lw=1, color=COLOURS[method], label=method)
        axis.plot(places - 0.045, paper, "s", ms=4, mfc="none", color=COLOURS[method])
    axis.plot([], [], "s", ms=4, mfc="none", color="k", label="paper (other data)")
    axis.set_xticks(range(len(shots)), [str(t) for t in shots])
    axis.set_xlim(-0.5, len(shots) - 0.5)
    axis.tick_params(labelsize=7)


def predicted_and_measured(rows: pd.DataFrame) -> Figure:
    """Measured against predicted seconds, and their ratio against the share of arithmetic, with quartiles.

    A colour for each method and a marker for each size of ``rows``, hollow for inference. The rows
    are those of :func:`timing.measurements` with the columns size and ratio.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    markers = dict(zip(sorted(rows["size"].unique()), "o^sD", strict=False))
    for (size, method, phase), table in rows.groupby(["size", "method", "phase"]):
        errors = np.array([table["seconds"] - table["low"], table["high"] - table["seconds"]])
        style = {"fmt": markers[size], "color": COLOURS[method], "ms": 5, "lw": 1}
        if phase == INFERENCE:
            style["mfc"] = "white"
        else:
            style["label"] = f"{method}, {size}²"
        axes[0].errorbar(table["predicted"], table["seconds"], errors, **style)
        axes[1].errorbar(table["arithmetic"], table["ratio"], errors / table["predicted"].to_numpy(), **style)
    axes[0].axline((0.01, 0.01), (1, 1), color="0.6", ls="--", lw=0.8)
    axes[0].plot([], [], "o", color="0.4", mfc="white", label="hollow: inference")
    axes[0].set(xscale="log", yscale="log", xlabel="predicted [s]", ylabel="measured [s]")
    axes[1].axhline(1, color="0.6", ls="--", lw=0.8)
    axes[1].set(xlabel="share of arithmetic in the predicted time", ylabel="measured over predicted time")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
