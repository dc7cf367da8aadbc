"""Observers of clips: they find artefacts of methods and identities that they were not trained on."""

import numpy as np
import pytest
from talking_heads.experiments.diffused import turing
from talking_heads.metrics import clip_observer
from talking_heads.metrics.clip_observer import SNIPPET, VOTES, ClipObserverSettings, draw_snippet, observe

SETTINGS = ClipObserverSettings(steps=100, snippets=8)
IDENTITIES = [f"id{k}" for k in range(12)]


def clip(seed, jitter=0.0):
    """Twelve frames of 16² of a disc that drifts over a background; with ``jitter`` it also trembles."""
    rng = np.random.default_rng(seed)
    colour, background = rng.integers(0, 256, (2, 3))
    centre, drift = rng.uniform(5, 10, 2), rng.uniform(-0.2, 0.2, 2)
    y, x = np.mgrid[:16, :16]
    frames = []
    for k in range(12):
        cy, cx = centre + k * drift + jitter * rng.standard_normal(2)
        inside = ((y - cy) ** 2 + (x - cx) ** 2 < 16)[..., None]
        frames.append(np.where(inside, colour, background))
    return np.stack(frames).astype(np.uint8)


@pytest.fixture(scope="module")
def votes():
    """Two methods that tremble, one that cannot be told from the truth, and one that is never trained on."""
    reals = {identity: clip(k) for k, identity in enumerate(IDENTITIES)}
    fakes = {
        name: {identity: clip(1000 * n + k, jitter) for k, identity in enumerate(IDENTITIES)}
        for n, (name, jitter) in enumerate({"a": 2.0, "b": 2.0, "like the truth": 0.0}.items(), start=1)
    }
    rows = observe(fakes, reals, {name: name for name in fakes}, ["like the truth"], SETTINGS)
    return rows.groupby("method")[[VOTES, "true clips", "control"]].mean()


@pytest.mark.parametrize("method", ["a", "b"])
def test_artefacts_of_unseen_methods_and_identities_are_found(votes, method):
    row = votes.loc[method]
    assert row[VOTES] < 0.35 and row["true clips"] > row[VOTES] + 0.3 and row["control"] < 0.35


def test_clips_like_true_ones_get_as_many_votes(votes):
    row = votes.loc["like the truth"]
    assert abs(row[VOTES] - row["true clips"]) < 0.25


def test_the_first_frame_is_never_seen():
    frames = np.arange(SNIPPET + 2)[:, None, None, None]
    rng = np.random.default_rng(0)
    starts = {int(draw_snippet(frames, rng)[0, 0, 0, 0]) for _ in range(50)}
    assert starts == {1, 2}
    assert len(draw_snippet(frames, rng)) == SNIPPET


def test_a_method_is_judged_by_observers_that_saw_neither_it_nor_the_identity(monkeypatch):
    reals = {identity: clip(k) for k, identity in enumerate(IDENTITIES)}
    fakes = {name: reals for name in ("a", "a again", "b")}
    trained = []

    def train(groups, reals, identities, settings):
        trained.append((len(groups), [len(group) for group in groups], tuple(identities)))
        return lambda x: x.new_zeros(len(x))

    monkeypatch.setattr(clip_observer, "train_observer", train)
    rows = observe(fakes, reals, {"a": "a", "a again": "a", "b": "b"}, settings=SETTINGS)
    assert len(rows) == 3 * len(IDENTITIES) and not rows.duplicated(["method", "identity"]).any()
    assert sorted(sizes for _, sizes, _ in trained) == [[1]] * 3 + [[2]] * 3
    assert all(len(identities) == 8 for _, _, identities in trained)


def test_observers_need_two_groups():
    reals = {identity: clip(k) for k, identity in enumerate(IDENTITIES)}
    with pytest.raises(ValueError, match="two groups of methods and two identities, not 1 and 12"):
        observe({"a": reals}, reals, {"a": "a"}, settings=SETTINGS)


def test_the_table_pairs_votes_with_those_on_true_clips():
    rows = clip_observer.pd.DataFrame(
        [("a", "x", 0.2, 0.6, 0.1), ("a", "y", 0.4, 1.0, 0.3)], columns=clip_observer.COLUMNS
    )
    row = turing.proxy_table(rows).iloc[0]
    assert row["real"] == pytest.approx(30) and row["true clips"] == pytest.approx(80)
    assert row["difference"] == pytest.approx(-50) and row["difference, low"] < -50 < row["difference, high"]
    assert row["control"] == pytest.approx(20) and row["n_identities"] == 2
