"""Tables as CSV, Markdown and LaTeX."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# characters that LaTeX interprets, or has no letter for
LATEX_REPLACEMENTS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "ψ̂": r"$\hat\psi$",
    "ê": r"$\hat e$",
    "ψ": r"$\psi$",
    "σ": r"$\sigma$",
    "′": "$'$",
    "²": "$^2$",
    "₀": "$_0$",
    "×": r"$\times$",
    "−": "$-$",
    "→": r"$\to$",
    "–": "--",
    "é": r"\'e",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}
LONGEST_FIRST = sorted(LATEX_REPLACEMENTS, key=len, reverse=True)
LATEX_PATTERN = re.compile("|".join(re.escape(text) for text in LONGEST_FIRST))


def write_table(
    table: pd.DataFrame, shown: pd.DataFrame, folder: Path, name: str, caption: str
) -> list[Path]:
    """Write ``table`` as ``<name>.csv``, and ``shown``, its form for readers, as ``.md`` and ``.tex``.

    Blank cells of ``shown`` become dashes. Returns the three paths.
    """
    filled = shown.astype(object).where(shown.notna() & (shown != ""), "–")
    folder.mkdir(parents=True, exist_ok=True)
    csv, md, tex = (folder / f"{name}.{suffix}" for suffix in ("csv", "md", "tex"))
    table.to_csv(csv, index=False, float_format="%.6g")
    md.write_text(f"{caption}\n\n{markdown(filled)}", encoding="utf-8")
    tex.write_text(latex(filled, caption), encoding="utf-8")
    return [csv, md, tex]


def with_interval(value: float, low: float, high: float, form: str = ".4g") -> str:
    """A value and its interval, where it has one: the paper's have none, nor has that of one identity."""
    return f"{value:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def markdown(table: pd.DataFrame) -> str:
    """A pipe table."""
    lines = [_markdown_line(table.columns), "|" + "---|" * len(table.columns)]
    lines += [_markdown_line(row) for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def latex(table: pd.DataFrame, caption: str) -> str:
    """A complete ``table`` environment."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(caption)}}}",
        r"\begin{tabular}{" + "l" * len(table.columns) + "}",
        r"\hline",
        _latex_line(table.columns),
        r"\hline",
        *(_latex_line(row) for row in table.itertuples(index=False)),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(value: Any) -> str:
    """A value as LaTeX text."""
    return LATEX_PATTERN.sub(_replacement, str(value))


def _replacement(match: re.Match) -> str:
    return LATEX_REPLACEMENTS[match.group()]


def _markdown_line(values: Iterable[Any]) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"


def _latex_line(values: Iterable[Any]) -> str:
    return " & ".join(escape_latex(value) for value in values) + r" \\"
