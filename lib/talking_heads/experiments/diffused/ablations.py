"""Ablations of Diffused Heads (sections 4 and 5): each changes one setting of a profile.

Settings of training go on from the profile's weights for equally many steps, the profile's own setting too.
Then clips of the evaluation identities are generated and measured. A run may be interrupted and goes on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.training import DiffusionLearner
from talking_heads.experiments.diffused import clip_metrics, protocol
from talking_heads.experiments.diffused.clip_metrics import LMD
from talking_heads.experiments.diffused.clips import clip_data, evaluation_clips
from talking_heads.experiments.diffused.protocol import OURS
from talking_heads.experiments.diffused.weights import load_model, run_id, weights_path
from talking_heads.files import replacing
from talking_heads.metrics.statistics import mean_estimate, paired
from talking_heads.training import loop

MOTION, LIPS, IDENTITY, STEPS = "motion frames", "λ_ls", "identity frame", "denoising steps"
SOUND = {False: "audio embeddings a side, motion in colour", True: "audio embeddings a side, motion in grey"}
COUNTS = (0, 1, 2, 3)  # of motion frames, and of motion audio embeddings on each side
LIP_WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0)
DENOISING_STEPS = (5, 10, 20, 50)
DECAY = 0.5  # of the steps, the last ones, in which the learning rate falls to zero
SEEDS = 3  # of the trainings of the closest pair
METRICS = "ablation_metrics"  # the table of what was measured
NAMES = ["ablation", "setting", "seed", "identity"]  # columns that are no metrics


class Setting(NamedTuple):
    """A row of an ablation."""

    ablation: str
    name: str
    changes: Mapping[str, Any]  # values of the profile, by dotted name

    @property
    def trained(self) -> bool:
        """Whether it concerns training; else generation alone."""
        return self.ablation != STEPS


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
    return [*motion, *lips, *identity, *sound, *steps]


def is_own(setting: Setting, profile: Profile) -> bool:
    """Whether a setting changes nothing in a profile."""
    return profile.override(dict(setting.changes)) == profile


@dataclass(frozen=True)
class Ablations:
    """What all trainings begin with, and the clips that they are measured on."""

    profile: Profile
    weights: str
    data: Path
    results: Path
    training: TalkingClips
    clips: TalkingClips
    device: torch.device

    @property
    def runs(self) -> Path:
        """The folder of the trainings."""
        return self.results / self.profile.name / "runs/ablations"

    def changed(self, setting: Setting) -> Profile:
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
        changed = self.changed(setting).override(training)
        encoder = load_reader(changed.diffused.audio_encoder).encoder
        learner = DiffusionLearner(changed, self.training, encoder, self.device)
        learner.start_from(weights_path(self.profile, self.weights, self.results), self.profile.diffused)
        return learner

    def evaluation(self, setting: Setting, learner: DiffusionLearner | None) -> protocol.Evaluation:
        """The evaluation of a training's network, or of the profile's."""
        changed, encoder = self.changed(setting), load_reader(self.profile.diffused.audio_encoder).encoder
        if learner is None:
            generator = load_model(changed, self.weights, self.results, self.device).generator
            key = run_id(changed, self.weights, self.results)
        else:
            generator, key = Generator(learner.ema, changed.diffused), learner.key
        encoder = encoder.to(self.device)
        return protocol.Evaluation(changed, self.clips, generator, encoder, key, self.runs, self.device)

    def measure(self, setting: Setting, seed: int) -> pd.DataFrame:
        """The metrics of a setting, a row for each identity; kept beside the generated clips."""
        learner = self.learner(setting, seed) if setting.trained else None
        evaluation = self.evaluation(setting, learner)
        path = evaluation.folder / f"metrics-v{clip_metrics.VERSION}.csv"
        if not path.exists():
            print(f"  {setting.ablation}: {setting.name}, seed {seed}", flush=True)
            if learner is not None:
                loop.train(learner, self.runs / learner.key)
            measured = protocol.measure(evaluation, protocol.run(evaluation, [OURS]), [OURS])
            frames = measured.frames.drop(columns=["method", "frame"]).groupby("identity").mean()
            clips = measured.clips.drop(columns="method").groupby("identity").mean()
            with replacing(path) as temporary:
                frames.join(clips).reset_index().to_csv(temporary, index=False)
        rows = pd.read_csv(path)
        return rows.assign(ablation=setting.ablation, setting=setting.name, seed=seed)

    def run(self) -> Iterator[pd.DataFrame]:
        """The metrics of all settings, and of the closest pair with further seeds."""
        seed, measured = self.profile.seed, []
        for setting in settings():
            measured.append(self.measure(setting, seed))
            yield measured[-1]
        pair = closest_pair(pd.concat(measured))
        for more, setting in product(range(1, SEEDS), settings()):
            if (setting.ablation, setting.name) in pair:
                yield self.measure(setting, seed + more)


def ablate(profile: Profile, weights: str, data: Path, results: Path, device: torch.device) -> pd.DataFrame:
    """Train and measure all settings: a row for each setting, seed and identity, a column for each metric.

    What is finished is read. Written to ``tables/ablation_metrics.csv``. Raises what :func:`clip_data` and
    :func:`weights_path` do.
    """
    training = clip_data(profile, data, device).training
    clips = evaluation_clips(profile, data, device)
    ablations = Ablations(profile, weights, data, results, training, clips, device)
    rows = pd.concat(ablations.run(), ignore_index=True)
    rows = rows[[*NAMES, *rows.columns.difference(NAMES, sort=False)]]
    path = results / profile.name / "tables" / f"{METRICS}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.5g")
    return rows


def closest_pair(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """The neighbours among the settings of training, (ablation, setting), whose lips differ least.

    The difference of LMD counts in half widths of its interval.
    """
    trained = [setting for setting in settings() if setting.trained]
    distances: dict[tuple, float] = {}
    for a, b in pairwise(trained):
        if a.ablation == b.ablation:
            first, second = (_by_identity(rows, setting)[LMD].to_numpy() for setting in (a, b))
            difference = paired(first, second)
            width = (difference.high - difference.low) / 2
            distances[a[:2], b[:2]] = abs(difference.value) / width if width else np.inf
    return set(min(distances.items(), key=lambda item: item[1])[0])


def _by_identity(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The metrics of a setting, means over seeds, by identity."""
    chosen = rows[(rows["ablation"] == setting.ablation) & (rows["setting"] == setting.name)]
    return chosen.drop(columns=["ablation", "setting", "seed"]).groupby("identity").mean()


def table(rows: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The ablations: means over identities, and paired differences to the profile's own setting.

    That is the one of the same ablation; where there is none, as with motion frames in grey, that of another
    ablation, which is the same training. Columns ablation, setting, own, metric, value, ci_low, ci_high,
    difference with its interval, n_identities, n_seeds, and seed_sd, the deviation between seeds.
    """
    own = {setting.ablation: setting for setting in settings() if is_own(setting, profile)}
    found = []
    for setting in settings():
        chosen = rows[(rows["ablation"] == setting.ablation) & (rows["setting"] == setting.name)]
        base = own.get(setting.ablation, own.get(MOTION) if setting.trained else None)
        values = _by_identity(rows, setting)
        for metric in values:
            estimate = mean_estimate(values[metric].dropna().to_numpy())
            row = {
                "ablation": setting.ablation,
                "setting": setting.name,
                "own": setting == base,
                "metric": metric,
                "value": estimate.value,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "n_identities": int(values[metric].notna().sum()),
                "n_seeds": chosen["seed"].nunique(),
                "seed_sd": chosen.groupby("seed")[metric].mean().std(),
            }
            if base is not None and setting != base:
                pair = pd.DataFrame([values[metric], _by_identity(rows, base)[metric]]).dropna(axis=1)
                difference = paired(*pair.to_numpy())
                row |= {"difference": difference.value}
                row |= {"difference, low": difference.low, "difference, high": difference.high}
            found.append(row)
    return pd.DataFrame(found)
