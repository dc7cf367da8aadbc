"""Library code and diagrams on the page of a notebook."""

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

from IPython.display import HTML, Code

DIAGRAMS = Path(__file__).with_name("diagrams")
FONT = "font-family: var(--jp-code-font-family, monospace); font-size: var(--jp-code-font-size, 13px)"


class Source(Code):
    """Highlighted code in the font of the cells, which pages would show in the font of the text."""

    def _repr_html_(self) -> str:
        return f"<style>.highlight pre {{ {FONT}; line-height: 1.3 }}</style>{super()._repr_html_()}"


def source(*functions: Callable) -> Source:
    """The source of functions or classes, highlighted."""
    texts = (textwrap.dedent(inspect.getsource(function)) for function in functions)
    return Source("\n\n".join(texts), language="python")


def diagram(name: str) -> HTML:
    """A diagram of ``workbook/diagrams``, in the colour of the text.

    Raises FileNotFoundError where there is none of this name.
    """
    svg = (DIAGRAMS / f"{name}.svg").read_text(encoding="utf-8")
    return HTML(f'<div style="max-width: 900px">{svg}</div>')
