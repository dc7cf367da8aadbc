"""USER, the paper's user study: people look for the fake among three pictures of one person (section 4).

Two of the three are real and from two other videos of the person. A method's score is how often its fakes are found: one
third is the best that it can reach. Triplets, answers and their statistics; the page that asks is ``reproduce/study_page.py``.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student_t

ANSWERS = ("study", "sheet", "of", "rater", "triplet", "choice", "seconds")  # "of": how many triplets the sheet has
TEXT = {"study": str, "sheet": str, "rater": str}  # how pandas is to read them, also where they look like numbers
KEY = ("triplet", "method", "T", "person", "fake")


@dataclass
class Triplet:
    """Three pictures (3, S, S, 3) uint8 of one person; ``fake`` is the place of the generated one."""

    method: str
    t: int
    person: str
    pictures: NDArray[np.uint8]
    fake: int


def draw(fakes: Mapping[str, Mapping[str, NDArray[np.uint8]]], reals: Mapping[str, Sequence[NDArray[np.uint8]]], each: int, seed: int = 0) -> list[Triplet]:
    """``each`` triplets of every "method@T", in random order.

    ``fakes`` maps "method@T" to frames (n, S, S, 3) of every person, ``reals`` a person to the frames of each of the other
    videos. People and places of the fake come equally often, to within one; people also over the whole study. The same seed
    gives the same triplets. Raises ValueError where a person has fewer than two other videos.
    """
    rng = np.random.default_rng(seed)
    out, seen = [], Counter()
    for label, frames in fakes.items():
        method, t = label.rsplit("@", 1)
        for person, fake in zip(_balanced(sorted(frames), each, rng, seen), _balanced(range(3), each, rng, Counter())):
            if len(reals[person]) < 2:
                raise ValueError(f"{person}: a triplet needs two other videos, there are {len(reals[person])}")
            videos = rng.choice(len(reals[person]), 2, replace=False)
            pictures = [reals[person][v][rng.integers(len(reals[person][v]))] for v in videos]
            pictures.insert(fake, frames[person][rng.integers(len(frames[person]))])
            out.append(Triplet(method, int(t), person, np.stack(pictures), fake))
    return [out[i] for i in rng.permutation(len(out))]


def _balanced(values: Sequence, count: int, rng: np.random.Generator, seen: Counter) -> list:
    """``count`` values in random order, each as often as the others to within one; those that were ``seen`` least come first."""
    order = sorted((values[i] for i in rng.permutation(len(values))), key=seen.__getitem__)
    chosen = [order[i % len(order)] for i in range(count)]
    seen.update(chosen)
    return [chosen[i] for i in rng.permutation(count)]


def sheets(people: Sequence[str], raters: int, times: int, seed: int = 0) -> list[list[int]]:
    """Which triplets each rater sees, in which order: every triplet on ``times`` sheets, all sheets of one size to within one.

    ``people`` are those on the triplets. Each comes as rarely on a sheet as possible: a fake has the background of the one video
    that its head was learned from, and who sees that background come back knows it. The paper shows each of its 4,800 triplets
    to five people. Raises ValueError where there are fewer raters than ``times``.
    """
    if times > raters:
        raise ValueError(f"{times} answers to each triplet need as many raters, not {raters}")
    rng = np.random.default_rng(seed)
    out: list[list[int]] = [[] for _ in range(raters)]
    for i, triplet in enumerate(sorted(rng.permutation(len(people)), key=lambda n: people[n])):
        for j in range(times):
            out[(i * times + j) % raters].append(int(triplet))
    return [[sheet[k] for k in rng.permutation(len(sheet))] for sheet in out]


def tag(triplets: Sequence[Triplet]) -> str:
    """Ten hex digits of a study's pictures, in their order: answers belong to one study alone."""
    return hashlib.sha256(b"".join(x.pictures.tobytes() for x in triplets)).hexdigest()[:10]


def sheet_tag(triplets: Sequence[Triplet], numbers: Sequence[int]) -> str:
    """Ten hex digits of a sheet: these triplets in this order."""
    return hashlib.sha256(f"{tag(triplets)} {list(numbers)}".encode()).hexdigest()[:10]


def key(triplets: Sequence[Triplet], run_id: str = "") -> pd.DataFrame:
    """What only the evaluation may know: columns triplet, method, T, person, fake, the study's tag, and whose pictures these are."""
    table = pd.DataFrame([(n, x.method, x.t, x.person, x.fake) for n, x in enumerate(triplets)], columns=KEY)
    return table.assign(study=tag(triplets), run_id=run_id)


def write_key(key_: pd.DataFrame, folder: Path) -> None:
    """``key.csv`` of a study's folder. Raises ValueError where answers to another study would lose theirs."""
    path = folder / "key.csv"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and any((folder / "answers").glob("*.csv")) and set(pd.read_csv(path, dtype=str).get("study", ())) != set(key_["study"]):
        raise ValueError(f"{folder / 'answers'}: holds answers to a study with other pictures, which would lose its key; move {folder} away to begin anew")
    key_.to_csv(path, index=False)


def read_answers(paths: Sequence[Path], key_: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Everybody's answers to a study in one table with columns ``ANSWERS``, and a line about everything that was left out.

    Of a rater's answers to the same triplet the first counts. A sheet with fewer answers than it has triplets is half-finished
    and left out. Raises ValueError, naming the file, where one is no answer sheet or one of another study.
    """
    triplets, study, notes, kept = len(key_), key_["study"].iloc[0], [], []
    for path in paths:
        try:
            table = pd.read_csv(path, dtype=TEXT, keep_default_na=False)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a CSV file ({error})") from error
        if missing := [c for c in ANSWERS if c not in table]:
            raise ValueError(f"{path}: columns {', '.join(missing)} are missing; the page's own download has {', '.join(ANSWERS)}")
        table = table[list(ANSWERS)]
        if (table["study"] != study).any():
            raise ValueError(f"{path}: answers to another study than the one in key.csv, whose pictures were others; move the file away")
        wrong = ~(table["choice"].isin(range(3)) & table["triplet"].isin(range(triplets)) & table["of"].isin(range(1, triplets + 1)))
        if wrong.any():
            raise ValueError(f"{path}: line {int(wrong.to_numpy().argmax()) + 2} is no answer to this study's {triplets} triplets")
        kept.append(table)
    answers = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=ANSWERS)
    begun = answers.drop_duplicates(["rater", "sheet", "triplet"]).groupby(["rater", "sheet"])["of"].agg(["size", "max"])
    half = begun[begun["size"] < begun["max"]]
    notes += [f"{r.Index[0]}, sheet {r.Index[1]}: half-finished, {r.size} of {r.max} answers, left out" for r in half.itertuples()]
    answers = answers[~pd.MultiIndex.from_frame(answers[["rater", "sheet"]]).isin(half.index)]
    again = answers.duplicated(["rater", "triplet"])
    notes += [f"{rater}: {n} repeated answers, the first counts" for rater, n in answers[again].groupby("rater").size().items()]
    return answers[~again].reset_index(drop=True), notes


def accuracy(answers: pd.DataFrame, key_: pd.DataFrame) -> pd.DataFrame:
    """USER of every method and T: share of fakes found, with a 95 % interval that respects raters *and* people.

    Answers of one rater resemble each other, and so do answers about one person. Their variance is that of means clustered both
    ways (Cameron, Gelbach & Miller 2011); ``effect`` says how many times wider than that of independent answers it is, and the
    interval is Wilson's for as many independent answers as these are worth, with Student's quantile for the smaller number of
    clusters. Columns: method, T, USER, ci_low, ci_high, answers, raters, people, effect. With fewer than two raters or people
    there is no interval, and no effect.
    """
    scored = answers.merge(key_, on="triplet", validate="many_to_one")
    scored["found"] = (scored["choice"] == scored["fake"]).astype(float)
    rows = []
    for (method, t), part in scored.groupby(["method", "T"], sort=False):
        raters, people, n, p = part["rater"].nunique(), part["person"].nunique(), len(part), part["found"].mean()
        if min(raters, people) < 2:
            rows.append((method, t, p, np.nan, np.nan, n, raters, people, np.nan))
            continue
        variance = _clustered(part, ["rater"]) + _clustered(part, ["person"]) - _clustered(part, ["rater", "person"])
        effect = max(1.0, variance / (p * (1 - p) / n)) if 0 < p < 1 else 1.0
        low, high = _wilson(p, n / effect, student_t.ppf(0.975, min(raters, people) - 1))
        rows.append((method, t, p, low, high, n, raters, people, effect))
    return pd.DataFrame(rows, columns=["method", "T", "USER", "ci_low", "ci_high", "answers", "raters", "people", "effect"])


def _clustered(part: pd.DataFrame, by: list[str]) -> float:
    """Variance of the mean of ``found`` where answers are dependent within groups."""
    sums = (part["found"] - part["found"].mean()).groupby([part[c] for c in by]).sum()
    return float((sums**2).sum()) / len(part) ** 2 * len(sums) / (len(sums) - 1)


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a share: never empty, never outside [0, 1]."""
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def collected(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The answers of a study's folder (``key.csv`` and ``answers/*.csv``), its key, and notes about answers left out.

    Simulated raters are refused with ValueError: they are no people; so is a key without its columns.
    """
    paths = sorted((folder / "answers").glob("*.csv"))
    if not paths:
        return pd.DataFrame(columns=ANSWERS), pd.DataFrame(columns=KEY), []
    key_ = pd.read_csv(folder / "key.csv", dtype={"study": str, "run_id": str}, keep_default_na=False)
    if missing := [c for c in ("study", "run_id", *KEY) if c not in key_]:
        raise ValueError(f"{folder / 'key.csv'}: columns {', '.join(missing)} are missing: of another version; move {folder} away and make the study anew")
    answers, notes = read_answers(paths, key_)
    if answers["rater"].str.startswith("simulated").any():
        raise ValueError(f"{folder / 'answers'}: holds answers of simulated raters, which are never shown as people's; remove them")
    return answers, key_, notes


def measured(folder: Path, run_id: str) -> tuple[pd.DataFrame | None, list[str]]:
    """USER from a study's folder, None where fewer than two people have answered, and notes; see :func:`collected`.

    Answers about pictures made with other weights than those of ``run_id`` count for nothing here.
    """
    answers, key_, notes = collected(folder)
    if len(answers) and set(key_["run_id"]) != {run_id}:
        return None, [f"{folder}: {len(answers)} answers about pictures of other weights; none of them counts here"]
    if answers["rater"].nunique() < 2:
        return None, [*notes, *(["one rater is too few"] if len(answers) else [])]
    return accuracy(answers, key_), notes


def agreement(answers: pd.DataFrame) -> float:
    """Fleiss' kappa of the raters' choices on triplets that two or more answered: 0 by chance, 1 where all agree.

    Nan where no triplet was answered twice.
    """
    counts = answers.pivot_table(index="triplet", columns="choice", values="rater", aggfunc="count", fill_value=0)
    counts = counts.reindex(columns=range(3), fill_value=0).to_numpy(float)
    counts = counts[counts.sum(1) >= 2]
    if not len(counts):
        return float("nan")
    n = counts.sum(1)
    observed = ((counts**2).sum(1) - n) / (n * (n - 1))
    expected = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((observed.mean() - expected) / (1 - expected)) if expected < 1 else 1.0


def answers_needed(half_width: float, p: float = 1 / 3, effect: float = 1.0) -> int:
    """Answers for a 95 % interval of ±``half_width`` about a share p, where the variance is ``effect`` times the binomial one."""
    return math.ceil(effect * p * (1 - p) * (1.96 / half_width) ** 2)


def simulate(key_: pd.DataFrame, raters: Mapping[str, float], seed: int = 0, people: float = 0.0) -> pd.DataFrame:
    """Answers of simulated raters, for testing the statistics only: each finds the fake with its own ``skill``, else guesses.

    A skill of 0 guesses, 1 is perfect; fakes of some people are easier, by up to ``people``, and of others harder. Their names
    begin with "simulated" and are never to be shown as people.
    """
    rng = np.random.default_rng(seed)
    parts, persons = [], sorted(set(key_["person"]))
    easier = key_["person"].map(dict(zip(persons, people * rng.uniform(-1, 1, len(persons))))).to_numpy()
    for name, skill in raters.items():
        guess = rng.integers(0, 3, len(key_))
        choice = np.where(rng.random(len(key_)) < skill + easier, key_["fake"], guess)
        parts.append(pd.DataFrame({"study": key_["study"], "sheet": "simulated", "of": len(key_), "rater": f"simulated {name}",
                                   "triplet": key_["triplet"], "choice": choice, "seconds": 1.0}))
    return pd.concat(parts, ignore_index=True)
