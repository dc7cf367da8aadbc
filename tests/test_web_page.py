"""A head as a web page: its parts in Python, and the page in a browser."""

import copy
import json
import os
import re
import subprocess
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from browser import CHROMIUM, open_browser, open_page
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import web_page
from talking_heads.animation.face_rig import FaceRig
from talking_heads.animation.head_files import keep_head, load_head
from talking_heads.commands import animation
from talking_heads.data import video
from talking_heads.data.landmarks import draw
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.metrics.images import ssim

CARD = {"person": "Ada </script>", "kind": "procedural speaker", "origin": "rendered", "T": 4}
CARD |= {"weights": "test"}
REDRAW = "document.body.dataset.frames = 0; dispatchEvent(new Event('input'))"
DRAWN = "Number(document.body.dataset.frames || 0) > 0"


@pytest.fixture(scope="module")
def head_file(profile, few, untrained_head, tmp_path_factory):
    """A kept head, which was not trained."""
    return keep_head(tmp_path_factory.mktemp("heads") / "ada.head", untrained_head, few, profile, CARD)


def another(head):
    """A head that generates other frames."""
    other = copy.deepcopy(head)
    with torch.no_grad():
        other.head.psi.neg_()
    return other


@pytest.fixture
def fake_runtime(tmp_path, monkeypatch):
    """A folder with the names of onnxruntime-web's files."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in web_page.RUNTIME:
        (folder / name).write_bytes(b"x")
    monkeypatch.setattr(web_page, "RUNTIME", dict.fromkeys(web_page.RUNTIME, "2d711642b726b044"))
    return folder


# -- the page's contents ----------------------------------------------------------------------------
def test_a_page_has_everything_in_one_file(head_file, few, tmp_path):
    pytest.importorskip("onnxruntime")
    runtime = {name: tmp_path / name for name in web_page.RUNTIME}
    for path in runtime.values():
        path.write_bytes(b"the runtime")
    head = load_head(head_file)
    track = web_page.Track(few.points, 25.0, np.zeros(400), 16_000)
    page = web_page.write_page(head, tmp_path / "a.html", head, track, runtime=runtime).read_text()
    assert page.count("</script>") == 2, "the card cannot end the script"
    contents = json.loads(re.search(r'id="contents">(.*?)</script>', page)[1].replace("<\\/", "</"))
    assert contents["card"]["person"] == CARD["person"] and len(contents["networks"]) == 2
    assert contents["size"] == 32 and len(contents["track"]["points"]) == len(few.points)
    assert "not a recording" in page and '"synthetic"' in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_brows_rise_and_nothing_else(head_file):
    rig = FaceRig.fit(load_head(head_file).points)
    control = web_page.brow_control(rig)
    rest, raised = (rig.model.shapes(rig.identity, e[None])[0] for e in (rig.rest, rig.rest + 0.1 * control))
    moved = (raised - rest)[:, 1]
    eyes = np.linalg.norm(rest[36:42].mean(0) - rest[42:48].mean(0))
    rise = -(moved[web_page.BROWS].mean() - moved[web_page.EYES].mean()) / eyes
    assert rise == pytest.approx(0.1, rel=0.2)


def test_files_of_another_version_are_refused(fake_runtime):
    with pytest.raises(ValueError, match=r"ort\.wasm\.bundle\.min\.mjs: not the file of onnxruntime-web 1"):
        web_page.find_runtime(fake_runtime)
    (fake_runtime / "ort.wasm.bundle.min.mjs").unlink()
    with pytest.raises(ValueError, match=r"missing; .* must have the files of onnxruntime-web"):
        web_page.find_runtime(fake_runtime)


def test_what_npm_cannot_do_is_stated_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(web_page.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"npm is not installed: unpack onnxruntime-web@1.*--runtime"):
        web_page.find_runtime()
    monkeypatch.setattr(web_page.shutil, "which", lambda name: "npm")
    failed = subprocess.CompletedProcess([], 1, "", "npm error code ENOTFOUND")
    monkeypatch.setattr(web_page.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=r"npm cannot download .*ENOTFOUND.*--runtime"):
        web_page.find_runtime()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--diffusion", "--to", "web", "--out", "a.html"],
            "--to web writes the page of a head: give --head",
        ),
        (["--head", "HEAD", "--to", "web", "--out", "a.onnx"], "a page ends in .html"),
        (["--head", "HEAD", "--to", "onnx", "--out", "a.onnx", "--before"], "are for --to web"),
    ],
)
def test_options_that_do_not_fit_are_refused(head_file, options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(str(head_file) if word == "HEAD" else word for word in options)]) == 2
    assert message in capsys.readouterr().err


def test_a_head_of_another_profile_has_no_before(head_file):
    profile = config.load("laptop")
    nets = build_networks(profile.few_shot.networks, 1)
    with pytest.raises(ValueError, match="was not learned with profile laptop; name its own"):
        web_page.before_fine_tuning(load_head(head_file), nets, profile)


def test_before_its_fine_tuning_a_head_is_the_meta_learned_one(profile, few, head_file):
    """Here both are the same, because the head was not fine-tuned."""
    torch.manual_seed(0)
    nets = build_networks(profile.few_shot.networks, 1)
    head = load_head(head_file)
    before = web_page.before_fine_tuning(head, nets, profile)
    assert np.abs(before.drive(few.points).astype(int) - head.drive(few.points)).max() <= 3


def test_the_command_writes_a_page_with_before_and_track(head_file, tmp_path, monkeypatch):
    """From a kept head and a driver with landmarks beside it."""
    pytest.importorskip("onnxruntime")
    runtime = {name: tmp_path / name for name in web_page.RUNTIME}
    for path in runtime.values():
        path.write_bytes(b"the runtime")
    monkeypatch.setattr(web_page, "find_runtime", lambda folder=None: runtime)
    monkeypatch.setattr(animation, "meta_learned", lambda *_: lambda: (None, {"commit": CARD["weights"]}))
    monkeypatch.setattr(web_page, "before_fine_tuning", lambda head, *_: another(head))
    clip, driver = make_clip(ClipSettings(0, 5, 0, 10, 25.0, 64)), tmp_path / "driver.mp4"
    video.write(driver, clip.frames, clip.fps, clip.sound)
    np.savez(tmp_path / "driver.npz", landmarks=clip.landmarks)
    words = ["--before", "--driver", str(driver), "--profile", "smoke"]
    out = tmp_path / "ada.html"
    assert main(["export", "--head", str(head_file), "--to", "web", "--out", str(out), *words]) == 0
    contents = json.loads(
        re.search(r'id="contents">(.*?)</script>', out.read_text())[1].replace("<\\/", "</")
    )
    assert len(contents["networks"]) == 2 and len(contents["track"]["points"]) == 10
    assert contents["track"]["sound"] and contents["networks"][0] != contents["networks"][1]


# -- in a browser -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runtime():
    """onnxruntime-web, where npm can download it."""
    try:
        return web_page.find_runtime()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def page(head_file, few, runtime, tmp_path_factory):
    """The page in a browser, and its log."""
    pytest.importorskip("onnxruntime")
    if not CHROMIUM:
        pytest.skip("no Chromium")
    head, out = load_head(head_file), tmp_path_factory.mktemp("page") / "ada.html"
    before = another(head)
    track = web_page.Track(np.repeat(few.points, 25, 0), 25.0, np.zeros(64_000), 16_000)
    web_page.write_page(head, out, before, track, runtime=runtime)
    with open_browser() as browser, open_page(browser.new_context(has_touch=True)) as (page, log):
        page.goto(out.as_uri())
        page.wait_for_function(DRAWN)
        yield page, log


def test_the_browser_generates_the_frames_of_the_head(page, head_file):
    """From the same landmarks, which are those of the rig, and the same landmark image."""
    view, log = page
    head = load_head(head_file)
    rig = FaceRig.fit(head.points)
    for name, value in {"turn": 20, "nod": -5, "tilt": 3, "mouth": 0.3, "eyes": 0.25}.items():
        view.evaluate(f"page.set('{name}', {value})")
    points = np.array(view.evaluate("page.landmarks()"))
    expected = rig.pose(yaw=20, pitch=-5, roll=3, mouth=0.3, eyes=0.25)
    np.testing.assert_allclose(points, expected, atol=0.05)
    drawn = np.array(view.evaluate("Array.from(page.draw(page.landmarks()))")).reshape(3, 32, 32)
    image = draw(expected, 32, head.settings.landmark_images.line_width)
    assert np.abs((drawn.transpose(1, 2, 0) + 1) * 127.5 - image).mean() < 4
    pixels = view.evaluate("page.generate(page.draw(page.landmarks())).then(p => Array.from(p.data))")
    frame = np.array(pixels, np.uint8).reshape(32, 32, 4)[..., :3]
    assert ssim(frame, head.drive(expected[None])[0]) > 0.97
    log.assert_quiet(("file:", "blob:"))


def touch(view, positions):
    """A finger that moves through positions of the page."""
    session = view.context.new_cdp_session(view)
    for number, (x, y) in enumerate(positions):
        kind = "touchMove" if number else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_brows_rise_on_the_page(page):
    view, _ = page
    view.evaluate("page.set('brows', 0)")
    rest = np.array(view.evaluate("page.landmarks()"))
    view.evaluate("page.set('brows', 0.1)")
    moved = rest[:, 1] - np.array(view.evaluate("page.landmarks()"))[:, 1]
    assert moved[web_page.BROWS].min() > 0.4 > 2 * abs(moved[web_page.EYES].mean())
    view.evaluate("page.set('brows', 0)")


def test_keys_drag_and_the_space_bar_move_the_head(page):
    view, _ = page
    view.evaluate("document.getElementById('reset').click()")
    view.locator("#view").focus()
    view.keyboard.press("ArrowRight")
    assert view.evaluate("Number(document.getElementById('turn').value)") == 2
    box = view.locator("#view").bounding_box()
    view.mouse.move(box["x"] + 100, box["y"] + 100)
    view.mouse.down()
    view.mouse.move(box["x"] + 140, box["y"] + 100)
    view.mouse.up()
    assert view.evaluate("Number(document.getElementById('turn').value)") == pytest.approx(12, abs=1)
    touch(view, [(box["x"] + 100, box["y"] + 100), (box["x"] + 60, box["y"] + 100)])
    assert view.evaluate("Number(document.getElementById('turn').value)") == pytest.approx(2, abs=1)
    view.keyboard.press(" ")
    assert view.locator("#play").inner_text() == "Stop"
    view.wait_for_function("document.getElementById('sound').currentTime > 0.2")
    view.keyboard.press(" ")
    assert view.locator("#play").inner_text() == "Play"


def test_the_picture_follows_the_drivers_track(page, few):
    """On the clock of its sound; the card's rows are in the page."""
    view, _ = page
    view.evaluate("document.getElementById('split').value = 0")
    script = "points => page.generate(page.draw(points)).then(p => Array.from(p.data))"
    generated = [view.evaluate(script, pose.tolist()) for pose in few.points]
    poses = [np.array(pixels).reshape(32, 32, 4)[..., :3] for pixels in generated]
    view.evaluate("document.getElementById('play').click(); document.getElementById('sound').pause()")
    for number in (1, 3):
        view.evaluate(f"document.getElementById('sound').currentTime = {number + 0.1}; {REDRAW}")
        view.wait_for_function("Number(document.body.dataset.frames) > 3")
        picture = cv2.resize(picture_now(view), (32, 32), interpolation=cv2.INTER_AREA)
        differences = [np.abs(picture - pose)[:28].mean() for pose in poses]
        assert np.argmin(differences) == number and differences[number] < 8
    view.evaluate("document.getElementById('reset').click()")
    rows = view.evaluate("[...document.querySelectorAll('#card tr')].map(r => r.cells[1].textContent)")
    assert rows == [str(value) for value in CARD.values()]


def picture_now(view):
    """The canvas (side, side, 3)."""
    context = "document.getElementById('view').getContext('2d')"
    side = view.evaluate(f"{context}.canvas.width")
    pixels = view.evaluate(f"Array.from({context}.getImageData(0, 0, {side}, {side}).data)")
    return np.array(pixels, np.uint8).reshape(side, side, 4)[..., :3].astype(np.float32)


def picture_of(view, split):
    """The canvas (side, side, 3) with the head before its fine-tuning to the left of ``split``."""
    view.evaluate(f"document.getElementById('split').value = {split}; {REDRAW}")
    view.wait_for_function(DRAWN)
    return picture_now(view)


def test_before_and_after_are_side_by_side_and_marked(page):
    view, _ = page
    assert view.locator("#gap").is_visible()
    after, both, before = (picture_of(view, split) for split in (0, 0.5, 1))
    half, marked = len(both) // 2, len(both) - 40  # the mark is in the last rows, at the left
    assert np.abs(before - after).mean() > 5
    assert np.array_equal(both[:marked, : half - 2], before[:marked, : half - 2])
    assert np.array_equal(both[:marked, half + 2 :], after[:marked, half + 2 :])
    corners = [picture[marked:, :100] for picture in (before, after)]
    white = (corners[0].min(-1) > 250) & (corners[1].min(-1) > 250)
    assert white.sum() > 50, "the same letters in both pictures"
    assert "frames a second" in view.locator("#state").inner_text()


@contextmanager
def on_one_core():
    """Processes that start within have one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.timing
def test_a_head_of_64_pixels_plays_at_15_frames_a_second(runtime, tmp_path, few):
    """In headless Chromium, on one core; drawing, network and picture."""
    profile = config.load("laptop")
    nets = build_networks(profile.few_shot.networks, 1)
    head = Head(nets.generator, torch.zeros(1, profile.few_shot.networks.embedding)).eval()
    clip = few.select(np.arange(1))
    large = clip.images.repeat(2, 1).repeat(2, 2)
    sized = type(clip)(large, 2 * clip.points, clip.x, clip.y)
    path = keep_head(tmp_path / "a.head", head, sized, profile, CARD | {"T": 1})
    page = web_page.write_page(load_head(path), tmp_path / "a.html", runtime=runtime)
    with on_one_core(), open_browser() as browser, open_page(browser.new_context()) as (view, _):
        view.goto(page.as_uri())
        for _ in range(20):
            view.evaluate(REDRAW)
            view.wait_for_function(DRAWN)
        assert view.evaluate("Number(document.body.dataset.milliseconds)") <= 1000 / 15
