"""Executes the chapters headlessly, each in a process of its own, and says truly how each ended.

papermill alone cannot be believed: a killed kernel, a cell past its limit or ``SystemExit`` leave a notebook that looks
complete. So a chapter is ok only if every code cell has an execution count, a closing cell added here has spoken, and the
files that the chapter promises are there and new.
"""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from ..files import write_text
from ..profiles import Profile
from ..tensors import sha256

CLOSING = "print('the chapter ran to its end')"
NO_KERNEL = "Kernel died before replying"  # two kernels that start at once may choose the same free port
ANSWERS = "study/answers/*.csv"  # of the user study
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
"""  # what nbconvert writes, but for the scripts that it would fetch from the network
WIDGET = "application/vnd.jupyter.widget-view+json"
PANEL = "<p><em>A panel stands here while the chapter runs; the pictures beside it stay.</em></p>"
LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Chapter:
    """A notebook of the matrix."""

    name: str
    about: str
    needs: tuple[str, ...] = ()
    promises: tuple[str, ...] = ()  # files below results/<profile>
    minutes: float = 1.0  # on two cores with the default profile
    limit: float = 12 * 3600.0  # seconds
    reads: str = ""  # pattern of files below results/<profile> that people put there
    alone: bool = False  # whether it measures time, so that nothing may run beside it


CHAPTERS = (
    Chapter("00_start_here", "the map, and a talking head from the reference weights", (), ("figures/start_here.png",), 0.5),
    Chapter("01_speakers_and_landmarks", "renders and prepares the corpus", (), ("figures/speakers.png", "figures/landmarks.png", "verification.json"), 3.5),
    Chapter("02_networks_and_losses", "shapes, sizes, losses", ("01_speakers_and_landmarks",), ("tables/sizes.csv", "figures/losses.png"), 0.2),
    Chapter("03_meta_learning", "meta-learning from nothing, for its budget", ("01_speakers_and_landmarks",),
            ("figures/meta_learning.png", "figures/meta_curves.png"), 2.0),
    Chapter("04_fine_tuning", "one new person, before and after", ("01_speakers_and_landmarks", "03_meta_learning"),
            ("figures/identity_gap.png", "figures/tuning_curves.png"), 1.3),
    Chapter("05_comparison", "Table 1: all methods", ("01_speakers_and_landmarks", "03_meta_learning"),
            ("tables/table1.csv", "tables/table1.md", "tables/table1.tex", "tables/differences.csv", "tables/observed.csv",
             *(f"figures/figure{n}.png" for n in (3, 4, 10, 11, 12, 13))), 10.0, reads=ANSWERS),
    Chapter("06_ablations", "what each part is worth", ("05_comparison",),  # whose cells it goes on with
            ("tables/ablations.csv", "tables/stability.csv", "figures/figure6.png", "figures/figure6_others.png"), 8.0),
    Chapter("07_timing", "Table 2: predicted and measured", ("01_speakers_and_landmarks",), ("tables/table2.csv", "tables/timings.csv"), 8.5, alone=True),
    Chapter("08_claims", "which of the paper's claims hold here", ("05_comparison", "06_ablations", "07_timing"), ("tables/claims.csv", "tables/reasons.csv", "tables/blur.csv"), 0.5),
    Chapter("09_identity_gap", "looking at the gap, by hand", ("01_speakers_and_landmarks", "03_meta_learning"), ("figures/gap.png", "figures/by_hand.png"), 0.8),
    Chapter("10_puppeteering", "driving one person by another", ("01_speakers_and_landmarks", "03_meta_learning"),
            (*(f"figures/figure{n}.png" for n in (1, 5, 7, 8, 9)), "figures/adaptation.png", "tables/adaptation.csv", "tables/drivers.csv", "clips/puppeteering.mp4", "clips/same_person.mp4", "clips/sixteen.mp4"), 2.5),
    Chapter("11_your_own_video", "a photograph that moves", ("03_meta_learning",), ("figures/astronaut.png", "clips/astronaut.mp4"), 0.3),
    Chapter("12_user_study", "which one is the fake?", ("05_comparison",), ("figures/triplets.png", "study/key.csv", "study/sheet0.html"), 0.2, reads=ANSWERS),
)


@dataclass
class Outcome:
    status: str  # ok | failed | running | stale
    seconds: float = 0.0
    key: str = ""
    error: str = ""


@dataclass
class Run:
    """What a run is about."""

    profile: Profile
    parameters: dict[str, Any]  # of every notebook, plain JSON values
    notebooks: Path
    results: Path  # results/<profile>
    inputs: tuple[Path, ...] = ()  # further files whose content counts, such as reference weights
    fetched: tuple[str, ...] = ()  # names of the pretrained networks that are there
    chapters: tuple[Chapter, ...] = CHAPTERS
    environment: dict[str, str] = field(default_factory=dict)

    lock: int | None = None  # file of the lock: chapters hold it too, so that nothing mixes even if the runner is killed
    processes: set[subprocess.Popen] = field(default_factory=set)

    def key(self, chapter: Chapter, keys: dict[str, str]) -> str:
        """Changes with the notebook, the library, the parameters, the inputs, what was fetched, what people put there, and the chapters needed."""
        digest = hashlib.sha256()
        notebook = nbformat.read(self.notebooks / f"{chapter.name}.ipynb", 4)
        digest.update(repr([(c.cell_type, c.source) for c in notebook.cells]).encode())
        digest.update(json.dumps([asdict(self.profile), self.parameters], sort_keys=True).encode())
        for path in sorted(p for p in LIBRARY.rglob("*") if p.suffix in (".py", ".yaml", ".csv", ".html", ".safetensors")):
            digest.update(path.name.encode() + path.read_bytes())
        digest.update(repr(self.fetched).encode())
        for path in self.inputs:
            digest.update(sha256(path).encode() if path.exists() else b"absent")
        for path in sorted(self.results.glob(chapter.reads) if chapter.reads else ()):
            digest.update(path.name.encode() + path.read_bytes())
        digest.update(repr([keys.get(n, "") for n in chapter.needs]).encode())
        return digest.hexdigest()[:16]


class Busy(RuntimeError):
    """Another run is at work in the same results folder."""


@contextmanager
def locked(results: Path):
    """Only one run at a time in a results folder. Raises :class:`Busy`; the lock goes with the process."""
    results.mkdir(parents=True, exist_ok=True)
    with open(results / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise Busy(f"{results}: another run (process {lock.read().strip() or 'unknown'}) is at work here; wait for it or choose another --results") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def read_status(results: Path) -> dict[str, Outcome]:
    path = results / "status.json"
    return {k: Outcome(**v) for k, v in json.loads(path.read_text()).items()} if path.exists() else {}


def write_status(results: Path, outcomes: dict[str, Outcome]) -> None:
    write_text(results / "status.json", json.dumps({k: asdict(v) for k, v in outcomes.items()}, indent=1))


def check_parameters(notebook: nbformat.NotebookNode, parameters: dict[str, Any]) -> None:
    """Raises ValueError for a parameter that the notebook does not declare or that is no plain JSON value."""
    cell = next((c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), None)
    if cell is None:
        raise ValueError("the notebook has no cell tagged 'parameters'")
    declared = {line.split("=")[0].strip() for line in cell.source.splitlines() if "=" in line and not line.startswith("#")}
    if unknown := sorted(parameters.keys() - declared):
        raise ValueError(f"unknown parameters {', '.join(unknown)}; the notebook declares {', '.join(sorted(declared))}")
    if json.loads(json.dumps(parameters)) != parameters:
        raise ValueError("parameters must be plain JSON values")


def execute(chapter: Chapter, run: Run, say: Callable[[str], None]) -> str:
    """Run one notebook; "" if it ran to its end and kept its promises, else why not."""
    source = run.notebooks / f"{chapter.name}.ipynb"
    folder = run.results / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(source, 4)
    try:
        check_parameters(notebook, run.parameters)
    except ValueError as error:
        return str(error)
    notebook.cells.append(nbformat.v4.new_code_cell(CLOSING))
    staged, written = folder / f".{chapter.name}.in.ipynb", folder / f".{chapter.name}.out.ipynb"
    nbformat.write(notebook, staged)
    start = time.time()
    command = [sys.executable, "-m", "papermill", str(staged.resolve()), str(written.resolve()), "--cwd", str(run.notebooks), "-k", "python3",
               "--no-progress-bar", "--log-output", "--stdout-file", str((folder / f".{chapter.name}.log").resolve()), "-y", json.dumps(run.parameters)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               pass_fds=() if run.lock is None else (run.lock,), env={**os.environ, **run.environment, "PYTHONUNBUFFERED": "1"})
    run.processes.add(process)
    try:
        stderr = _follow(process, folder / f".{chapter.name}.log", chapter.limit, say)
    except TimeoutError:
        return _closed(written, folder, chapter, f"ran past its limit of {chapter.limit:g} s and was stopped")
    except BaseException:
        _kill(process)
        raise
    finally:
        run.processes.discard(process)
        staged.unlink(missing_ok=True)
    reason = judge(written, process.returncode, stderr)
    if not reason:
        if lost := [p for p in chapter.promises if not (run.results / p).exists() or (run.results / p).stat().st_mtime < start - 1]:
            reason = f"did not write what it promised: {', '.join(lost)}"
    return _closed(written, folder, chapter, reason)


def _follow(process: subprocess.Popen, log: Path, limit: float, say: Callable[[str], None]) -> str:
    """Wait for the process, passing on what the notebook prints. Raises TimeoutError past the limit."""
    log.unlink(missing_ok=True)
    seen, deadline = 0, time.time() + limit
    while True:
        try:
            _, stderr = process.communicate(timeout=1.0)
            done = True
        except subprocess.TimeoutExpired:
            done = False
        if log.exists():
            text = log.read_text(errors="replace")
            complete = text.rfind("\n") + 1 if not done else len(text)
            for line in text[seen:complete].splitlines():
                if line.startswith("  ") and line.strip():  # progress lines of the library
                    say(line)
            seen = max(seen, complete)
        if done:
            log.unlink(missing_ok=True)
            return stderr
        if time.time() > deadline:
            _kill(process)
            raise TimeoutError


def _kill(process: subprocess.Popen) -> None:
    """End papermill and its kernel."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def judge(written: Path, returncode: int, stderr: str) -> str:
    """Why an executed notebook is not complete; "" if it is."""
    if not written.exists():
        return f"papermill failed before the first cell: {stderr.strip()[-600:]}"
    cells = [c for c in nbformat.read(written, 4).cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.get("traceback", [])))[-1500:]
                return f"cell {number} raised {output.ename}: {output.evalue}\n{trace}"
            if output.output_type == "stream" and "To exit: use 'exit', 'quit', or Ctrl-D." in output.text:
                return f"cell {number} called SystemExit"
    begun = [n for n, c in enumerate(cells, start=1) if c.execution_count is not None]
    if len(begun) < len(cells) or not any("the chapter ran to its end" in o.get("text", "") for o in cells[-1].get("outputs", [])):
        where = f"cell {begun[-1]}" if begun else "its first cell"
        said = stderr.strip().splitlines()[-1][-300:] if stderr.strip() else "the kernel died or the chapter left early"
        return f"stopped at {where}: {said}"
    return f"papermill ended with {returncode}: {stderr.strip()[-600:]}" if returncode else ""


def _closed(written: Path, folder: Path, chapter: Chapter, reason: str) -> str:
    """Put what was executed in its place, without the closing cell and without paths of this machine, and as HTML."""
    if not written.exists():
        return reason
    from nbconvert import HTMLExporter
    notebook = nbformat.read(written, 4)
    notebook.cells = [c for c in notebook.cells if c.source != CLOSING]
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", []):
            for name in ("text", "evalue"):
                if isinstance(output.get(name), str):
                    output[name] = output[name].replace(str(Path.cwd()) + "/", "")
            if "traceback" in output:
                output["traceback"] = [line.replace(str(Path.cwd()) + "/", "") for line in output["traceback"]]
    nbformat.write(notebook, written)
    notebook.metadata.pop("widgets", None)  # a page has no kernel to answer them
    for output in (o for c in notebook.cells for o in c.get("outputs", []) if WIDGET in o.get("data", {})):
        output["data"] = {"text/html": PANEL}
    html, _ = HTMLExporter(embed_images=True, raw_template=PAGE).from_notebook_node(notebook)
    write_text(folder / f"{chapter.name}.html", html)
    os.replace(written, folder / f"{chapter.name}.ipynb")
    return reason


@contextmanager
def stopping(run: Run):
    """An interrupt ends the chapters at work too; what they have saved stays, and the next run goes on from it."""
    try:
        yield
    except BaseException:
        for process in list(run.processes):
            _kill(process)
        raise


def plan(run: Run, only: list[str] | None = None) -> list[tuple[Chapter, str, str]]:
    """What a run would do: (chapter, "run" or "ok already", content key) in order.

    ``only`` names chapters, whole or by their number; what they need comes along if it is not ok. Raises ValueError for
    a name that does not exist.
    """
    known = {c.name: c for c in run.chapters}
    wanted = set(known)
    if only:
        wanted = set()
        for name in only:
            found = [c for c in known if c == name or c.split("_")[0] == name]
            if not found:
                raise ValueError(f"unknown chapter {name!r}; there are: {', '.join(known)}")
            wanted.update(found)
    for chapter in reversed(run.chapters):
        if chapter.name in wanted:
            wanted.update(chapter.needs)
    outcomes, keys, out = read_status(run.results), {}, []
    for chapter in run.chapters:
        keys[chapter.name] = run.key(chapter, keys)
        if chapter.name in wanted:
            old = outcomes.get(chapter.name)
            fresh = old is not None and old.status == "ok" and old.key == keys[chapter.name] and all((run.results / p).exists() for p in chapter.promises)
            out.append((chapter, "ok already" if fresh else "run", keys[chapter.name]))
    return out


def run_chapters(run: Run, only: list[str] | None = None, jobs: int = 1, say: Callable[[str], None] = print) -> dict[str, Outcome]:
    """Execute what is missing; a chapter that fails stops only those that need it. Returns all outcomes.

    Raises :class:`Busy` where another run holds the results folder.
    """
    with locked(run.results) as run.lock:
        steps = plan(run, only)
        outcomes = read_status(run.results)
        wanted = {chapter.name for chapter, *_ in steps}
        for chapter, what, _ in plan(run):  # those that are not wanted now say, too, that they are of other code
            if what == "run" and (chapter.name in wanted or outcomes.get(chapter.name, Outcome("")).status == "ok"):
                outcomes[chapter.name] = Outcome("stale", key=outcomes.get(chapter.name, Outcome("")).key)
        todo = {c.name: (c, key) for c, what, key in steps if what == "run"}
        waiting, running = list(todo), {}

        def one(chapter: Chapter) -> tuple[str, float]:
            start = time.time()
            try:
                error = execute(chapter, run, say)
                return execute(chapter, run, say) if NO_KERNEL in error else error, time.time() - start
            except Exception as error:  # of the runner itself; the chapter has failed, the others go on
                return f"{type(error).__name__}: {error}", time.time() - start

        with ThreadPoolExecutor(jobs) as executor, stopping(run):
            while waiting or running:
                for name in list(waiting):
                    chapter, key = todo[name]
                    broken = [n for n in chapter.needs if outcomes.get(n, Outcome("failed")).status == "failed"]
                    if broken:
                        outcomes[name] = Outcome("failed", key=key, error=f"needs {', '.join(broken)}, which failed")
                        say(f"{name}: not run, needs {', '.join(broken)}")
                        waiting.remove(name)
                    elif any(todo[n][0].alone for n in running) or (chapter.alone and running):
                        continue
                    elif len(running) < jobs and not any(n in waiting or n in running for n in chapter.needs):
                        outcomes[name] = Outcome("running", key=key)
                        say(f"{name}: {chapter.about}")
                        running[name] = executor.submit(one, chapter)
                        waiting.remove(name)
                write_status(run.results, outcomes)
                if running:
                    finished: set[Future] = wait(running.values(), return_when=FIRST_COMPLETED)[0]
                    for name in [n for n, f in running.items() if f in finished]:
                        error, seconds = running.pop(name).result()
                        outcomes[name] = Outcome("failed" if error else "ok", round(seconds, 1), todo[name][1], error)
                        say(f"{name}: {outcomes[name].status} after {seconds:.0f} s" + (f"\n{error}" if error else ""))
                        write_status(run.results, outcomes)
        write_status(run.results, outcomes)
        return outcomes
