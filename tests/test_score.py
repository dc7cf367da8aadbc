"""Scores of folders of videos against references."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from films import film
from talking_heads.__main__ import main
from talking_heads.data.prepare_video import Rejected
from talking_heads.data.sound import FPS
from talking_heads.data.speakers.clips import make_clip
from talking_heads.data.video import write
from talking_heads.experiments.diffused import score
from talking_heads.experiments.diffused.clip_metrics import LMD
from talking_heads.experiments.diffused.score import Scorer, find_pairs

FRAMES, SIZE = 40, 64
CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
OF_PIXELS = {"MSE", "PSNR", "SSIM"}
OF_LIPS = {LMD, "mouth opening", "mouth width", "mouth closed in silence", "blinks a second"}


@pytest.fixture(scope="module")
def speakers():
    return [make_clip(1, 8_000_000 + number, 0, FRAMES, FPS, SIZE) for number in range(3)]


@pytest.fixture(scope="module")
def reference(speakers, tmp_path_factory):
    """Three speakers with sound and exact landmarks."""
    folder = tmp_path_factory.mktemp("reference")
    for number, clip in enumerate(speakers):
        path = folder / f"speaker{number}" / "said.mp4"
        write(path, clip.frames, clip.fps, clip.sound)
        np.savez(path.with_suffix(".npz"), landmarks=clip.landmarks)
    return folder


def write_outputs(folder, speakers, frames_of, numbers=(0, 1, 2), times=None):
    times = np.arange(FRAMES) / FPS if times is None else times
    for number in numbers:
        film(folder / f"speaker{number}" / "said.mp4", frames_of(speakers[number].frames), times)
    return folder


def frozen(frames):
    return [frames[0]] * FRAMES


def run_score(*words):
    return main(["score", *map(str, words), "--device", "cpu"])


# -- pairs ------------------------------------------------------------------------------------------
def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return folder


def test_videos_are_matched_by_path_or_by_a_name_that_is_unique(tmp_path):
    outputs = touch(tmp_path / "out", "a/1.mp4", "only.avi", "strange.mp4", "notes.txt")
    references = touch(tmp_path / "true", "a/1.mov", "b/1.mp4", "b/only.mp4")
    pairs, left_out = find_pairs(outputs, references)
    assert [(pair.identity, pair.clip) for pair in pairs] == [("a", "a/1"), ("b", "b/only")]
    assert [pair.generated.name for pair in pairs] == ["1.mp4", "only.avi"]
    assert left_out == [
        f"{outputs / 'strange.mp4'}: no reference of this name",
        f"{references / 'b/1.mp4'}: not generated",
    ]


def test_identities_of_a_known_corpus_are_those_of_its_names(tmp_path):
    names = ("1015_DFA_ANG_XX", "1015_IEO_HAP_HI", "1020_DFA_SAD_XX")
    outputs = touch(tmp_path / "out", *(f"{name}.mp4" for name in names))
    references = touch(tmp_path / "true", *(f"VideoFlash/{name}.flv" for name in names))
    pairs, _ = find_pairs(outputs, references, "crema")
    assert [pair.identity for pair in pairs] == ["1015", "1015", "1020"]


@pytest.mark.parametrize(
    "outputs, message",
    [
        (["x.mp4"], "none of its 1 videos has the name of one of the 2"),
        (["a/1.mp4", "a/1.avi"], "two videos of one name"),
        (["b/2.mp4", "2.mp4"], r"both match .*b/2\.mp4; move one of them away"),
        ([], "none of its 0 videos"),
    ],
)
def test_folders_that_do_not_match_are_refused(tmp_path, outputs, message):
    references = touch(tmp_path / "true", "a/1.mp4", "b/2.mp4")
    folder = touch(tmp_path / "out", "readme.txt", *outputs)
    with pytest.raises(ValueError, match=message):
        find_pairs(folder, references)


# -- values -----------------------------------------------------------------------------------------
def test_a_copy_is_perfect_and_a_frozen_frame_is_not(speakers, reference, tmp_path):
    outputs = write_outputs(tmp_path / "copies", speakers, list)
    copied = score.score(outputs, reference, tmp_path / "copies.csv", "copy", Scorer(drawn=True))
    outputs = write_outputs(tmp_path / "frozen", speakers, frozen)
    still = score.score(outputs, reference, tmp_path / "frozen.csv", "frozen", Scorer(drawn=True))
    assert set(copied) >= OF_PIXELS | OF_LIPS | {"CSIM-judge", "CSIM-judge, last second"}
    assert (copied["frames"] == FRAMES - 1).all() and (copied["frames with faces"] == FRAMES - 1).all()
    assert (copied["SSIM"] > 0.95).all() and (copied["CSIM-judge"] > 0.97).all()
    assert (copied["mouth opening"] > 0.9).all()
    assert (still["mouth opening"].abs() < 0.5).all(), "but for what compression changes"
    for name, sign in (("SSIM", 1), ("PSNR", 1), ("MSE", -1), (LMD, -1)):
        assert (sign * (copied[name] - still[name]) > 0).all(), name
    rows = score.summary(copied).set_index("metric")
    assert rows.loc["SSIM", "value"] == pytest.approx(copied["SSIM"].mean())
    assert rows.loc["SSIM", "ci_low"] < rows.loc["SSIM", "value"] and rows.loc["SSIM", "n_identities"] == 3


def test_other_sizes_and_rates_are_brought_to_those_of_the_reference(speakers, reference, tmp_path):
    """Twice as large and with every frame twice: nearly the same video. Half the shape is another one."""

    def enlarged(frames):
        return [cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in frames]

    twice = [np.repeat(np.arange(FRAMES) / FPS, 2)[k] + k % 2 / (2 * FPS) for k in range(2 * FRAMES)]
    outputs = write_outputs(
        tmp_path / "large", speakers, lambda frames: np.repeat(enlarged(frames), 2, 0), [0], twice
    )
    table = score.score(outputs, reference, tmp_path / "large.csv", "large", Scorer(drawn=True))
    assert table["frames"].tolist() == [FRAMES - 1] and table["SSIM"].iloc[0] > 0.95
    wide = write_outputs(
        tmp_path / "wide", speakers, lambda frames: [np.hstack([frame, frame]) for frame in frames], [0]
    )
    with pytest.raises(ValueError, match="128×64 pixels, the reference has 64×64; crop both alike"):
        score.score(wide, reference, tmp_path / "wide.csv", "wide", Scorer(drawn=True))


def test_real_faces_need_landmarks_for_their_lips(speakers, reference, tmp_path):
    """Without them the pixels are compared alone; landmarks beside the videos are scaled."""
    outputs = write_outputs(tmp_path / "copies", speakers, list)
    pixels = score.score(outputs, reference, tmp_path / "pixels.csv", "copy", Scorer())
    assert set(pixels) >= OF_PIXELS and not OF_LIPS & set(pixels)
    assert (pixels["frames with faces"] == 0).all()
    for number in range(3):
        shutil.copy(reference / f"speaker{number}/said.npz", outputs / f"speaker{number}/said.npz")
    lips = score.score(outputs, reference, tmp_path / "lips.csv", "copy", Scorer())
    assert set(lips) >= OF_LIPS and "CSIM-judge" not in lips, "the judges know drawn faces only"
    assert lips[LMD].to_numpy() == pytest.approx(0, abs=1e-6)
    assert lips["mouth opening"].to_numpy() == pytest.approx(1)


def test_frames_without_a_face_do_not_count(speakers, reference, tmp_path):
    outputs = write_outputs(tmp_path / "copies", speakers, list, [0])

    def detect(frames):
        points = np.stack([speakers[0].landmarks[k] for k in range(len(frames))]).astype(np.float32)
        points[10:20] = np.nan
        return points, np.where(np.isnan(points[:, 0, 0]), 0, 1)

    row = Scorer(detect=detect).score(find_pairs(outputs, reference)[0][0])
    assert row["frames"] == FRAMES - 1 and row["frames with faces"] == FRAMES - 1 - 10
    assert row[LMD] == pytest.approx(0, abs=1e-6)


# -- the command ------------------------------------------------------------------------------------
def test_the_command_goes_on_and_leaves_out_what_it_cannot_compare(
    speakers, reference, tmp_path, capsys, monkeypatch
):
    outputs = write_outputs(tmp_path / "Wav2Lip", speakers, list)
    (outputs / "speaker1/said.mp4").write_bytes(b"no video")
    table = tmp_path / "wav2lip.csv"
    assert run_score(outputs, reference, "--drawn", "--out", table) == 0
    printed = capsys.readouterr().out
    assert f"left out: {outputs / 'speaker1/said.mp4'}" in printed and "SSIM" in printed
    first = pd.read_csv(table)
    assert first["method"].tolist() == ["Wav2Lip"] * 3 and first["SSIM"].notna().tolist() == [
        True,
        False,
        True,
    ]
    compared = []
    compare = Scorer.score

    def record(self, pair):
        compared.append(pair.clip)
        return compare(self, pair)

    monkeypatch.setattr(Scorer, "score", record)
    film(outputs / "speaker1/said.mp4", speakers[1].frames, np.arange(FRAMES) / FPS)
    assert run_score(outputs, reference, "--drawn", "--out", table) == 0
    assert compared == ["speaker1/said"], "the others have not changed"
    second = pd.read_csv(table)
    assert second["SSIM"].notna().all() and second["note"].isna().all()
    pd.testing.assert_series_equal(second["SSIM"][[0, 2]], first["SSIM"][[0, 2]])


def test_the_command_says_what_lips_need(speakers, reference, tmp_path, capsys):
    outputs = write_outputs(tmp_path / "out", speakers, list, [0])
    assert run_score(outputs, reference, "--out", tmp_path / "x.csv", "--method", "ours") == 0
    printed = capsys.readouterr().out
    assert "weights fetch s3fd 2dfan4" in printed
    assert run_score(tmp_path / "nowhere", reference, "--out", tmp_path / "y.csv") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err and not (tmp_path / "y.csv").exists()


def test_videos_that_are_too_short_are_left_out(speakers, reference, tmp_path):
    outputs = write_outputs(
        tmp_path / "short", speakers, lambda frames: frames[:2], [0], times=np.arange(2) / FPS
    )
    with pytest.raises(Rejected, match="too short to compare"):
        Scorer(drawn=True).score(find_pairs(outputs, reference)[0][0])


@pytest.mark.skipif(not CLIPS, reason="no real clips: set TALKING_HEADS_CLIPS")
def test_a_real_clip_against_itself(tmp_path):
    """Its landmarks lie beside it."""
    source = next(path for path in sorted(Path(CLIPS).glob("*.mp4")))
    for folder in ("true", "copy"):
        (tmp_path / folder).mkdir()
        for path in (source, source.with_suffix(".npz")):
            shutil.copy(path, tmp_path / folder)
    row = Scorer().score(find_pairs(tmp_path / "copy", tmp_path / "true")[0][0])
    assert row["SSIM"] == pytest.approx(1) and row["MSE"] == 0 and row["mouth opening"] == pytest.approx(1)
    assert row["frames with faces"] > 0.9 * row["frames"] and row["CPBD"] > 0
