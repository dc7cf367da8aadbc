"""The chapters as sources, and all of them executed once at the smoke profile with the exact set of files
they leave.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from talking_heads import config
from talking_heads.data import video
from talking_heads.experiments.few_shot.chapters import CHAPTERS
from talking_heads.experiments.few_shot.tables import COLUMNS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_sources_are_for_readers(path):
    cells = nbformat.read(path, 4).cells
    code = [c for c in cells if c.cell_type == "code"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert not any(c.outputs or c.execution_count for c in code), "sources have no outputs"
    assert max(len([line for line in c.source.splitlines() if line.strip()]) for c in code) <= 12
    assert not any(re.search(r"^\s*class ", c.source, re.M) for c in code), "classes belong into the library"
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].source.startswith("profile = ")
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert "minute" in cells[0].source or "minute" in text[:2500], "says what it costs"
    assert "What to remember" in text and "<details>" in text


def test_every_chapter_has_its_notebook():
    assert [p.stem for p in NOTEBOOKS] == [c.name for c in CHAPTERS]


def test_smoke_run_leaves_exactly_what_it_promises(smoke):
    results, done, _ = smoke
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    status = json.loads((results / "status.json").read_text())
    assert {n: s["status"] for n, s in status.items()} == {c.name: "ok" for c in CHAPTERS}
    wanted = {p for c in CHAPTERS for p in c.promises}
    wanted |= {
        f"tables/{n}.{k}"
        for n in (
            "differences",
            "ablations",
            "table2",
            "claims",
            "reasons",
            "blur",
            "adaptation",
            "drivers",
            "gaze",
            "steadiness",
        )
        for k in ("csv", "md", "tex")
    }
    wanted |= {f"notebooks/{c.name}.{k}" for c in CHAPTERS for k in ("ipynb", "html")}
    wanted |= {
        "status.json",
        "records.jsonl",
        "index.html",
        ".lock",
        "clips/start_here.mp4",
        "figures/gaze.png",
        "figures/stability.png",
        "clips/astronaut.png",
        "clips/astronaut.png.npz",
    }
    by_products = {"runs", "heads", "study"}
    found = {str(p.relative_to(results)) for p in results.rglob("*") if p.is_file()}
    keep = lambda names: {n for n in names if n.split("/")[0] not in by_products}
    assert keep(found) == keep(wanted) and wanted <= found
    runs = {
        p.name.split("-")[0] if p.name.startswith("chapter-") else p.name
        for p in (results / "runs").iterdir()
    }
    assert runs == {"chapter", "cells", *(f"meta-{v}" for v in config.load("smoke").variants)}
    assert list(pd.read_csv(results / "tables/table1.csv").columns) == COLUMNS
    assert len(pd.read_csv(results / "tables/differences.csv")) == 3 * (3 + 2 + 4), (
        "three metrics: after against before, T against T, against both trivial rows"
    )
    assert (
        "Report: " in done.stdout
        and "| T | corpus | method |" in done.stdout
        and "about" not in done.stdout.splitlines()[-1]
    )


def test_clips_play_with_their_sound(smoke):
    for name in ("puppeteering", "same_person", "sixteen", "astronaut"):
        clip = video.read(smoke[0] / f"clips/{name}.mp4")
        assert len(clip.frames) > 1 and np.abs(clip.sound).max() > 0


def test_records_have_their_provenance(smoke):
    records = [json.loads(line) for line in (smoke[0] / "records.jsonl").read_text().splitlines()]
    fields = {
        "name",
        "value",
        "unit",
        "method",
        "T",
        "corpus",
        "seed",
        "n_people",
        "n_frames",
        "profile",
        "device",
        "torch",
        "commit",
        "parameters",
        "seconds",
        "time",
        "run_id",
    }
    assert records and all(set(r) == fields for r in records) and {r["profile"] for r in records} == {"smoke"}
    assert {
        "SSIM",
        "few-shot learning",
        "inference",
        "track error, adapted against raw",
        "gaze error, pupils against 68 points",
    } <= {r["name"] for r in records}


def test_report_needs_no_network_and_executed_notebooks_no_paths(smoke):
    results = smoke[0]
    page = (results / "index.html").read_text()
    assert not re.search(r'(src|href)="(https?:)?//', page) and page.count("data:image/png;base64") >= 8
    assert all(f'href="notebooks/{c.name}.html"' in page for c in CHAPTERS)
    for path in (results / "notebooks").glob("*.ipynb"):
        assert str(ROOT) not in path.read_text(), f"{path.name} carries a path of this machine"


def test_running_again_does_nothing_and_dry_run_says_so(smoke):
    _, _, command = smoke
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("ok already") == len(CHAPTERS)


def test_a_corpus_with_one_variant_comes_to_its_end(pools, tmp_path):
    """As voxceleb2-ff: nothing is fine-tuned in Table 1, and its ablations are of another model than Table
    1's "Ours".
    """
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pools").symlink_to(pools)
    command = [
        sys.executable,
        "-m",
        "talking_heads",
        "--data",
        str(tmp_path / "data"),
        "--results",
        str(tmp_path),
        "run",
        "--profile",
        "smoke-ff",
        "--device",
        "cpu",
        "--only",
        "05",
        "06",
        "08",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    results = tmp_path / "smoke-ff"
    ran = pd.read_csv(results / "tables/table1.csv").query("n_people > 0")["method"].unique()
    assert set(ran) == {"Ours-FF", "nearest training frame", "mean training frame"}
    assert "Ablations of the ff model at T = 4" in (results / "tables/ablations.md").read_text() and not len(
        pd.read_csv(results / "tables/differences.csv")
    )
    said = pd.read_csv(results / "tables/claims.csv").groupby("id")["holds"].first()
    assert said[1] == "not run: Ours-FT, T = 1" and said[4].startswith("not run: Ours before")
