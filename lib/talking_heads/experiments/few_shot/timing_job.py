"""What a job has counted and measured for Table 2, kept on disk for the chapter that shows it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from talking_heads.config import Profile, digest
from talking_heads.config import load as load_profile
from talking_heads.experiments.few_shot.timing import (
    METHODS,
    VERSION,
    Cases,
    Count,
    Counts,
    count,
    measured_rows,
    measurements,
    predictions,
    untrained_extractors,
    with_measurements,
)
from talking_heads.files import replacing, write_text
from talking_heads.metrics.timing import rates
from talking_heads.provenance import device_name


def counted_once(cases: Cases, runs: Path) -> Counts:
    """:func:`timing.count`; where jobs measure, the counts are kept below ``runs``, and read from there."""
    if not cases.profile.protocol.jobs:
        return count(cases)
    path = runs / "timing" / f"operations-{_key(cases, cases.device.type)}.json"
    if path.exists():
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {tuple(case): Count(*map(np.array, numbers)) for case, numbers in rows}
    counts = count(cases)
    rows = [[case, [part.tolist() for part in numbers]] for case, numbers in counts.items()]
    write_text(path, json.dumps(rows))
    return counts


def _key(cases: Cases, *parts: object) -> str:
    """Changes with the work of the cases, the version of PyTorch, and these parts."""
    sections = (cases.profile.few_shot, cases.profile.data.image_size, cases.methods)
    return digest(VERSION, torch.__version__, *sections, *parts)


def measured_once(cases: Cases, predicted: pd.DataFrame, seconds: float, runs: Path) -> pd.DataFrame:
    """:func:`measurements`; where jobs measure, every row is kept below ``runs``, and read from there on this
    machine.
    """
    if not cases.profile.protocol.jobs:
        return measurements(cases, predicted, seconds)
    path = runs / "timing" / f"{_key(cases, device_name(cases.device), seconds, cases.shots)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.exists() else []
    if len(rows) < len(predicted):
        done = {(row["method"], row["phase"], row["T"]) for row in rows}
        for row in measured_rows(cases, predicted, seconds, done):
            rows.append(row)
            with replacing(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
    return with_measurements(predicted, rows)


def measure_profile(profile: Profile, runs: Path, device: torch.device) -> None:
    """``python -m talking_heads measure``: Table 2 at the profile's sizes and at the paper's."""
    paper = load_profile(profile.timing.profile)
    for measured, size in ((profile, profile.data.image_size), (paper, paper.data.image_size // 4)):
        machine = rates(device, measured.few_shot.networks.precision, size, profile.timing.seconds)
        extractors = untrained_extractors(measured, device)
        cases = Cases(measured, extractors, device, METHODS, profile.protocol.shots)
        predicted = predictions(cases, machine, counted_once(cases, runs))
        measured_once(cases, predicted, profile.timing.seconds, runs)
