"""Neural talking heads, reproducible on two CPU cores and on the paper's scale."""

__version__ = "0.1.0"
