"""Long clips (section 5.6): whether identity, motion and sharpness last, with and without remedies against
drift.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from talking_heads.config import Profile, digest
from talking_heads.devices import in_threads
from talking_heads.experiments.diffused import clip_metrics, protocol, tables
from talking_heads.experiments.diffused.ablation_settings import Setting
from talking_heads.experiments.diffused.ablations import ablations_of
from talking_heads.experiments.diffused.evaluation import evaluation_of
from talking_heads.experiments.diffused.protocol import OURS, Evaluation, Speaker
from talking_heads.files import replacing
from talking_heads.judges.faces import networks_digest, reliability, similarity_in
from talking_heads.metrics.flow import flow_by_region
from talking_heads.metrics.images import sharpness
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.training import loop
from talking_heads.workbook import figures
from talking_heads.workbook.write_table import write_table

VERSION = 1  # raised when the same clips give other values
PARTS = 6  # of equal length, of a clip: the first and the last are compared
RETURN_INTERVAL = 25  # frames after which the identity frame returns
NONE, NOISE, RETURN = "none", "noise on motion frames", "identity frame once a second"
TRAINED, ROLLOUTS = "a short training alone", "self-rollouts in a short training"
ROLLOUT_SHARE = 0.5  # of the batches of that training
FLOW, SHARPNESS = "flow of the head", "sharpness"
# how far the last part may be from the first: a difference, or a ratio
SIMILARITY_LIMIT, RATIO_LIMIT = 0.05, 1.2
METRICS, TABLE = "length_metrics", "diffused_length"  # names of tables: by identity and part, and the changes


def remedies(profile: Profile) -> dict[str, Mapping[str, Any]]:
    """Changes of a profile by remedy, each alone; the noise is as strong as the profile's, or 0.2.

    Self-rollouts need a short training, as ablations do, which is measured alone, too. Profiles without
    ablations have neither.
    """
    noise = profile.diffused.sampling.motion_noise or 0.2

    def sampling(motion_noise: float, identity_every: int) -> dict[str, Any]:
        values = {"motion_noise": motion_noise, "identity_every": identity_every}
        return {f"diffused.sampling.{name}": value for name, value in values.items()}

    found: dict[str, Mapping[str, Any]] = {
        NONE: sampling(0.0, 0),
        NOISE: sampling(noise, 0),
        RETURN: sampling(0.0, RETURN_INTERVAL),
    }
    if profile.diffused.protocol.ablation_steps:
        found[TRAINED] = sampling(0.0, 0)
        found[ROLLOUTS] = {**sampling(0.0, 0), "diffused.training.rollout_share": ROLLOUT_SHARE}
    return found


def measure_clip(evaluation: Evaluation, speaker: Speaker) -> pd.DataFrame:
    """A row for each part of a generated clip.

    Columns identity, part, identity similarity to the true frames of the same instants, flow of the head in
    pixels a frame, and sharpness in grey levels a pixel.
    """
    frames, (truth, points) = np.load(evaluation.path(speaker, OURS)), evaluation.truth(speaker)
    face, true_face = (evaluation.face(images, points) for images in (frames, truth))
    values = {
        face.similarity: face.similarity_to(true_face)[1:],
        FLOW: flow_by_region(frames, face.landmarks)["head"],
        SHARPNESS: sharpness(frames[1:]),
    }
    parts = {name: [part.mean() for part in np.array_split(v, PARTS)] for name, v in values.items()}
    return pd.DataFrame({"identity": speaker.identity, "part": range(PARTS), **parts})


def measure(
    profile: Profile, weights: str, data: Path, results: Path, device: torch.device
) -> Iterator[pd.DataFrame]:
    """The rows of all clips with each remedy, which are kept beside the clips."""
    section = profile.diffused.protocol
    sizes = {
        "diffused.protocol.seconds": section.long_seconds,
        "diffused.protocol.identities": section.long_identities,
    }
    for remedy, changes in remedies(profile).items():
        places = weights, data, results, device
        if remedy in (TRAINED, ROLLOUTS):
            ablations = ablations_of(profile.override(sizes), *places)
            setting = Setting("length", remedy, {**sizes, **changes})
            evaluation, learner = ablations.evaluation(setting, profile.seed)
        else:
            evaluation, learner = evaluation_of(profile.override({**sizes, **changes}), *places), None
        version = digest(VERSION, PARTS, clip_metrics.VERSION)
        path = evaluation.folder / f"length-{version}-{networks_digest(profile.data.real)}.csv"
        if not path.exists():
            print(f"  {section.long_seconds:g} seconds, remedy: {remedy}", flush=True)
            if learner is not None:
                loop.train(learner, ablations.runs / learner.key)
            chosen = protocol.run(evaluation, [OURS])
            clips = in_threads(partial(measure_clip, evaluation), chosen, device)
            with replacing(path) as temporary:
                pd.concat(clips).to_csv(temporary, index=False)
        yield pd.read_csv(path).assign(remedy=remedy)


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """The change from the first part to the last, with each remedy: columns remedy, metric, first, last,
    change with its interval, limit, and whether the whole interval is within it.

    The change of the identity similarity is a difference, and may be a gain of any size; that of the others a
    ratio, whose mean and interval are those of its logarithm.
    """
    table, similarity = [], similarity_in(rows)
    for remedy, of_remedy in rows.groupby("remedy", sort=False):
        parts = of_remedy.set_index(["identity", "part"]).drop(columns="remedy").unstack("part")
        for metric in (similarity, FLOW, SHARPNESS):
            first, last = (parts[metric][part].to_numpy() for part in (0, PARTS - 1))
            if metric == similarity:
                estimate, low, high = mean_estimate(last - first), -SIMILARITY_LIMIT, np.inf
                change = list(estimate[:3])
            else:
                estimate, low, high = mean_estimate(np.log(last / first)), 1 / RATIO_LIMIT, RATIO_LIMIT
                change = [float(np.exp(value)) for value in estimate[:3]]
            row = {"remedy": remedy, "metric": metric, "first": first.mean(), "last": last.mean()}
            row |= dict(zip(("change", "ci_low", "ci_high"), change, strict=True))
            row |= {"limit": SIMILARITY_LIMIT if metric == similarity else RATIO_LIMIT}
            table.append(
                row | {"within": bool(low < change[1] and change[2] < high), "n_identities": len(first)}
            )
    return pd.DataFrame(table)


def plot(table: pd.DataFrame) -> Figure:
    """The changes of :func:`changes` with their intervals, a panel for each metric; limits are shaded."""
    groups = list(table.assign(value=table["change"], source="here").groupby("metric", sort=False))
    size = (3.2 * len(groups) + 2, 0.25 * table["remedy"].nunique() + 0.9)
    figure, axes = plt.subplots(1, len(groups), figsize=size, squeeze=False, layout="constrained")
    for axis, (metric, rows) in zip(axes[0], groups, strict=True):
        is_ratio, limit = metric in (FLOW, SHARPNESS), rows["limit"].iloc[0]
        figures.estimates(axis, rows, rows["remedy"])
        highest = axis.get_xlim()[1]
        axis.set_xlim(right=highest)
        axis.axvspan(1 / limit if is_ratio else -limit, limit if is_ratio else highest, color="0.9", zorder=0)
        axis.axvline(1 if is_ratio else 0, color="0.6", lw=0.8, ls="--")
        axis.set_xlabel(f"{metric}:\n{'last / first' if is_ratio else 'last minus first'}")
        axis.tick_params(axis="y", labelsize=8, labelleft=axis is axes[0, 0])
    return figure


def length(profile: Profile, weights: str, data: Path, results: Path, device: torch.device) -> pd.DataFrame:
    """``python -m talking_heads length``: generate and measure long clips, or go on; returns :func:`changes`.

    Raises ValueError where the profile has no long clips, and what :func:`evaluation_of` does.
    """
    section = profile.diffused.protocol
    if not section.long_identities:
        raise ValueError(f"profile {profile.name}: diffused.protocol.long_identities is 0: no long clips")
    rows = pd.concat(measure(profile, weights, data, results, device), ignore_index=True)
    folder = tables.write_metrics(rows, results / profile.name, METRICS)
    table = changes(rows)
    caption = (
        f"Clips of {section.long_seconds:g} seconds: the last of {PARTS} equal parts against the first, "
        "intervals over identities. Identity similarity: difference; flow and sharpness: ratio. "
        + reliability(profile.data.real)
    )
    write_table(table, table.round(3), folder, TABLE, caption.strip())
    return table
