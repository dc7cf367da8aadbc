"""The Turing test of the evaluation clips (section 5.3, Table 2)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from talking_heads.data.sound import HOP
from talking_heads.experiments.diffused import tables
from talking_heads.experiments.diffused.protocol import (
    FROZEN,
    OURS,
    ROWS,
    Evaluation,
    Speaker,
    frame_count,
)
from talking_heads.metrics import clip_observer
from talking_heads.metrics.statistics import holds, mean_estimate, paired
from talking_heads.metrics.turing_test import TRUE_CLIPS, ClipQuestion, draw_questions

METRICS = "turing_votes"  # name of the table of the observers' votes by identity
CLIPS = 10  # of every row, at most, as in the paper
REAL_VIDEOS = "real videos"  # the paper's name of the row of true clips


def questions(evaluation: Evaluation, chosen: Sequence[Speaker], seed: int) -> list[ClipQuestion]:
    """Ten clips of every method and ten true ones, of the generated clips of these speakers.

    Every clip has an identity of its own, so that nobody can compare two versions of a sentence; where there
    are too few identities for that, there are fewer clips.
    """
    samples = frame_count(evaluation.profile) * HOP
    by_identity = {speaker.identity: speaker for speaker in chosen}
    clips: dict[str, dict[str, np.ndarray]] = {
        row: {identity: np.load(evaluation.path(speaker, row)) for identity, speaker in by_identity.items()}
        for row in (OURS, *evaluation.baselines)
    }
    clips[TRUE_CLIPS] = {identity: evaluation.truth(speaker)[0] for identity, speaker in by_identity.items()}
    sounds = {
        identity: evaluation.clips.sound(speaker.number)[:samples]
        for identity, speaker in by_identity.items()
    }
    return draw_questions(clips, sounds, min(CLIPS, max(1, len(by_identity) // len(clips))), seed)


def observe(
    evaluation: Evaluation, chosen: Sequence[Speaker], settings: clip_observer.ClipObserverSettings
) -> pd.DataFrame:
    """Votes of observer networks on the clips of these speakers (:func:`clip_observer.observe`).

    Our rows are one group; the frozen frame is never trained on. Raises ValueError where no baseline has been
    trained, because observers of ours need another method to learn from.
    """
    fakes = {
        row: {speaker.identity: np.load(evaluation.path(speaker, row)) for speaker in chosen}
        for row in evaluation.rows
    }
    reals = {speaker.identity: evaluation.truth(speaker)[0] for speaker in chosen}
    groups = {row: OURS if row in ROWS and row != FROZEN else row for row in fakes}
    return clip_observer.observe(fakes, reals, groups, [FROZEN], settings)


def proxy_table(votes: pd.DataFrame) -> pd.DataFrame:
    """The shares of votes *real* of observer networks, in percent, with intervals over identities.

    Columns method, real with its interval, true clips (the same observers on the true clips of the same
    identities), difference with its interval, control, n_identities. Identities of a fold share an observer;
    how much observers differ is in no interval.
    """
    rows = []
    for method, method_votes in votes.groupby("method", sort=False):
        real, true = (100 * method_votes[name].to_numpy() for name in (clip_observer.VOTES, "true clips"))
        estimate, difference = mean_estimate(real), paired(real, true)
        rows.append(
            {
                "method": method,
                "real": estimate.value,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "true clips": true.mean(),
                "difference": difference.value,
                "difference, low": difference.low,
                "difference, high": difference.high,
                "control": 100 * method_votes["control"].mean(),
                "n_identities": len(method_votes),
            }
        )
    return pd.DataFrame(rows)


def proxy_lines(table: pd.DataFrame) -> list[str]:
    """What the observers of :func:`proxy_table` say of every method, a line for each."""
    lines = []
    for row in table.to_dict("records"):
        verdict = {"yes": "more", "no": "fewer", "undecided": "undecided"}[
            holds(row["difference, low"], row["difference, high"])
        ]
        shares = f"{row['real']:.0f} % of the votes are real, of true clips {row['true clips']:.0f} %"
        lines.append(f"{row['method']}: {shares}: {verdict}")
    return lines


def table2(votes: pd.DataFrame | None, corpus: str) -> pd.DataFrame:
    """The share of votes *real* of every row, in percent, and the paper's numbers.

    Columns corpus, source, method, real, ci_low, ci_high, answers, raters and identities; only the paper's
    rows where there are no votes.
    """
    paper = tables.paper_numbers(2)[["corpus", "method", "value"]].rename(columns={"value": "real"})
    paper = paper.replace({"method": {REAL_VIDEOS: TRUE_CLIPS}}).assign(source="paper")
    if votes is None:
        return paper[["corpus", "source", "method", "real"]]
    here = votes.assign(corpus=corpus, source="here").drop(columns="effect")
    here[["real", "ci_low", "ci_high"]] *= 100
    return pd.concat([here, paper], ignore_index=True)[
        ["corpus", "source", *(name for name in here if name not in ("corpus", "source"))]
    ]


def result_line(table: pd.DataFrame) -> str:
    """What the paper reports of Table 2, what was measured here, and the verdict."""
    parts = {}
    for source, rows in table.groupby("source", sort=False):
        intervals = rows.reindex(columns=["real", "ci_low", "ci_high"]).to_numpy(float)
        values = [tables.with_interval(real, low, high, ".3g") for real, low, high in intervals]
        parts[source] = ", ".join(
            f"{name} {text} %" for name, text in zip(rows["method"], values, strict=True)
        )
    if "here" not in parts:
        return f"Paper: {parts['paper']}. Here: nobody has voted. Verdict: undecided."
    corpus = table[table["source"] == "here"]["corpus"].iloc[0]
    comparable = corpus in set(table[table["source"] == "paper"]["corpus"])
    verdict = "see the intervals" if comparable else "not comparable: another corpus"
    return f"Paper: {parts['paper']}. Here: {parts['here']} ({corpus}). Verdict: {verdict}."
