"""A headless Chromium for tests, driven by Playwright, and a JupyterLab to open in it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Log:
    """What a page did: uncaught exceptions and console errors, and the addresses that it requested."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def add_console_message(self, message: ConsoleMessage) -> None:
        """Keep an error, unless it is about the browser's own policy."""
        if message.type == "error" and not message.text.startswith("[Intervention]"):
            self.errors.append(f"{message.text} ({message.location})")

    def assert_quiet(self, schemes: tuple[str, ...] = ()) -> None:
        """No errors, and, where ``schemes`` are given, no requests of other kinds."""
        assert not self.errors, self.errors
        if schemes:
            assert self.requests, "requests are observed"
            assert not [address for address in self.requests if not address.startswith(schemes)]


@contextmanager
def open_page(context: BrowserContext) -> Iterator[tuple[Page, Log]]:
    """A new page and its log. Dialogs are accepted: an unsaved notebook asks before it is left."""
    page, log = context.new_page(), Log()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: log.errors.append(str(error)))
    page.on("console", log.add_console_message)
    page.on("request", lambda request: log.requests.append(request.url))
    page.on("dialog", lambda dialog: dialog.accept())
    try:
        yield page, log
    finally:
        page.close()


def wait_for(condition: Callable[[], object], seconds: float, event: str) -> None:
    """Wait until ``condition()`` is true. An OSError counts as false. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{event}: not within {seconds:g} s")


@contextmanager
def serve_lab(root: Path, settings: Path) -> Iterator[str]:
    """The address of a JupyterLab that serves ``root``. ``settings`` is a folder for its configuration."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(settings / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--IdentityProvider.token=",
            "--LabApp.expose_app_in_browser=True",
            f"--ServerApp.root_dir={root}",
        ],
        cwd=root,
        env={**os.environ, **folders, "IPYTHONDIR": str(settings / "ipython")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: WITHOUT_PROXY.open(f"{address}/api").read(), 90, "JupyterLab starts")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


NOTEBOOK = """window.notebook = () => window.jupyterapp && [...window.jupyterapp.shell.widgets('main')]
    .find(widget => widget.sessionContext && widget.content && widget.content.model)"""
KERNEL = "!!(notebook() && notebook().sessionContext.session && notebook().sessionContext.session.kernel)"
RUN_ALL = """() => {
    window.finished = false;
    window.jupyterapp.shell.activateById(notebook().id);
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.finished = true });
}"""
STATE = """() => {
    const cells = [...notebook().content.model.cells].filter(cell => cell.type === 'code');
    const outputs = cells.flatMap(cell => cell.outputs.toJSON());
    const errors = outputs.filter(output => output.output_type === 'error');
    return {
        cells: cells.length,
        executed: cells.filter(cell => cell.executionCount).length,
        errors: errors.map(error => error.ename + ': ' + error.evalue),
        finished: window.finished,
    };
}"""


def run_all_cells(page: Page, address: str, notebook: str, seconds: float = 300) -> None:
    """Open a notebook in JupyterLab and run all cells; assert that each ran without an error."""
    page.add_init_script(NOTEBOOK)
    page.goto(f"{address}/lab/tree/{notebook}?reset")
    page.wait_for_function(KERNEL, timeout=90_000)
    page.evaluate(RUN_ALL)
    state: dict = {}

    def finished() -> bool:
        state.update(page.evaluate(STATE))
        return bool(state["finished"] or state["errors"])

    wait_for(finished, seconds, f"{notebook} runs")
    assert not state["errors"] and state["executed"] == state["cells"], state


def pictures(control: Locator) -> list[str]:
    """The addresses of the images in the cell output that holds a control. A new image has a new address."""
    return control.evaluate(
        "c => [...c.closest('.jp-OutputArea').querySelectorAll('.widget-image')].map(i => i.src)"
    )


@contextmanager
def changed_pictures(control: Locator, name: str) -> Iterator[None]:
    """Assert that the pictures beside a control, once at rest, change when the block operates it."""
    latest: list[str] = []

    def at_rest() -> bool:
        previous, latest[:] = list(latest), pictures(control)
        time.sleep(0.2)
        return previous == latest

    wait_for(at_rest, 30, f"{name}: the pictures are at rest")
    yield
    wait_for(lambda: pictures(control) != latest, 30, f"{name}: the pictures change")
