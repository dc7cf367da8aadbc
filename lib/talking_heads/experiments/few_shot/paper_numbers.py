"""The paper's Table 1, and how a number measured here compares with it."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from talking_heads.config import Profile
from talking_heads.experiments.few_shot import methods
from talking_heads.metrics.statistics import Estimate

VERDICTS = ("within CI", "within tolerance", "better", "worse", "not comparable", "not run")
PAPER_CORPORA = {methods.SMALL: "VoxCeleb1", methods.LARGE: "VoxCeleb2"}
TOLERANCE = 0.05  # of the paper's value
LOWER_IS_BETTER = {"FID", "KID", "USER", "USER-proxy", "FD-judge", "KD-judge x 1000", "landmark error"}
RATIOS_TO_TRUTH = {"sharpness"}  # generated over true: the nearer to 1, the better


def paper_numbers() -> pd.DataFrame:
    """The paper's Table 1: columns corpus, method, T, metric, value."""
    return pd.read_csv(Path(__file__).with_name("paper_numbers.csv"))


@cache
def _paper_values() -> dict[tuple[str, str, int, str], float]:
    return paper_numbers().set_index(["corpus", "method", "T", "metric"])["value"].to_dict()


def paper_corpus(method: str) -> str:
    """The corpus on which the paper has a method; empty for methods that it does not have."""
    return PAPER_CORPORA.get(methods.CORPUS.get(method, ""), "")


def paper_value(method: str, t: int, metric: str) -> float:
    """The paper's number for a row; NaN where it has none."""
    return _paper_values().get((paper_corpus(method), method, t, metric), float("nan"))


def corpus_name(profile: Profile) -> str:
    """The corpus of a profile, in words."""
    if not profile.data.real:
        return "procedural speakers"
    return {"voxceleb1": "VoxCeleb1", "voxceleb2": "VoxCeleb2"}.get(profile.data.layout, "own videos")


def is_comparable(profile: Profile, method: str) -> bool:
    """Whether a row is computed on the corpus on which the paper has the method, and at the paper's size."""
    return corpus_name(profile) == paper_corpus(method) and profile.data.image_size == 256


def orient(metric: str, values: np.ndarray) -> np.ndarray:
    """Values of a metric, changed so that higher is better."""
    if metric in RATIOS_TO_TRUTH:
        return -abs(values - 1)
    return -values if metric in LOWER_IS_BETTER else values


def verdict(metric: str, estimate: Estimate, paper: float, comparable: bool) -> str:
    """An estimate against the paper's number, one of ``VERDICTS``; NaN is a number that does not exist."""
    value = estimate.value
    if np.isnan(value):
        return "not run"
    if not comparable or np.isnan(paper):
        return "not comparable"
    if estimate.low <= paper <= estimate.high:
        return "within CI"
    if abs(value - paper) <= TOLERANCE * abs(paper):
        return "within tolerance"
    if metric in LOWER_IS_BETTER:
        return "better" if value < paper else "worse"
    return "better" if value > paper else "worse"
