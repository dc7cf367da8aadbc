"""Reports, executed chapters, notebooks in JupyterLab and the user study in a real browser."""

import shutil
from pathlib import Path

import browser
import nbformat
import numpy as np
import pytest
from talking_heads.metrics import turing_test, user_study
from talking_heads.widgets.study_page import write_page

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "build/screenshots"  # of the last run of these tests
LOCAL = ("file://", "data:", "blob:")  # requests that need no network
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SLIDERS = ["frame", "epoch", "epoch", "yaw", "pitch", "roll", "mouth", "eyes"]  # of chapter 09, in order
pytestmark = pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def chromium():
    with browser.open_browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def context(chromium):
    """One context for all pages of a desktop: they share the browser's cache."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1400})
    yield context
    context.close()


@pytest.fixture
def page_and_log(context):
    with browser.open_page(context) as opened:
        yield opened


@pytest.mark.parametrize("results", ["reference", "smoke"])
def test_a_report_opens_from_the_file_system(page_and_log, smoke, results):
    page, log = page_and_log
    page.goto(f"file://{ROOT / 'results/reference' if results == 'reference' else smoke[0]}/index.html")
    sizes = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(sizes) >= 8 and min(sizes) > 100
    assert page.locator("table").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut off"
    log.assert_quiet(LOCAL)
    links = page.evaluate("[...document.querySelectorAll('a')].map(a => decodeURI(new URL(a.href).pathname))")
    assert links and all(Path(link).exists() for link in links)


@pytest.mark.parametrize("name", ["02_networks_and_losses", "09_identity_gap"])
def test_an_executed_chapter_opens_without_a_network(page_and_log, smoke, name):
    page, log = page_and_log
    page.goto(f"file://{smoke[0]}/notebooks/{name}.html")
    assert page.evaluate("[...document.images].filter(i => i.naturalWidth > 100).length") >= 1
    assert ("This panel needs a running notebook" in page.inner_text("body")) == name.startswith("09")
    log.assert_quiet(LOCAL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, smoke):
    """JupyterLab with copies of the chapters for the smoke profile, and with the results of the smoke run."""
    root, run = tmp_path_factory.mktemp("lab"), smoke[0].parents[1]
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(run / "results", root / "results")
    (root / "data").symlink_to(run / "data")
    for path in (root / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                for name in ("laptop", "portrait"):
                    cell.source = cell.source.replace(f'"{name}"', '"smoke"')
                cell.source = cell.source.replace('"reference"', '"scratch"')
            if path.stem.startswith("09"):  # so many epochs that a fine-tuning can be stopped
                longer = 'config.load(profile, {"few_shot.fine_tuning.epochs": 100})'
                cell.source = cell.source.replace("config.load(profile)", longer)
        nbformat.write(notebook, path)
    with browser.serve_lab(root, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.mark.parametrize("name", [name for name in CHAPTERS if not name.startswith("09")])
def test_all_cells_of_a_chapter_run_in_jupyterlab(page_and_log, lab, name, request):
    """By default the first chapter alone, and chapter 09 below: papermill runs the others."""
    if name != "00_start_here" and not request.config.getoption("--all-in-jupyterlab"):
        pytest.skip("needs --all-in-jupyterlab")
    page, log = page_and_log
    browser.run_all_cells(page, lab, f"notebooks/{name}.ipynb")
    log.assert_quiet()


def test_the_panels_of_chapter_09_respond_in_jupyterlab(page_and_log, lab):
    """The pictures change with each slider, menu and button, and when a landmark is dragged."""
    page, log = page_and_log
    browser.run_all_cells(page, lab, "notebooks/09_identity_gap.ipynb")
    notebook = page.locator(".jp-NotebookPanel")
    handles = notebook.locator(".noUi-handle")
    browser.wait_for(lambda: handles.count() == len(SLIDERS), 60, "the panels appear")
    for number, name in enumerate(SLIDERS):
        handle = handles.nth(number)
        label = handle.evaluate("h => h.closest('.widget-inline-hbox').querySelector('label').textContent")
        assert label == name
        key = "ArrowLeft" if name == "epoch" else "ArrowRight"
        with browser.changed_pictures(handle, name):
            for _ in range(3):
                handle.press(key)
    menus = notebook.locator(".widget-dropdown select")
    assert menus.count() == 2
    for menu in menus.all():
        last = menu.locator("option").count() - 1
        with browser.changed_pictures(menu, "another identity"):
            menu.select_option(index=last)
    shots = notebook.locator(".widget-toggle-button").first
    with browser.changed_pictures(shots, "another T"):
        shots.click()
    drag_a_landmark(page)
    watch_a_fine_tuning(notebook)
    assert notebook.locator(".widget-upload").count() == 1
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "panels.png")
    log.assert_quiet()


WHITE_PIXEL = """canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    for (let y = canvas.height >> 1; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
        const i = 4 * (y * canvas.width + x);
        if (Math.min(pixels[i], pixels[i + 1], pixels[i + 2]) > 250)
            return [x / canvas.width, y / canvas.height];
    }
}"""


def drag_a_landmark(page):
    """Drag a point of the jaw, a white pixel in the lower half of the first canvas that has one."""
    canvas = page.locator(".jp-NotebookPanel canvas[width='320']").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    right, down = canvas.evaluate(WHITE_PIXEL)
    x, y = box["x"] + right * box["width"], box["y"] + down * box["height"]
    with browser.changed_pictures(canvas, "a landmark is dragged"):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 20, y)
        page.mouse.move(x + 40, y)
        page.mouse.up()


LAST_SHAPE = """button => {
    const image = [...button.closest('.jp-OutputArea').querySelectorAll('.widget-image')].at(-1);
    return image.naturalWidth / image.naturalHeight || 0;
}"""


def watch_a_fine_tuning(notebook):
    """Start a fine-tuning, stop it after its first epoch, and see its curve."""
    start = notebook.get_by_role("button", name="fine-tune", exact=True)
    stop = notebook.get_by_role("button", name="stop", exact=True)
    status = stop.locator("xpath=..")
    with browser.changed_pictures(start, "the first epoch"):
        start.click()
    browser.wait_for(lambda: "epoch" in status.inner_text(), 60, "the first epoch")
    stop.click()
    browser.wait_for(lambda: "stopped after epoch" in status.inner_text(), 60, "the fine-tuning is stopped")
    browser.wait_for(lambda: stop.evaluate(LAST_SHAPE) > 2, 60, "the curve, wider than the pictures")


def position(page):
    return page.text_content("#position")


def begin(page, address, rater):
    page.goto(address)
    page.fill("#rater", rater)
    page.click("#begin")


@pytest.fixture
def sheet(tmp_path):
    """Triplets of noise, and the address of a page that shows four of them."""
    rng = np.random.default_rng(0)

    def frames():
        return rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)

    generated = {"ours@8": {identity: frames() for identity in "abc"}}
    real = {identity: [frames(), frames()] for identity in "abc"}
    triplets = user_study.draw_triplets(generated, real, 6)
    return triplets, f"file://{write_page(triplets, [4, 1, 5, 0], tmp_path / 'sheet.html')}"


def test_the_page_of_the_user_study_keeps_answers_and_saves_them(page_and_log, sheet, tmp_path):
    (page, log), (triplets, address) = page_and_log, sheet
    page.goto(address)
    page.click("#begin")
    assert "name" in page.text_content("#complaint")
    begin(page, address, "Ada, L")
    assert position(page) == "1 of 4"
    page.wait_for_timeout(400)
    page.evaluate("""() => {
        document.dispatchEvent(new KeyboardEvent('keydown', {key: '2', bubbles: true}));
        document.querySelectorAll('#pictures button')[0].click();
    }""")
    assert position(page) == "2 of 4", "the click comes too soon after the key"
    page.wait_for_timeout(400)
    page.locator("#pictures button").first.click()
    begin(page, address, "Ada, L")
    assert position(page) == "3 of 4", "answers outlive the page"
    for digit in "311":
        page.wait_for_timeout(400)
        page.keyboard.press(digit)
    assert page.locator("#end").is_visible()
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "answers.csv")
    answers, notes = user_study.read_answers([tmp_path / "answers.csv"], user_study.answer_key(triplets))
    assert answers[["triplet", "choice"]].values.tolist() == [[4, 1], [1, 0], [5, 2], [0, 0]] and not notes
    log.assert_quiet(LOCAL)


def test_the_page_of_the_turing_test_plays_clips_and_saves_votes(page_and_log, tmp_path):
    page, log = page_and_log
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 255, (2, 3, 1, 1, 3), dtype=np.uint8)
    clips = {
        row: {identity: np.tile(levels[k, n], (25, 32, 32, 1)) for n, identity in enumerate("abc")}
        for k, row in enumerate((turing_test.TRUE_CLIPS, "ours"))
    }
    sounds = dict.fromkeys("abc", (3000 * np.sin(np.arange(16_000) / 5)).astype(np.int16))
    questions = turing_test.draw_questions(clips, sounds, 2)
    begin(page, f"file://{write_page(questions, [3, 0, 2], tmp_path / 'sheet.html')}", "Ada")
    assert page.locator("#pictures button").all_text_contents() == ["real", "synthetic"]
    page.wait_for_function("document.querySelector('video').readyState >= 2")
    assert page.evaluate("document.querySelector('video').videoWidth") == 256
    assert page.evaluate("document.querySelector('video').error") is None
    page.wait_for_timeout(400)
    page.keyboard.press("1")
    assert position(page) == "1 of 3", "no vote before the clip has been seen"
    page.wait_for_selector("#pictures button:enabled")
    page.keyboard.press("3")
    assert position(page) == "1 of 3", "there are two choices"
    page.locator("#pictures button").nth(1).click()
    assert position(page) == "2 of 3" and page.locator("video").count() == 1
    for digit in "12":
        page.wait_for_selector("#pictures button:enabled")
        page.keyboard.press(digit)
    assert page.locator("#end").is_visible() and not page.locator("video").count()
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "votes.csv")
    key = user_study.answer_key(questions)
    answers, notes = user_study.read_answers([tmp_path / "votes.csv"], key, len(turing_test.CHOICES))
    assert answers[["triplet", "choice"]].values.tolist() == [[3, 1], [0, 0], [2, 1]] and not notes
    log.assert_quiet(LOCAL)


def test_the_page_of_the_user_study_fits_a_phone(chromium, sheet):
    phone = {"width": 380, "height": 700}
    context = chromium.new_context(viewport=phone, device_scale_factor=2, is_mobile=True, has_touch=True)
    with browser.open_page(context) as (page, log):
        begin(page, sheet[1], "on a phone")
        for number in (1, 2):
            assert position(page) == f"{number} of 4"
            assert page.evaluate("Math.max(document.documentElement.scrollWidth, innerWidth)") <= 380
            page.wait_for_timeout(400)
            page.locator("#pictures button").nth(2).tap()
            page.wait_for_function(
                "text => document.getElementById('position').textContent === text", arg=f"{number + 1} of 4"
            )
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "phone.png")
        log.assert_quiet(LOCAL)
    context.close()
