"""Executed notebooks: whether they are complete, and their form for readers.

papermill alone cannot be trusted: a killed kernel, a cell past its limit or ``SystemExit`` leave a notebook
that looks complete. A notebook is complete if every code cell has an execution count and a closing cell,
which is added before the execution, has printed its line.
"""

import json
import re
from pathlib import Path
from typing import Any

import nbformat

from talking_heads.files import WAITING, write_text

LAST_LINE = "the chapter ran to its end"
CLOSING = f"print({LAST_LINE!r})"
# of the lines by which work reports how far it is, or what it waits for
PROGRESS = re.compile(rf"^  .*(\b\d+/\d+\b.*(min left|frames/s|s a step)|{WAITING}).*\n?", re.MULTILINE)
EXITED = "To exit: use 'exit', 'quit', or Ctrl-D."


def check_parameters(notebook: nbformat.NotebookNode, parameters: dict[str, Any]) -> None:
    """Raises ValueError for a parameter that the notebook does not declare or that is no plain JSON value."""
    cell = next((c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), None)
    if cell is None:
        raise ValueError("the notebook has no cell tagged 'parameters'")
    lines = [line for line in cell.source.splitlines() if "=" in line and not line.startswith("#")]
    declared = {line.split("=")[0].strip() for line in lines}
    if unknown := sorted(parameters.keys() - declared):
        raise ValueError(
            f"unknown parameters {', '.join(unknown)}; the notebook declares {', '.join(sorted(declared))}"
        )
    if json.loads(json.dumps(parameters)) != parameters:
        raise ValueError("parameters must be plain JSON values")


def stage(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Write a notebook with the closing cell. Raises ValueError as :func:`check_parameters` does."""
    notebook = nbformat.read(source, 4)
    check_parameters(notebook, parameters)
    notebook.cells.append(nbformat.v4.new_code_cell(CLOSING))
    nbformat.write(notebook, target)


def find_fault(path: Path, returncode: int, stderr: str) -> str:
    """Why an executed notebook is not complete; "" if it is."""
    stderr = stderr.strip()
    if not path.exists():
        return f"papermill failed before the first cell: {stderr[-600:]}"
    cells = [
        cell
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for number, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.get("traceback", [])))
                return f"cell {number} raised {output.ename}: {output.evalue}\n{traceback[-1500:]}"
            if output.output_type == "stream" and EXITED in output.text:
                return f"cell {number} called SystemExit"
    executed = [number for number, cell in enumerate(cells, start=1) if cell.execution_count is not None]
    closed = any(LAST_LINE in output.get("text", "") for output in cells[-1].get("outputs", []))
    if len(executed) < len(cells) or not closed:
        where = f"cell {executed[-1]}" if executed else "its first cell"
        cause = stderr.splitlines()[-1][-300:] if stderr else "the kernel died or the chapter left early"
        return f"stopped at {where}: {cause}"
    return f"papermill ended with {returncode}: {stderr[-600:]}" if returncode else ""


def publish(executed: Path, folder: Path, name: str) -> None:
    """Put an executed notebook, without the closing cell, progress and paths of this machine, into
    ``folder``, also as a page.
    """
    from talking_heads.workbook.pages import to_html

    notebook = nbformat.read(executed, 4)
    notebook.cells = [cell for cell in notebook.cells if cell.source != CLOSING]
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", []):
            _make_paths_relative(output)
            if output.output_type == "stream":
                output.text = PROGRESS.sub("", output.text)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    nbformat.write(notebook, executed)
    write_text(folder / f"{name}.html", to_html(notebook, folder))
    executed.replace(folder / f"{name}.ipynb")


def _make_paths_relative(output: nbformat.NotebookNode) -> None:
    here = f"{Path.cwd()}/"
    for name in ("text", "evalue"):
        if isinstance(output.get(name), str):
            output[name] = output[name].replace(here, "")
    if "traceback" in output:
        output["traceback"] = [line.replace(here, "") for line in output["traceback"]]
