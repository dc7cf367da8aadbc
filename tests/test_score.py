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
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.video import open_video, write
from talking_heads.experiments.diffused import score, scorer
from talking_heads.experiments.diffused.clip_metrics import LMD, PER, lip_reading_errors
from talking_heads.experiments.diffused.score import find_pairs
from talking_heads.experiments.diffused.scorer import Scorer
from talking_heads.judges.lip_reading import visemes_of
from talking_heads.judges.use import find_landmarks

FRAMES, SIZE = 40, 64
CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
OF_PIXELS = {"MSE", "PSNR", "SSIM"}
OF_FLOW = {f"{of}flow of the {region}" for of in ("", "true ") for region in ("mouth", "eyes", "head")}
OF_LIPS = {LMD, "mouth opening", "mouth width", "mouth closed in silence", "blinks a second"}


@pytest.fixture(scope="module")
def speakers():
    return [make_clip(ClipSettings(1, 8_000_000 + number, 0, FRAMES, FPS, SIZE)) for number in range(3)]


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
        f"{outputs / 'strange.mp4'}: no reference has this name",
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
        (["x.mp4"], r"none of its 1 videos matches one of the 3 .*no reference has this name"),
        (["1.mp4"], "2 references have this name, and none this path"),
        (["a/1.mp4", "a/1.avi"], "two videos of one name"),
        (["b/2.mp4", "2.mp4"], r"both match .*b/2\.mp4; move one of them away"),
        ([], "none of its 0 videos"),
    ],
)
def test_folders_that_do_not_match_are_refused(tmp_path, outputs, message):
    references = touch(tmp_path / "true", "a/1.mp4", "b/2.mp4", "c/1.mp4")
    folder = touch(tmp_path / "out", "readme.txt", *outputs)
    with pytest.raises(ValueError, match=message):
        find_pairs(folder, references)


# -- values -----------------------------------------------------------------------------------------
def test_a_copy_is_perfect_and_a_frozen_frame_is_not(speakers, reference, tmp_path):
    outputs = write_outputs(tmp_path / "copies", speakers, list)
    copied = score.score(outputs, reference, tmp_path / "copies.csv", "copy", Scorer(procedural=True))
    outputs = write_outputs(tmp_path / "frozen", speakers, frozen)
    still = score.score(outputs, reference, tmp_path / "frozen.csv", "frozen", Scorer(procedural=True))
    assert set(copied) >= OF_PIXELS | OF_LIPS | OF_FLOW | {"CSIM-judge", "CSIM-judge, last second"}
    assert (copied["frames"] == FRAMES - 1).all() and (copied["frames with faces"] == FRAMES - 1).all()
    assert (copied["SSIM"] > 0.95).all() and (copied["CSIM-judge"] > 0.97).all()
    assert (copied["mouth opening"] > 0.9).all()
    np.testing.assert_allclose(copied["flow of the head"], copied["true flow of the head"], rtol=0.2)
    assert (still["flow of the head"] < 0.1).all() and (still["true flow of the head"] > 0.2).all()
    assert (still["mouth opening"].abs() < 0.5).all(), "but for what compression changes"
    for name, sign in (("SSIM", 1), ("PSNR", 1), ("MSE", -1), (LMD, -1)):
        assert (sign * (copied[name] - still[name]) > 0).all(), name
    rows = score.summary(copied).set_index("metric")
    assert rows.loc["SSIM", "value"] == pytest.approx(copied["SSIM"].mean())
    assert rows.loc["SSIM", "ci_low"] < rows.loc["SSIM", "value"] and rows.loc["SSIM", "n_identities"] == 3


def test_lips_are_read_where_the_reference_states_what_is_said(speakers, reference, tmp_path, capsys):
    """Of procedural speakers: as in an evaluation of this kit, with true clips beside them."""
    true = shutil.copytree(reference, tmp_path / "true")
    for number, clip in enumerate(speakers):
        said = {"phonemes": [s.phoneme for s in clip.segments], "ends": [s.end for s in clip.segments]}
        np.savez(true / f"speaker{number}/said.npz", landmarks=clip.landmarks, **said)
    outputs = write_outputs(tmp_path / "frozen", speakers, frozen)
    assert run_score(outputs, true, "--procedural", "--out", tmp_path / "frozen.csv") == 0
    assert PER not in capsys.readouterr().out.splitlines()[-1]
    still = pd.read_csv(tmp_path / "frozen.csv")
    assert (still[PER] > still[f"true {PER}"]).all() and still[f"true {PER}"].mean() < 0.5 < still[PER].mean()
    clip = open_video(true / "speaker0/said.mp4").frames(np.arange(1, FRAMES))
    images = np.stack(list(clip))
    visemes = visemes_of([s for s in speakers[0].segments if s.start < FRAMES / FPS])
    assert still[f"true {PER}"][0] == lip_reading_errors(images, find_landmarks(images), visemes)
    assert run_score(outputs, reference, "--procedural", "--out", tmp_path / "unsaid.csv") == 0
    assert "do not state what is said: PER-judge is not measured" in capsys.readouterr().out
    assert PER not in pd.read_csv(tmp_path / "unsaid.csv")


@pytest.mark.parametrize(
    ("phonemes", "ends", "cause"),
    [(["a", "zz"], [0.1, 0.2], "unknown: zz"), (["a", "m"], [0.1], "shorter"), (["a"], ["x"], "convert")],
)
def test_phonemes_that_cannot_be_read_are_named(speakers, reference, tmp_path, phonemes, ends, cause):
    true = shutil.copytree(reference, tmp_path / "true")
    sidecar = true / "speaker0/said.npz"
    np.savez(sidecar, landmarks=speakers[0].landmarks, phonemes=phonemes, ends=ends)
    outputs = write_outputs(tmp_path / "copies", speakers, list)
    table = score.score(outputs, true, tmp_path / "x.csv", "copy", Scorer(procedural=True))
    assert table["SSIM"].notna().tolist() == [False, True, True], "the others are scored"
    note = table["note"][0]
    assert str(sidecar) in note and cause in note and "or leave them out" in note


def test_other_sizes_and_rates_are_brought_to_those_of_the_reference(speakers, reference, tmp_path):
    """Twice as large and with every frame twice: nearly the same video. Twice as wide is another shape."""

    def enlarged(frames):
        return [cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in frames]

    twice = [np.repeat(np.arange(FRAMES) / FPS, 2)[k] + k % 2 / (2 * FPS) for k in range(2 * FRAMES)]
    outputs = write_outputs(
        tmp_path / "large", speakers, lambda frames: np.repeat(enlarged(frames), 2, 0), [0], twice
    )
    table = score.score(outputs, reference, tmp_path / "large.csv", "large", Scorer(procedural=True))
    assert table["frames"].tolist() == [FRAMES - 1] and table["SSIM"].iloc[0] > 0.95
    late = write_outputs(tmp_path / "late", speakers, lambda frames: [frames[0], *frames[:-1]], [0])
    shifted = score.score(late, reference, tmp_path / "late.csv", "late", Scorer(procedural=True))
    assert table["MSE"].iloc[0] < 0.25 * shifted["MSE"].iloc[0], "a shift by one frame is far worse"
    wide = write_outputs(
        tmp_path / "wide", speakers, lambda frames: [np.hstack([frame, frame]) for frame in frames], [0]
    )
    with pytest.raises(ValueError, match="128×64 pixels, the reference has 64×64; crop both alike"):
        score.score(wide, reference, tmp_path / "wide.csv", "wide", Scorer(procedural=True))


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


def test_an_output_without_a_face_is_scored_by_its_pixels(speakers, reference, tmp_path):
    """It is a result of the method; a reference without one is left out."""
    outputs = write_outputs(tmp_path / "out", speakers, list, [0])
    pair = find_pairs(outputs, reference)[0][0]

    def detect(frames):
        return np.full((len(frames), 68, 2), np.nan, np.float32), np.zeros(len(frames), int)

    row = Scorer(detect=detect).score(pair)
    assert row["frames with faces"] == 0 and row["SSIM"] > 0.95 and "no face in 40 of 40" in row["note"]
    assert not OF_LIPS & set(row)
    without = shutil.copytree(reference, tmp_path / "without", ignore=shutil.ignore_patterns("*.npz"))
    with pytest.raises(Rejected, match="no usable frame"):
        Scorer(detect=detect).score(find_pairs(outputs, without)[0][0])


def test_a_shorter_output_has_a_note(speakers, reference, tmp_path):
    times = np.arange(20) / FPS
    outputs = write_outputs(tmp_path / "out", speakers, lambda frames: frames[:20], [0], times)
    row = Scorer(procedural=True).score(find_pairs(outputs, reference)[0][0])
    assert row["frames"] == 19 and row["note"] == "0.80 seconds long, the reference 1.60"


def test_keys_change_with_videos_landmarks_and_judges(speakers, reference, tmp_path, monkeypatch):
    true = shutil.copytree(reference, tmp_path / "true")
    outputs = write_outputs(tmp_path / "out", speakers, list, [0])
    pair = find_pairs(outputs, true)[0][0]
    plain, procedural = Scorer(), Scorer(procedural=True)
    keys = [plain.key(pair), procedural.key(pair), Scorer(detect=lambda frames: None).key(pair)]
    (true / "speaker0/said.npz").rename(outputs / "speaker0/said.npz")
    keys.append(plain.key(pair))
    film(outputs / "speaker0/said.mp4", speakers[1].frames, np.arange(FRAMES) / FPS)
    keys.append(plain.key(pair))
    monkeypatch.setattr(scorer, "networks_digest", lambda real: "others")
    keys.append(procedural.key(pair))
    assert len(set(keys)) == len(keys)


# -- the table --------------------------------------------------------------------------------------
@pytest.fixture
def numbered(speakers, reference, tmp_path):
    """Outputs and references whose identities and clips have numbers for names, as in VoxCeleb."""
    outputs = write_outputs(tmp_path / "out", speakers, list)
    true = shutil.copytree(reference, tmp_path / "true")
    for folder in (outputs, true):
        for number in range(3):
            for path in (folder / f"speaker{number}").iterdir():
                target = folder / f"10{15 + number}" / f"0000{number}{path.suffix}"
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
            (folder / f"speaker{number}").rmdir()
    return outputs, true


class Interrupt:
    """Interrupts the scoring of a clip."""

    def __init__(self, monkeypatch, clip):
        self.clip, self.compared, self.compare = clip, [], Scorer.score
        monkeypatch.setattr(Scorer, "score", lambda scorer, pair: self(scorer, pair))

    def __call__(self, scorer, pair):
        if pair.clip == self.clip:
            raise KeyboardInterrupt
        self.compared.append(pair.clip)
        return self.compare(scorer, pair)


def test_an_interrupted_table_keeps_all_rows_and_goes_on(numbered, speakers, tmp_path, monkeypatch):
    """Also rows that a rerun has not come to; numbers remain names."""
    outputs, true = numbered
    table = tmp_path / "scores.csv"

    def run():
        return score.score(outputs, true, table, "ours", Scorer(procedural=True))

    first = run()
    assert first["identity"].tolist() == ["1015", "1016", "1017"]
    film(outputs / "1015/00000.mp4", speakers[1].frames, np.arange(FRAMES) / FPS)
    with monkeypatch.context() as context:
        Interrupt(context, "1015/00000")
        with pytest.raises(KeyboardInterrupt):
            run()
    assert pd.read_csv(table)["SSIM"].notna().sum() == 3, "nothing is lost"
    with monkeypatch.context() as context:
        again = Interrupt(context, None)
        second = run()
    assert again.compared == ["1015/00000"], "the others have not changed"
    assert second["identity"].tolist() == first["identity"].tolist()
    assert second["SSIM"].iloc[0] < first["SSIM"].iloc[0]
    np.testing.assert_array_equal(second["SSIM"][1:], first["SSIM"][1:])
    assert score.summary(second).set_index("metric").loc["SSIM", "n_identities"] == 3


def test_files_that_cannot_be_read_do_not_end_the_others(numbered, tmp_path):
    outputs, true = numbered
    (outputs / "1015/00000.mp4").write_bytes(b"no video")
    (outputs / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    sidecar = true / "1016/00001.npz"
    sidecar.unlink()
    sidecar.symlink_to(tmp_path / "nowhere.npz")
    table = tmp_path / "scores.csv"
    rows = score.score(outputs, true, table, "ours", Scorer(procedural=True)).set_index("identity")
    assert rows["SSIM"].notna().tolist() == [False, False, True]
    assert "1015/00000.mp4" in rows.loc["1015", "note"] and "1016/00001" in rows.loc["1016", "note"]
    assert rows.loc["1016", "key"] == "", "the next run tries again"
    sidecar.unlink()
    rows = score.score(outputs, true, table, "ours", Scorer(procedural=True))
    assert rows["SSIM"].notna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", r"scores\.csv: cannot be read as a table"),
        ("a,b\n1,2\n", r"scores\.csv: is no table of scores \(method is missing\); choose another --out"),
        (
            "method,identity,clip,frames,frames with faces,note,key\nWav2Lip,a,a/1,9,9,,k\n",
            r"scores\.csv: is the table of Wav2Lip; choose another --out",
        ),
    ],
)
def test_other_files_are_not_overwritten(numbered, tmp_path, content, message):
    table = tmp_path / "scores.csv"
    table.write_text(content)
    with pytest.raises(ValueError, match=message):
        score.score(*numbered, table, "ours", Scorer(procedural=True))
    assert table.read_text() == content
    with pytest.raises(ValueError, match="is an input"):
        score.score(*numbered, numbered[0] / "1015/00000.mp4", "ours", Scorer(procedural=True))


# -- the command ------------------------------------------------------------------------------------
def test_the_command_prints_means_and_what_it_leaves_out(numbered, tmp_path, capsys):
    outputs, true = numbered
    for number in range(6):
        shutil.copy(true / "1015/00000.mp4", true / f"1015/more{number}.mp4")
    table = tmp_path / "wav2lip.csv"
    assert run_score(outputs, true, "--procedural", "--out", table, "--method", "Wav2Lip") == 0
    printed = capsys.readouterr().out
    assert printed.count(": not generated") == 3
    assert "and 3 more references that were not generated" in printed
    assert "SSIM" in printed and "share of frames with faces" in printed
    assert "3 clips of 3 identities" in printed and "every clip counts as an identity" in printed
    assert pd.read_csv(table)["method"].tolist() == ["Wav2Lip"] * 3


def test_the_command_says_what_lips_need(speakers, reference, tmp_path, capsys):
    outputs = write_outputs(tmp_path / "out", speakers, list, [0])
    assert run_score(outputs, reference, "--out", tmp_path / "x.csv", "--method", "ours") == 0
    printed = capsys.readouterr().out
    assert "weights fetch s3fd 2dfan4" in printed
    assert "every clip" not in printed, "one clip is no sample"
    assert run_score(tmp_path / "nowhere", reference, "--out", tmp_path / "y.csv") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err and not (tmp_path / "y.csv").exists()


def test_videos_that_are_too_short_are_left_out(speakers, reference, tmp_path):
    outputs = write_outputs(
        tmp_path / "short", speakers, lambda frames: frames[:2], [0], times=np.arange(2) / FPS
    )
    with pytest.raises(Rejected, match="too short to compare"):
        Scorer(procedural=True).score(find_pairs(outputs, reference)[0][0])


@pytest.fixture
def real_pair(tmp_path):
    """The copy of a real clip with its landmarks, and the folder of the true one."""
    if not CLIPS:
        pytest.skip("no real clips: set TALKING_HEADS_CLIPS")
    source = sorted(Path(CLIPS).glob("*.mp4"))[0]
    for folder in ("true", "copy"):
        (tmp_path / folder).mkdir()
        for path in (source, source.with_suffix(".npz")):
            shutil.copy(path, tmp_path / folder)
    return tmp_path / "copy", tmp_path / "true"


def test_a_real_clip_against_itself(real_pair):
    """Its landmarks lie beside it."""
    row = Scorer().score(find_pairs(*real_pair)[0][0])
    assert row["SSIM"] == pytest.approx(1) and row["MSE"] == 0 and row["mouth opening"] == pytest.approx(1)
    assert row["frames with faces"] > 0.9 * row["frames"] and row["CPBD"] > 0
    assert not any(name.startswith("CSIM") for name in row), "dlib is not installed"


@pytest.mark.dlib
def test_the_identity_of_real_people_is_measured_by_dlib(real_pair):
    """A copy, and another person's clip with landmarks of its own in its place."""
    pytest.importorskip("dlib")
    outputs, _ = real_pair
    same = Scorer().score(find_pairs(*real_pair)[0][0])
    assert same["CSIM-dlib"] == pytest.approx(1) and "CSIM-judge" not in same
    (path,) = outputs.glob("*.mp4")
    another = sorted(Path(CLIPS).glob("*.mp4"))[1]
    for file in (another, another.with_suffix(".npz")):
        shutil.copy(file, path.with_suffix(file.suffix))
    pair = find_pairs(*real_pair)[0][0]
    assert Scorer().score(pair)["CSIM-dlib"] < 0.93 and Scorer().key(pair) != Scorer(procedural=True).key(
        pair
    )
