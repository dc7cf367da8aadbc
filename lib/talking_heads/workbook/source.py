"""Library code on the page of a notebook."""

import inspect
from collections.abc import Callable

from IPython.display import Code

FONT = "font-family: var(--jp-code-font-family, monospace); font-size: var(--jp-code-font-size, 13px)"


class Source(Code):
    """Highlighted code in the font of the cells, which pages would show in the font of the text."""

    def _repr_html_(self) -> str:
        return f"<style>.highlight pre {{ {FONT}; line-height: 1.3 }}</style>{super()._repr_html_()}"


def source(*functions: Callable) -> Source:
    """The source of functions or classes, highlighted."""
    return Source("\n\n".join(inspect.getsource(function) for function in functions), language="python")
