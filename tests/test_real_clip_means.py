"""Means over real clips, their table in the notes, and photographs of clips."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from talking_heads.data import video
from talking_heads.data.prepare_video import inspect_source
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.experiments.few_shot import real_clips

NOTES = Path(__file__).parents[1] / "docs/notes/animation.md"
NEAREST, BEFORE, AFTER = [0.5, 0.6, 0.7], [0.4, 0.5, 0.7], [0.6, 0.8, 0.8]


def rows_of(*clips, metric="SSIM", t=8):
    """Rows of :func:`real_clips.measure` of these clips, given by their numbers in the lists above."""
    values = [(NEAREST[k], BEFORE[k], AFTER[k]) for k in clips]
    rows = pd.DataFrame(values, columns=["nearest frame", "before", "after"])
    return pd.DataFrame({"clip": [str(k) for k in clips], "metric": metric, "T": t}).join(rows)


def student(values):
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return np.mean(values), low, high


def test_means_over_clips_have_students_intervals_and_a_paired_difference():
    means = real_clips.summary(pd.concat([rows_of(0, 1, 2), rows_of(0, metric="CSIM-dlib", t=32)]))
    assert list(means["method"]) == 2 * ["nearest frame", "before", "after", real_clips.GAIN]
    of_ssim = means[means["metric"] == "SSIM"].set_index("method")
    expected = {"before": BEFORE, "after": AFTER, real_clips.GAIN: np.subtract(AFTER, BEFORE)}
    for method, values in expected.items():
        found = of_ssim.loc[method, ["value", "ci_low", "ci_high"]].to_numpy(float)
        np.testing.assert_allclose(found, student(values))
    one = means[means["metric"] == "CSIM-dlib"]
    assert one["ci_low"].isna().all() and set(one["n_clips"]) == {1} and set(of_ssim["n_clips"]) == {3}
    shown = real_clips.shown(means)
    assert shown["metric"].tolist() == ["SSIM", "CSIM-dlib"] and shown["T"].tolist() == [8, 32]
    assert shown.loc[0, "before"] == "0.53 [0.15, 0.91]" and shown.loc[1, "before"] == "0.400"


def test_what_a_clip_lacks_is_left_out_of_the_mean():
    rows = rows_of(0, 1, 2)
    rows.loc[2, "after"] = np.nan
    means = real_clips.summary(rows).set_index("method")
    assert means.loc["after", "value"] == pytest.approx(0.7) and means.loc["after", "n_clips"] == 2
    assert means.loc[real_clips.GAIN, "value"] == pytest.approx(0.25)


def test_the_table_in_the_notes_is_that_of_the_measurement():
    text, metric = NOTES.read_text(encoding="utf-8"), ""
    table = real_clips.shown(real_clips.reference())
    assert real_clips.reference()["n_clips"].eq(8).all() and len(table) == 9
    for row in table.to_dict("records"):
        name = row.pop("metric")
        cells = [" " if name == metric else f" {name} ", *(f" {value} " for value in row.values())]
        assert f"|{'|'.join(cells)}|".replace("-0", "−0") in text
        metric = name


def test_clips_that_cannot_be_used_are_left_out(monkeypatch, capsys):
    def by_shots(path, *_):
        if path.stem == "short":
            raise ValueError("short.mp4: 12 usable frames, 64 are needed")
        return rows_of(0).drop(columns="clip").set_index(["metric", "T"])

    monkeypatch.setattr(real_clips, "_by_shots", by_shots)
    monkeypatch.setattr(real_clips, "arcface_session", lambda device: None)
    paths = [Path(f"{name}.mp4") for name in ("a", "short", "b")]
    rows = real_clips.measure(paths, None, None, None, None)
    assert list(rows.columns) == ["clip", "metric", "T", "nearest frame", "before", "after"]
    assert rows["clip"].tolist() == ["a", "b"]
    assert "left out: short.mp4: 12 usable frames" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none of the clips can be used"):
        real_clips.measure(paths[1:2], None, None, None, None)


def test_frames_of_a_clip_become_photographs_with_landmarks(tmp_path):
    """From its first half; one frame has no landmarks."""
    clip = make_clip(ClipSettings(8, 2, 0, 12, 12.5, 96), sound=False)
    video.write(tmp_path / "a.mkv", clip.frames, clip.fps)
    landmarks = clip.landmarks.copy()
    landmarks[0] = np.nan
    np.savez(tmp_path / "a.npz", landmarks=landmarks)
    paths = real_clips.write_photographs(tmp_path / "a.mkv", 3, tmp_path / "photographs", None)
    assert [path.name for path in paths] == [f"a_photograph{k}.png" for k in range(3)]
    for path, number in zip(paths, (1, 3, 5), strict=True):
        photograph = inspect_source(path, 1, None)
        np.testing.assert_allclose(photograph.points["landmarks"][0], landmarks[number], atol=1e-3)
        assert np.array_equal(next(photograph.clip.frames()), clip.frames[number])


def test_own_clips_are_those_of_the_named_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(real_clips.CLIPS, raising=False)
    assert real_clips.own_clips() == []
    monkeypatch.setenv(real_clips.CLIPS, str(tmp_path))
    with pytest.raises(ValueError, match=f"{real_clips.CLIPS}: {tmp_path}: no .mp4 file"):
        real_clips.own_clips()
    for name in ("b.mp4", "a.mp4", "a.npz"):
        (tmp_path / name).touch()
    assert real_clips.own_clips() == [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    monkeypatch.setenv(real_clips.CLIPS, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no such folder"):
        real_clips.own_clips()
