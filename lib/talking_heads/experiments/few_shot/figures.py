"""Figures of evaluated frames in the paper's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from talking_heads.experiments.few_shot.protocol import Cell, opened_cell
from talking_heads.workbook.figures import sheet

MOST = 6  # identities in a figure
BLANK = 235  # grey level of a picture that is not there


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
