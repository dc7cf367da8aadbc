"""The user study: balanced triplets, answers that resist mistakes, statistics that simulated raters can test."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from talking_heads import profiles
from talking_heads.evaluation import user_study as study
from talking_heads.reproduce import tables


@pytest.fixture(scope="module")
def triplets():
    rng = np.random.default_rng(0)
    people = [f"p{n}" for n in range(8)]
    fakes = {f"{m}@{t}": {p: np.full((4, 8, 8, 3), 250, np.uint8) for p in people} for m in ("ours", "theirs") for t in (1, 8)}
    reals = {p: [rng.integers(0, 200, (5, 8, 8, 3), dtype=np.uint8) for _ in range(3)] for p in people}
    return study.draw(fakes, reals, 30, seed=3), fakes, reals


def test_triplets_are_balanced_shuffled_and_reproducible(triplets):
    drawn, fakes, reals = triplets
    key = study.key(drawn)
    assert len(drawn) == 4 * 30 and key.groupby(["method", "T"]).size().eq(30).all()
    assert key.groupby(["method", "T", "fake"]).size().eq(10).all()
    per_person = key.groupby(["method", "T", "person"]).size()
    assert per_person.max() - per_person.min() <= 1 and not key["method"].is_monotonic_increasing
    odd = study.key(study.draw(fakes, reals, 13, seed=3))
    assert np.ptp(odd.groupby("person").size()) <= 1 and np.ptp(odd.groupby(["method", "T", "person"]).size()) <= 1, "people, also over the whole study"
    for x in drawn:
        fakeness = [(p == 250).all() for p in x.pictures]
        assert fakeness.index(True) == x.fake and sum(fakeness) == 1
        assert not np.array_equal(*np.delete(x.pictures, x.fake, 0))
    again = study.draw(fakes, reals, 30, seed=3)
    assert all(np.array_equal(a.pictures, b.pictures) for a, b in zip(drawn, again))
    assert not key["fake"].equals(study.key(study.draw(fakes, reals, 30, seed=4))["fake"])
    with pytest.raises(ValueError, match="two other videos"):
        study.draw(fakes, {p: v[:1] for p, v in reals.items()}, 3)


def test_real_pictures_come_from_two_videos():
    reals = {"p": [np.full((5, 4, 4, 3), v, np.uint8) for v in (10, 20, 30)]}
    for x in study.draw({"ours@1": {"p": np.zeros((1, 4, 4, 3), np.uint8)}}, reals, 20):
        assert len({int(v.flat[0]) for v in np.delete(x.pictures, x.fake, 0)}) == 2


def test_simulated_raters_come_out_as_they_are(triplets):
    key = study.key(triplets[0])
    guessing = study.accuracy(study.simulate(key, {f"guess{n}": 0.0 for n in range(12)}, seed=2), key)
    assert guessing["USER"].between(0.25, 0.42).all() and ((guessing["ci_low"] < 1 / 3) & (guessing["ci_high"] > 1 / 3)).all()
    assert guessing["effect"].mean() < 1.6, "independent answers are worth what they are"
    perfect = study.accuracy(study.simulate(key, {"a": 1.0, "b": 1.0}), key)
    assert perfect["USER"].eq(1).all() and study.agreement(study.simulate(key, {"a": 1.0, "b": 1.0})) == pytest.approx(1)
    noisy = study.accuracy(study.simulate(key, {f"n{n}": 0.5 for n in range(12)}), key)
    assert noisy["USER"].between(0.58, 0.75).all()
    assert abs(study.agreement(study.simulate(key, {f"g{n}": 0.0 for n in range(6)}))) < 0.05


def test_intervals_respect_raters_and_people(triplets):
    """Raters of very different skill make the interval wide, however many answers they give."""
    key = study.key(triplets[0])
    alike = study.accuracy(study.simulate(key, {f"{n}": 0.5 for n in range(6)}), key)
    unlike = study.accuracy(study.simulate(key, {f"{n}": float(n % 2) for n in range(6)}), key)
    assert (unlike["ci_high"] - unlike["ci_low"]).mean() > 1.5 * (alike["ci_high"] - alike["ci_low"]).mean()
    assert (unlike["effect"] > 3).all()
    covered = [study.accuracy(study.simulate(key, {f"g{n}": 0.0 for n in range(8)}, seed), key) for seed in range(25)]
    inside = pd.concat(covered).eval("ci_low < 1 / 3 < ci_high")
    assert 0.88 <= inside.mean() <= 1.0
    assert study.accuracy(study.simulate(key, {"only": 0.5}), key)["ci_low"].isna().all(), "one rater has no interval"


def test_intervals_hold_the_truth_where_raters_and_people_differ():
    """Skills of 0.25 to 0.55, people easier or harder by up to 0.25: USER is 0.6 in the long run."""
    key = pd.DataFrame({"triplet": range(96), "study": "s", "method": "ours", "T": 8, "person": [f"p{n % 24}" for n in range(96)], "fake": [n % 3 for n in range(96)]})
    rng = np.random.default_rng(0)
    made = pd.concat([study.accuracy(study.simulate(key, {str(n): s for n, s in enumerate(rng.uniform(0.25, 0.55, 10))}, seed, people=0.25), key)
                      for seed in range(150)])
    assert made["USER"].mean() == pytest.approx(0.6, abs=0.02)
    assert 0.92 <= made.eval("ci_low < 0.6 < ci_high").mean() <= 0.995
    independent = 1.96 * np.sqrt(made["USER"] * (1 - made["USER"]) / made["answers"])
    assert ((made["USER"] - 0.6).abs() < independent).mean() < 0.85, "as if answers were independent, it would miss the truth more often"


def test_how_many_answers():
    assert study.answers_needed(0.05, 0.5) == 385 and study.answers_needed(0.05, 0.5, 2) == 769


def test_sheets_share_the_triplets_evenly():
    made = study.sheets([f"person {k % 4}" for k in range(20)], 8, 5, seed=1)
    assert sorted(n for sheet in made for n in sheet) == sorted(list(range(20)) * 5)
    assert all(len(set(sheet)) == len(sheet) for sheet in made) and {len(sheet) for sheet in made} == {12, 13}
    of = [f"person {k % 4}" for k in range(20)]
    assert all(max(Counter(of[n] for n in sheet).values()) <= 4 for sheet in made), "five triplets of a person, five times, on eight sheets"
    alone = study.sheets(of, 25, 5, seed=1)
    assert all(len({of[n] for n in sheet}) == len(sheet) == 4 for sheet in alone), "where there are sheets enough, nobody comes twice"
    with pytest.raises(ValueError, match="as many raters, not 3"):
        study.sheets(["somebody"] * 20, 3, 5)


def test_peoples_answers_flow_and_simulated_ones_never(triplets, tmp_path):
    assert study.measured(tmp_path, "") == (None, [])
    key = study.key(triplets[0])
    key.to_csv(tmp_path / "key.csv", index=False)
    (tmp_path / "answers").mkdir()
    two = study.simulate(key, {"a": 0.5, "b": 0.5})
    two.to_csv(tmp_path / "answers/x.csv", index=False)
    with pytest.raises(ValueError, match="simulated raters"):
        study.measured(tmp_path, "")
    two.assign(rater=two["rater"].str.removeprefix("simulated ")).to_csv(tmp_path / "answers/x.csv", index=False)
    users, notes = study.measured(tmp_path, "")
    assert len(users) == 4 and not notes and {"method", "T", "USER", "ci_low", "ci_high"} <= set(users)
    none, notes = study.measured(tmp_path, "other weights")
    assert none is None and "240 answers about pictures of other weights" in notes[0]
    two[two["rater"] == "simulated a"].assign(rater="a").to_csv(tmp_path / "answers/x.csv", index=False)
    assert study.measured(tmp_path, "") == (None, ["one rater is too few"])
    key.drop(columns="study").to_csv(tmp_path / "key.csv", index=False)
    with pytest.raises(ValueError, match="key.csv: columns study are missing"):
        study.measured(tmp_path, "")
    key.to_csv(tmp_path / "key.csv", index=False)
    two.assign(rater="a", study="0123456789").to_csv(tmp_path / "answers/x.csv", index=False)
    with pytest.raises(ValueError, match="x.csv: answers to another study"):
        study.measured(tmp_path, "")


def test_two_raters_with_sheets_of_their_own_are_enough_for_a_table(triplets, tmp_path):
    """Their sheets overlap in few triplets or none; cells that one of them saw alone have no interval, and nothing fails."""
    key = study.key(triplets[0])
    key.to_csv(tmp_path / "key.csv", index=False)
    (tmp_path / "answers").mkdir()
    for name, sheet in zip(("Null", "NA"), study.sheets(key["person"].tolist(), 25, 5)):
        given = study.simulate(key.iloc[sheet], {"": 0.3}).assign(rater=name)
        given.to_csv(tmp_path / f"answers/{name}.csv", index=False)
    users, notes = study.measured(tmp_path, "")
    assert not notes and users["answers"].sum() == 48 and users["USER"].between(0, 1).all()
    assert np.isnan(study.agreement(pd.concat([given.iloc[:3], given.iloc[5:6].assign(rater="other")])))
    frames = pd.DataFrame({"method": "ours", "T": 8, "person": ["p0", "p1"], "seed": 0, "SSIM": 0.5, "CSIM-judge": 0.5, "landmark error": 0.1,
                           "mouth": [0.1, 0.2], "mouth wanted": [0.1, 0.2], "eyes": [0.1, 0.2], "eyes wanted": [0.1, 0.2]})
    table = tables.table1(frames, {("ours", 8): (np.zeros((2, 4)), np.zeros((2, 4)), np.array(["p0", "p1"]), np.zeros(2))}, profiles.load("smoke"), "run", users=users, names=["ours"])
    wanted = users[(users["method"] == "ours") & (users["T"] == 8)].iloc[0]
    row = table[table["metric"] == "USER"].iloc[0]
    assert (row["value"], row["n_people"], row["n_frames"]) == (wanted["USER"], wanted["people"], wanted["answers"])


def test_the_page_holds_the_pictures_and_not_the_key(triplets, tmp_path):
    import base64
    import json
    import re

    import cv2

    from talking_heads.reproduce.study_page import write_page
    drawn = triplets[0]
    numbers = [7, 3, 11]
    page = write_page(drawn, numbers, tmp_path / "sheet.html").read_text()
    assert not re.search(r'(src|href)="(https?:)?//', page)
    found, known = (json.loads(v) for v in re.search(r"const pictures = (.*), numbers = (.*);", page).groups())
    assert known == numbers
    for n, three in zip(numbers, found):
        pictures = [cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for p in three]
        assert np.array_equal(np.stack(pictures), drawn[n].pictures)
    other = [study.Triplet("theirs", 99, "nobody", t.pictures, (t.fake + 1) % 3) for t in drawn]
    assert write_page(other, numbers, tmp_path / "other.html").read_text() == page, "what a page says depends on the pictures alone"


def test_a_key_is_not_written_over_while_answers_need_it(triplets, tmp_path):
    key = study.key(triplets[0])
    study.write_key(key, tmp_path)
    study.write_key(key.assign(study="another"), tmp_path)
    (tmp_path / "answers").mkdir()
    study.simulate(key, {"a": 0.5}).to_csv(tmp_path / "answers/a.csv", index=False)
    with pytest.raises(ValueError, match="answers to a study with other pictures"):
        study.write_key(key, tmp_path)
    study.write_key(key.assign(study="another"), tmp_path)


def test_asking_in_a_notebook_writes_every_answer_at_once_and_goes_on(triplets, tmp_path, monkeypatch):
    from talking_heads.reproduce import study_page
    drawn, path, ask = triplets[0], tmp_path / "answers/me.csv", study_page.ask
    hasty = ask(drawn, [4, 9, 2], path, "hasty")
    hasty.children[1].children[0].children[1].click()
    assert not path.exists(), "a click before one could see the pictures is none"
    monkeypatch.setattr(study_page, "TOO_SOON", 0.0)
    buttons = lambda box: [pair.children[1] for pair in box.children[1].children]
    box = ask(drawn, [4, 9, 2], path, "me")
    buttons(box)[1].click()
    buttons(box)[0].click()
    assert pd.read_csv(path)[["rater", "triplet", "choice"]].values.tolist() == [["me", 4, 1], ["me", 9, 0]]
    buttons(ask(drawn, [9, 5], path, 'Ada, "L"'))[0].click()
    assert pd.read_csv(path)["rater"].tolist() == ["me", "me", 'Ada, "L"']
    assert ask(drawn, [9, 5], path, "me").children[0].value == "2 left", "another sheet begins anew"
    again = ask(drawn, [4, 9, 2], path, "me")
    assert again.children[0].value == "1 left"
    buttons(again)[2].click()
    assert pd.read_csv(path)["triplet"].tolist() == [4, 9, 9, 2] and buttons(again)[0].disabled
    path.write_text("study,rater,triplet,choice,seconds\n")
    with pytest.raises(ValueError, match="me.csv: answers of another version"):
        ask(drawn, [4], path, "me")


def test_answers_are_read_with_care(triplets, tmp_path):
    key = study.key(triplets[0])
    whole = study.simulate(key, {"whole": 0.5})
    whole.to_csv(tmp_path / "a.csv", index=False)
    pd.concat([study.simulate(key, {"twice": 0.5}), study.simulate(key, {"twice": 1.0})]).to_csv(tmp_path / "b.csv", index=False)
    study.simulate(key, {"half": 0.5}).head(50).to_csv(tmp_path / "c.csv", index=False)
    answers, notes = study.read_answers(sorted(tmp_path.glob("*.csv")), key)
    assert set(answers["rater"]) == {"simulated whole", "simulated twice"} and len(answers) == 2 * len(key)
    first = study.simulate(key, {"twice": 0.5})
    assert answers[answers["rater"] == "simulated twice"]["choice"].tolist() == first["choice"].tolist()
    assert "50 of 120" in notes[0] and "120 repeated" in notes[1]
    for rater, of in (("a", 50), ("b", 49)):  # of shorter sheets, each by its own length; two people of one name are no whole sheet
        study.simulate(key, {rater: 0.5}).head(49).assign(of=of, sheet=rater).to_csv(tmp_path / f"short_{rater}.csv", index=False)
    study.simulate(key, {"a": 0.5}).tail(1).assign(of=50, sheet="another").to_csv(tmp_path / "short_too.csv", index=False)
    answers, notes = study.read_answers(sorted(tmp_path.glob("short*.csv")), key)
    assert set(answers["rater"]) == {"simulated b"} and len(notes) == 2 and "49 of 50" in notes[0] and "1 of 50" in notes[1]
    whole.drop(columns="choice").to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(ValueError, match=r"d\.csv: columns choice"):
        study.read_answers([tmp_path / "d.csv"], key)
    whole.assign(of="many").to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(ValueError, match=r"f\.csv: line 2"):
        study.read_answers([tmp_path / "f.csv"], key)
    whole.assign(choice=7).to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(ValueError, match=r"e\.csv: line 2"):
        study.read_answers([tmp_path / "e.csv"], key)
