"""Rates and epochs of fine-tuning, chosen on the validation people: ``python -m talking_heads search``.

No test person is read. The table says for every pair of rates how a head does on hold-out frames after some epochs: whether
it is like the person, whether mouth and eyes still follow the landmarks, and whether D' still tells real from generated frames.
The best of it has the highest mean of ``WANTED``.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ..corpus import build
from ..corpus.landmarks import openings
from ..devices import choose
from ..evaluation import methods, protocol
from ..evaluation.judges import find_landmarks
from ..evaluation.metrics import correlation
from ..fine_tuning import FineTuning, fine_tune, set_up, steps_per_epoch
from ..perceptual import make_extractors
from ..profiles import load
from ..progress import Progress
from .reference import load_networks, own, weights_key

PAIRS = ((1e-4, 2e-5), (2e-4, 2e-5), (4e-4, 2e-5), (8e-4, 2e-5), (2e-4, 2e-4))  # of G' and of D'
EPOCHS = (0, 10, 20, 40)
PEOPLE = 12
OPENINGS = ("mouth", "eyes")
WANTED = ("SSIM", "CSIM-judge", "mouth correlation", "eyes correlation")


def search(profile_name: str, t: int, data: Path, results: Path, device: str) -> pd.DataFrame:
    """Fine-tune ``PEOPLE`` validation people on ``t`` frames at every pair of rates; one row for every pair and number of epochs.

    The rows also go to ``<results>/<profile>/tables/tuning_search_T<t>.csv``, the best first.
    """
    profile, chosen = load(profile_name), choose(device)
    build.ensure(profile, data, str(chosen))
    store = build.store(profile, data, "validation")
    nets, _ = load_networks(profile, own(profile), "reference", results, chosen)
    extractors = [e.to(chosen) for e in make_extractors(profile)]
    tasks = protocol.tasks(store, profile, PEOPLE)
    frames = [(protocol.load(store, k.number, k.few_shot[:t], profile, chosen), protocol.load(store, k.number, k.hold_out, profile, chosen))
              for k in tasks]
    weights, settings = weights_key(profile, own(profile), "reference", results), protocol.cells_in(Path(), store, profile)
    log = Path(results) / profile.name / "runs" / f"search_T{t}_{weights}_{settings}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["tune_rate"], r["tune_discriminator_rate"], r["person"]) for r in rows if r["epochs"] == max(EPOCHS)}
    todo = [(pair, k) for pair in PAIRS for k in range(len(tasks)) if (*pair, tasks[k].person) not in done]
    progress = Progress("searching", len(todo), "heads")
    for (rate, d_rate), k in todo:
        train, test = frames[k]
        tried = load(profile_name, tune_rate=rate, tune_discriminator_rate=d_rate, tune_epochs=max(EPOCHS))
        per_epoch = steps_per_epoch(t, tried.tune_batch)

        def look(step: int, tuning: FineTuning) -> None:
            if step // per_epoch in EPOCHS and step % per_epoch == 0:
                images = methods.drive(tuning.head.eval(), test.y, tried)
                tuning.head.train()
                last = tuning.rows[-5:]
                rows.append({"person": tasks[k].person, "tune_rate": rate, "tune_discriminator_rate": d_rate, "epochs": step // per_epoch,
                             **{name: v.mean() for name, v in protocol.scores(images, test.images, test.points).items()},
                             "real minus fake": np.mean([r["r_real"] - r["r_fake"] for r in last]) if last else np.nan,
                             "openings": [np.stack(v).tolist() for v in zip(openings(find_landmarks(images)), openings(test.points))]})

        fine_tune(set_up(nets, train.x, train.y, tried, extractors), profile.seed, watch=look)
        with open(log, "a") as out:
            out.writelines(json.dumps(r, default=float) + "\n" for r in rows[-len(EPOCHS):])
        progress.add(1)
    groups = pd.DataFrame(rows).groupby(["tune_rate", "tune_discriminator_rate", "epochs"])
    table = groups.mean(numeric_only=True)
    for i, opening in enumerate(OPENINGS):
        table[f"{opening} correlation"] = groups["openings"].agg(lambda of: correlation(*np.concatenate([v[i] for v in of], axis=1)))
    table = table.assign(T=t, people=len(frames), weights=weights, wanted=table[list(WANTED)].mean(axis=1)).reset_index().sort_values("wanted", ascending=False)
    path = Path(results) / profile.name / "tables" / f"tuning_search_T{t}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    return table
