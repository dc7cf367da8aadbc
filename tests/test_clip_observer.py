"""Observers of clips: they find artefacts of methods and identities that they were not trained on."""

import numpy as np
import pandas as pd
import pytest
from talking_heads.experiments.diffused import turing
from talking_heads.metrics import clip_observer
from talking_heads.metrics.clip_observer import SNIPPET, VOTES, ClipObserverSettings, draw_snippet, observe

SETTINGS = ClipObserverSettings(steps=100, snippets=8)
SPREAD = (("x", -0.2), ("y", 0.0), ("z", 0.2))
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
    def numbered(method):
        """Clips whose pixels say of which method and identity they are."""
        return {
            name: np.full((12, 16, 16, 3), 20 * method + k, np.uint8) for k, name in enumerate(IDENTITIES)
        }

    reals = numbered(0)
    fakes = {name: numbered(method) for method, name in enumerate(("a", "a again", "b"), start=1)}
    leaks = []

    def train(groups, reals, identities, settings):
        learned = {int(clips[name].flat[0]) for group in groups for clips in group for name in identities}
        real = {int(reals[name].flat[0]) for name in identities}
        tested = []

        def vote(x):
            tested.append(round(float((x.flatten()[0] + 1) * 127.5)))
            return x.new_zeros(len(x))

        leaks.append((learned, real, tested))
        return vote

    monkeypatch.setattr(clip_observer, "train_observer", train)
    rows = observe(fakes, reals, {"a": "a", "a again": "a", "b": "b"}, settings=SETTINGS)
    assert len(rows) == 3 * len(IDENTITIES) and not rows.duplicated(["method", "identity"]).any()
    assert len(leaks) == 6
    for learned, real, tested in leaks:
        methods = {number // 20 for number in learned}
        assert methods in ({1, 2}, {3}) and len(real) == 8
        assert not {number % 20 for number in tested} & {number % 20 for number in real | learned}
        judged = {number // 20 for number in tested} - {0} - methods  # the others are the control
        assert judged == {1, 2, 3} - methods


def test_clips_that_are_too_short_are_refused():
    reals = {identity: clip(k)[:SNIPPET] for k, identity in enumerate(IDENTITIES)}
    with pytest.raises(ValueError, match="a clip has 8 frames; observers need 9"):
        observe({"a": reals, "b": reals}, reals, {"a": "a", "b": "b"}, settings=SETTINGS)


def test_observers_need_two_groups():
    reals = {identity: clip(k) for k, identity in enumerate(IDENTITIES)}
    with pytest.raises(ValueError, match="two groups of methods and two identities, not 1 and 12"):
        observe({"a": reals}, reals, {"a": "a"}, settings=SETTINGS)


@pytest.mark.parametrize(("difference", "verdict"), [(-0.4, "fewer"), (0.4, "more"), (0.0, "undecided")])
def test_the_table_pairs_votes_with_those_on_true_clips(difference, verdict):
    """The spread between identities is in neither end of the difference."""
    rows = [("a", name, 0.45 + d + difference / 2, 0.45 + d - difference / 2, 0.1) for name, d in SPREAD]
    table = turing.proxy_table(pd.DataFrame(rows, columns=clip_observer.COLUMNS))
    row = table.iloc[0]
    assert row["real"] == pytest.approx(45 + 50 * difference) and row["control"] == pytest.approx(10)
    ends = row[["difference", "difference, low", "difference, high"]].astype(float)
    np.testing.assert_allclose(ends, 100 * difference, atol=1e-9)
    assert row["ci_low"] < row["real"] - 5 and row["n_identities"] == 3
    assert turing.proxy_lines(table)[0].endswith(verdict)
