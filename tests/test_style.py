"""Formatting, linting, types and import rules of the library, tests and notebooks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
SOURCES = ["lib", "tests", "notebooks"]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", *SOURCES],
        ["ruff", "format", "--check", *SOURCES],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=["ruff check", "ruff format", "mypy", "import rules"],
)
def test_sources_are_clean(command):
    result = subprocess.run(
        [str(TOOLS / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_loading_weights_imports_nothing_that_executes_notebooks():
    code = (
        "import sys\n"
        "import talking_heads.experiments.few_shot.weights, talking_heads.animation.animate\n"
        "print([m for m in ('nbformat', 'nbconvert', 'papermill', 'ipywidgets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
