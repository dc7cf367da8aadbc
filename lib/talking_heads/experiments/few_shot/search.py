"""Learning rates and epochs of fine-tuning, and a baseline's pretraining, chosen on validation identities.

``python -m talking_heads search`` reads no identity of the evaluation set. The table has a row for each
choice of rates and number of epochs: the metrics on held-out frames, whether mouth and eyes still follow the
landmarks, and whether D' still tells real from generated frames. The first row has the highest mean of
``SELECTED_BY`` and of the identity similarity.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.frames import Frames
from talking_heads.data.landmarks import openings
from talking_heads.experiments.few_shot import frame_metrics, protocol
from talking_heads.experiments.few_shot.trainings import TrainingRun, reference_data, train
from talking_heads.experiments.few_shot.weights import load_all, main_variant, weights_path
from talking_heads.few_shot.baselines.training import fine_tune_pix2pixhd, restore_baseline
from talking_heads.few_shot.fine_tuning import FineTuning, fine_tune, set_up, steps_per_epoch
from talking_heads.few_shot.head import generate
from talking_heads.few_shot.networks.build import Networks
from talking_heads.files import sha256
from talking_heads.judges.faces import Face, networks_digest, similarity_metric
from talking_heads.metrics.statistics import correlation
from talking_heads.nn.perceptual import make_extractors
from talking_heads.nn.weight_files import load_weights
from talking_heads.progress import Progress

RATE, D_RATE = "few_shot.fine_tuning.learning_rate", "few_shot.fine_tuning.discriminator_learning_rate"
PIX2PIXHD_RATE = "few_shot.pix2pixhd.fine_tuning_learning_rate"
OURS_RATES = ((1e-4, 2e-5), (2e-4, 2e-5), (4e-4, 2e-5), (8e-4, 2e-5), (2e-4, 2e-4))
CHOICES: dict[str, list[dict[str, float]]] = {
    "ours": [{RATE: rate, D_RATE: d_rate} for rate, d_rate in OURS_RATES],
    "pix2pixhd": [{PIX2PIXHD_RATE: rate} for rate in (2e-4, 5e-4, 1e-3, 2e-3)],
}
COLUMNS = {RATE: "tune_rate", D_RATE: "tune_discriminator_rate", PIX2PIXHD_RATE: "pix2pixhd_tune_rate"}
EPOCHS = (0, 10, 20, 40)
IDENTITIES = 12
OPENINGS = ("mouth", "eyes")
SELECTED_BY = ("SSIM", "mouth correlation", "eyes correlation")  # and by identity similarity


@dataclass
class Snapshot:
    """Held-out frames (n, S, S, 3) uint8 after some epochs, and how much higher D' scores real frames than
    generated ones.
    """

    epochs: int
    images: np.ndarray
    apart: float


def tune_ours(
    nets: Networks, train: Frames, test: Frames, profile: Profile, extractors: Sequence
) -> list[Snapshot]:
    """Our head after each of ``EPOCHS``."""
    per_epoch = steps_per_epoch(len(train.images), profile.few_shot.fine_tuning.batch)
    snapshots: list[Snapshot] = []

    def watch(step: int, tuning: FineTuning) -> None:
        epochs, rest = divmod(step, per_epoch)
        if rest or epochs not in EPOCHS:
            return
        images = generate(tuning.head.eval(), test.y)
        tuning.head.train()
        leads = [row["r_real"] - row["r_fake"] for row in tuning.rows[-5:]]
        snapshots.append(Snapshot(epochs, images, float(np.mean(leads)) if leads else float("nan")))

    fine_tune(set_up(nets, train.x, train.y, profile, extractors), profile.seed, watch=watch)
    return snapshots


def tune_pix2pixhd(
    nets: Sequence, train: Frames, test: Frames, profile: Profile, extractors: Sequence
) -> list[Snapshot]:
    """Pix2pixHD's generator after all of its epochs."""
    generator = fine_tune_pix2pixhd(nets, train.x, train.y, profile, extractors, profile.seed)
    images = generate(generator, test.y)
    return [Snapshot(profile.few_shot.fine_tuning.epochs, images, float("nan"))]


@dataclass
class Search:
    """Fine-tunings of ``IDENTITIES`` validation identities on ``t`` frames.

    ``key`` is that of ``nets``: finished heads are kept by it, so that a search goes on where it was stopped.
    """

    profile: Profile
    method: str  # "ours" or "pix2pixhd"
    nets: Any
    key: str
    t: int
    root: Path
    results: Path
    device: torch.device

    @property
    def real(self) -> bool:
        """Whether the identities are real people."""
        return self.profile.data.real

    def run(self, choices: Sequence[dict[str, float]]) -> pd.DataFrame:
        """One row for every choice of rates and number of epochs, best first."""
        store = corpora.store(self.profile, self.root, "validation")
        tasks = protocol.tasks(store, self.profile, IDENTITIES)
        names = [COLUMNS[name] for name in choices[0]]
        columns = [dict(zip(names, choice.values(), strict=True)) for choice in choices]
        log = self._log(store)
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        # an earlier search may have tried other rates
        rows = [row for row in rows if {name: row[name] for name in names} in columns]
        finished = {
            (*(row[name] for name in names), row["person"]) for row in rows if row["epochs"] == max(EPOCHS)
        }
        todo = [
            (choice, task)
            for choice in choices
            for task in tasks
            if (*choice.values(), task.identity) not in finished
        ]
        extractors = [extractor.to(self.device) for extractor in make_extractors(self.profile)]
        progress = Progress("searching", len(todo), "heads")
        for choice, task in todo:
            train = protocol.load(store, task.number, task.few_shot[: self.t], self.profile, self.device)
            test = protocol.load(store, task.number, task.hold_out, self.profile, self.device)
            new = self._rows(choice, task.identity, train, test, extractors)
            with log.open("a") as out:
                out.writelines(json.dumps(row, default=float) + "\n" for row in new)
            rows += new
            progress.add(1)
        return self._table(rows, names).assign(people=len(tasks))

    def _log(self, store: Any) -> Path:
        cells = protocol.cells_in(Path(), store, self.profile).name
        measured = f"_{networks_digest(True)}" if self.real else ""
        name = f"search_{self.method}_T{self.t}_{self.key}_{cells}{measured}.jsonl"
        path = Path(self.results) / self.profile.name / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _judged(self, images: np.ndarray, points: np.ndarray) -> frame_metrics.Judged:
        return frame_metrics.Judged(images, Face.of(images, points, real=self.real, device=self.device))

    def _rows(
        self, choice: dict[str, float], identity: str, train: Frames, test: Frames, extractors: Sequence
    ) -> list[dict]:
        tune = tune_ours if self.method == "ours" else tune_pix2pixhd
        profile = self.profile.override({**choice, "few_shot.fine_tuning.epochs": max(EPOCHS)})
        rates = {COLUMNS[name]: value for name, value in choice.items()}
        rows = []
        truth = self._judged(test.images, test.points)
        points = truth.face.true_points(test.points)
        for snapshot in tune(self.nets, train, test, profile, extractors):
            judged = self._judged(snapshot.images, test.points)
            scores = frame_metrics.compare(judged, truth, points)
            generated, true = openings(judged.face.landmarks), openings(points)
            rows.append(
                {
                    "person": identity,
                    **rates,
                    "epochs": snapshot.epochs,
                    **{name: values.mean() for name, values in scores.items()},
                    "real minus fake": snapshot.apart,
                    "openings": [np.stack(pair).tolist() for pair in zip(generated, true, strict=True)],
                }
            )
        return rows

    def _table(self, rows: list[dict], names: Sequence[str]) -> pd.DataFrame:
        groups = pd.DataFrame(rows).groupby([*names, "epochs"])
        table = groups.mean(numeric_only=True)
        selected_by = [*SELECTED_BY, similarity_metric(self.real)]
        for i, opening in enumerate(OPENINGS):
            table[f"{opening} correlation"] = groups["openings"].agg(_correlation_of(i))
        table = table.assign(T=self.t, weights=self.key, wanted=table[selected_by].mean(axis=1))
        return table.reset_index().sort_values("wanted", ascending=False)


def _correlation_of(opening: int):
    """The correlation of generated and true openings over the frames of all identities of a group."""

    def correlate(cells: pd.Series) -> float:
        generated, true = np.concatenate([cell[opening] for cell in cells], axis=1)
        return correlation(generated, true)

    return correlate


def save_table(table: pd.DataFrame, profile: Profile, results: Path, name: str) -> pd.DataFrame:
    """Write ``<results>/<profile>/tables/<name>.csv`` and print it."""
    path = Path(results) / profile.name / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    return table


def search(
    profile: Profile, method: str, t: int, root: Path, results: Path, device: torch.device
) -> pd.DataFrame:
    """A search from the reference weights over all of a method's ``CHOICES``:
    ``tuning_search_<method>_T<t>.csv``.

    Raises FileNotFoundError where the method's weights are not there.
    """
    variant = main_variant(profile) if method == "ours" else method
    loaded = load_all(profile, "reference", results, device, [variant])
    if variant not in loaded.networks:
        raise FileNotFoundError(loaded.description)
    corpora.find(profile, root, str(device))
    nets, key = loaded.networks[variant], loaded.keys[variant]
    table = Search(profile, method, nets, key, t, root, results, device).run(CHOICES[method])
    return save_table(table, profile, results, f"tuning_search_{method}_T{t}")


def pretraining(
    profile: Profile, lengths: Sequence[int], t: int, root: Path, results: Path, device: torch.device
) -> pd.DataFrame:
    """The value of Pix2pixHD's pretraining, which its validation loss does not show: heads after ``lengths``
    steps of it.

    Each length is a training with its own schedule of learning rates, on the identities of the reference
    weights, whose length has a row of ``pretraining_pix2pixhd_T<t>.csv`` too.
    """
    corpora.find(profile, root, str(device))
    rates = [{PIX2PIXHD_RATE: profile.few_shot.pix2pixhd.fine_tuning_learning_rate}]
    tables = []
    for steps in sorted({*lengths, profile.few_shot.trainings.small_steps}):
        if steps == profile.few_shot.trainings.small_steps:
            path = weights_path(profile, "pix2pixhd", "reference", results)
        else:
            longer = profile.override({"few_shot.trainings.small_steps": steps})
            runs = Path(results) / profile.name / "runs" / f"pretraining-{steps}"
            data = reference_data(longer, root, device)
            path = train(TrainingRun(longer, "pix2pixhd", data, runs, device))
        nets = restore_baseline(profile, "pix2pixhd", load_weights(path)[0], device)
        key = sha256(path)[:12]
        table = Search(profile, "pix2pixhd", nets, key, t, root, results, device).run(rates)
        tables.append(table.assign(pretraining=steps))
    return save_table(pd.concat(tables), profile, results, f"pretraining_pix2pixhd_T{t}")
