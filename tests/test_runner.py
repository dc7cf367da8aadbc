"""The runner reports truly how each notebook ended, resumes, notices changes, and never mixes two runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat import v4
from processes import context, start, wait_until
from talking_heads import config
from talking_heads.experiments.run import Places
from talking_heads.experiments.run import make_run as make_profile_run
from talking_heads.files import WAITING
from talking_heads.workbook import executed, figures, pages, runner, stages
from talking_heads.workbook.report import Report, markdown_table
from talking_heads.workbook.runner import Run
from talking_heads.workbook.stages import Chapter, Outcome

ROOT = Path(__file__).parents[1]
WRITE = (
    "from pathlib import Path\n"
    "Path(results).mkdir(parents=True, exist_ok=True)\n"
    "(Path(results) / '{0}').write_text('{0}')"
)
SLEEP = (
    "import os, time\n"
    "from pathlib import Path\n"
    "Path(results, 'pids').write_text(f'{os.getpid()} {os.getppid()}')\n"
    "time.sleep(300)"
)
# runs until a file is there, and notes whether a second one is there at its end
MEET = (
    "import time\n"
    "from pathlib import Path\n"
    "folder, deadline = Path(results), time.time() + 120\n"
    "(folder / '{0} started').touch()\n"
    "while not (folder / '{1} started').exists() and time.time() < deadline:\n"
    "    time.sleep(0.1)\n"
    "met = (folder / '{1} started').exists()\n"
    "(folder / '{0}').write_text(str(met))"
)
# notes which other chapters have started and not ended
ALONE = (
    "from pathlib import Path\n"
    "folder = Path(results)\n"
    "running = [p.name for p in folder.glob('* started') if not (folder / p.name.split()[0]).exists()]\n"
    "(folder / '{0}').write_text(repr(running))"
)


def write_notebook(folder: Path, name: str, *cells: str) -> None:
    """A notebook with a parameter cell, and these cells."""
    first = nbformat.v4.new_code_cell('profile = "smoke"\nresults = "out"')
    first.metadata["tags"] = ["parameters"]
    heading = nbformat.v4.new_markdown_cell("# " + name)
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    notebook = nbformat.v4.new_notebook(cells=[heading, first, *code])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def make_run(folder: Path, *chapters: Chapter, **more) -> Run:
    results = folder / "results"
    parameters = {"profile": "smoke", "results": str(results)}
    return Run(config.load("smoke"), parameters, folder / "notebooks", results, chapters=chapters, **more)


def ignore(line: str) -> None:
    """A report that nobody reads."""


def run_quietly(run: Run, *only: str, **more) -> dict[str, Outcome]:
    return runner.run_chapters(run, list(only) or None, report=ignore, **more)


@pytest.fixture
def instant(monkeypatch):
    """Names of executed chapters, which end at once: they write what they promise, and ``bad`` ones fail."""
    names = []

    def execute(chapter: Chapter, run: Run, report: Callable[[str], None]) -> str:
        names.append(chapter.name)
        for promise in chapter.promises:
            (run.results / promise).touch()
        return "broken" if "bad" in chapter.name else ""

    monkeypatch.setattr(runner, "execute", execute)
    return names


def due(run: Run) -> list[bool]:
    return [step.due for step in runner.plan(run)]


# -- how a chapter ends -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "cells, limit, why",
    [
        (["1 + 1", "raise KeyError('gone')", WRITE.format("a")], 60, "cell 3 raised KeyError: 'gone'"),
        (
            ["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", WRITE.format("a")],
            60,
            "stopped at cell [12]: .*Kernel died",
        ),
        ([WRITE.format("a"), "raise SystemExit"], 60, "cell 3 (called|raised) SystemExit"),
        ([WRITE.format("a"), "import sys; sys.exit(0)", "1 + 1"], 60, "cell 3 (called|raised) SystemExit"),
        ([WRITE.format("a"), "import time; time.sleep(100)"], 6, "ran past its limit of 6 s"),
        (["1 + 1"], 60, "did not write what it promised: a"),
    ],
    ids=[
        "raises",
        "killed kernel",
        "SystemExit last",
        "sys.exit midway",
        "past its limit",
        "breaks its promise",
    ],
)
def test_failures_are_never_ok(tmp_path, cells, limit, why):
    write_notebook(tmp_path / "notebooks", "bad", *cells)
    run = make_run(tmp_path, Chapter("bad", "", (), ("a",), limit=limit))
    outcome = run_quietly(run)["bad"]
    assert outcome.status == "failed"
    assert re.search(why, outcome.error), outcome
    assert json.loads((tmp_path / "results/status.json").read_text())["bad"]["status"] == "failed"
    assert not list((tmp_path / "results/notebooks").glob(".bad*"))


def test_a_kernel_that_did_not_start_is_started_once_more(tmp_path, monkeypatch):
    lost = "stopped at its first cell: RuntimeError: Kernel died before replying to kernel_info"
    write_notebook(tmp_path / "notebooks", "a", "1 + 1")
    for errors, status in (([lost, lost], "failed"), ([lost, ""], "ok")):
        monkeypatch.setattr(runner, "execute", lambda *_, errors=errors: errors.pop(0))
        outcome = run_quietly(make_run(tmp_path, Chapter("a", "")))["a"]
        assert outcome.status == status
        assert not errors


def test_a_failure_stops_only_those_that_need_it(tmp_path):
    write_notebook(tmp_path / "notebooks", "bad", "1 / 0")
    write_notebook(tmp_path / "notebooks", "needs", WRITE.format("b"))
    write_notebook(tmp_path / "notebooks", "free", WRITE.format("c"))
    chapters = (
        Chapter("bad", ""),
        Chapter("needs", "", ("bad",), ("b",)),
        Chapter("free", "", (), ("c",)),
    )
    run = make_run(tmp_path, *chapters)
    run.jobs = 2
    outcomes = run_quietly(run)
    assert [outcome.status for outcome in outcomes.values()] == ["failed", "failed", "ok"]
    assert "needs bad" in outcomes["needs"].error
    page = Report("A title", chapters, {}, "weights").write(run.profile, run.results, "cpu").read_text()
    assert "ZeroDivisionError" in page, "the report has the traceback"
    assert "http" not in page.replace("http-equiv", "")


def test_progress_lines_are_passed_on_while_it_runs(tmp_path):
    """The chapter ends only after its first line was reported."""
    seen = tmp_path / "seen"
    cell = (
        "import time\n"
        "from pathlib import Path\n"
        "print('  halfway', flush=True)\n"
        "deadline = time.time() + 120\n"
        f"while not Path({str(seen)!r}).exists() and time.time() < deadline:\n"
        "    time.sleep(0.1)\n"
        f"print('  done' if Path({str(seen)!r}).exists() else '  never', flush=True)"
    )
    write_notebook(tmp_path / "notebooks", "a", cell)
    lines = []

    def report(line: str) -> None:
        lines.append(line.strip())
        if line.strip() == "a halfway":
            seen.touch()

    runner.run_chapters(make_run(tmp_path, Chapter("a", "")), report=report)
    assert [line for line in lines if line.startswith("a ")] == ["a halfway", "a done"]


# -- what is due ------------------------------------------------------------------------------------
def test_a_run_resumes_with_what_is_missing(tmp_path):
    for name in "ab":
        write_notebook(tmp_path / "notebooks", name, WRITE.format(name))
    run = make_run(tmp_path, Chapter("a", "", (), ("a",)), Chapter("b", "", ("a",), ("b",)))
    assert due(run) == [True, True]
    run_quietly(run)
    assert due(run) == [False, False]
    copy = nbformat.read(tmp_path / "results/notebooks/a.ipynb", 4)
    assert executed.CLOSING not in [cell.source for cell in copy.cells]
    assert str(tmp_path) not in json.dumps(copy.metadata)
    assert (tmp_path / "results/notebooks/a.html").exists()

    (tmp_path / "results/b").unlink()
    assert due(run) == [False, True], "a lost result is computed again"
    run_quietly(run)
    outcomes = stages.read_status(run.results)
    outcomes["a"] = Outcome("running", key=outcomes["a"].key)  # killed while it ran
    stages.write_status(run.results, outcomes)
    assert due(run) == [True, False]


PROGRESS = "  x: 1/2 frames, 0.1 min left\n", f"  ../data/a: {WAITING}\n"


def test_published_copies_have_no_progress_and_pages_show_formulas_and_link_to_pages(tmp_path):
    text = r"with $a < b$: $$x_t \sim \mathcal{N}(0, 1) \tag{2}$$ [02](02_networks.ipynb), `$OUT`"
    text += " [terms](../docs/glossary.md#k)"
    text += "\n\n<details><summary>Solution</summary>\n\n```python\nfolded = 1\n```\n</details>"
    printed = "  4/24 identities rendered, 70 frames/s\nkept 1/2\n  ft step 3/60, cnt 2.1, 0.4 s a step\n"
    outputs = [v4.new_output("stream", text=part) for part in (printed, *PROGRESS)]
    parameters = v4.new_code_cell("profile = 'a'", metadata={"tags": ["parameters"]})
    injected = v4.new_code_cell("profile = 'b'", metadata={"tags": ["injected-parameters"]})
    cells = [v4.new_markdown_cell(text), parameters, injected, v4.new_code_cell("1", outputs=outputs)]
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "executed.ipynb")
    executed.publish(tmp_path / "executed.ipynb", tmp_path, "a")
    copy = nbformat.read(tmp_path / "a.ipynb", 4)
    assert [output.text for output in copy.cells[-1].outputs] == ["kept 1/2\n"]
    assert len(copy.cells) == 4, "the copy has both cells of parameters, so that it can be compared"
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("<math") == 2 and "$a" not in page and "<code>$OUT</code>" in page
    assert 'href="02_networks.html"' in page and "'b'" in page and "'a'" not in page
    solution = re.search(r"<details>.*?</details>", page, re.DOTALL)
    assert solution and "folded" in solution[0]
    link = re.search(r'href="([^"]*glossary.md)#k"', page)
    assert link and (tmp_path / link[1]).resolve() == Path("docs/glossary.md").resolve()


def test_every_formula_of_the_chapters_becomes_mathml():
    count = 0
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                html = pages.PageExporter().markdown2html({}, cell.source)
                count += html.count("<math")
                assert "$" not in re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL), (path, cell.id)
    assert count > 100


@pytest.fixture
def finished_run(tmp_path):
    """A run of two chapters that are ok, of which b needs a."""
    for name in "ab":
        write_notebook(tmp_path / "notebooks", name, WRITE.format(name))
    run = make_run(tmp_path, Chapter("a", "", (), ("a",)), Chapter("b", "", ("a",), ("b",)))
    run.results.mkdir()
    for name in "ab":
        (run.results / name).touch()
    outcomes = {step.stage.name: Outcome("ok", key=step.key) for step in runner.plan(run)}
    stages.write_status(run.results, outcomes)
    assert due(run) == [False, False]
    return run


def test_a_changed_parameter_makes_all_stale(finished_run):
    finished_run.parameters["profile"] = "laptop"
    assert due(finished_run) == [True, True]


def test_a_changed_profile_makes_all_stale(finished_run):
    finished_run.profile = finished_run.profile.override({"few_shot.fine_tuning.epochs": 3})
    assert due(finished_run) == [True, True]


def test_a_changed_notebook_makes_itself_and_those_that_need_it_stale(finished_run):
    write_notebook(finished_run.notebooks, "b", WRITE.format("b"), "2 + 2")
    assert due(finished_run) == [False, True]
    write_notebook(finished_run.notebooks, "a", WRITE.format("a"), "2 + 2")
    assert due(finished_run) == [True, True]


def test_outputs_and_metadata_of_a_notebook_do_not_count(finished_run):
    notebook = nbformat.read(finished_run.notebooks / "a.ipynb", 4)
    notebook.metadata["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    notebook.cells[-1].execution_count = 7
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(notebook, finished_run.notebooks / "a.ipynb")
    assert due(finished_run) == [False, False]


def test_a_version_makes_all_stale(finished_run):
    finished_run.versions = {"protocol": 1}
    outcomes = {step.stage.name: Outcome("ok", key=step.key) for step in runner.plan(finished_run)}
    stages.write_status(finished_run.results, outcomes)
    assert due(finished_run) == [False, False]
    finished_run.versions = {"protocol": 2}
    assert due(finished_run) == [True, True]


PRINT_KEYS = """
import json
import test_runner
print(json.dumps([test_runner.runner.__file__, *test_runner.keys_of_chapters()]))
"""


def keys_of_chapters() -> list[str]:
    """The keys of all chapters at the smoke profile."""
    places = Places(Path("data"), Path("results"), ROOT / "notebooks")
    run = make_profile_run(config.load("smoke"), "scratch", "cpu", places)
    return [step.key for step in runner.plan(run)]


def test_a_changed_comment_makes_no_chapter_stale(tmp_path):
    """Keys by a copy of the library in which every module has one more comment, beside the same results."""
    package = tmp_path / "lib/talking_heads"
    (tmp_path / "results").symlink_to(ROOT / "results")
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "lib/talking_heads", package, ignore=ignored)
    for path in package.rglob("*.py"):
        with path.open("a", encoding="utf-8") as file:
            file.write("# a comment\n")
    process = subprocess.run(
        [sys.executable, "-c", PRINT_KEYS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        check=True,
    )
    imported, *keys = json.loads(process.stdout)
    assert Path(imported).is_relative_to(package)
    assert keys == keys_of_chapters()
    assert len(set(keys)) == len(keys) > 10


def test_input_files_and_fetched_networks_count(finished_run):
    weights = finished_run.results / "w.safetensors"
    finished_run.inputs = (weights,)
    keys = [runner.plan(finished_run)[0].key]
    weights.write_bytes(b"w")
    keys.append(runner.plan(finished_run)[0].key)
    weights.write_bytes(b"v")
    keys.append(runner.plan(finished_run)[0].key)
    finished_run.fetched = ("inception",)
    keys.append(runner.plan(finished_run)[0].key)
    assert len(set(keys)) == 4, "absent, present, changed, and a network that brings its metric"


def test_answers_of_raters_make_only_their_readers_stale(tmp_path):
    for name in ("a", "b"):
        write_notebook(tmp_path / "notebooks", name, "1")
    run = make_run(tmp_path, Chapter("a", "", reads=("study/answers/*.csv",)), Chapter("b", ""))
    before = [step.key for step in runner.plan(run)]
    (run.results / "study/answers").mkdir(parents=True)
    (run.results / "study/answers/ada.csv").write_text("a")
    after = [step.key for step in runner.plan(run)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_only_selects_what_is_needed_too_and_refuses_unknown_names(tmp_path):
    for name in ("01_a", "02_b", "03_c"):
        write_notebook(tmp_path / "notebooks", name, "1")
    run = make_run(tmp_path, Chapter("01_a", ""), Chapter("02_b", "", ("01_a",)), Chapter("03_c", ""))
    assert [step.stage.name for step in runner.plan(run, ["02"])] == ["01_a", "02_b"]
    with pytest.raises(ValueError, match="unknown chapter or job 'nine'; there are: 01_a, 02_b, 03_c"):
        runner.plan(run, ["nine"])


def test_rerun_makes_named_chapters_due_but_not_those_that_they_need(finished_run):
    def names(only):
        return [step.stage.name for step in runner.plan(finished_run, only, rerun=True) if step.due]

    assert names(["b"]) == ["b"]
    assert names(None) == ["a", "b"]


def test_rerun_executes_again(tmp_path, instant):
    write_notebook(tmp_path / "notebooks", "a", "1")
    run = make_run(tmp_path, Chapter("a", "", (), ("a",)))
    run_quietly(run)
    run_quietly(run)
    assert instant == ["a"], "it is ok already"
    assert run_quietly(run, rerun=True)["a"].status == "ok"
    assert instant == ["a", "a"]


def test_chapters_that_are_left_out_keep_their_outcome_or_become_stale(tmp_path, instant):
    for name in ("01_a", "02_b", "03_bad"):
        write_notebook(tmp_path / "notebooks", name, "1")
    chapters = (
        Chapter("01_a", "", (), ("a",)),
        Chapter("02_b", "", (), ("b",)),
        Chapter("03_bad", ""),
    )
    run = make_run(tmp_path, *chapters)
    first = run_quietly(run)
    write_notebook(run.notebooks, "02_b", "2")
    second = run_quietly(run, "01")
    assert [second[chapter.name].status for chapter in chapters] == ["ok", "stale", "failed"]
    assert second["03_bad"] == first["03_bad"]
    assert second["03_bad"].error == "broken"
    assert instant == ["01_a", "02_b", "03_bad"]


def test_unknown_parameters_and_values_that_are_no_json_are_refused(tmp_path):
    write_notebook(tmp_path / "notebooks", "a", "1")
    notebook = nbformat.read(tmp_path / "notebooks/a.ipynb", 4)
    with pytest.raises(ValueError, match="unknown parameters extra; the notebook declares profile, results"):
        executed.check_parameters(notebook, {"profile": "smoke", "extra": 1})
    with pytest.raises(ValueError, match="plain JSON"):
        executed.check_parameters(notebook, {"profile": (1, 2)})


# -- the report -------------------------------------------------------------------------------------
def test_the_report_marks_what_is_of_an_earlier_run(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "tables/table1.md").write_text("A caption\n\n| a |\n|---|\n| 1 |\n")
    (tmp_path / "figures/figure4.png").write_bytes(b"png")
    chapter = Chapter("05_comparison", "", (), ("tables/table1.csv", "figures/figure4.png"))
    report = Report("A title", (chapter,), {"figure4": "Four & five"}, "weights")
    for status, count in (("ok", 0), ("failed", 2), ("stale", 2)):
        stages.write_status(tmp_path, {"05_comparison": Outcome(status)})
        page = report.write(config.load("smoke"), tmp_path, "cpu").read_text()
        assert page.count(f">Of an earlier run (05_comparison: {status}). ") == count
        assert "Four &amp; five" in page


def test_the_report_begins_with_verdicts_and_has_clips_that_play(tmp_path):
    for name in ("figures/claims.png", "figures/figure4.png", "clips/head.mp4", "tables/table1.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("A caption\n\n| a |\n|---|\n| 1 |\n")
    report = Report("A title", (), {"head": "A head"}, "weights", ("claims",))
    page = report.write(config.load("smoke"), tmp_path, "cpu").read_text()
    places = [page.index(text) for text in ('id="claims"', 'src="clips/head.mp4', 'id="figure4"', "<details")]
    assert places == sorted(places) and "<figcaption>A head<" in page


def test_a_figure_of_verdicts_has_a_field_for_every_part():
    parts = [(1, "First", "yes", "yes"), (1, "First", "not run: x", "yes"), (2, "Second", "no", "no")]
    table = pd.DataFrame(parts, columns=["id", "claim", "part holds", "holds"])
    axis = figures.verdicts(table).axes[0]
    assert len(axis.patches) == 3
    assert [text.get_text() for text in axis.texts] == ["1. First", "yes", "2. Second", "no"]


def test_tables_are_in_the_order_of_the_chapters_and_repeat_nothing(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("claims", "anything", "table1"):
        (tmp_path / f"tables/{name}.md").write_text(
            "A caption. ft weights: profile a, step 1 of 2, 9 identities, code abc; ff weights: profile a, "
            "step 1 of 2, 3 videos, code abc, collapsed: step 1: cnt not finite. Judged by CSIM-judge.\n\n"
            "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 1 | 4 | 3 |\n"
        )
    chapters = (
        Chapter("05", "", (), ("tables/table1.csv",)),
        Chapter("08", "", (), ("tables/claims.csv",)),
    )
    files = Report("", chapters, {}, "").sorted_files(tmp_path / "tables", ".md")
    assert [path.stem for path in files] == ["table1", "claims", "anything"]
    caption, table = markdown_table(tmp_path / "tables/claims.md")
    assert caption == "A caption. Judged by CSIM-judge.", "provenance stands once on the page"
    # what a row shares with the one above is blank, from the left up to the first difference
    assert re.findall("<td>(.*?)</td>", table) == ["1", "2", "3", "", "4", "3"]


# -- several runs, several chapters -----------------------------------------------------------------
def _hold(results, ready, stop):
    with stages.locked(results):
        ready.set()
        stop.wait(60)


def test_two_runs_at_once_do_not_mix(tmp_path, instant):
    write_notebook(tmp_path / "notebooks", "a", "1")
    run = make_run(tmp_path, Chapter("a", ""))
    ready, stop = context.Event(), context.Event()
    other = start(_hold, run.results, ready, stop)
    assert ready.wait(120)
    with pytest.raises(stages.Busy, match=rf"another run \(process {other.pid}\) works here"):
        run_quietly(run)
    assert not instant
    stop.set()
    other.join()
    assert run_quietly(run)["a"].status == "ok"


def test_chapters_share_the_machine_unless_one_measures_time(tmp_path):
    """a and c meet each other; b, which measures time, meets nobody."""
    write_notebook(tmp_path / "notebooks", "a", MEET.format("a", "c"))
    write_notebook(tmp_path / "notebooks", "b", ALONE.format("b"))
    write_notebook(tmp_path / "notebooks", "c", MEET.format("c", "a"))
    run = make_run(
        tmp_path,
        Chapter("a", "", (), ("a",)),
        Chapter("b", "", (), ("b",), alone=True),
        Chapter("c", "", (), ("c",)),
        jobs=3,
    )
    outcomes = run_quietly(run)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    notes = [(run.results / name).read_text() for name in "abc"]
    assert notes == ["True", "[]", "True"]


@pytest.mark.parametrize(("limit", "alone", "shared"), [("", 8, 4), ("6", 6, 4), ("1", 1, 1), ("many", 8, 4)])
def test_threads_of_chapters(tmp_path, monkeypatch, limit, alone, shared):
    """A chapter that is alone has all cores, others share them; ``OMP_NUM_THREADS`` limits both."""
    monkeypatch.setattr(runner, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    run = make_run(tmp_path, jobs=2)
    assert run.threads(Chapter("a", "", alone=True)) == alone
    assert run.threads(Chapter("b", "")) == shared


@pytest.mark.parametrize("jobs, order", [(1, "abcd"), (2, "cbda")])
def test_where_several_chapters_run_at_once_the_longest_is_the_first(tmp_path, monkeypatch, jobs, order):
    started = []
    chapters = [
        Chapter(name, "", minutes=minutes) for name, minutes in zip("abcd", (1, 3, 4, 2), strict=True)
    ]
    for chapter in chapters:
        write_notebook(tmp_path / "notebooks", chapter.name, "")
    monkeypatch.setattr(runner, "execute", lambda chapter, run, report: "")
    runner.run_chapters(make_run(tmp_path, *chapters, jobs=jobs), report=started.append)
    names = [line[0] for line in started if line[1:] == ": "]
    assert "".join(names) == order


def _sleep_in_a_chapter(folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    write_notebook(folder / "notebooks", "a", SLEEP)
    run_quietly(make_run(folder, Chapter("a", "")))


@pytest.fixture
def sleeping_run(tmp_path):
    """A run in a process of its own, and the pids of its kernel and of papermill; all end with the test."""
    process = start(_sleep_in_a_chapter, tmp_path)
    pids = tmp_path / "results/pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, 180)
    kernel, papermill = (int(word) for word in pids.read_text().split())
    yield process, kernel, papermill
    process.kill()
    for pid in filter(is_alive, (papermill, kernel)):
        os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, as on Linux")


@needs_proc
def test_an_interrupted_run_ends_its_chapter(tmp_path, sleeping_run, instant):
    process, kernel, papermill = sleeping_run
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode not in (None, 0)
    wait_until(lambda: not is_alive(kernel) and not is_alive(papermill), 60)
    assert run_quietly(make_run(tmp_path, Chapter("a", "")))["a"].status == "ok"


@needs_proc
def test_a_chapter_that_a_killed_run_left_behind_keeps_others_out(tmp_path, sleeping_run, instant):
    process, kernel, papermill = sleeping_run
    process.kill()
    process.join(60)
    run = make_run(tmp_path, Chapter("a", ""))
    with pytest.raises(
        stages.Busy, match=rf"a chapter or job of an earlier run \(process {papermill}\) still works"
    ):
        run_quietly(run)
    elsewhere = tmp_path / "results2"
    with stages.locked(elsewhere):
        assert (elsewhere / stages.OWNER).read_text() == str(os.getpid()), "another folder is free"
    for pid in (papermill, kernel):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(papermill), 60)
    assert run_quietly(run)["a"].status == "ok"
