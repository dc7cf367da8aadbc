"""USER, the paper's user study (section 4): raters choose the fake among three images of one identity.

Two of the three are real and come from two other videos of that identity. A method's score is how often its
fakes are found; one third, chance, is the best score. This module draws triplets, reads answers and
computes their statistics; the page that raters see is :mod:`widgets.study_page`.

Files: ``key.csv`` with the columns ``KEY_COLUMNS``, ``study`` and ``run_id``, and ``answers/*.csv`` with
the columns ``ANSWER_COLUMNS``. In both a person is an identity of the corpus, never a rater.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student_t

# study and sheet are digests, of is the number of questions on the sheet, choice a position from 0 to 2
ANSWER_COLUMNS = ("study", "sheet", "of", "rater", "triplet", "choice", "seconds")
KEY_COLUMNS = ("triplet", "method", "T", "person", "fake")
TEXT_COLUMNS = {"study": str, "sheet": str, "rater": str}  # read as text even where they are digits
USER_COLUMNS = ("method", "T", "USER", "ci_low", "ci_high", "answers", "raters", "identities", "effect")
POSITIONS = range(3)


class Question(Protocol):
    """What raters are asked about an identity; ``fake`` is the number of the right choice."""

    @property
    def method(self) -> str: ...
    @property
    def t(self) -> int: ...
    @property
    def identity(self) -> str: ...
    @property
    def fake(self) -> int: ...
    def content(self) -> bytes:
        """What the rater sees and hears, of which a study's digest is made."""


@dataclass
class Triplet:
    """Three images (3, S, S, 3) uint8 of one identity; ``fake`` is the position of the generated one."""

    method: str
    t: int
    identity: str
    images: NDArray[np.uint8]
    fake: int

    def content(self) -> bytes:
        """All three images."""
        return self.images.tobytes()


# -- triplets and sheets ----------------------------------------------------------------------------
def draw_triplets(
    fakes: Mapping[str, Mapping[str, NDArray[np.uint8]]],
    reals: Mapping[str, Sequence[NDArray[np.uint8]]],
    count: int,
    seed: int = 0,
) -> list[Triplet]:
    """``count`` triplets of every "method@T", in random order.

    ``fakes`` maps "method@T" to the frames (n, S, S, 3) of every identity, ``reals`` an identity to the
    frames of each of its other videos. Within each "method@T" identities and positions of the fake are
    equally frequent, up to one; identities also over the whole study. Raises ValueError where an identity
    has fewer than two other videos.
    """
    rng = np.random.default_rng(seed)
    triplets: list[Triplet] = []
    identity_counts: Counter = Counter()
    for label, frames in fakes.items():
        method, t = label.rsplit("@", 1)
        identities = draw_balanced(sorted(frames), count, rng, identity_counts)
        positions = draw_balanced(POSITIONS, count, rng, Counter())
        for identity, fake in zip(identities, positions, strict=True):
            images = _draw_real_images(identity, reals[identity], rng)
            images.insert(fake, frames[identity][rng.integers(len(frames[identity]))])
            triplets.append(Triplet(method, int(t), identity, np.stack(images), fake))
    return [triplets[i] for i in rng.permutation(len(triplets))]


def _draw_real_images(
    identity: str, videos: Sequence[NDArray[np.uint8]], rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """One frame of each of two of an identity's videos."""
    if len(videos) < 2:
        raise ValueError(f"{identity}: a triplet needs two other videos, not {len(videos)}")
    images = []
    for number in rng.choice(len(videos), 2, replace=False):
        video = videos[number]
        images.append(video[rng.integers(len(video))])
    return images


def draw_balanced(values: Sequence, count: int, rng: np.random.Generator, counts: Counter) -> list:
    """``count`` values in random order, all equally frequent up to one.

    Values that were drawn least before are preferred; ``counts`` says how often, and is updated.
    """
    shuffled = [values[i] for i in rng.permutation(len(values))]
    rarest_first = sorted(shuffled, key=counts.__getitem__)
    sample = [rarest_first[i % len(rarest_first)] for i in range(count)]
    counts.update(sample)
    return [sample[i] for i in rng.permutation(count)]


def assign_sheets(
    identities: Sequence[str], raters: int, answers_per_triplet: int, seed: int = 0
) -> list[list[int]]:
    """A sheet for every rater: the numbers of its triplets in random order.

    ``identities`` are those of the triplets. Every triplet is on ``answers_per_triplet`` sheets (5 in the
    paper), and sheets have equal sizes, up to one. An identity appears on a sheet as rarely as possible:
    all of its fakes show the background of the video that its head was learned from, and a rater who sees
    that background again recognises the fake by it. Raises ValueError for fewer raters than
    ``answers_per_triplet``.
    """
    if answers_per_triplet > raters:
        raise ValueError(f"{answers_per_triplet} answers to each triplet need as many raters, not {raters}")
    rng = np.random.default_rng(seed)
    by_identity = sorted(rng.permutation(len(identities)), key=lambda number: identities[number])
    sheets: list[list[int]] = [[] for _ in range(raters)]
    for slot, triplet in enumerate(np.repeat(by_identity, answers_per_triplet)):
        sheets[slot % raters].append(int(triplet))
    return [_shuffle(sheet, rng) for sheet in sheets]


def _shuffle(values: Sequence[int], rng: np.random.Generator) -> list[int]:
    return [values[i] for i in rng.permutation(len(values))]


def study_digest(questions: Sequence[Question]) -> str:
    """Ten hex digits of a study's contents, in their order; answers carry it and count for it alone."""
    return hashlib.sha256(b"".join(question.content() for question in questions)).hexdigest()[:10]


def sheet_digest(questions: Sequence[Question], numbers: Sequence[int]) -> str:
    """Ten hex digits of a sheet: the questions of these numbers, in this order."""
    return hashlib.sha256(f"{study_digest(questions)} {list(numbers)}".encode()).hexdigest()[:10]


# -- files ------------------------------------------------------------------------------------------
def answer_key(questions: Sequence[Question], run_id: str = "") -> pd.DataFrame:
    """The solutions: columns ``KEY_COLUMNS``, the study's digest, and the ``run_id`` of the fakes."""
    rows = [(n, x.method, x.t, x.identity, x.fake) for n, x in enumerate(questions)]
    return pd.DataFrame(rows, columns=KEY_COLUMNS).assign(study=study_digest(questions), run_id=run_id)


def write_key(key: pd.DataFrame, folder: Path) -> None:
    """Write ``key.csv`` to a study's folder. Raises ValueError where answers need the key that is there."""
    path = folder / "key.csv"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and any((folder / "answers").glob("*.csv")):
        present = pd.read_csv(path, dtype=str)
        if set(present.get("study", ())) != set(key["study"]):
            raise ValueError(
                f"{folder / 'answers'}: answers to a study with other images, whose key would be lost; "
                f"move {folder} away to begin a new study"
            )
    key.to_csv(path, index=False)


def read_answers(
    paths: Sequence[Path], key: pd.DataFrame, choices: int = len(POSITIONS)
) -> tuple[pd.DataFrame, list[str]]:
    """All answers to a study, with columns ``ANSWER_COLUMNS``, and a note on everything that is left out.

    A sheet with fewer answers than triplets is incomplete and left out. Of a rater's answers to one triplet
    the first counts. Raises ValueError, naming the file, for a file that holds no answers to this study.
    """
    tables = [_read_file(path, key, choices) for path in paths]
    answers = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=ANSWER_COLUMNS)
    answers, incomplete = _without_incomplete_sheets(answers)
    is_repetition = answers.duplicated(["rater", "triplet"])
    repetitions = answers[is_repetition].groupby("rater").size()
    notes = [f"{rater}: {n} repeated answers, the first counts" for rater, n in repetitions.items()]
    return answers[~is_repetition].reset_index(drop=True), incomplete + notes


def _read_file(path: Path, key: pd.DataFrame, choices: int) -> pd.DataFrame:
    """A file's answers. Raises ValueError as :func:`read_answers` does."""
    try:
        table = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    if missing := _missing_columns(table, ANSWER_COLUMNS):
        raise ValueError(
            f"{path}: columns {missing} are missing; a file from the study's page has "
            f"{', '.join(ANSWER_COLUMNS)}"
        )
    table = table[list(ANSWER_COLUMNS)]
    if (table["study"] != key["study"].iloc[0]).any():
        raise ValueError(
            f"{path}: answers to another study than that of key.csv, with other images; move the file away"
        )
    count = len(key)
    valid = (
        table["choice"].isin(range(choices))
        & table["triplet"].isin(range(count))
        & table["of"].isin(range(1, count + 1))
    )
    if not valid.all():
        line = int((~valid).to_numpy().argmax()) + 2  # after the header, counted from 1
        raise ValueError(f"{path}: line {line} is no answer to one of this study's {count} questions")
    return table


def _missing_columns(table: pd.DataFrame, columns: Iterable[str]) -> str:
    return ", ".join(column for column in columns if column not in table)


def _without_incomplete_sheets(answers: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The answers on complete sheets, and a note on every incomplete one."""
    sheet = ["rater", "sheet"]
    by_sheet = answers.drop_duplicates([*sheet, "triplet"]).groupby(sheet)["of"]
    counts = by_sheet.agg(["size", "max"])
    incomplete = counts[counts["size"] < counts["max"]]
    notes = [
        f"{rater}, sheet {digest}: incomplete, {count} of {total} answers, left out"
        for (rater, digest), count, total in incomplete.itertuples(name=None)
    ]
    is_incomplete = pd.MultiIndex.from_frame(answers[sheet]).isin(incomplete.index)
    return answers[~is_incomplete], notes


def load_study(folder: Path, choices: int = len(POSITIONS)) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Answers, key and notes of a study's folder, which holds ``key.csv`` and ``answers/*.csv``.

    Raises ValueError for answers of simulated raters, and for a key without its columns.
    """
    paths = sorted((folder / "answers").glob("*.csv"))
    if not paths:
        return pd.DataFrame(columns=ANSWER_COLUMNS), pd.DataFrame(columns=KEY_COLUMNS), []
    key_path = folder / "key.csv"
    key = pd.read_csv(key_path, dtype={"study": str, "run_id": str}, keep_default_na=False)
    if missing := _missing_columns(key, ("study", "run_id", *KEY_COLUMNS)):
        raise ValueError(
            f"{key_path}: columns {missing} are missing, it is of another version; "
            f"move {folder} away and create the study again"
        )
    answers, notes = read_answers(paths, key, choices)
    if answers["rater"].str.startswith("simulated").any():
        raise ValueError(
            f"{folder / 'answers'}: answers of simulated raters, which no table shows; remove them"
        )
    return answers, key, notes


def usable_answers(
    folder: Path, run_id: str, choices: int = len(POSITIONS)
) -> tuple[pd.DataFrame | None, pd.DataFrame, list[str]]:
    """:func:`load_study`, with None for the answers where fewer than two raters have answered, or where the
    images are of other weights than those of ``run_id``.
    """
    answers, key, notes = load_study(folder, choices)
    if answers.empty:
        return None, key, notes
    if set(key["run_id"]) != {run_id}:
        return (
            None,
            key,
            [f"{folder}: {len(answers)} answers about images of other weights do not count here"],
        )
    if answers["rater"].nunique() < 2:
        return None, key, [*notes, "one rater is too few"]
    return answers, key, notes


def measure(folder: Path, run_id: str) -> tuple[pd.DataFrame | None, list[str]]:
    """:func:`accuracy` of a study's folder, and notes; None where :func:`usable_answers` has none.

    Raises what :func:`load_study` does.
    """
    answers, key, notes = usable_answers(folder, run_id)
    return (None if answers is None else accuracy(answers, key)), notes


# -- statistics -------------------------------------------------------------------------------------
def accuracy(answers: pd.DataFrame, key: pd.DataFrame) -> pd.DataFrame:
    """USER of every method and T, the share of fakes found, with a 95 % interval over raters and identities.

    Answers of one rater resemble each other, and so do answers about one identity. Their variance is that
    of means with two-way clusters (Cameron, Gelbach & Miller 2011). ``effect`` is this variance over that
    of independent answers. The interval is Wilson's for n / ``effect`` answers, with Student's quantile for
    the smaller number of clusters. Returns the columns ``USER_COLUMNS``; with fewer than two raters or
    identities, interval and effect are NaN.
    """
    scores = answers.merge(key, on="triplet", validate="many_to_one")
    scores["found"] = (scores["choice"] == scores["fake"]).astype(float)
    groups = scores.groupby(["method", "T"], sort=False)
    rows = [{"method": method, "T": t, **_score(group)} for (method, t), group in groups]
    return pd.DataFrame(rows, columns=USER_COLUMNS)


def _score(scores: pd.DataFrame) -> dict[str, float]:
    """USER of one method at one T."""
    n, share = len(scores), float(scores["found"].mean())
    raters, identities = scores["rater"].nunique(), scores["person"].nunique()
    low = high = effect = float("nan")
    if min(raters, identities) > 1:
        effect = 1.0
        if 0 < share < 1:
            effect = max(1.0, _two_way_variance(scores) / (share * (1 - share) / n))
        quantile = float(student_t.ppf(0.975, min(raters, identities) - 1))
        low, high = _wilson_interval(share, n / effect, quantile)
    return {
        "USER": share,
        "ci_low": low,
        "ci_high": high,
        "answers": n,
        "raters": raters,
        "identities": identities,
        "effect": effect,
    }


def _two_way_variance(scores: pd.DataFrame) -> float:
    """Variance of the mean of ``found``, clustered by rater and by identity."""
    by_both = _clustered_variance(scores, ["rater", "person"])
    return _clustered_variance(scores, ["rater"]) + _clustered_variance(scores, ["person"]) - by_both


def _clustered_variance(scores: pd.DataFrame, columns: list[str]) -> float:
    """Variance of the mean of ``found`` where answers with equal ``columns`` are dependent."""
    residuals = scores["found"] - scores["found"].mean()
    sums = residuals.groupby([scores[column] for column in columns]).sum()
    correction = len(sums) / (len(sums) - 1)
    return float((sums**2).sum()) / len(scores) ** 2 * correction


def _wilson_interval(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share of n answers, which lies in [0, 1]."""
    scale = 1 + quantile**2 / n
    centre = (share + quantile**2 / (2 * n)) / scale
    half_width = quantile * math.sqrt(share * (1 - share) / n + quantile**2 / (4 * n * n)) / scale
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def agreement(answers: pd.DataFrame) -> float:
    """Fleiss' kappa of the choices: 0 by chance, 1 where all raters agree.

    NaN where no triplet has two answers.
    """
    table = answers.pivot_table(
        index="triplet", columns="choice", values="rater", aggfunc="count", fill_value=0
    )
    counts = table.reindex(columns=POSITIONS, fill_value=0).to_numpy(float)
    counts = counts[counts.sum(1) >= 2]
    if not len(counts):
        return float("nan")
    n = counts.sum(1)
    observed = (((counts**2).sum(1) - n) / (n * (n - 1))).mean()
    expected = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((observed - expected) / (1 - expected)) if expected < 1 else 1.0


def answers_needed(half_width: float, share: float = 1 / 3, effect: float = 1.0) -> int:
    """Answers for a 95 % interval of ± ``half_width``; ``effect`` as in :func:`accuracy`."""
    return math.ceil(effect * share * (1 - share) * (1.96 / half_width) ** 2)


def simulate_answers(
    key: pd.DataFrame,
    skills: Mapping[str, float],
    seed: int = 0,
    identity_spread: float = 0.0,
    choices: int = len(POSITIONS),
) -> pd.DataFrame:
    """Answers of simulated raters, to test the statistics.

    A rater finds a fake with the probability of its skill and guesses otherwise: 0 always guesses, 1 is
    perfect. Each identity is easier or harder by up to ``identity_spread``. The raters' names begin with
    "simulated", so that no table shows them (see :func:`load_study`).
    """
    rng = np.random.default_rng(seed)
    identities = sorted(set(key["person"]))
    ease = identity_spread * rng.uniform(-1, 1, len(identities))
    triplet_ease = key["person"].map(dict(zip(identities, ease, strict=True))).to_numpy()
    tables = []
    for name, skill in skills.items():
        guesses = rng.integers(0, choices, len(key))
        hits = rng.random(len(key)) < skill + triplet_ease
        columns = {
            "study": key["study"],
            "sheet": "simulated",
            "of": len(key),
            "rater": f"simulated {name}",
            "triplet": key["triplet"],
            "choice": np.where(hits, key["fake"], guesses),
            "seconds": 1.0,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
