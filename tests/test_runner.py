"""The runner says truly how each notebook ended, resumes, notices changes, and never mixes two runs."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import nbformat
import pytest

from talking_heads import profiles
from talking_heads.reproduce import report, runner
from talking_heads.reproduce.runner import Chapter, Outcome, Run

WRITE = "from pathlib import Path\nPath(results).mkdir(parents=True, exist_ok=True)\n(Path(results) / '{0}').write_text('{0}')"


def notebook(folder: Path, name: str, *cells: str) -> None:
    first = nbformat.v4.new_code_cell('profile = "smoke"\nresults = "out"')
    first.metadata["tags"] = ["parameters"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# " + name), first, *map(nbformat.v4.new_code_cell, cells)])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(nb, folder / f"{name}.ipynb")


def make(tmp_path, *chapters, **more) -> Run:
    results = tmp_path / "results"
    return Run(profiles.load("smoke"), {"profile": "smoke", "results": str(results)}, tmp_path / "notebooks", results, chapters=chapters, **more)


@pytest.mark.parametrize("cells, limit, why", [
    (["1 + 1", "raise KeyError('gone')", WRITE.format("a")], 60, "cell 3 raised KeyError: 'gone'"),
    (["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", WRITE.format("a")], 60, "stopped at cell [12]: .*Kernel died"),
    ([WRITE.format("a"), "raise SystemExit"], 60, "cell 3 (called|raised) SystemExit"),
    ([WRITE.format("a"), "import sys; sys.exit(0)", "1 + 1"], 60, "cell 3 (called|raised) SystemExit"),
    ([WRITE.format("a"), "import time; time.sleep(100)"], 6, "ran past its limit of 6 s"),
    (["1 + 1"], 60, "did not write what it promised: a"),
], ids=["raises", "killed kernel", "SystemExit last", "sys.exit midway", "past its limit", "breaks its promise"])
def test_failures_are_never_ok(tmp_path, cells, limit, why):
    import re
    notebook(tmp_path / "notebooks", "bad", *cells)
    outcome = runner.run_chapters(make(tmp_path, Chapter("bad", "", (), ("a",), limit=limit)), say=lambda _: None)["bad"]
    assert outcome.status == "failed" and re.search(why, outcome.error), outcome
    assert json.loads((tmp_path / "results/status.json").read_text())["bad"]["status"] == "failed"
    assert not list((tmp_path / "results/notebooks").glob(".bad*"))


def test_a_kernel_that_never_came_is_asked_for_once_more(tmp_path, monkeypatch):
    lost = "stopped at its first cell: RuntimeError: Kernel died before replying to kernel_info"
    notebook(tmp_path / "notebooks", "a", "1 + 1")
    for said, status in (([lost, lost], "failed"), ([lost, ""], "ok")):
        monkeypatch.setattr(runner, "execute", lambda *_: said.pop(0))
        assert runner.run_chapters(make(tmp_path, Chapter("a", "")), say=lambda _: None)["a"].status == status and not said


def test_a_failure_stops_only_those_that_need_it(tmp_path):
    notebook(tmp_path / "notebooks", "bad", "1 / 0")
    notebook(tmp_path / "notebooks", "needs", WRITE.format("b"))
    notebook(tmp_path / "notebooks", "free", WRITE.format("c"))
    run = make(tmp_path, Chapter("bad", ""), Chapter("needs", "", ("bad",), ("b",)), Chapter("free", "", (), ("c",)))
    outcomes = runner.run_chapters(run, jobs=2, say=lambda _: None)
    assert [o.status for o in outcomes.values()] == ["failed", "failed", "ok"] and "needs bad" in outcomes["needs"].error
    page = report.write_report(run.profile, run.results, "weights").read_text()
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_resumes_with_what_is_missing_and_notices_changes(tmp_path, monkeypatch):
    for name in "ab":
        notebook(tmp_path / "notebooks", name, WRITE.format(name))
    run = make(tmp_path, Chapter("a", "", (), ("a",)), Chapter("b", "", ("a",), ("b",)))
    todo = lambda r=run: [what for _, what, _ in runner.plan(r)]
    assert todo() == ["run", "run"]
    runner.run_chapters(run, say=lambda _: None)
    assert todo() == ["ok already"] * 2
    executed = nbformat.read(tmp_path / "results/notebooks/a.ipynb", 4)
    assert runner.CLOSING not in [c.source for c in executed.cells] and str(tmp_path) not in json.dumps(executed.metadata)
    assert (tmp_path / "results/notebooks/a.html").exists()

    (tmp_path / "results/b").unlink()
    assert todo() == ["ok already", "run"], "a lost result is made again"
    runner.run_chapters(run, say=lambda _: None)
    outcomes = runner.read_status(run.results)
    outcomes["a"] = Outcome("running", key=outcomes["a"].key)  # killed while it ran
    runner.write_status(run.results, outcomes)
    assert todo() == ["run", "ok already"]
    runner.run_chapters(run, say=lambda _: None)

    changed = make(tmp_path, *run.chapters)
    changed.parameters["profile"] = "laptop"
    assert todo(changed) == ["run", "run"], "a changed parameter makes both stale"
    notebook(tmp_path / "notebooks", "b", WRITE.format("b"), "2 + 2")
    assert todo() == ["ok already", "run"], "a changed notebook makes itself stale"
    notebook(tmp_path / "notebooks", "a", WRITE.format("a"), "2 + 2")
    assert todo() == ["run", "run"], "and those that need it"
    library = tmp_path / "library"
    library.mkdir()
    (library / "x.py").write_text("1")
    monkeypatch.setattr(runner, "LIBRARY", library)
    before = runner.plan(run)[0][2]
    (library / "x.py").write_text("2")
    assert runner.plan(run)[0][2] != before, "a changed library file makes everything stale"
    weights = tmp_path / "w.safetensors"
    run.inputs = (weights,)
    absent = runner.plan(run)[0][2]
    weights.write_bytes(b"w")
    assert runner.plan(run)[0][2] != absent
    before = runner.plan(run)[0][2]
    run.fetched = ("inception",)
    assert runner.plan(run)[0][2] != before, "a network that was fetched brings its metric"


def test_what_people_put_there_makes_its_readers_stale(tmp_path):
    for name in ("a", "b"):
        notebook(tmp_path / "notebooks", name, "1")
    run = make(tmp_path, Chapter("a", "", reads="study/answers/*.csv"), Chapter("b", ""))
    before = [key for *_, key in runner.plan(run)]
    (run.results / "study/answers").mkdir(parents=True)
    (run.results / "study/answers/ada.csv").write_text("a")
    after = [key for *_, key in runner.plan(run)]
    assert after[0] != before[0] and after[1] == before[1]


def test_only_brings_along_what_is_needed_and_refuses_unknown_names(tmp_path):
    for name in ("01_a", "02_b", "03_c"):
        notebook(tmp_path / "notebooks", name, "1")
    run = make(tmp_path, Chapter("01_a", ""), Chapter("02_b", "", ("01_a",)), Chapter("03_c", ""))
    assert [c.name for c, _, _ in runner.plan(run, ["02"])] == ["01_a", "02_b"]
    with pytest.raises(ValueError, match="unknown chapter 'nine'; there are: 01_a, 02_b, 03_c"):
        runner.plan(run, ["nine"])


def test_what_is_left_out_keeps_its_outcome_or_says_that_it_is_stale(tmp_path):
    notebook(tmp_path / "notebooks", "01_a", WRITE.format("a"))
    notebook(tmp_path / "notebooks", "02_b", WRITE.format("b"))
    notebook(tmp_path / "notebooks", "03_c", "raise ValueError('broken')")
    run = make(tmp_path, Chapter("01_a", "", (), ("a",)), Chapter("02_b", "", (), ("b",)), Chapter("03_c", ""))
    first = runner.run_chapters(run, say=lambda _: None)
    notebook(tmp_path / "notebooks", "02_b", WRITE.format("b"), "2 + 2")
    again = runner.run_chapters(run, ["01"], say=lambda _: None)
    assert [again[n].status for n in ("01_a", "02_b", "03_c")] == ["ok", "stale", "failed"]
    assert "broken" in again["03_c"].error == first["03_c"].error


def test_unknown_parameters_and_values_that_are_no_json_are_refused(tmp_path):
    notebook(tmp_path / "notebooks", "a", "1")
    nb = nbformat.read(tmp_path / "notebooks/a.ipynb", 4)
    with pytest.raises(ValueError, match="unknown parameters extra; the notebook declares profile, results"):
        runner.check_parameters(nb, {"profile": "smoke", "extra": 1})
    with pytest.raises(ValueError, match="plain JSON"):
        runner.check_parameters(nb, {"profile": (1, 2)})


def _hold(results, ready, stop):
    with runner.locked(results):
        ready.set()
        stop.wait(20)


def test_two_runs_at_once_do_not_mix(tmp_path):
    notebook(tmp_path / "notebooks", "a", "1")
    run = make(tmp_path, Chapter("a", ""))
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run.results, ready, stop))
    other.start()
    assert ready.wait(60)
    with pytest.raises(runner.Busy, match=rf"another run \(process {other.pid}\) is at work here"):
        runner.run_chapters(run, say=lambda _: None)
    stop.set()
    other.join()
    assert runner.run_chapters(run, say=lambda _: None)["a"].status == "ok"


def test_nothing_runs_beside_a_chapter_that_measures_time(tmp_path):
    note = "import time\nfrom pathlib import Path\nbegun = time.time()\ntime.sleep(6)\nPath(results, '{0}').write_text(f'{{begun}} {{time.time()}}')"
    for name in "abc":
        notebook(tmp_path / "notebooks", name, note.format(name))
    run = make(tmp_path, Chapter("a", "", (), ("a",)), Chapter("b", "", (), ("b",), alone=True), Chapter("c", "", (), ("c",)))
    outcomes = runner.run_chapters(run, jobs=3, say=lambda _: None)
    assert {o.status for o in outcomes.values()} == {"ok"}
    times = {n: [float(v) for v in (tmp_path / "results" / n).read_text().split()] for n in "abc"}
    assert all(times["b"][0] > times[n][1] or times["b"][1] < times[n][0] for n in "ac")
    assert times["a"][0] < times["c"][1] and times["c"][0] < times["a"][1], "the others share the machine"


def test_the_report_says_what_is_of_an_earlier_run(tmp_path):
    profile = profiles.load("smoke")
    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "tables/table1.md").write_text("A caption\n\n| a |\n|---|\n| 1 |\n")
    (tmp_path / "figures/figure4.png").write_bytes(b"png")
    for status, told in (("ok", 0), ("failed", 2), ("stale", 2)):
        runner.write_status(tmp_path, {"05_comparison": Outcome(status)})
        assert report.write_report(profile, tmp_path, "weights").read_text().count(f">Of an earlier run (05_comparison: {status}). ") == told


def test_the_report_has_its_tables_in_the_order_of_the_chapters_and_says_nothing_twice(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("claims", "anything", "table1"):
        (tmp_path / f"tables/{name}.md").write_text("A caption\n\n| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 1 | 4 | 3 |\n")
    assert [p.stem for p in report.in_order(tmp_path / "tables", ".md")] == ["table1", "claims", "anything"]
    cells = re.findall("<td>(.*?)</td>", report.markdown_table(tmp_path / "tables/claims.md")[1])
    assert cells == ["1", "2", "3", "", "4", "3"], "what is the same is left out from the left on, up to the first difference"


SLEEP = "import os, time\nfrom pathlib import Path\nPath(results, 'pids').write_text(f'{os.getpid()} {os.getppid()}')\ntime.sleep(300)"


def _run(folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
    notebook(folder / "notebooks", "a", SLEEP)
    runner.run_chapters(make(folder, Chapter("a", "")), say=lambda _: None)


def _started(folder) -> tuple[multiprocessing.Process, list[int]]:
    """A run in a process of its own, and the pids of its kernel and of papermill."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(folder,))
    process.start()
    pids, deadline = folder / "results/pids", time.time() + 180
    while not pids.exists() or not pids.read_text():
        assert time.time() < deadline
        time.sleep(0.1)
    return process, [int(v) for v in pids.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _once_free(run):
    """The outcomes, at the latest 20 s from now: a killed process's threads may hold its files a little longer."""
    deadline = time.time() + 20
    while True:
        try:
            return runner.run_chapters(run, say=lambda _: None)
        except runner.Busy:
            if time.time() > deadline:
                raise
            time.sleep(0.1)


def test_an_interrupted_run_takes_its_chapter_with_it(tmp_path):
    process, pids = _started(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode not in (None, 0)
    deadline = time.time() + 20
    while any(map(_alive, pids)):
        assert time.time() < deadline
        time.sleep(0.1)
    notebook(tmp_path / "notebooks", "a", "1")
    assert _once_free(make(tmp_path, Chapter("a", "")))["a"].status == "ok"


def test_a_killed_runs_chapter_keeps_the_lock_until_it_ends(tmp_path):
    process, (kernel, papermill) = _started(tmp_path)
    process.kill()
    process.join(30)
    run = make(tmp_path, Chapter("a", ""))
    with pytest.raises(runner.Busy):
        runner.run_chapters(run, say=lambda _: None)
    for pid in (papermill, kernel):
        os.kill(pid, signal.SIGKILL)
    notebook(tmp_path / "notebooks", "a", "1")
    assert _once_free(run)["a"].status == "ok"


def test_progress_lines_are_passed_on_while_it_runs(tmp_path):
    notebook(tmp_path / "notebooks", "a", "import time\nprint('  halfway', flush=True)\ntime.sleep(4)\nprint('  done', flush=True)")
    said = []
    runner.run_chapters(make(tmp_path, Chapter("a", "")), say=lambda line: said.append((time.time(), line)))
    times = {line.strip(): t for t, line in said}
    assert times["done"] - times["halfway"] > 1.5
