"""The user study: balanced triplets, checked answers, and statistics tested with simulated raters."""

import base64
import json
import re
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest
from talking_heads import config
from talking_heads.experiments.few_shot import tables
from talking_heads.experiments.few_shot.frame_metrics import Features
from talking_heads.metrics import user_study as study
from talking_heads.widgets import study_page


@pytest.fixture(scope="module")
def frames():
    """Fakes (all 250) of two methods at two T, and real frames (below 200) of three videos per identity."""
    rng = np.random.default_rng(0)
    identities = [f"p{n}" for n in range(8)]
    fake = {identity: np.full((4, 8, 8, 3), 250, np.uint8) for identity in identities}
    fakes = {label: fake for label in ("ours@1", "ours@8", "theirs@1", "theirs@8")}
    videos = rng.integers(0, 200, (len(identities), 3, 5, 8, 8, 3), dtype=np.uint8)
    return fakes, {identity: list(video) for identity, video in zip(identities, videos, strict=True)}


@pytest.fixture(scope="module")
def triplets(frames):
    return study.draw_triplets(*frames, 30, seed=3)


@pytest.fixture
def key(triplets):
    return study.answer_key(triplets)


@pytest.fixture
def folder(tmp_path, key):
    """A study without answers."""
    (tmp_path / "answers").mkdir()
    key.to_csv(tmp_path / "key.csv", index=False)
    return tmp_path


def answer(key, name, skill, **columns):
    """One rater's answers, under its own name."""
    return study.simulate_answers(key, {name: skill}).assign(rater=name, **columns)


# -- triplets and sheets ----------------------------------------------------------------------------
def test_methods_identities_and_positions_are_balanced(frames, key):
    assert len(key) == 4 * 30
    assert key.groupby(["method", "T"]).size().eq(30).all()
    assert key.groupby(["method", "T", "fake"]).size().eq(10).all()
    assert np.ptp(key.groupby(["method", "T", "person"]).size()) <= 1
    odd = study.answer_key(study.draw_triplets(*frames, 13, seed=3))
    assert np.ptp(odd.groupby(["method", "T", "person"]).size()) <= 1
    assert np.ptp(odd.groupby("person").size()) <= 1, "also over the whole study"


def test_triplets_hold_one_fake_at_its_position(triplets):
    for triplet in triplets:
        is_fake = [(image == 250).all() for image in triplet.images]
        assert is_fake.index(True) == triplet.fake and sum(is_fake) == 1
        assert not np.array_equal(*np.delete(triplet.images, triplet.fake, 0))


def test_triplets_are_shuffled_and_reproducible(frames, triplets, key):
    assert not key["method"].is_monotonic_increasing
    again = study.draw_triplets(*frames, 30, seed=3)
    assert all(np.array_equal(a.images, b.images) for a, b in zip(triplets, again, strict=True))
    other = study.answer_key(study.draw_triplets(*frames, 30, seed=4))
    assert not key["fake"].equals(other["fake"])


def test_an_identity_needs_two_other_videos(frames):
    fakes, reals = frames
    with pytest.raises(ValueError, match="two other videos, not 1"):
        study.draw_triplets(fakes, {identity: videos[:1] for identity, videos in reals.items()}, 3)


def test_real_images_come_from_two_videos():
    reals = {"p": [np.full((5, 4, 4, 3), level, np.uint8) for level in (10, 20, 30)]}
    fakes = {"ours@1": {"p": np.zeros((1, 4, 4, 3), np.uint8)}}
    for triplet in study.draw_triplets(fakes, reals, 20):
        real = np.delete(triplet.images, triplet.fake, 0)
        assert real[0, 0, 0, 0] != real[1, 0, 0, 0]


def test_sheets_share_the_triplets_evenly():
    identities = [f"p{k % 4}" for k in range(20)]
    sheets = study.assign_sheets(identities, 8, 5, seed=1)
    assert Counter(n for sheet in sheets for n in sheet) == dict.fromkeys(range(20), 5)
    assert all(len(set(sheet)) == len(sheet) for sheet in sheets)
    assert {len(sheet) for sheet in sheets} == {12, 13}
    for sheet in sheets:  # five triplets of an identity, five times each, on eight sheets
        assert max(Counter(identities[n] for n in sheet).values()) <= 4
    for sheet in study.assign_sheets(identities, 25, 5, seed=1):
        assert len({identities[n] for n in sheet}) == len(sheet) == 4, (
            "enough sheets: no identity comes twice"
        )
    with pytest.raises(ValueError, match="as many raters, not 3"):
        study.assign_sheets(identities, 3, 5)


# -- statistics -------------------------------------------------------------------------------------
def test_scores_of_simulated_raters(key):
    guesses = study.simulate_answers(key, {f"guess{n}": 0.0 for n in range(12)}, seed=2)
    scores = study.accuracy(guesses, key)
    assert scores["USER"].between(0.25, 0.42).all()
    assert scores.eval("ci_low < 1 / 3 < ci_high").all()
    assert scores["effect"].mean() < 1.6, "independent answers"
    perfect = study.simulate_answers(key, {"a": 1.0, "b": 1.0})
    assert study.accuracy(perfect, key)["USER"].eq(1).all()
    noisy = study.accuracy(study.simulate_answers(key, {f"n{n}": 0.5 for n in range(12)}), key)
    assert noisy["USER"].between(0.58, 0.75).all()


def test_agreement_of_simulated_raters(key):
    assert study.agreement(study.simulate_answers(key, {"a": 1.0, "b": 1.0})) == pytest.approx(1)
    assert abs(study.agreement(study.simulate_answers(key, {f"g{n}": 0.0 for n in range(6)}))) < 0.05
    a, b = answer(key, "a", 0.3), answer(key, "b", 0.3)
    assert np.isnan(study.agreement(pd.concat([a.iloc[:3], b.iloc[5:6]]))), "no triplet with two answers"


def test_agreement_by_hand():
    """Four triplets with three answers each: Fleiss' observed agreement is 7/12, the expected one 31/72."""
    choices = [0, 0, 0, 1, 1, 1, 0, 1, 2, 0, 0, 1]
    columns = {"triplet": np.repeat(range(4), 3), "rater": list("abc") * 4, "choice": choices}
    assert study.agreement(pd.DataFrame(columns)) == pytest.approx(11 / 41)


def test_intervals_are_wide_where_raters_differ(key):
    alike = study.accuracy(study.simulate_answers(key, {f"{n}": 0.5 for n in range(6)}), key)
    unlike = study.accuracy(study.simulate_answers(key, {f"{n}": float(n % 2) for n in range(6)}), key)
    widths = [(scores["ci_high"] - scores["ci_low"]).mean() for scores in (alike, unlike)]
    assert widths[1] > 1.5 * widths[0]
    assert (unlike["effect"] > 3).all()
    alone = study.accuracy(study.simulate_answers(key, {"only": 0.5}), key)
    assert alone["ci_low"].isna().all() and alone["effect"].isna().all(), "one rater has no interval"


def test_intervals_of_raters_who_guess_cover_chance(key):
    skills = {f"g{n}": 0.0 for n in range(8)}
    scores = [study.accuracy(study.simulate_answers(key, skills, seed), key) for seed in range(25)]
    assert 0.88 <= pd.concat(scores).eval("ci_low < 1 / 3 < ci_high").mean() <= 1.0


def test_intervals_cover_the_mean_where_raters_and_identities_differ():
    """Skills of 0.25 to 0.55, identities easier or harder by up to 0.25: USER is 0.6 on average."""
    columns = {"study": "s", "method": "ours", "T": 8, "triplet": range(96)}
    columns |= {"person": [f"p{n % 24}" for n in range(96)], "fake": [n % 3 for n in range(96)]}
    key = pd.DataFrame(columns)
    rng = np.random.default_rng(0)
    tables_of_seeds = []
    for seed in range(150):
        skills = {str(n): skill for n, skill in enumerate(rng.uniform(0.25, 0.55, 10))}
        answers = study.simulate_answers(key, skills, seed, identity_spread=0.25)
        tables_of_seeds.append(study.accuracy(answers, key))
    scores = pd.concat(tables_of_seeds)
    assert scores["USER"].mean() == pytest.approx(0.6, abs=0.02)
    assert 0.92 <= scores.eval("ci_low < 0.6 < ci_high").mean() <= 0.995
    independent = 1.96 * np.sqrt(scores["USER"] * (1 - scores["USER"]) / scores["answers"])
    assert ((scores["USER"] - 0.6).abs() < independent).mean() < 0.85, "binomial intervals are too narrow"


def test_how_many_answers():
    assert study.answers_needed(0.05, 0.5) == 385 and study.answers_needed(0.05, 0.5, 2) == 769


# -- files ------------------------------------------------------------------------------------------
def test_files_keep_their_columns(key):
    """Users have such files: their columns do not change."""
    assert list(key) == ["triplet", "method", "T", "person", "fake", "study", "run_id"]
    columns = ["study", "sheet", "of", "rater", "triplet", "choice", "seconds"]
    assert list(study.simulate_answers(key, {"a": 0.5})) == list(study.ANSWER_COLUMNS) == columns


def test_no_answers_give_no_score(tmp_path):
    assert study.measure(tmp_path, "") == (None, [])


def test_two_raters_are_needed(folder, key):
    answer(key, "a", 0.5).to_csv(folder / "answers/a.csv", index=False)
    assert study.measure(folder, "") == (None, ["one rater is too few"])
    answer(key, "b", 0.5).to_csv(folder / "answers/b.csv", index=False)
    users, notes = study.measure(folder, "")
    assert len(users) == 4 and not notes and list(users) == list(study.USER_COLUMNS)


def test_answers_about_images_of_other_weights_do_not_count(folder, key):
    for name in ("a", "b"):
        answer(key, name, 0.5).to_csv(folder / f"answers/{name}.csv", index=False)
    users, notes = study.measure(folder, "other weights")
    assert users is None and "240 answers about images of other weights" in notes[0]


def test_simulated_raters_are_refused(folder, key):
    study.simulate_answers(key, {"a": 0.5, "b": 0.5}).to_csv(folder / "answers/x.csv", index=False)
    with pytest.raises(ValueError, match="simulated raters"):
        study.measure(folder, "")


def test_a_key_without_its_columns_is_refused(folder, key):
    answer(key, "a", 0.5).to_csv(folder / "answers/a.csv", index=False)
    key.drop(columns="study").to_csv(folder / "key.csv", index=False)
    with pytest.raises(ValueError, match=r"key\.csv: columns study are missing"):
        study.measure(folder, "")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"study": "0123456789"}, r"a\.csv: answers to another study"),
        ({"of": "many"}, r"a\.csv: line 2"),
        ({"choice": 7}, r"a\.csv: line 2"),
        ({"triplet": 120}, r"a\.csv: line 2"),
    ],
)
def test_files_that_are_no_answers_are_refused(folder, key, columns, message):
    answer(key, "a", 0.5, **columns).to_csv(folder / "answers/a.csv", index=False)
    with pytest.raises(ValueError, match=message):
        study.measure(folder, "")


def test_answers_without_a_column_are_refused(tmp_path, key):
    answer(key, "a", 0.5).drop(columns="choice").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"a\.csv: columns choice are missing"):
        study.read_answers([tmp_path / "a.csv"], key)


def test_a_key_is_not_replaced_while_answers_need_it(tmp_path, key):
    study.write_key(key, tmp_path)
    study.write_key(key.assign(study="another"), tmp_path)
    (tmp_path / "answers").mkdir()
    answer(key, "a", 0.5).to_csv(tmp_path / "answers/a.csv", index=False)
    with pytest.raises(ValueError, match="answers to a study with other images"):
        study.write_key(key, tmp_path)
    study.write_key(key.assign(study="another"), tmp_path)


def test_of_repeated_answers_the_first_counts(tmp_path, key):
    first = answer(key, "twice", 0.5)
    pd.concat([first, answer(key, "twice", 1.0)]).to_csv(tmp_path / "a.csv", index=False)
    answers, notes = study.read_answers([tmp_path / "a.csv"], key)
    assert answers["choice"].tolist() == first["choice"].tolist()
    assert notes == ["twice: 120 repeated answers, the first counts"]


def test_incomplete_sheets_are_left_out(tmp_path, key):
    """Each sheet is compared with its own length, also where one rater has several."""
    files = {
        "complete": answer(key, "a", 0.5),
        "half": answer(key, "b", 0.5).head(50),
        "short": answer(key, "c", 0.5, of=49, sheet="short").head(49),
        "shorter": answer(key, "d", 0.5, of=50, sheet="shorter").head(49),
        "another": answer(key, "d", 0.5, of=50, sheet="another").tail(1),
    }
    for name, table in files.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    answers, notes = study.read_answers(sorted(tmp_path.glob("*.csv")), key)
    assert answers.groupby("rater").size().to_dict() == {"a": 120, "c": 49}
    assert [note.partition(" answers")[0] for note in notes] == [
        "b, sheet simulated: incomplete, 50 of 120",
        "d, sheet another: incomplete, 1 of 50",
        "d, sheet shorter: incomplete, 49 of 50",
    ]


def test_raters_with_different_sheets_fill_a_row_of_table_1(folder, key):
    """Their sheets overlap in few triplets or none. Names such as NA are names."""
    sheets = study.assign_sheets(key["person"].tolist(), 25, 5)
    for name, sheet in zip(("Null", "NA"), sheets, strict=False):
        answer(key.iloc[sheet], name, 0.3).to_csv(folder / f"answers/{name}.csv", index=False)
    users, notes = study.measure(folder, "")
    assert not notes and users["answers"].sum() == 48 and users["USER"].between(0, 1).all()
    values = {"seed": 0, "SSIM": 0.5, "CSIM-judge": 0.5, "landmark error": 0.1}
    openings = {name: [0.1, 0.2] for name in ("mouth", "true mouth", "eyes", "true eyes")}
    frames = pd.DataFrame({"method": "ours", "T": 8, "identity": ["p0", "p1"], **values, **openings})
    features = Features(np.zeros((2, 4)), np.zeros((2, 4)), np.array(["p0", "p1"]), np.zeros(2))
    measured = tables.Measured(frames, {("ours", 8): features}, users=users)
    table = tables.table1(measured, config.load("smoke"), "run", names=["ours"])
    score = users.query("method == 'ours' and T == 8").iloc[0]
    row = table.query("metric == 'USER'").iloc[0]
    assert row["value"] == score["USER"] and row["n_seeds"] == 1
    assert (row["n_identities"], row["n_frames"]) == (score["identities"], score["answers"])


# -- pages ------------------------------------------------------------------------------------------
PNG = "data:image/png;base64,"


def test_the_page_holds_the_images_and_not_the_key(triplets, tmp_path):
    numbers = [7, 3, 11]
    page = study_page.write_page(triplets, numbers, tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', page)
    images, page_numbers = (
        json.loads(text)
        for text in re.search(r"const contents = (.*), numbers = (.*), labels", page).groups()
    )
    assert page_numbers == numbers
    for number, three in zip(numbers, images, strict=True):
        data = [np.frombuffer(base64.b64decode(address.removeprefix(PNG)), np.uint8) for address in three]
        decoded = [cv2.imdecode(image, cv2.IMREAD_COLOR)[..., ::-1] for image in data]
        assert np.array_equal(np.stack(decoded), triplets[number].images)
    others = [study.Triplet("theirs", 99, "nobody", t.images, (t.fake + 1) % 3) for t in triplets]
    other_page = study_page.write_page(others, numbers, tmp_path / "other.html").read_text(encoding="utf-8")
    assert other_page == page, "the page depends on the images alone"


class Panel:
    """The widgets of a sheet in a notebook."""

    def __init__(self, box):
        self.text, self.columns = box.children[0], box.children[1].children

    def click(self, position):
        self.button(position).click()

    def button(self, position):
        return self.columns[position].children[1]


@pytest.fixture
def ask(triplets, tmp_path):
    path = tmp_path / "answers/me.csv"

    def ask_in_notebook(numbers, rater="me"):
        return Panel(study_page.ask(triplets, numbers, path, rater))

    ask_in_notebook.path = path
    return ask_in_notebook


def test_clicks_before_the_images_can_be_seen_do_not_count(ask):
    ask([4, 9, 2]).click(1)
    assert not ask.path.exists()


def test_answers_in_a_notebook_are_written_at_once(ask, monkeypatch):
    monkeypatch.setattr(study_page, "SHORTEST_ANSWER", 0.0)
    panel = ask([4, 9, 2])
    panel.click(1)
    panel.click(0)
    answers = pd.read_csv(ask.path)
    assert answers[["rater", "triplet", "choice"]].values.tolist() == [["me", 4, 1], ["me", 9, 0]]
    assert list(answers) == list(study.ANSWER_COLUMNS) and answers["of"].eq(3).all()
    ask([9, 5], 'Ada, "L"').click(0)
    assert pd.read_csv(ask.path)["rater"].tolist() == ["me", "me", 'Ada, "L"']


def test_a_sheet_in_a_notebook_can_be_continued(ask, monkeypatch):
    monkeypatch.setattr(study_page, "SHORTEST_ANSWER", 0.0)
    panel = ask([4, 9, 2])
    panel.click(1)
    panel.click(0)
    assert ask([9, 5]).text.value == "2 left", "another sheet starts from its beginning"
    continued = ask([4, 9, 2])
    assert continued.text.value == "1 left"
    continued.click(2)
    assert pd.read_csv(ask.path)["triplet"].tolist() == [4, 9, 2]
    assert continued.button(0).disabled and "last one" in continued.text.value


def test_answers_of_another_version_are_not_continued(ask):
    ask.path.parent.mkdir()
    ask.path.write_text("study,rater,triplet,choice,seconds\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"me\.csv: answers of another version"):
        ask([4])
