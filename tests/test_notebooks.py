"""The chapters as sources, and all of them executed at the smoke profile with the files that they leave."""

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data import corpora, video
from talking_heads.experiments.chapters import CHAPTERS
from talking_heads.experiments.few_shot import claim_parts, claims, frame_metrics, methods, protocol
from talking_heads.experiments.few_shot.tables import COLUMNS
from talking_heads.experiments.run import Places, make_run
from talking_heads.provenance import commit
from talking_heads.workbook import runner

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BY_PRODUCTS = ("runs", "heads", "study", "turing")  # folders whose files are not listed one by one
TABLES = (
    "differences",
    "ablations",
    "table2",
    "claims",
    "explanations",
    "blur",
    "adaptation",
    "drivers",
    "gaze",
    "steadiness",
)
OTHER_FILES = {
    "status.json",
    "records.jsonl",
    "index.html",
    ".lock",
    ".owner",
    "clips/start_here.mp4",
    "figures/gaze.png",
    "figures/stability.png",
    "clips/astronaut.png",
    "clips/astronaut.png.npz",
    "clips/painting.png",
    "clips/painting.png.npz",
    "tables/voices.csv",
    "tables/outside_faces.csv",
    "tables/diffused_figure6.csv",
    "tables/diffused_figure6.md",
    "tables/diffused_figure6.tex",
}


def statements(source: str) -> list[ast.stmt]:
    """The statements of a cell, those within others included, without imports."""
    tree = ast.parse(TransformerManager().transform_cell(source))
    imports = (ast.Import, ast.ImportFrom)
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not isinstance(node, imports)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sources_are_for_readers(path):
    cells = nbformat.read(path, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert not any(cell.outputs or cell.execution_count for cell in code), "sources have no outputs"
    # the formatter decides how many lines a statement has
    assert max(len(statements(cell.source)) for cell in code) <= 12
    classes = [node for cell in code for node in statements(cell.source) if isinstance(node, ast.ClassDef)]
    assert not classes, "classes belong in the library"
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].source.startswith("profile = ")
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "minute" in cells[0].source or "minute" in text[:2500], "states what it costs"
    assert "What to remember" in text
    assert "<details>" in text


def test_every_chapter_has_its_notebook():
    assert [path.stem for path in NOTEBOOKS] == [chapter.name for chapter in CHAPTERS]


def is_listed(name: str) -> bool:
    return name.split("/")[0] not in BY_PRODUCTS


def test_the_smoke_run_leaves_exactly_what_it_promises(smoke):
    results, process, _ = smoke
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-2000:]
    status = json.loads((results / "status.json").read_text())
    assert {name: entry["status"] for name, entry in status.items()} == {c.name: "ok" for c in CHAPTERS}
    expected = {promise for chapter in CHAPTERS for promise in chapter.promises} | OTHER_FILES
    tables = (*TABLES, *(["real_clips"] if os.environ.get("TALKING_HEADS_CLIPS") else []))
    expected |= {f"tables/{name}.{ending}" for name in tables for ending in ("csv", "md", "tex")}
    expected |= {f"notebooks/{chapter.name}.{ending}" for chapter in CHAPTERS for ending in ("ipynb", "html")}
    files = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    assert expected <= files
    assert set(filter(is_listed, files)) == set(filter(is_listed, expected))


def test_the_smoke_run_trains_every_variant_once(smoke):
    names = [path.name for path in (smoke[0] / "runs").iterdir()]
    variants = config.load("smoke").few_shot.trainings.variants
    folders = {name for name in names if not name.startswith("chapter-")}
    assert folders == {
        "ablations",
        "cells",
        "observers",
        "reference",
        "talking",
        *(f"meta-{variant}" for variant in variants),
    }
    assert {path.name for path in (smoke[0] / "runs/reference").iterdir()} == {"diffusion"}
    assert any(name.startswith("chapter-") for name in names)


def test_the_smoke_runs_tables_have_all_rows(smoke):
    tables = smoke[0] / "tables"
    assert list(pd.read_csv(tables / "table1.csv").columns) == COLUMNS
    # three metrics: after against before, T against T, against both trivial baselines
    assert len(pd.read_csv(tables / "differences.csv")) == 3 * (3 + 2 + 4)
    assert set(pd.read_csv(tables / "claims.csv")["id"]) == set(range(1, 16))


def test_the_smoke_run_prints_its_table_and_the_place_of_the_report(smoke):
    results, process, _ = smoke
    lines = process.stdout.splitlines()
    assert any(line.startswith("| T | corpus | method |") for line in lines)
    assert lines[-2:] == ["All chapters are ok.", f"Report: {results / 'index.html'}"]


def test_clips_play_with_their_sound(smoke):
    for name in ("puppeteering", "same_person", "sixteen", "astronaut", "talking", "own_sound"):
        clip = video.read(smoke[0] / f"clips/{name}.mp4")
        assert len(clip.frames) > 1
        assert np.abs(clip.sound).max() > 0


def test_records_have_their_provenance(smoke):
    records = [json.loads(line) for line in (smoke[0] / "records.jsonl").read_text().splitlines()]
    assert records
    fields = {
        "name",
        "value",
        "unit",
        "method",
        "T",
        "corpus",
        "seed",
        "n_identities",
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
    assert all(set(record) == fields for record in records)
    assert {record["profile"] for record in records} == {"smoke"}
    assert {record["device"].split(", ")[-1].split()[-1].rstrip("s") for record in records} == {"thread"}
    assert {record["commit"].rstrip("+") for record in records} == {commit().rstrip("+")}
    assert {
        "SSIM",
        "few-shot learning",
        "inference",
        "track error, adapted against raw",
        "gaze error, pupils against 68 points",
    } <= {record["name"] for record in records}
    talking = {record["name"] for record in records if record["method"] == "Diffused Heads"}
    assert talking >= {"PSNR", "SSIM", "LMD, normalised", "mouth opening", "CSIM-judge"}


def test_the_report_needs_no_network_and_executed_notebooks_have_no_paths(smoke):
    results = smoke[0]
    page = (results / "index.html").read_text()
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert page.count("data:image/png;base64") >= 8
    assert all(f'href="notebooks/{chapter.name}.html"' in page for chapter in CHAPTERS)
    for path in (results / "notebooks").glob("*.ipynb"):
        assert str(ROOT) not in path.read_text(), f"{path.name} carries a path of this machine"


def test_running_again_has_nothing_to_do(smoke):
    _, _, command = smoke
    process = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.count("ok already") == len(CHAPTERS)


ONE_VARIANT = """
base: smoke-ff
protocol: {jobs: true, stability_steps: 2}
"""


def test_chapters_read_what_jobs_leave(smoke, tmp_path, monkeypatch):
    """Of a small corpus with one variant: prepared videos, weights, all cells and times.

    As voxceleb2-ff: nothing is fine-tuned in Table 1, and another model than its "Ours" is ablated.
    """
    (tmp_path / "one.yaml").write_text(ONE_VARIANT)
    monkeypatch.setenv(config.OWN_PROFILES, str(tmp_path))
    places = Places(smoke[0].parents[1] / "data", tmp_path / "results", ROOT / "notebooks")
    run, lines = make_run(config.load("one"), "scratch", "cpu", places), []
    jobs = ["prepare", "meta-learn-ff", "stability", "evaluate", "observe", "measure"]
    outcomes = runner.run_chapters(run, jobs, lines.append)
    assert {name: o.status for name, o in outcomes.items()} == dict.fromkeys(jobs, "ok"), outcomes
    assert any(re.fullmatch(r"  meta-learn-ff ff step 12/12, .* min left", line) for line in lines), lines
    runs = tmp_path / "results/one/runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    for command in ("evaluate", "observe", "measure"):
        assert main([*run.commands.options, command, "--profile", "one", "--device", "cpu"]) in (0, None)
    after = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert after == before and any(path.match("cells/*/*.npz") for path in after)
    assert not any(step.due for step in runner.plan(run, jobs))

    outcomes = runner.run_chapters(run, ["05", "06"], lines.append)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}, outcomes
    computed = {path: time for path, time in before.items() if path.match("cells/*/*.npz")}
    found = {path: path.stat().st_mtime_ns for path in runs.glob("cells/*/*.npz")}
    assert found == computed, "chapters compute no cell"

    tables = runs.with_name("tables")
    measured = pd.read_csv(tables / "table1.csv").query("n_identities > 0")["method"]
    assert set(measured) == {"Ours-FF", "nearest training frame", "mean training frame"}
    assert "Ablations of the model 'ff' at T = 4" in (tables / "ablations.md").read_text()
    assert pd.read_csv(tables / "differences.csv").empty
    store = corpora.store(run.profile, places.data, "test")
    cells = protocol.find_cells(runs / "cells", store, run.profile)
    shots = tuple(run.profile.protocol.shots)
    frames, features = frame_metrics.measure(cells, [*methods.TABLE1, *methods.ABLATIONS])
    evidence = claim_parts.Evidence(frames, features, shots[1], shots=shots)
    verdicts = claims.evaluate(evidence).groupby("id")["holds"].first()
    assert verdicts[1] == "not run: Ours-FT, T = 1"
    assert verdicts[4].startswith("not run: Ours before")
