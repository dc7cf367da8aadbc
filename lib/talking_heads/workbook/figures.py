"""Sheets of pictures and curves of logged values."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PIXELS = 96  # of a picture in a sheet, at least
COLOURS = ("tab:blue", "tab:orange", "tab:green")
# colours of verdicts that differ for colour-blind readers, too
VERDICTS = {"yes": "#009e73", "undecided": "0.8", "no": "#d55e00", "not run": "white"}


def enlarge(image: np.ndarray) -> np.ndarray:
    """Small pictures (H, W, 3) enlarged by whole pixels to at least ``PIXELS``."""
    factor = max(1, -(-PIXELS // image.shape[0]))
    return image.repeat(factor, 0).repeat(factor, 1)


def framed(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 with a red border of one pixel."""
    image = image.copy()
    image[[0, -1]] = image[:, [0, -1]] = (255, 0, 0)
    return image


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    captions: Sequence[Sequence[str]] = (),
) -> Figure:
    """Rows of pictures (H, W, 3) uint8: titles above the columns, labels left of the rows, captions below
    pictures.
    """
    width, height = max(map(len, rows)), len(rows)
    aspect = max(picture.shape[0] / picture.shape[1] for row in rows for picture in row)
    margin = max(0.6, 0.065 * max(map(len, labels), default=0))  # of the labels
    size = (1.25 * width + margin, 1.25 * aspect * height + 0.5)
    figure, axes = plt.subplots(height, width, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            axes[r, c].imshow(enlarge(picture), interpolation="nearest")
    for r, texts in enumerate(captions):
        for c, caption in enumerate(texts):
            axes[r, c].set_xlabel(caption, fontsize=7, labelpad=2)
    for c, column in enumerate(columns[:width]):
        axes[0, c].set_title(column, fontsize=8)
    for r, label in enumerate(labels[:height]):
        axes[r, 0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", labelpad=4)
    top = 1.0
    if title:
        figure.suptitle(title, fontsize=10, y=1 - 0.03 / figure.get_figheight(), va="top")
        top -= 0.2 / figure.get_figheight()
    figure.tight_layout(pad=0.25, rect=(0, 0, 1, top))
    return figure


def difference_maps(
    rows: Sequence[np.ndarray], truth: np.ndarray, labels: Sequence[str], limit: int = 64
) -> Figure:
    """Generated minus true grey level of pictures (n, S, S, 3) uint8, a row for each of ``rows``: blue where
    a generated picture is darker than the ``truth``, red where it is brighter, with a colour bar to
    ``limit``.
    """
    shape = (len(rows), len(truth))
    size = (1.25 * shape[1] + 1.2, 1.25 * shape[0] + 0.2)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for (r, c), axis in np.ndenumerate(axes):
        difference = rows[r][c].astype(float).mean(-1) - truth[c].astype(float).mean(-1)
        picture = axis.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", labelpad=4)
    bar = figure.colorbar(picture, ax=axes, extend="both", shrink=0.9)
    bar.set_label("generated minus true\n[grey levels of 255]", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def estimates(axis: Axes, table: pd.DataFrame, labels: Sequence[str]) -> None:
    """The ``value`` of every row, the first one on top: with its interval where ``source`` is "here", hollow
    where it is only reported.
    """
    names, measured = pd.Series(list(labels)), (table["source"] == "here").to_numpy()
    value, low, high = (table[name].to_numpy(float) for name in ("value", "ci_low", "ci_high"))
    axis.yaxis.update_units(list(labels))  # in the order of the rows
    if measured.any():
        errors = [(value - low)[measured], (high - value)[measured]]
        axis.errorbar(value[measured], names[measured], xerr=errors, fmt="o", ms=4, capsize=3, label="here")
    if not measured.all():
        axis.plot(value[~measured], names[~measured], "C1s", ms=4, mfc="none", label="paper")
    axis.tick_params(axis="y", labelsize=6)
    axis.set_ylim(len(dict.fromkeys(names)) - 0.5, -0.5)


def forest(
    table: pd.DataFrame,
    groups: Sequence[Sequence[str]],
    metrics: Mapping[str, str],
    same_scale: bool = False,
) -> Figure:
    """Differences with their intervals around a line at zero: a column of panels for each metric of
    ``metrics``, titled as there, and a row of panels for each group of names. Panels have their own scales
    unless ``same_scale``.

    ``table`` has columns metric, name, value, ci_low, ci_high and source.
    """
    heights = [len(names) for names in groups]
    size = (2.2 * len(metrics) + 1.6, 0.24 * sum(heights) + 0.65 * len(groups) + 0.3)
    shape = (len(groups), len(metrics))
    layout = {"squeeze": False, "layout": "constrained", "height_ratios": heights}
    figure, axes = plt.subplots(*shape, figsize=size, sharex=same_scale, **layout)
    for (group, column), axis in np.ndenumerate(axes):
        metric, title = list(metrics.items())[column]
        rows = table[(table["metric"] == metric) & table["name"].isin(groups[group])]
        axis.axvline(0, color="0.6", lw=0.8, ls="--")
        estimates(axis, rows, rows["name"])
        axis.tick_params(labelsize=7, labelleft=column == 0)
        axis.locator_params("x", nbins=4)
        axis.set_title(title if group == 0 else "", fontsize=8)
    return figure


def estimates_by_corpus(table: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """The ``value`` of every method with its interval: a column of panels for each metric of ``metrics``,
    which share the scale named there, and a row of panels for each corpus.

    ``table`` has columns corpus, source, method, metric, value, ci_low and ci_high.
    """
    groups = [group for _, group in table.groupby("corpus", sort=False)]
    heights = [group["method"].nunique() for group in groups]
    size = (3.2 * len(metrics) + 2.6, 0.23 * sum(heights) + 0.35 * len(groups) + 0.5)
    layout = {"squeeze": False, "sharex": "col", "layout": "constrained", "height_ratios": heights}
    figure, axes = plt.subplots(len(groups), len(metrics), figsize=size, **layout)
    for (row, column), axis in np.ndenumerate(axes):
        group, metric = groups[row], list(metrics)[column]
        rows = group[group["metric"] == metric]
        estimates(axis, rows, rows["method"])
        axis.tick_params(axis="y", labelsize=8, labelleft=column == 0)
        axis.grid(axis="x", color="0.9")
    for axes_of_corpus, group in zip(axes, groups, strict=True):
        title = "{corpus} ({source})".format(**group.iloc[0])
        axes_of_corpus[0].set_title(title, loc="left", fontsize=8, fontweight="bold")
    for axis, label in zip(axes[-1], metrics.values(), strict=True):
        axis.set_xlabel(label)
    return figure


def verdicts(table: pd.DataFrame) -> Figure:
    """A bar below each claim of a table of claims, with a field for each part in the colour of its verdict,
    and the verdict of the claim beside it. Narrow enough for a phone.
    """
    claims = list(table.groupby("id", sort=False))
    names = [textwrap.fill(f"{number}. {parts['claim'].iloc[0]}", 80) for number, parts in claims]
    bottoms = np.cumsum([0.8 + 0.5 * len(name.splitlines()) for name in names])
    figure, axis = plt.subplots(figsize=(6.2, 0.32 * bottoms[-1] + 0.5), layout="constrained")
    for name, bottom, (_, parts) in zip(names, bottoms, claims, strict=True):
        kinds = sorted(parts["part holds"].str.partition(":")[0], key=list(VERDICTS).index)
        for field, kind in enumerate(kinds):
            place = {"left": field / len(kinds), "width": 1 / len(kinds), "height": 0.5}
            edge = "0.5" if VERDICTS[kind] == "white" else "white"
            axis.barh(bottom, **place, color=VERDICTS[kind], edgecolor=edge, linewidth=1.2, clip_on=False)
        axis.text(0, bottom - 0.35, name, fontsize=9, in_layout=False)
        axis.text(1.02, bottom, parts["holds"].iloc[0].partition(":")[0], va="center", fontsize=9)
    axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(bottoms[-1] + 0.4, 0))
    axis.spines[:].set_visible(False)
    boxes = [Patch(facecolor=colour, edgecolor="0.4", label=kind) for kind, colour in VERDICTS.items()]
    figure.legend(handles=boxes, title="parts", loc="outside lower left", ncols=len(boxes), fontsize=8)
    return figure


def curves(rows: Sequence[dict], panels: dict[str | tuple[str, ...], str], smooth: int = 25) -> Figure:
    """Logged values over steps: a panel for each name, or for several that share one, with the name of its
    axis.

    Every step is drawn faint, a running mean over ``smooth`` steps strong. Panels without logged values are
    left out. Raises ValueError where none remains.
    """
    table = pd.DataFrame(rows)
    groups = [((name,) if isinstance(name, str) else name, title) for name, title in panels.items()]
    groups = [(names, title) for names, title in groups if set(names) <= set(table)]
    if not groups:
        raise ValueError(f"none of {', '.join(panels.values())} has been logged ({len(table)} steps)")
    figure, axes = plt.subplots(1, len(groups), figsize=(2.7 * len(groups), 2.3), squeeze=False)
    for axis, (names, title) in zip(axes[0], groups, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            values = table[["step", name]].dropna()
            mean = values[name].rolling(smooth, min_periods=1).mean()
            axis.plot(values["step"], values[name], color=colour, alpha=0.25, lw=0.8)
            axis.plot(values["step"], mean, color=colour, lw=1.5, label=name)
        if len(names) > 1:
            axis.legend(fontsize=7)
        _label_steps(axis)
        axis.set_ylabel(title, fontsize=8)
    figure.tight_layout(pad=0.4, w_pad=1.5)
    return figure


def runs(
    logs: Mapping[str, Sequence[dict] | pd.DataFrame],
    panels: Mapping[str, str],
    smooth: int = 5,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Several runs in each panel: a panel for each logged value, three in a row, and a line for each run that
    logged it.

    Where a name has several runs, and so a step several rows, the line is their mean and a band reaches from
    the lowest to the highest. Lines are smoothed over ``smooth`` rows; bands and the rare validation losses
    are not. ``colours`` has a colour for every run; without it they are chosen.
    """
    of_runs = [colours[name] for name in logs] if colours else _run_colours(len(logs))
    width, height = min(3, len(panels)), -(-len(panels) // 3)
    size = (3.0 * width + 1.6, 2.6 * height)
    figure, axes = plt.subplots(height, width, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (value, title) in zip(axes.flat, panels.items(), strict=False):
        for colour, (name, rows) in zip(of_runs, logs.items(), strict=True):
            _draw_run(axis, pd.DataFrame(rows), value, name, colour, smooth)
        _label_steps(axis, title)
    legends = [axis.get_legend_handles_labels() for axis in axes.flat]  # not every run logs every value
    axes[0, -1].legend(
        *max(legends, key=lambda legend: len(legend[1])),
        fontsize=7,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
    )
    figure.tight_layout(pad=0.4)
    return figure


def groups_of_runs(
    groups: Mapping[str, Sequence[Sequence[dict]]], panels: Mapping[str, str], smooth: int = 25
) -> Figure:
    """Groups of runs: a panel for each logged value, with the name of its axis, and a colour for each group.

    A thin line is one run and a bold line the mean of its group, both averaged over ``smooth`` rows.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2.7 * len(panels), 2.5), squeeze=False)
    for axis, (value, title) in zip(axes[0], panels.items(), strict=True):
        for colour, (name, logs) in zip(COLOURS, groups.items(), strict=False):
            rows = pd.concat([pd.DataFrame(log).assign(run=run) for run, log in enumerate(logs)])
            if value not in rows:
                continue
            by_run = rows.pivot(index="step", columns="run", values=value).dropna(how="all")
            means = by_run.rolling(smooth, min_periods=1).mean()
            axis.plot(means.index, means, color=colour, alpha=0.35, lw=0.6)
            axis.plot(means.index, means.mean(axis=1), color=colour, lw=2, label=name)
        _label_steps(axis)
        axis.set_ylabel(title, fontsize=8)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout(pad=0.4, w_pad=1.5)
    return figure


def _run_colours(count: int) -> list:
    """Colours of runs; more than ten share a scale from cold to warm."""
    if count <= 10:
        return [f"C{n}" for n in range(count)]
    return list(plt.get_cmap("turbo")(np.linspace(0.05, 0.95, count)))


def _draw_run(axis: Axes, table: pd.DataFrame, value: str, name: str, colour: Any, smooth: int) -> None:
    if value not in table or not len(rows := table[["step", value]].dropna()):
        return
    by_step = rows.groupby("step")[value].agg(["mean", "min", "max"])
    window = 1 if value == "validation" else smooth
    line = by_step["mean"].rolling(window, min_periods=1).mean()
    axis.plot(line.index, line, lw=1.2, color=colour, label=name)
    if len(by_step) < len(rows):
        axis.fill_between(by_step.index, by_step["min"], by_step["max"], color=colour, alpha=0.12, lw=0)


def _label_steps(axis: Axes, title: str = "") -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=7)


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    return path
