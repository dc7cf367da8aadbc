"""Library code on the page of a notebook."""

import inspect
from collections.abc import Callable

from IPython.display import Code


def source(*functions: Callable) -> Code:
    """The source of functions or classes, highlighted."""
    return Code("\n\n".join(inspect.getsource(function) for function in functions), language="python")
