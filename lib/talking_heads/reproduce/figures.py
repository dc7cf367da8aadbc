"""Figures in the paper's layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation.protocol import about

PIXELS = 96  # of a picture in a sheet, at least


def enlarged(image: np.ndarray) -> np.ndarray:
    """Small pictures by whole pixels, so that what is seen is what was made."""
    factor = max(1, -(-PIXELS // image.shape[0]))
    return image.repeat(factor, 0).repeat(factor, 1)


def sheet(rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str] = (), labels: Sequence[str] = (), title: str = "",
          captions: Sequence[Sequence[str]] = ()) -> Figure:
    """Rows of pictures (H, W, 3) uint8 with titles above the columns, labels left of the rows and captions below each picture."""
    wide, high = max(map(len, rows)), len(rows)
    shape = max(picture.shape[0] / picture.shape[1] for row in rows for picture in row)
    figure, axes = plt.subplots(high, wide, figsize=(1.25 * wide + 0.6, 1.25 * shape * high + 0.5), squeeze=False)
    for r, row in enumerate(rows):
        for c in range(wide):
            axis = axes[r, c]
            axis.set_xticks([]), axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if c < len(row):
                axis.imshow(enlarged(row[c]), interpolation="nearest")
            if r < len(captions) and c < len(captions[r]):
                axis.set_xlabel(captions[r][c], fontsize=6, labelpad=2)
            if r == 0 and c < len(columns):
                axis.set_title(columns[c], fontsize=8)
        if r < len(labels):
            axes[r, 0].set_ylabel(labels[r], fontsize=8, rotation=0, ha="right", va="center", labelpad=4)
    if title:
        figure.suptitle(title, fontsize=10, y=1 - 0.03 / figure.get_figheight(), va="top")
    figure.tight_layout(pad=0.25, rect=(0, 0, 1, 1 - bool(title) * 0.2 / figure.get_figheight()))  # the title's own 0.2 inches
    return figure


def curves(rows: Sequence[dict], panels: dict[str | tuple[str, ...], str], smooth: int = 25) -> Figure:
    """Logged values over steps: a panel for each name, or for several that share one; every step faint, a running mean strong."""
    table = pd.DataFrame(rows)
    groups = [((name,) if isinstance(name, str) else name, title) for name, title in panels.items()]
    groups = [(names, title) for names, title in groups if set(names) <= set(table)]
    figure, axes = plt.subplots(1, len(groups), figsize=(2.7 * len(groups), 2.3), squeeze=False)
    for axis, (names, title) in zip(axes[0], groups):
        for name, colour in zip(names, ("tab:blue", "tab:orange", "tab:green")):
            part = table[["step", name]].dropna()
            axis.plot(part["step"], part[name], color=colour, alpha=0.25, lw=0.8)
            axis.plot(part["step"], part[name].rolling(smooth, min_periods=1).mean(), color=colour, lw=1.5, label=name)
        if len(names) > 1:
            axis.legend(fontsize=6)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.tight_layout(pad=0.4)
    return figure


def runs(logs: Mapping[str, Sequence[dict] | pd.DataFrame], panels: Mapping[str, str], smooth: int = 5) -> Figure:
    """Several runs over each other: a panel for each logged value, three in a row, and a line for each run that logged it.

    Where a name has many runs, and so a step many rows, the line is their mean and the band reaches from the lowest to the
    highest of them. Lines are smoothed, bands and validation losses, which are rare, are not. More than ten runs share a scale from cold to warm.
    """
    colours = [f"C{n}" for n in range(len(logs))] if len(logs) <= 10 else plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(logs)))
    wide, high = min(3, len(panels)), -(-len(panels) // 3)
    figure, axes = plt.subplots(high, wide, figsize=(3.0 * wide + 1.6, 2.6 * high), squeeze=False)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    for axis, (value, title) in zip(axes.flat, panels.items()):
        for colour, (name, rows) in zip(colours, logs.items()):
            table = pd.DataFrame(rows)
            if value in table and len(part := table[["step", value]].dropna()):
                by_step = part.groupby("step")[value].agg(["mean", "min", "max"])
                line = by_step["mean"].rolling(1 if value == "validation" else smooth, min_periods=1).mean()
                axis.plot(line.index, line, lw=1.2, color=colour, label=name)
                if len(by_step) < len(part):
                    axis.fill_between(by_step.index, by_step["min"], by_step["max"], color=colour, alpha=0.12, lw=0)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    named = max((axis.get_legend_handles_labels() for axis in axes.flat), key=lambda lines: len(lines[1]))  # not every run logs every value
    axes[0, -1].legend(*named, fontsize=6, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    figure.tight_layout(pad=0.4)
    return figure


def choices(cells: Sequence[Path], shots: Sequence[int], most: int = 6) -> list[list[Path]]:
    """Cells for three figures: two further people for each T; two people at every T; many people at the middle T."""
    by = {t: [c for c in cells if f"_T{t}_seed0" in c.stem] for t in shots}
    middle = by[shots[len(shots) // 2]]
    several = [by[t][k % len(by[t])] for k, t in enumerate(t for t in shots for _ in range(2))]
    return [several, [by[t][0] for t in shots] + [by[t][-1] for t in shots], middle[:most]]


def comparison(cells: Sequence[Path], methods: Sequence[str], title: str = "") -> Figure:
    """Rows as in the paper's Figures 3 and 4: T, source, ground truth, the methods that are there."""
    rows, labels, columns = [], [], ["source", "ground truth", *methods]
    for path in cells:
        with np.load(path) as cell:
            k = len(cell["truth"]) // 2
            blank = np.full_like(cell["source"], 235)
            rows.append([cell["source"], cell["truth"][k], *(cell[m][k] if m in cell else blank for m in methods)])
            labels.append(f"T = {about(path)[2]}")
    return sheet(rows, [c.replace(" before", "\nbefore").replace(", ", ",\n") for c in columns], labels, title)


def save(figure: Figure, path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    return path
