"""Rates and epochs of fine-tuning, and a baseline's pretraining, judged on the validation people: ``python -m talking_heads search``.

No test person is read. The table says for every choice of rates how a head does on hold-out frames after some epochs: whether
it is like the person, whether mouth and eyes still follow the landmarks, and whether D' still tells real from generated frames.
The best of it has the highest mean of ``WANTED``.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..baselines.training import fine_tune_pix2pixhd, restore_baseline
from ..corpus import build
from ..corpus.landmarks import openings
from ..devices import choose
from ..evaluation import methods, protocol
from ..evaluation.judges import find_landmarks
from ..evaluation.metrics import correlation
from ..evaluation.methods import Frames
from ..fine_tuning import FineTuning, fine_tune, set_up, steps_per_epoch
from ..meta_learning import Networks
from ..perceptual import make_extractors
from ..profiles import Profile, load
from ..progress import Progress
from ..tensors import load_weights, sha256
from .reference import load_all, own, weights_path
from .trainings import train_on_pools

CHOICES = {"ours": [{"tune_rate": g, "tune_discriminator_rate": d} for g, d in ((1e-4, 2e-5), (2e-4, 2e-5), (4e-4, 2e-5), (8e-4, 2e-5), (2e-4, 2e-4))],
           "pix2pixhd": [{"pix2pixhd_tune_rate": rate} for rate in (2e-4, 5e-4, 1e-3, 2e-3)]}
EPOCHS = (0, 10, 20, 40)
PEOPLE = 12
OPENINGS = ("mouth", "eyes")
WANTED = ("SSIM", "CSIM-judge", "mouth correlation", "eyes correlation")
Look = tuple[int, np.ndarray, float]  # epochs, frames, how far D' holds real and generated frames apart


def tune_ours(nets: Networks, train: Frames, test: Frames, p: Profile, extractors: Sequence) -> list[Look]:
    """Our head after each of ``EPOCHS``."""
    per_epoch, looks = steps_per_epoch(len(train.images), p.tune_batch), []

    def look(step: int, tuning: FineTuning) -> None:
        if step // per_epoch in EPOCHS and step % per_epoch == 0:
            images = methods.drive(tuning.head.eval(), test.y, p)
            tuning.head.train()
            last = tuning.rows[-5:]
            looks.append((step // per_epoch, images, float(np.mean([r["r_real"] - r["r_fake"] for r in last])) if last else np.nan))

    fine_tune(set_up(nets, train.x, train.y, p, extractors), p.seed, watch=look)
    return looks


def tune_pix2pixhd(nets: Sequence, train: Frames, test: Frames, p: Profile, extractors: Sequence) -> list[Look]:
    """Pix2pixHD's generator after all of its epochs."""
    return [(p.tune_epochs, methods.drive(fine_tune_pix2pixhd(*nets, train.x, train.y, p, extractors, p.seed), test.y, p), np.nan)]


def fine_tunings(profile: Profile, method: str, nets: Any, weights: str, choices: Sequence[dict[str, float]], t: int, data: Path, results: Path,
                 extractors: Sequence, device: torch.device) -> pd.DataFrame:
    """Fine-tune ``PEOPLE`` validation people on ``t`` frames with every choice of rates; one row for every choice and number of epochs, best first.

    ``weights`` is the key of ``nets``; heads that are done are kept by it, so that a search goes on where it was stopped.
    """
    tune = {"ours": tune_ours, "pix2pixhd": tune_pix2pixhd}[method]
    store = build.store(profile, data, "validation")
    tasks = protocol.tasks(store, profile, PEOPLE)
    frames = [(protocol.load(store, k.number, k.few_shot[:t], profile, device), protocol.load(store, k.number, k.hold_out, profile, device))
              for k in tasks]
    log = Path(results) / profile.name / "runs" / f"search_{method}_T{t}_{weights}_{protocol.cells_in(Path(), store, profile)}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rates = list(choices[0])
    rows = [r for r in rows if {name: r[name] for name in rates} in choices]  # an earlier search may have tried others
    done = {(*(r[name] for name in rates), r["person"]) for r in rows if r["epochs"] == max(EPOCHS)}
    todo = [(choice, k) for choice in choices for k in range(len(tasks)) if (*choice.values(), tasks[k].person) not in done]
    progress = Progress("searching", len(todo), "heads")
    for choice, k in todo:
        train, test = frames[k]
        found = [{"person": tasks[k].person, **choice, "epochs": epochs, **{name: v.mean() for name, v in protocol.scores(images, test.images, test.points).items()},
                  "real minus fake": apart, "openings": [np.stack(v).tolist() for v in zip(openings(find_landmarks(images)), openings(test.points))]}
                 for epochs, images, apart in tune(nets, train, test, dataclasses.replace(profile, **choice, tune_epochs=max(EPOCHS)), extractors)]
        with open(log, "a") as out:
            out.writelines(json.dumps(r, default=float) + "\n" for r in found)
        rows += found
        progress.add(1)
    groups = pd.DataFrame(rows).groupby([*rates, "epochs"])
    table = groups.mean(numeric_only=True)
    for i, opening in enumerate(OPENINGS):
        table[f"{opening} correlation"] = groups["openings"].agg(lambda of: correlation(*np.concatenate([v[i] for v in of], axis=1)))
    return table.assign(T=t, people=len(frames), weights=weights, wanted=table[list(WANTED)].mean(axis=1)).reset_index().sort_values("wanted", ascending=False)


def written(table: pd.DataFrame, profile: Profile, results: Path, name: str) -> pd.DataFrame:
    """Write ``<results>/<profile>/tables/<name>.csv`` and print it."""
    path = Path(results) / profile.name / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    return table


def search(profile_name: str, method: str, t: int, data: Path, results: Path, device: str) -> pd.DataFrame:
    """:func:`fine_tunings` of the reference weights with all of a method's ``CHOICES``: ``tuning_search_<method>_T<t>.csv``.

    Raises FileNotFoundError where the method's weights are not there.
    """
    profile, chosen = load(profile_name), choose(device)
    variant = own(profile) if method == "ours" else method
    loaded = load_all(profile, "reference", results, chosen, [variant])
    if variant not in loaded.networks:
        raise FileNotFoundError(loaded.said)
    build.ensure(profile, data, str(chosen))
    extractors = [e.to(chosen) for e in make_extractors(profile)]
    table = fine_tunings(profile, method, loaded.networks[variant], loaded.keys[variant], CHOICES[method], t, data, results, extractors, chosen)
    return written(table, profile, results, f"tuning_search_{method}_T{t}")


def pretraining(profile_name: str, lengths: Sequence[int], t: int, data: Path, results: Path, device: str) -> pd.DataFrame:
    """What Pix2pixHD's pretraining is worth, which its validation loss cannot tell: :func:`fine_tunings` after ``lengths`` steps of it.

    Each length is a training of its own, with its own schedule of rates, on the people of the reference weights, whose length
    has a row of ``pretraining_pix2pixhd_T<t>.csv``, too.
    """
    profile, chosen, tables = load(profile_name), choose(device), []
    build.ensure(profile, data, str(chosen))
    extractors = [e.to(chosen) for e in make_extractors(profile)]
    for steps in sorted({*lengths, profile.small_steps}):
        if steps == profile.small_steps:
            path = weights_path(profile, "pix2pixhd", "reference", results)
        else:
            path = train_on_pools(dataclasses.replace(profile, small_steps=steps), "pix2pixhd", data, Path(results) / profile.name / "runs" / f"pretraining-{steps}", chosen)
        nets = restore_baseline(profile, "pix2pixhd", load_weights(path)[0], chosen)
        rate = [{"pix2pixhd_tune_rate": profile.pix2pixhd_tune_rate}]
        tables.append(fine_tunings(profile, "pix2pixhd", nets, sha256(path)[:12], rate, t, data, results, extractors, chosen).assign(pretraining=steps))
    return written(pd.concat(tables), profile, results, f"pretraining_pix2pixhd_T{t}")
