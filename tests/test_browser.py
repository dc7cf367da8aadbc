"""What people see: notebooks in JupyterLab, the report and the study's page in a real browser."""

import shutil
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest

import browser

ROOT = Path(__file__).parents[1]
LOOKED_AT = ROOT / "build/screenshots"  # what the last run of these tests saw
pytestmark = pytest.mark.skipif(not browser.CHROMIUM, reason="needs Chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.parametrize("of", ["reference", "smoke"])
def test_a_report_opens_from_the_file_system(page, smoke, of):
    page.leave()
    page.open(f"file://{ROOT / 'results/reference' if of == 'reference' else smoke[0]}/index.html")
    sizes = page.js("[...document.images].map(i => i.naturalWidth)")
    assert len(sizes) >= 8 and min(sizes) > 100
    assert page.js("document.querySelectorAll('table').length") >= 3
    assert page.js("document.documentElement.scrollWidth <= window.innerWidth"), "nothing runs out of the page"
    assert not page.errors and all(r.startswith(("file://", "data:")) for r in page.requests)
    links = page.js("[...document.querySelectorAll('a')].map(a => decodeURI(new URL(a.href).pathname))")
    assert links and all(Path(link).exists() for link in links)


@pytest.mark.parametrize("name", ["02_networks_and_losses", "09_identity_gap"])
def test_an_executed_chapter_opens_without_a_network(page, smoke, name):
    page.leave()
    page.open(f"file://{smoke[0]}/notebooks/{name}.html")
    assert page.js("[...document.images].filter(i => i.naturalWidth > 100).length") >= 1
    assert ("A panel stands here" in page.js("document.body.innerText")) == name.startswith("09")
    assert not page.errors and all(r.startswith(("file://", "data:")) for r in page.requests)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory, smoke):
    """JupyterLab on copies of the chapters that say profile = "smoke", with what the smoke run left."""
    root, ran = tmp_path_factory.mktemp("lab"), smoke[0].parents[1]
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ran / "results", root / "results")
    (root / "data").symlink_to(ran / "data")
    for path in (root / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace('"laptop"', '"smoke"').replace('"reference"', '"scratch"')
        nbformat.write(notebook, path)
    with browser.lab(root, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb") if not p.stem.startswith("09")))
def test_run_all_in_jupyterlab(page, jupyter, name):
    page.leave()
    state = browser.run_all(page, jupyter, f"notebooks/{name}.ipynb")
    assert not state["errors"] and state["run"] == state["cells"], state
    assert not page.errors, page.errors


def test_panels_follow_in_jupyterlab(page, jupyter):
    """Chapter 09: every slider moved by key, people chosen and a landmark dragged by mouse change the pictures; nothing complains."""
    page.leave()
    state = browser.run_all(page, jupyter, "notebooks/09_identity_gap.ipynb")
    assert not state["errors"] and state["run"] == state["cells"], state

    def follows(control, move, what):
        """The pictures of the panel that the control is in come to rest, the control is moved, and they change."""
        pictures = f"[...{control}.closest('.jp-OutputArea').querySelectorAll('.widget-image')].map(i => i.src)"
        rest = []
        browser.wait_for(lambda: (rest.append(page.js(pictures)), time.sleep(0.4), rest[-1] == page.js(pictures))[-1], 30, "rest")
        move()
        browser.wait_for(lambda: page.js(pictures) != rest[-1], 30, what)

    handles = "panel().node.querySelectorAll('.noUi-handle')"
    names = ["frame", "epoch", "epoch", "yaw", "pitch", "roll", "mouth", "eyes"]
    labels = f"[...{handles}].map(h => h.closest('.widget-inline-hbox').querySelector('label').textContent)"
    browser.wait_for(lambda: page.js(labels) == names, 60, "the panels")
    for n, name in enumerate(names):
        page.js(f"{handles}[{n}].focus(); 1")
        follows(f"{handles}[{n}]", lambda: [page.press("ArrowLeft" if name == "epoch" else "ArrowRight") for _ in range(3)], name)
    choosers = "panel().node.querySelectorAll('.widget-dropdown select')"
    assert page.js(f"{choosers}.length") == 2
    for n in range(2):
        choose = f"(s => {{ s.selectedIndex = s.options.length - 1; s.dispatchEvent(new Event('change', {{bubbles: true}})) }})({choosers}[{n}]); 1"
        follows(f"{choosers}[{n}]", lambda: page.js(choose), "another person")
    shots = "panel().node.querySelectorAll('.widget-toggle-button')[0]"
    follows(shots, lambda: page.js(f"{shots}.click(); 1"), "another T")
    canvas = "[...panel().node.querySelectorAll('canvas')].find(c => c.width >= 300)"
    page.js(f"{canvas}.scrollIntoView({{block: 'center'}}); 1")
    time.sleep(0.5)
    box = page.js(f"(() => {{ const b = {canvas}.getBoundingClientRect(); return [b.left, b.top, b.width] }})()")
    result = f"{canvas}.closest('.jp-OutputArea').querySelector('.widget-image').src"
    driven = page.js(result)
    x, y = page.js(f"""(() => {{ const c = {canvas}, d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        for (let y = c.height >> 1; y < c.height; y++) for (let x = 0; x < c.width; x++) {{ const i = 4 * (y * c.width + x);
        if (d[i] > 250 && d[i + 1] > 250 && d[i + 2] > 250) return [x / c.width, y / c.height] }} }})()""")  # on the line of the jaw
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 20), ("mouseMoved", 40), ("mouseReleased", 40)):
        page.mouse(kind, box[0] + x * box[2] + dx, box[1] + y * box[2])
        time.sleep(0.3)
    browser.wait_for(lambda: page.js(result) != driven, 30, "the head to follow")
    press = "[...panel().node.querySelectorAll('button')].find(b => b.textContent === '{}')"
    said = f"{press.format('stop')}.parentElement.textContent"
    follows(press.format("fine-tune"), lambda: page.js(f"{press.format('fine-tune')}.click(); 1"), "the first epoch")
    browser.wait_for(lambda: "epoch" in page.js(said), 60, "the first epoch")
    page.js(f"{press.format('stop')}.click(); 1")
    browser.wait_for(lambda: " after epoch" in page.js(said), 60, "the end of fine-tuning")
    assert page.js(f"!!{press.format('stop')}.closest('.jp-OutputArea').querySelector('svg circle')"), "the curve marks the epoch"
    assert page.js("!!panel().node.querySelector('.widget-upload')")
    LOOKED_AT.mkdir(parents=True, exist_ok=True)
    page.screenshot(LOOKED_AT / "panels.png")
    assert not page.errors, page.errors


def test_the_studys_page_asks_goes_on_and_hands_over(page, tmp_path):
    from talking_heads.evaluation import user_study
    from talking_heads.reproduce.study_page import write_page
    rng = np.random.default_rng(0)
    frames = lambda: rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    triplets = user_study.draw({"ours@8": {p: frames() for p in "abc"}}, {p: [frames(), frames()] for p in "abc"}, 6)
    sheet = write_page(triplets, [4, 1, 5, 0], tmp_path / "sheet.html")
    page.leave()
    page.open(f"file://{sheet}")
    page.js("document.getElementById('begin').click()")
    assert "name" in page.js("document.getElementById('complaint').textContent")
    page.js("document.getElementById('rater').value = 'Ada, L'; document.getElementById('begin').click()")
    assert page.js("document.getElementById('where').textContent") == "1 of 4"
    time.sleep(0.4)
    page.js("document.dispatchEvent(new KeyboardEvent('keydown', {key: '2', bubbles: true}));"
            "document.querySelectorAll('#pictures button')[0].click()")  # too soon: it belonged to the triplet before
    assert page.js("document.getElementById('where').textContent") == "2 of 4"
    time.sleep(0.4)
    page.js("document.querySelectorAll('#pictures button')[0].click()")
    page.open(f"file://{sheet}")  # closed and opened again
    page.js("document.getElementById('rater').value = 'Ada, L'; document.getElementById('begin').click()")
    assert page.js("document.getElementById('where').textContent") == "3 of 4"
    for digit in "311":
        time.sleep(0.4)
        page.press(digit)
    assert page.js("document.getElementById('end').hidden") is False
    text = page.js("""new Promise(done => { URL.createObjectURL = blob => { blob.text().then(done); return '#' }; document.getElementById('download').click() })""")
    (tmp_path / "answers.csv").write_text(text)
    answers, notes = user_study.read_answers([tmp_path / "answers.csv"], user_study.key(triplets))
    assert answers[["triplet", "choice"]].values.tolist() == [[4, 1], [1, 0], [5, 2], [0, 0]] and not notes
    assert not page.errors and all(r.startswith(("file://", "data:", "blob:")) for r in page.requests)
    page.call("Emulation.setDeviceMetricsOverride", width=380, height=700, deviceScaleFactor=2, mobile=True)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    page.open(f"file://{sheet}")
    page.js("document.getElementById('rater').value = 'on a phone'; document.getElementById('begin').click()")
    for place in (1, 2):
        assert page.js("document.getElementById('where').textContent") == f"{place} of 4"
        assert page.js("Math.max(document.documentElement.scrollWidth, window.innerWidth)") <= 380, "a phone shows it whole"
        time.sleep(0.4)
        page.tap(*page.js("(b => [b.left + b.width / 2, b.top + b.height / 2])(document.querySelectorAll('#pictures button')[2].getBoundingClientRect())"))
        browser.wait_for(lambda: page.js("document.getElementById('where').textContent") == f"{place + 1} of 4", 10, "the next triplet")
    LOOKED_AT.mkdir(parents=True, exist_ok=True)
    page.screenshot(LOOKED_AT / "phone.png")
    page.call("Emulation.setTouchEmulationEnabled", enabled=False)
    page.call("Emulation.clearDeviceMetricsOverride")
    assert not page.errors, page.errors
