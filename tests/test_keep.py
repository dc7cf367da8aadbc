"""Keeping a run as the reference: only one clean run, with smaller pictures."""

import base64
import io
import json

import nbformat
import numpy as np
import pytest
from PIL import Image
from talking_heads import config
from talking_heads.data import video
from talking_heads.experiments import reference
from talking_heads.experiments.few_shot import keep, weights
from talking_heads.workbook import preview
from talking_heads.workbook.keep import compress_pictures
from talking_heads.workbook.runner import Run


def picture(pixels: np.ndarray) -> nbformat.NotebookNode:
    """A notebook's output that shows pixels (H, W, 3) uint8 as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})


def noisy_gradient() -> np.ndarray:
    """An image (256, 256, 3) uint8 that a JPEG stores in less than half of a PNG's bytes."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    noise = np.random.default_rng(0).integers(0, 8, (256, 256, 3))
    return (np.stack([x, y, x], -1) // 2 + noise).astype(np.uint8)


def test_pictures_of_kept_notebooks_become_smaller_and_look_the_same(tmp_path):
    gradient, plain = noisy_gradient(), np.zeros((8, 8, 3), np.uint8)  # of one colour, a PNG is the smaller
    cell = nbformat.v4.new_code_cell(outputs=[picture(gradient), picture(plain)])
    path = tmp_path / "kept.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    size = path.stat().st_size
    compress_pictures(path)
    first, second = nbformat.read(path, 4).cells[0].outputs
    assert path.stat().st_size < size / 2
    assert set(first.data) == {"image/jpeg"}
    assert set(second.data) == {"image/png"}
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.data["image/jpeg"]))))
    assert np.abs(decoded - gradient.astype(float)).mean() < 4


@pytest.mark.parametrize("commits", [[], ["aaa", "bbb"], ["aaa+"]])
def test_only_one_clean_run_becomes_the_reference(commits, tmp_path, monkeypatch):
    """Records of no commit, of two commits or of changed files are refused, and nothing is written."""
    profile, committed = config.load("laptop"), tmp_path / "committed"
    monkeypatch.setattr(reference, "COMMITTED", committed)
    monkeypatch.setattr(keep, "COMMITTED", committed)
    monkeypatch.setattr(keep, "plan", lambda run: [])
    run_id = weights.run_id(profile, "reference", tmp_path)
    rows = [{"run_id": run_id, "commit": commit} for commit in commits]
    rows.append({"run_id": "of other weights", "commit": "ccc"})
    (tmp_path / "laptop").mkdir()
    lines = [f"{json.dumps(row)}\n" for row in rows]
    (tmp_path / "laptop" / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    run = Run(profile, {}, tmp_path, tmp_path / "laptop", chapters=())
    with pytest.raises(ValueError, match="a reference is one clean run"):
        keep.keep(run, {})
    assert not committed.exists()


# -- the README's moving picture ----------------------------------------------------------------------
def test_a_preview_shows_clips_below_each_other_within_its_size(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name, count, width in (("a", 20, 96), ("b", 50, 32)):
        frames = rng.integers(0, 256, (count, 32, width, 3), np.uint8)
        video.write(tmp_path / f"{name}.mp4", frames, 25.0, None, lossless=False)
    clips = {"first": tmp_path / "a.mp4", "second": tmp_path / "b.mp4"}
    with Image.open(preview.write_preview(clips, tmp_path / "p.gif")) as picture:
        assert picture.n_frames == 25, "as many as the longer one has at 12.5 a second"
        height = 2 * (preview.HEIGHT + preview.CAPTION + preview.MARGIN)
        assert picture.size == (96 * preview.HEIGHT // 32, height)
    monkeypatch.setattr(preview, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"q\.gif: larger than 0\.001 MB with 32 colours; shorten"):
        preview.write_preview(clips, tmp_path / "q.gif")
    assert not (tmp_path / "q.gif").exists()
