"""A headless Chromium for tests, driven by its debugging protocol; and JupyterLab to look at in it."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import websocket

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (p := shutil.which(n))), None)
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wait_for(condition, seconds: float, what: str):
    """The first true value of ``condition()``. Raises TimeoutError."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{what} did not come within {seconds:g} s")


class Page:
    """A page of the browser: ``errors`` collects exceptions and console errors, ``requests`` what it asked the network for."""

    def __init__(self, address: str):
        self.socket, self.number = websocket.create_connection(address, suppress_origin=True, timeout=120), 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                return message.get("result", {})
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method: str, params: dict) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error" and params["entry"]["source"] != "intervention":  # the browser's own policy
            self.errors.append(json.dumps(params["entry"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.javascriptDialogOpening":  # an unsaved notebook asks before it goes; its answer is passed over
            self.socket.send(json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}))

    def leave(self) -> None:
        """To an empty page; ``errors`` and ``requests`` are those of what is opened next, not the last ones of what was left."""
        self.open("about:blank")
        time.sleep(0.5)
        self.js("1")
        self.errors.clear()
        self.requests.clear()

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        wait_for(lambda: self.js("document.readyState") == "complete", 60, url)

    def js(self, code: str):
        """The value of an expression; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "error in the page"))
        return result.get("result", {}).get("value")

    def press(self, key: str) -> None:
        """A key by its name: a character, or ArrowRight and the like."""
        number = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key, ord(key[0]))
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key if len(key) > 1 else "", windowsVirtualKeyCode=number,
                      text=key if kind == "keyDown" and len(key) == 1 else "")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """``kind``: mousePressed, mouseMoved or mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=0 if kind == "mouseReleased" else 1, clickCount=1)

    def tap(self, x: float, y: float) -> None:
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(folder: Path, width: int = 1400, height: int = 1400):
    """A page of a fresh headless Chromium whose profile lies in ``folder``."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
               "--disable-sync", "--no-proxy-server", "--remote-allow-origins=*", "--remote-debugging-port=0", f"--user-data-dir={folder}",
               f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = wait_for(lambda: (folder / "DevToolsActivePort").exists() and (folder / "DevToolsActivePort").read_text().split()[0], 60, "the browser")
        tabs = wait_for(lambda: [t for t in json.loads(LOCAL.open(f"http://127.0.0.1:{port}/json").read()) if t["type"] == "page"], 60, "a page")
        yield Page(tabs[0]["webSocketDebuggerUrl"])
    finally:
        process.kill()
        process.wait()


@contextmanager
def lab(root: Path, folder: Path):
    """The address of a JupyterLab on ``root`` with settings of its own in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")} | {"IPYTHONDIR": str(folder / "ipython")}
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=",
                                "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={root}"], cwd=root, env={**os.environ, **own},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: LOCAL.open(f"{address}/api").read(), 90, "JupyterLab")
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


NOTEBOOK = ("window.panel = () => window.jupyterapp && [...window.jupyterapp.shell.widgets('main')]"
            ".find(w => w.sessionContext && w.content && w.content.model)")
STATE = """(() => { const cells = [...panel().content.model.cells].filter(c => c.type === 'code');
return { cells: cells.length, run: cells.filter(c => c.executionCount).length, done: window.finished,
         errors: cells.flatMap(c => c.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)) } })()"""


def run_all(page: Page, address: str, notebook: str, seconds: float = 300) -> dict:
    """Open a notebook in JupyterLab and "Run All Cells"; returns its state at the end: cells, run, errors."""
    page.open(f"{address}/lab/tree/{notebook}?reset")
    page.js(NOTEBOOK + "; 1")
    wait_for(lambda: page.js("!!(panel() && panel().sessionContext.session && panel().sessionContext.session.kernel)"), 90, f"the kernel of {notebook}")
    page.js("window.jupyterapp.shell.activateById(panel().id); window.finished = false; "
            "window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.finished = true }); 1")
    return wait_for(lambda: (s := page.js(STATE)) and (s["done"] or s["errors"]) and s, seconds, f"the end of {notebook}")
