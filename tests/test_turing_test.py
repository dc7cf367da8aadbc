"""The Turing test: balanced questions, sheets with clips, votes and their statistics."""

import base64
import io
import json
import re
from collections import Counter

import av
import numpy as np
import pandas as pd
import pytest
from talking_heads.metrics import turing_test, user_study
from talking_heads.metrics.turing_test import CHOICES, TRUE_CLIPS, ClipQuestion
from talking_heads.widgets import study_page

COUNT, IDENTITIES = 4, [f"p{k}" for k in range(6)]
MP4 = "data:video/mp4;base64,"


@pytest.fixture(scope="module")
def clips():
    """Clips of half a second of six identities, in two rows."""
    rng = np.random.default_rng(0)

    def clip():
        return np.repeat(np.repeat(rng.integers(0, 255, (12, 4, 4, 3), dtype=np.uint8), 8, 1), 8, 2)

    return {row: {identity: clip() for identity in IDENTITIES} for row in (TRUE_CLIPS, "ours")}


@pytest.fixture(scope="module")
def sounds():
    tone = (8000 * np.sin(np.arange(12 * 640) / 16_000 * 2 * np.pi * 440)).astype(np.int16)
    return dict.fromkeys(IDENTITIES, tone)


@pytest.fixture(scope="module")
def questions(clips, sounds):
    return turing_test.draw_questions(clips, sounds, COUNT, seed=3)


@pytest.fixture(scope="module")
def key(questions):
    return user_study.answer_key(questions, "a run")


def test_rows_and_identities_are_balanced_and_no_clip_comes_twice(questions):
    assert Counter(q.method for q in questions) == {TRUE_CLIPS: COUNT, "ours": COUNT}
    counts = Counter(q.identity for q in questions)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({(q.method, q.identity) for q in questions}) == len(questions)


def test_the_right_choice_is_that_of_the_row(questions, key):
    right = key.set_index("triplet")["fake"]
    for number, question in enumerate(questions):
        assert CHOICES[right[number]] == ("real" if question.method == TRUE_CLIPS else "synthetic")


def test_questions_depend_on_the_seed(clips, sounds, questions):
    again, other = (turing_test.draw_questions(clips, sounds, COUNT, seed=seed) for seed in (3, 4))
    assert user_study.study_digest(again) == user_study.study_digest(questions)
    assert user_study.study_digest(other) != user_study.study_digest(questions)


def test_another_sound_is_another_study(questions):
    changed = [*questions[:-1], ClipQuestion("ours", "p0", questions[-1].frames, questions[-1].sound[::-1])]
    assert user_study.study_digest(changed) != user_study.study_digest(questions)


def test_what_a_test_needs(clips, sounds):
    with pytest.raises(ValueError, match="needs true clips; there are ours"):
        turing_test.draw_questions({"ours": clips["ours"]}, sounds, COUNT)
    with pytest.raises(ValueError, match="true clips: clips of 6 identities, and 7 are needed"):
        turing_test.draw_questions(clips, sounds, 7)


def votes_of(key, choose):
    """Votes of four raters; ``choose`` maps a row of the key and a rater's number to a choice."""
    rows = [
        (key["study"][0], "sheet", len(key), f"rater {rater}", row.triplet, choose(row, rater), 1.0)
        for rater in range(4)
        for row in key.itertuples()
    ]
    return pd.DataFrame(rows, columns=user_study.ANSWER_COLUMNS)


def test_who_always_says_real_gives_every_row_all_votes(key):
    table = turing_test.votes(votes_of(key, lambda row, rater: 0), key).set_index("method")
    assert table["real"].to_dict() == {TRUE_CLIPS: 1.0, "ours": 1.0}
    assert (table["ci_low"] < 1).all() and (table["ci_high"] == 1).all()


def test_who_is_never_wrong_gives_true_clips_all_votes(key):
    table = turing_test.votes(votes_of(key, lambda row, rater: row.fake), key).set_index("method")
    assert table["real"].to_dict() == {TRUE_CLIPS: 1.0, "ours": 0.0}
    assert (table[["answers", "raters", "identities"]] == [4 * COUNT, 4, COUNT]).all(axis=None)


def test_shares_are_of_votes_for_real(key):
    """Three raters of four say synthetic to everything."""
    table = turing_test.votes(votes_of(key, lambda row, rater: int(rater > 0)), key)
    assert (table["real"] == 0.25).all()
    assert ((table["ci_low"] < 0.25) & (table["ci_high"] > 0.25)).all()


def test_votes_of_a_folder_are_read(tmp_path, key):
    user_study.write_key(key, tmp_path)
    (tmp_path / "answers").mkdir()
    answers = votes_of(key, lambda row, rater: row.fake)
    for rater, given in answers.groupby("rater"):
        given.to_csv(tmp_path / f"answers/{rater}.csv", index=False)
    table, notes = turing_test.measure(tmp_path, "a run")
    assert table.set_index("method")["real"].to_dict() == {TRUE_CLIPS: 1.0, "ours": 0.0} and not notes
    table, notes = turing_test.measure(tmp_path, "another run")
    assert table is None and "other weights" in notes[0]
    answers.assign(choice=2).to_csv(tmp_path / "answers/a.csv", index=False)
    with pytest.raises(ValueError, match=r"a\.csv: line 2 is no answer to one of this study's 8 questions"):
        turing_test.measure(tmp_path, "a run")


def test_the_page_holds_the_clips_with_their_sound_and_not_the_key(questions, tmp_path):
    numbers = [5, 2]
    page = study_page.write_page(questions, numbers, tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "Real or synthetic?" in page and not re.search(r'(src|href)="(https?:)?//', page)
    contents = json.loads(re.search(r"const contents = (.*), numbers = ", page)[1])
    for number, (address,) in zip(numbers, contents, strict=True):
        data = base64.b64decode(address.removeprefix(MP4))
        assert b"synthetic" not in data and b"ours" not in data
        with av.open(io.BytesIO(data)) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
            assert len(file.streams.audio) == 1 and len(frames) == 12
        shown = np.stack(frames).reshape(12, 4, 64, 4, 64, 3).mean((2, 4))
        true = questions[number].frames[:, ::8, ::8].astype(float)
        assert np.corrcoef(shown.ravel(), true.ravel())[0, 1] > 0.9
    others = [ClipQuestion("theirs", "nobody", q.frames, q.sound) for q in questions]
    other_page = study_page.write_page(others, numbers, tmp_path / "other.html").read_text(encoding="utf-8")
    assert other_page == page, "the page depends on the clips alone"


def test_a_sheet_in_a_notebook(questions, tmp_path, monkeypatch):
    monkeypatch.setattr(study_page, "SHORTEST_ANSWER", 0.0)
    path = tmp_path / "answers/me.csv"
    text, question = study_page.ask(questions, [1, 0], path, "me").children
    video, buttons = question.children
    assert [button.description for button in buttons.children] == list(CHOICES)
    first = bytes(video.value)
    assert b"ftyp" in first[:16]
    buttons.children[1].click()
    assert text.value == "1 left" and bytes(video.value) != first
    buttons.children[0].click()
    assert pd.read_csv(path)[["triplet", "choice"]].values.tolist() == [[1, 1], [0, 0]]
    assert all(button.disabled for button in buttons.children) and bytes(video.value) == b""
