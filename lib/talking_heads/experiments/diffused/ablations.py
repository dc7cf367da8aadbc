"""Ablations of Diffused Heads (sections 4 and 5): settings of one or two keys of a profile.

Settings of training go on from the profile's weights for equally many steps, the unchanged profile too. Then
clips of the evaluation identities are generated and measured. A run may be interrupted and goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from talking_heads.config import Profile
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.training import DiffusionLearner
from talking_heads.experiments.diffused import clip_metrics, protocol, tables
from talking_heads.experiments.diffused.clip_metrics import LMD
from talking_heads.experiments.diffused.clips import clip_data, evaluation_clips
from talking_heads.experiments.diffused.protocol import OURS
from talking_heads.experiments.diffused.weights import (
    finished_weights,
    has_weights,
    load_model,
    needed,
    run_id,
    weights_path,
)
from talking_heads.files import replacing
from talking_heads.judges.use import weights_digest
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.training import loop
from talking_heads.workbook.write_table import write_table

MOTION, LIPS, IDENTITY, STEPS = "motion frames", "λ_ls", "identity frame", "denoising steps"
SOUND = {False: "audio embeddings a side, motion in colour", True: "audio embeddings a side, motion in grey"}
COUNTS = (0, 1, 2, 3)  # of motion frames, and of motion audio embeddings on each side
LIP_WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0)
DENOISING_STEPS = (5, 10, 20, 50)
DISTILLED = "distilled"  # among the settings of steps
HEAD_MOTION, BLINK_RATE = "control of head motion", "control of blinks"
CONTROLS = ((HEAD_MOTION, "head_motion", (0.5, 1.0, 2.0)), (BLINK_RATE, "blink_rate", (0.0, 0.4, 0.8)))
DECAY = 0.5  # of the steps, the last ones, in which the learning rate falls to zero
SEEDS = 3  # of the trainings of the closest pair
METRICS, TABLE = "ablation_metrics", "diffused_ablations"  # names of tables: by identity, and the means
NAMES = ["ablation", "setting", "seed", "identity"]  # columns that are no metrics


SettingName = tuple[str, str]  # ablation and setting


class Setting(NamedTuple):
    """A row of an ablation."""

    ablation: str
    name: str
    changes: Mapping[str, Any]  # values of the profile, by dotted name

    @property
    def trained(self) -> bool:
        """Whether it concerns training; else generation alone."""
        return self.ablation not in (STEPS, HEAD_MOTION, BLINK_RATE)

    def is_baseline(self, profile: Profile) -> bool:
        """Whether it changes nothing in a profile."""
        return profile.override(dict(self.changes)) == profile


def settings() -> list[Setting]:
    """All settings of all ablations; within an ablation neighbours follow each other."""
    motion = [Setting(MOTION, str(n), {"diffused.conditions.motion_frames": n}) for n in COUNTS]
    lips = [Setting(LIPS, f"{w:g}", {"diffused.diffusion.lip_weight": w}) for w in LIP_WEIGHTS]
    identity = [
        Setting(IDENTITY, kind, {"diffused.training.identity_frame": kind}) for kind in ("random", "first")
    ]
    sound = [
        Setting(
            SOUND[grey],
            str(n),
            {"diffused.conditions.audio_windows": n, "diffused.conditions.motion_grey": grey},
        )
        for grey, n in product(SOUND, COUNTS)
    ]
    steps = [Setting(STEPS, str(n), {"diffused.sampling.steps": n}) for n in DENOISING_STEPS]
    steps.append(Setting(STEPS, DISTILLED, {"diffused.sampling.distilled": True}))
    controls = [
        Setting(name, f"{value:g}", {"diffused.sampling.control": True, f"diffused.sampling.{key}": value})
        for name, key, values in CONTROLS
        for value in values
    ]
    return [*motion, *lips, *identity, *sound, *steps, *controls]


@dataclass(frozen=True)
class Ablations:
    """What all trainings begin with, and the clips that they are measured on."""

    profile: Profile
    weights: str
    results: Path
    training: TalkingClips
    clips: TalkingClips
    device: torch.device

    @property
    def runs(self) -> Path:
        """The folder of the trainings."""
        return self.results / self.profile.name / "runs/ablations"

    @cached_property
    def encoder(self) -> nn.Module:
        """The audio encoder, which is the same in all settings."""
        return load_reader(self.profile.diffused.audio_encoder).encoder.to(self.device)

    def profile_of(self, setting: Setting) -> Profile:
        """The profile with a setting, and with the length of the clips that are measured."""
        section = self.profile.diffused.protocol
        seconds = {"diffused.protocol.seconds": min(section.seconds, section.ablation_seconds)}
        return self.profile.override({**seconds, **setting.changes})

    def learner(self, setting: Setting, seed: int) -> DiffusionLearner:
        """The training of a setting, which begins with the profile's weights."""
        training = {
            "seed": seed,
            "diffused.training.steps": self.profile.diffused.protocol.ablation_steps,
            "diffused.training.learning_rate_decay": DECAY,
        }
        profile = self.profile_of(setting).override(training)
        learner = DiffusionLearner(profile, self.training, self.encoder, self.device)
        learner.start_from(weights_path(self.profile, self.weights, self.results), self.profile.diffused)
        return learner

    def evaluation(self, setting: Setting, learner: DiffusionLearner | None) -> protocol.Evaluation:
        """The evaluation of a training's network, or of the profile's."""
        profile = self.profile_of(setting)
        if learner is None:
            generator = load_model(profile, self.weights, self.results, self.device).generator
            key = run_id(profile, self.weights, self.results)
        else:
            generator, key = Generator(learner.ema, profile.diffused), learner.key
        return protocol.Evaluation(profile, self.clips, generator, self.encoder, key, self.runs, self.device)

    def measure(self, setting: Setting, seed: int) -> pd.DataFrame:
        """The metrics of a setting, a row for each identity; kept beside the generated clips."""
        learner = self.learner(setting, seed) if setting.trained else None
        evaluation = self.evaluation(setting, learner)
        path = evaluation.folder / f"metrics-v{clip_metrics.VERSION}-{weights_digest()}.csv"
        if not path.exists():
            print(f"  {setting.ablation}: {setting.name}, seed {seed}", flush=True)
            if learner is not None:
                loop.train(learner, self.runs / learner.key)
            measured = protocol.measure(evaluation, protocol.run(evaluation, [OURS]), [OURS])
            with replacing(path) as temporary:
                measured.by_identity().drop(columns="method").to_csv(temporary, index=False)
        rows = pd.read_csv(path)
        return rows.assign(ablation=setting.ablation, setting=setting.name, seed=seed)

    def run(self) -> Iterator[pd.DataFrame]:
        """The metrics of all settings whose weights are there, and of the closest pair with further seeds."""
        seed, first, places = self.profile.seed, [], (self.weights, self.results)
        for setting in settings():
            changed = self.profile_of(setting)
            if not all(has_weights(changed, *places, name) for name in needed(changed)):
                continue
            first.append(self.measure(setting, seed))
            yield first[-1]
        pair = closest_pair(pd.concat(first))
        for offset, setting in product(range(1, SEEDS), settings()):
            if setting[:2] in pair:
                yield self.measure(setting, seed + offset)


def ablate(profile: Profile, weights: str, data: Path, results: Path, device: torch.device) -> pd.DataFrame:
    """``python -m talking_heads ablate``: train and measure all settings; returns :func:`table`.

    The metrics of every identity are written to ``tables/ablation_metrics.csv``, the table beside it. What is
    finished is read. Raises ValueError where the profile has no ablations or its weights are not at their
    end, and what :func:`clip_data` does.
    """
    if not profile.diffused.protocol.ablation_steps:
        raise ValueError(
            f"profile {profile.name}: diffused.protocol.ablation_steps is 0: it has no ablations"
        )
    finished_weights(profile, weights, results)
    training, clips = clip_data(profile, data, device).training, evaluation_clips(profile, data, device)
    rows = pd.concat(Ablations(profile, weights, results, training, clips, device).run(), ignore_index=True)
    rows = rows[[*NAMES, *rows.columns.difference(NAMES, sort=False)]]
    folder = tables.write_metrics(rows, results / profile.name, METRICS)
    means = table(rows, profile)
    caption = (
        f"Ablations of Diffused Heads: {profile.diffused.protocol.ablation_steps} steps each, from the same "
        "weights, which were trained with the baseline's setting. Intervals over identities, of one "
        "training: seed_sd shows how much trainings differ."
    )
    write_table(means, means.round(4), folder, TABLE, caption)
    return means


def closest_pair(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """The neighbours among the settings of training, (ablation, setting), whose lips differ least.

    The difference of LMD counts in half widths of its interval.
    """
    trained = [setting for setting in settings() if setting.trained]
    distances: dict[tuple, float] = {}
    for a, b in pairwise(trained):
        if a.ablation == b.ablation:
            difference = mean_estimate(paired_differences(rows, a[:2], b[:2], LMD))
            width = (difference.high - difference.low) / 2
            distances[a[:2], b[:2]] = abs(difference.value) / width if width else np.inf
    return set(min(distances.items(), key=lambda item: item[1])[0])


def rows_of(rows: pd.DataFrame, setting: SettingName) -> pd.DataFrame:
    """The rows of a setting."""
    ablation, name = setting
    return rows[(rows["ablation"] == ablation) & (rows["setting"] == name)]


def paired_differences(
    rows: pd.DataFrame, first: SettingName, second: SettingName, metric: str
) -> np.ndarray:
    """A setting minus another one in a metric, for each identity (n,): paired by seed and identity."""
    index = ["seed", "identity"]
    values = [rows_of(rows, which).set_index(index)[metric] for which in (first, second)]
    differences = (values[0] - values[1]).dropna()  # of seeds and identities that both have
    return differences.groupby("identity").mean().to_numpy()


def table(rows: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The ablations: means over identities, and paired differences to the unchanged profile.

    That is the baseline of the same ablation; where it has none, as with motion frames in grey, that of
    another ablation, which is the same training. Columns ablation, setting, baseline, metric, value, ci_low,
    ci_high, difference with its interval, n_identities, n_seeds, and seed_sd, the deviation of the means
    between seeds, which no interval contains.
    """
    baselines = {setting.ablation: setting for setting in settings() if setting.is_baseline(profile)}
    table_rows = []
    for setting in settings():
        values = rows_of(rows, setting[:2])
        if values.empty:
            continue
        baseline = baselines.get(setting.ablation, baselines.get(MOTION) if setting.trained else None)
        for metric in values.columns.difference(NAMES, sort=False):
            means = values.groupby("identity")[metric].mean().dropna()
            estimate = mean_estimate(means.to_numpy())
            row = {
                "ablation": setting.ablation,
                "setting": setting.name,
                "baseline": setting == baseline,
                "metric": metric,
                "value": estimate.value,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "n_identities": len(means),
                "n_seeds": values["seed"].nunique(),
                "seed_sd": values.groupby("seed")[metric].mean().std(),
            }
            if baseline is not None and setting != baseline:
                difference = mean_estimate(paired_differences(rows, setting[:2], baseline[:2], metric))
                row |= {"difference": difference.value}
                row |= {"difference, low": difference.low, "difference, high": difference.high}
            table_rows.append(row)
    return pd.DataFrame(table_rows)


def difference_lines(table: pd.DataFrame, ablation: str, metrics: Sequence[str]) -> list[str]:
    """How every setting of an ablation differs from the baseline, a line for each."""
    chosen = table[(table["ablation"] == ablation) & table["metric"].isin(metrics)]
    columns = ["metric", "difference", "difference, low", "difference, high"]
    lines = []
    for name, rows in chosen.dropna(subset="difference").groupby("setting", sort=False):
        differences = [
            f"{metric} {tables.with_interval(value, low, high, '+.3g')}"
            for metric, value, low, high in rows[columns].itertuples(index=False)
        ]
        lines.append(f"{ablation} {name}: {', '.join(differences)}")
    return lines
