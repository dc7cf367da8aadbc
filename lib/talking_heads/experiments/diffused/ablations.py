"""Ablations of Diffused Heads (sections 4 and 5): settings of one or two keys of a profile.

Settings of training go on from the profile's weights for equally many steps, the unchanged profile too. Then
clips of the evaluation identities are generated and measured. An interrupted run is resumed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import nn

from talking_heads.config import Profile
from talking_heads.data.frames import to_tensor
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.training import DiffusionLearner
from talking_heads.experiments.diffused import clip_metrics, protocol, tables
from talking_heads.experiments.diffused.ablation_settings import MOTION, SEEDS, STEPS, Setting, settings
from talking_heads.experiments.diffused.ablation_table import (
    FIGURE5,
    METRICS,
    NAMES,
    chosen_settings,
    closest_pair,
    merge_measured,
    table,
    write,
)
from talking_heads.experiments.diffused.clips import clip_data, embed_beginning, evaluation_clips
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
from talking_heads.judges.faces import networks_digest
from talking_heads.metrics.flow import flow_magnitude
from talking_heads.training import loop
from talking_heads.workbook import figures

DECAY = 0.5  # of the steps, the last ones, in which the learning rate falls to zero
SECONDS = "seconds a frame"  # of one clip, on this machine; of denoising steps
TIMED = 3  # frames


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

    def evaluation(self, setting: Setting, seed: int) -> tuple[protocol.Evaluation, DiffusionLearner | None]:
        """The evaluation of a setting, and the training of its network where it has one."""
        profile, learner = self.profile_of(setting), None
        if setting.trained:
            learner = self.learner(setting, seed)
            generator, key = Generator(learner.ema, profile.diffused), learner.key
        else:
            generator = load_model(profile, self.weights, self.results, self.device).generator
            key = run_id(profile, self.weights, self.results)
        evaluation = protocol.Evaluation(
            profile, self.clips, generator, self.encoder, key, self.runs, self.device
        )
        return evaluation, learner

    def measure(self, setting: Setting, seed: int) -> pd.DataFrame:
        """The metrics of a setting, a row for each identity; kept beside the generated clips."""
        evaluation, learner = self.evaluation(setting, seed)
        networks = networks_digest(self.profile.data.real)
        path = evaluation.folder / f"metrics-v{clip_metrics.VERSION}-{networks}.csv"
        if not path.exists():
            print(f"  {setting.ablation}: {setting.name}, seed {seed}", flush=True)
            if learner is not None:
                loop.train(learner, self.runs / learner.key)
            measured = protocol.measure(evaluation, protocol.run(evaluation, [OURS]), [OURS])
            with replacing(path) as temporary:
                measured.by_identity().drop(columns="method").to_csv(temporary, index=False)
        rows = pd.read_csv(path)
        if setting.ablation == STEPS and SECONDS not in rows:
            rows[SECONDS] = seconds_a_frame(evaluation)
            with replacing(path) as temporary:
                rows.to_csv(temporary, index=False)
        return rows.assign(ablation=setting.ablation, setting=setting.name, seed=seed)

    def run(self, only: Sequence[str] = ()) -> Iterator[pd.DataFrame]:
        """The metrics of all settings whose weights exist, and of the closest pair with further seeds; of the
        ablations ``only``, with one seed.
        """
        seed, first, places = self.profile.seed, [], (self.weights, self.results)
        for setting in chosen_settings(only):
            changed = self.profile_of(setting)
            if not all(has_weights(changed, *places, name) for name in needed(changed)):
                continue
            try:
                first.append(self.measure(setting, seed))
            except ValueError as error:
                if setting.trained:
                    raise
                print(f"  {setting.ablation} {setting.name}: left out, {error}", flush=True)  # other weights
            else:
                yield first[-1]
        if only:
            return
        pair = closest_pair(pd.concat(first))
        for offset, setting in product(range(1, SEEDS), settings()):
            if setting[:2] in pair:
                yield self.measure(setting, seed + offset)

    def clips_of(self, setting: Setting) -> list[np.ndarray]:
        """The generated clips (n, S, S, 3) uint8 of a setting that has been measured."""
        evaluation, _ = self.evaluation(setting, self.profile.seed)
        chosen = protocol.speakers(self.clips, evaluation.profile)
        return [np.load(evaluation.path(speaker, OURS)) for speaker in chosen]

    def true_clips(self) -> list[np.ndarray]:
        """The true clips of the same identities."""
        profile = self.profile_of(settings()[0])
        numbers = np.arange(protocol.frame_count(profile))
        chosen = protocol.speakers(self.clips, profile)
        return [self.clips.read(speaker.number, numbers)[0] for speaker in chosen]


def seconds_a_frame(evaluation: protocol.Evaluation) -> float:
    """Seconds in which a frame of one clip is generated, the least of three."""
    speaker = protocol.speakers(evaluation.clips, evaluation.profile)[0]
    identity = to_tensor(evaluation.truth(speaker)[0][:1], evaluation.device)
    each_side = evaluation.profile.diffused.conditions.audio_windows
    audio = embed_beginning(evaluation.encoder, evaluation.clips, speaker.number, TIMED + 1, each_side)
    frames, seconds = evaluation.generator.talk(identity, audio[None], [0]), []
    next(frames).cpu()  # the first one takes longer
    for _ in range(TIMED):
        start = time.perf_counter()
        next(frames).cpu()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ablations_of(
    profile: Profile, weights: str, data: Path, results: Path, device: torch.device
) -> Ablations:
    """The ablations of a profile.

    Raises ValueError where its weights are not at their end, and what :func:`clip_data` does.
    """
    finished_weights(profile, weights, results)
    training, clips = clip_data(profile, data, device).training, evaluation_clips(profile, data, device)
    return Ablations(profile, weights, results, training, clips, device)


def ablate(
    profile: Profile,
    weights: str,
    data: Path,
    results: Path,
    device: torch.device,
    only: Sequence[str] = (),
) -> pd.DataFrame:
    """``python -m talking_heads ablate``: train and measure all settings; returns :func:`table`.

    The metrics of every identity are written to ``tables/ablation_metrics.csv``, the table beside it, and
    Figure 5 to ``figures/diffused_figure5.png``. What is finished is read. Of the ablations ``only``, the
    rows are replaced in the table, where there is one. Raises ValueError where the profile has no ablations
    or not these, and what :func:`ablations_of` and :func:`merge_measured` do.
    """
    if not profile.diffused.protocol.ablation_steps:
        raise ValueError(
            f"profile {profile.name}: diffused.protocol.ablation_steps is 0: it has no ablations"
        )
    chosen = chosen_settings(only)  # a mistyped name is refused before anything is rendered
    run = ablations_of(profile, weights, data, results, device)
    if not (measured := list(run.run(only))):
        raise ValueError(
            f"no setting of {', '.join(only)} could be measured: distill and train-control first"
        )
    rows = pd.concat(measured, ignore_index=True)
    if only:
        rows = merge_measured(results / profile.name / f"tables/{METRICS}.csv", rows)
    rows = rows[[*NAMES, *rows.columns.difference(NAMES, sort=False)]]
    tables.write_metrics(rows, results / profile.name, METRICS)
    means = table(rows, profile)
    write(means, profile, results / profile.name)
    if of_motion := [setting for setting in chosen if setting.ablation == MOTION]:
        figures.save(figure5(run, of_motion), results / profile.name / FIGURE5)
    return means


def figure5(run: Ablations, shown: Sequence[Setting]) -> Figure:
    """As the paper's Figure 5: the mean length of the flow at every pixel, of settings and of true clips."""
    clips = {f"{setting.ablation}: {setting.name}": run.clips_of(setting) for setting in shown}
    clips["true clips"] = run.true_clips()
    maps = {
        name: np.mean([flow_magnitude(c[1:]).mean(0) for c in of_name], 0) for name, of_name in clips.items()
    }
    figure, axes = plt.subplots(1, len(maps), figsize=(1.9 * len(maps), 2.1), layout="constrained")
    # one scale for all, stretched near zero: without motion frames the flow is several times as long
    scale = PowerNorm(0.5, 0, max(values.max() for values in maps.values()))
    for axis, (name, values) in zip(axes, maps.items(), strict=True):
        picture = axis.imshow(values, norm=scale, cmap="magma")
        axis.set(title=f"{name}\nmean {values.mean():.2f}", xticks=[], yticks=[])
        axis.title.set_fontsize(8)
    figure.colorbar(picture, ax=axes, label="pixels a frame", shrink=0.8)
    return figure
