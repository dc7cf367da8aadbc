"""What people see: notebooks in JupyterLab, the report and the study's page in a real browser."""

import base64
import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest

import browser

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not browser.CHROMIUM, reason="needs Chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def test_the_committed_report_opens_from_the_file_system(page):
    page.open(f"file://{ROOT}/results/reference/index.html")
    sizes = page.js("[...document.images].map(i => i.naturalWidth)")
    assert len(sizes) >= 8 and min(sizes) > 100
    assert page.js("document.querySelectorAll('table').length") >= 3
    assert page.js("document.documentElement.scrollWidth <= window.innerWidth"), "nothing runs out of the page"
    assert not page.errors and all(r.startswith(("file://", "data:")) for r in page.requests)
    links = page.js("[...document.querySelectorAll('a')].map(a => decodeURI(new URL(a.href).pathname))")
    assert links and all(Path(link).exists() for link in links)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory, pools):
    """JupyterLab on copies of the chapters that say profile = "smoke"."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (root / "data").mkdir()
    (root / "data/pools").symlink_to(pools)
    for path in (root / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace('"laptop"', '"smoke"').replace('"reference"', '"scratch"')
        nbformat.write(notebook, path)
    with browser.lab(root, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.mark.parametrize("name", ["00_start_here", "02_networks_and_losses"])
def test_run_all_in_jupyterlab(page, jupyter, name):
    state = browser.run_all(page, jupyter, f"notebooks/{name}.ipynb")
    assert not state["errors"] and state["run"] == state["cells"], state
