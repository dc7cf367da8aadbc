"""The cells of Table 1 and of the ablations: what ``evaluate`` computes and chapters 05 and 06 read."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from talking_heads.config import Profile, digest
from talking_heads.data import corpora
from talking_heads.experiments.few_shot import frame_metrics, methods, protocol
from talking_heads.experiments.few_shot.weights import LoadedWeights, load_all, main_variant
from talking_heads.files import replacing
from talking_heads.metrics import observer
from talking_heads.nn.perceptual import make_extractors
from talking_heads.shards import Shard


@dataclass
class Evaluation:
    """A profile's evaluation: where corpora and cells lie, and the weights that are evaluated."""

    profile: Profile
    data: Path
    runs: Path
    loaded: LoadedWeights
    extractors: Sequence
    device: torch.device

    @classmethod
    def of_profile(
        cls, profile: Profile, weights: str, data: Path, results: Path, device: torch.device
    ) -> "Evaluation":
        """The evaluation of all weights of a profile that are there. Raises what :func:`load_all` does."""
        extractors = [extractor.to(device) for extractor in make_extractors(profile)]
        loaded = load_all(profile, weights, results, device)
        return cls(profile, Path(data), Path(results) / profile.name / "runs", loaded, extractors, device)

    def table1(self, shard: Shard | None = None) -> list[Path]:
        """Table 1's cells; what is missing, or of a shard, is computed. The small corpus has fewer T."""
        rows = methods.table1_methods(self.loaded, self.profile, self.extractors)
        small = [row for row in rows if methods.CORPUS[row.name] == methods.SMALL]
        large = [row for row in rows if row not in small]
        store, section = corpora.store(self.profile, self.data, "test"), self.profile.protocol
        folder = self.runs / "cells"
        cells = protocol.run_cells(folder, store, self.profile, large, section.shots, self.device, shard)
        protocol.run_cells(folder, store, self.profile, small, section.small_shots, self.device, shard)
        return cells

    def ablations(self, shard: Shard | None = None) -> list[Path]:
        """The ablations' cells; what is missing, or of a shard, is computed."""
        rows = methods.ablation_methods(self.loaded, self.profile, self.extractors, self.embeddings())
        folder = methods.ablation_cells(self.runs, self.loaded.ablated(self.profile))
        store = corpora.store(self.profile, self.data, "test")
        shots = [ablation_shots(self.profile)]
        return protocol.run_cells(folder, store, self.profile, rows, shots, self.device, shard)

    def observer_rates(self) -> pd.DataFrame:
        """USER-proxy of Table 1's frames: the columns of :func:`observer.observe`, and T. Empty in a profile
        without observers.

        The rates are kept, and read as long as the frames are the same; those of every observer are, until
        all are measured.
        """
        section = self.profile.protocol
        if not section.observer_steps:
            return pd.DataFrame(columns=[*observer.COLUMNS, "T"])
        cells = self.table1()
        evaluated = methods.table1_methods(self.loaded, self.profile, self.extractors)
        names = [method.name for method in evaluated]
        frames = [cells[0].parent.name, *(path.name for path in cells), *((m.name, m.key) for m in evaluated)]
        path = self.runs / f"observers/{digest(observer.VERSION, section.observer_steps, frames)}.csv"
        if path.exists():
            return pd.read_csv(path)
        real = protocol.other_videos(corpora.store(self.profile, self.data, "test"), self.profile)
        fakes, groups = frame_metrics.fakes(cells, names)
        settings = observer.ObserverSettings(steps=section.observer_steps, device=self.device)
        parts = path.with_suffix("")
        rates = observer.observe(fakes, real, groups, [methods.NEAREST], settings, parts)
        method_and_t = rates["method"].str.split("@").str
        rates = rates.assign(T=method_and_t[1].astype(int), method=method_and_t[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            rates.to_csv(temporary, index=False)
        shutil.rmtree(parts)
        return rates

    def embeddings(self) -> Tensor:
        """ê of all validation identities by the model that the ablations change: (identities, N)."""
        store, shots = corpora.store(self.profile, self.data, "validation"), ablation_shots(self.profile)
        tasks = protocol.tasks(store, self.profile, len(store.identities()))
        frames = [
            protocol.load(store, task.number, task.few_shot[:shots], self.profile, self.device)
            for task in tasks
        ]
        return methods.embeddings(self.loaded.networks[self.loaded.ablated(self.profile)], frames)


def ablation_shots(profile: Profile) -> int:
    """The T of the ablations: the middle one."""
    return profile.protocol.shots[len(profile.protocol.shots) // 2]


def evaluate(
    profile: Profile,
    weights: str,
    data: Path,
    results: Path,
    device: torch.device,
    shard: Shard | None = None,
) -> None:
    """``python -m talking_heads evaluate``: all cells that chapters 05 and 06 read, or those of a shard.

    Raises FileNotFoundError where the profile's weights are not there.
    """
    evaluation = Evaluation.of_profile(profile, weights, data, results, device)
    if not evaluation.loaded.networks:
        command = f"python -m talking_heads meta-learn --profile {profile.name}"
        raise FileNotFoundError(
            f"{evaluation.runs}: no weights to evaluate; {command} --variant {main_variant(profile)}"
        )
    cells = set(evaluation.table1(shard))
    if main_variant(profile) != "ff":  # which is not fine-tuned
        cells |= set(evaluation.ablations(shard))
    print(f"{sum(path.exists() for path in cells)} of {len(cells)} cells in {evaluation.runs}")
