"""The interactive panels, moved by code; tests/test_browser.py moves them in a browser."""

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from talking_heads import profiles
from talking_heads.driving import heads
from talking_heads.fine_tuning import Head
from talking_heads.look import gap, panels
from talking_heads.meta_learning import build
from talking_heads.reproduce import reference


@pytest.fixture(scope="module")
def nets(profile):
    torch.manual_seed(0)
    return build(profile, 1)


@pytest.fixture(scope="module")
def record(profile, nets, few, extractors):
    return gap.record(nets, few, few, profile, extractors, epochs=(0, 1, 2))


@pytest.fixture(scope="module")
def head(profile, nets, few, tmp_path_factory):
    with torch.no_grad():
        made = Head(nets.generator, nets.embedder.embed(few.x[None], few.y[None])).eval()
    card = {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}
    return heads.load_head(heads.keep_head(tmp_path_factory.mktemp("heads") / "p.head", made, few, profile, card))


def test_a_record_looks_at_every_wanted_epoch(record, few):
    assert list(record.images) == [0, 1, 2] and list(record.table().index) == [0, 1, 2]
    assert all(v.shape == few.images.shape for v in record.images.values()) and not np.array_equal(record.images[0], record.images[2])
    assert record.scores[1]["SSIM"].shape == (len(few.images),)


def test_watching_can_stop_it(profile, nets, few, extractors):
    stopped = gap.record(nets, few, few, profile, extractors, epochs=(0, 1, 2), watch=lambda epoch, r: epoch == 1)
    assert list(stopped.images) == [0, 1]


def test_difference_is_dark_where_nothing_differs():
    a = np.full((8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[2:4, 2:4] = 250
    map_ = gap.difference(a, b).astype(int).sum(-1)
    assert map_[0, 0] < 30 < map_[3, 3]


def test_the_curve_marks_the_chosen_epoch(record):
    marks = [gap.curve(record, e).split('cx="')[1].split('"')[0] for e in (0, 1, 2)]
    assert len(set(marks)) == 3


def test_the_gap_panel_shows_what_is_chosen(record):
    panel = panels.gap_panel({("a", 1): record, ("a", 8): record})
    frame, epoch = panel.children[1].children
    strip, curve = panel.children[2:]
    before = [i.value for i in strip.images], curve.value, [c.value for c in strip.captions]
    frame.value = 2
    assert strip.images[1].value != before[0][1] and strip.captions[2].value != before[2][2]
    epoch.value = 0
    assert curve.value != before[1] and "epoch 0" in strip.titles[3].value


def test_the_head_follows_sliders_and_dragged_points(head, slowness):
    panel = panels.drive_panel(head)
    assert not panel.children[0].children, "one head: nothing to choose"
    sliders, canvas, (result, rate) = panel.children[1].children[0].children, panel.children[1].children[1], panel.children[1].children[2].children
    first = result.value
    sliders[0].value = 25
    turned = result.value
    assert turned != first and float(rate.value.split()[0]) >= 10 / slowness
    x, y = (canvas.points[30] + 0.5) * canvas.scale
    canvas._down(x, y)
    canvas._move(x + 30, y)
    canvas._up(x + 30, y)
    assert result.value != turned and canvas.held is None
    assert canvas.points[30, 0] == pytest.approx((x + 30) / canvas.scale - 0.5)


def test_a_head_learned_with_pupils_is_moved_too(head):
    seen = dataclasses.replace(head, points=np.concatenate([head.points, head.points[:, [37, 44]]], 1))
    panel = panels.drive_panel(seen)
    result = panel.children[1].children[2].children[0]
    first = result.value
    panel.children[1].children[0].children[0].value = 25
    assert result.value != first


def test_a_head_of_the_default_size_follows_ten_times_a_second(few, tmp_path, slowness):
    laptop = profiles.load("laptop")
    nets, _ = reference.load_networks(laptop, "ft", "reference", Path(__file__).parents[1] / "results")
    with torch.no_grad():
        made = Head(nets.generator, torch.zeros(1, laptop.embedding)).eval()
    factor = laptop.image_size // few.images.shape[1]
    few = dataclasses.replace(few, images=few.images.repeat(factor, 1).repeat(factor, 2), points=few.points * factor)
    panel = panels.drive_panel(heads.KeptHead(made, heads.settings_of(laptop), few.images, few.points, {}))
    yaw, rate = panel.children[1].children[0].children[0], panel.children[1].children[2].children[1]

    def turned(step: int) -> float:
        for angle in range(-10 * step, 11 * step, step):
            yaw.value = angle
        return float(rate.value.split()[0])

    assert any(turned(step) >= 10 / slowness for step in (1, 2, 3)), "in one of three attempts: something else may run"
    path = heads.keep_head(tmp_path / "p.head", made, few, laptop, {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"})

    def loaded() -> float:
        start = time.perf_counter()
        heads.load_head(path)
        return time.perf_counter() - start

    assert any(loaded() < slowness for _ in range(3)), "and its file is there within a second"


def test_heads_of_several_people_and_epochs_can_be_driven(record, profile):
    versions = gap.kept(record, profile, {"person": "a", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"})
    assert list(versions) == [0, 1, 2] and versions[1].card["epoch"] == 1
    panel = panels.drive_panel({"a": versions, "b": {0: versions[0], 2: versions[2]}})
    (name, epoch), (_, canvas, (result, _)) = panel.children[0].children, (*panel.children[1].children[:2], panel.children[1].children[2].children)
    assert epoch.value == 2
    last = result.value
    epoch.value = 0
    first = result.value
    assert first != last and result.value == panels.png(versions[0].drive(canvas.points[None])[0], panels.LARGE)
    name.value = "b"
    assert epoch.options == (0, 2) and epoch.value == 2 and result.value == last


def test_ones_own_photographs_are_placed_one_by_one_or_detected(record, profile, few, tmp_path):
    import cv2

    from talking_heads.driving.puppet import ANCHORS
    asked = []
    versions = gap.kept(record, profile, {"person": "me", "kind": "real person", "origin": "mine", "T": 4, "weights": "test"})

    def learn(paths):
        asked.append([p.name for p in paths])
        return record, versions

    files = [{"name": f"../{n}.png", "type": "image/png", "size": 1, "last_modified": datetime.now(UTC),
              "content": memoryview(cv2.imencode(".png", np.full((200, 200, 3), 90 + 40 * n, np.uint8))[1].tobytes())} for n in range(2)]
    example = np.zeros((200, 200, 3), np.uint8)
    panel = panels.own_panel(tmp_path, learn, None, example)
    (upload, said), below = panel.children[0].children, panel.children[1]
    assert "placed by hand" in said.value
    upload.value = files
    for n in range(2):
        placing = below.children[0]
        for _ in range(n):
            placing = placing.children[3].children[0]
        _, canvas, (ready, anew), _ = (*placing.children[:2], placing.children[2].children, placing.children[3])
        assert (canvas.back == 90 + 40 * n).all()
        canvas._mouse_down_callbacks(5.0, 5.0)
        anew.click()
        for anchor in ANCHORS:
            canvas._mouse_down_callbacks(*(few.points[0][anchor] * canvas.scale * 5))
        ready.click()
    assert asked == [["placed0.png", "placed1.png"]] and (tmp_path / "placed1.png.npz").exists()
    found = panels.own_panel(tmp_path, learn, lambda frames: None, example)
    (upload, said), below = found.children[0].children, found.children[1]
    upload.value = files
    assert asked[1] == ["0.png", "1.png"] and len(list(tmp_path.rglob("1.png"))) == 2 and not said.value
    by_gap, by_hand = below.children[0].children
    assert by_gap.children[2].images[1].value and by_hand.children[0].children[1].options == (0, 1, 2), "truth and scores, and heads of several epochs to move"
    broken = panels.own_panel(tmp_path, learn, None, example)
    broken.children[0].children[0].value = [{**files[0], "name": "text.png", "content": memoryview(b"text")}]
    assert "not a readable photograph" in broken.children[1].children[0].value


def test_live_tuning_runs_shows_and_stops(profile, nets, few, extractors):
    panel = panels.tuning_panel(lambda watch: gap.record(nets, few, few, profile, extractors, range(0, 400), watch))
    (start, stop, said), strip, curve = panel.children[0].children, *panel.children[1:]
    start.click()
    end = time.time() + 60
    while "<svg" not in curve.value and time.time() < end:
        time.sleep(0.05)
    assert start.disabled and strip.images[3].value
    stop.click()
    while stop.disabled is False and time.time() < end:
        time.sleep(0.05)
    assert said.value.startswith("stopped after epoch") and not start.disabled


def test_a_photograph_gets_its_points_by_clicks():
    from talking_heads.driving.animate import astronaut_points
    from talking_heads.driving.puppet import ANCHORS
    taken = []
    panel = panels.placing_panel(np.zeros((300, 400, 3), np.uint8), lambda points: taken.append(points) or panels.w.HTML("a head"))
    said, canvas, (ready, _), below = *panel.children[:2], panel.children[2].children, panel.children[3]
    truth = astronaut_points()[:68]
    for anchor in ANCHORS:
        assert ANCHORS[anchor] in said.value and ready.disabled
        canvas._mouse_down_callbacks(*((truth[anchor] + 0.5) * canvas.scale))
    assert canvas.points.shape == (68, 2) and not ready.disabled
    ready.click()
    assert np.abs(taken[0][36] - truth[36]).max() < 8 and below.children[0].value == "a head"
