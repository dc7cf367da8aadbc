"""A profile's whole way once, with its real networks and almost no data: ``python -m talking_heads exercise``.

What would take days is done once: prepare, two meta-learning steps, one fine-tuning step, one batch of evaluation, the table. It
says what each took, so that a machine is known to be able to run a profile before the days begin.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from ..corpus.prepare import Settings, prepare
from ..corpus.speakers.write import write_speakers
from ..corpus.store import Store
from ..devices import choose
from ..evaluation import methods, protocol
from ..evaluation.timing import peak_memory
from ..fine_tuning import fine_tune, set_up
from ..meta_learning import MetaLearner
from ..perceptual import make_extractors, random_extractors
from ..profiles import Profile, load
from . import tables

SPEAKERS = dict(meta_people=1, meta_videos=1, meta_frames=12, eval_people=1, eval_videos=1, eval_frames=24, eval_frames_other=1)


class Stages:
    """Seconds and peak memory of what was done."""

    def __init__(self, device: torch.device):
        self.device, self.rows = device, []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.time()
        yield
        peak = peak_memory(self.device)
        self.rows.append({"stage": name, "seconds": time.time() - start, "peak GiB so far": peak / 2 ** 30})
        print(f"  {name}: {self.rows[-1]['seconds']:.1f} s, peak memory so far {peak / 2 ** 30:.1f} GiB", flush=True)


def extractors_of(profile: Profile, device: torch.device) -> list:
    """The profile's feature networks, untrained ones of the same layout where theirs were not fetched."""
    try:
        out = make_extractors(profile)
    except FileNotFoundError as gap:
        print(f"  untrained feature networks stand in: {gap}", flush=True)
        out = random_extractors(profile)
    return [e.to(device) for e in out]


def exercise(profile_name: str, clips: Path | None, folder: Path, device: str) -> pd.DataFrame:
    """Go through a profile in ``folder``, on ``clips`` (videos with or without landmark sidecars) or on rendered speakers.

    Returns the stages; the table is written to ``folder``. Raises what the stages do.
    """
    chosen = choose(device)
    p = dataclasses.replace(load(profile_name), batch_videos=1, test_videos=1, holdout_frames=4, shots=[1], tune_epochs=1, frames_per_video=24)
    stages = Stages(chosen)
    with stages.stage("prepare"):
        if clips is None:
            clips = folder / "videos"
            write_speakers(clips, dataclasses.replace(p, **SPEAKERS))
        prepare(clips, folder / "prepared", Settings(p.image_size, p.frames_per_video), device=str(chosen), quiet=True)
    store = Store(folder / "prepared", "test")
    extractors = extractors_of(p, chosen)
    learner = MetaLearner(p, p.variants[0], store, extractors, chosen)
    for step in (1, 2):
        with stages.stage(f"meta-learning step {step}"):
            row = learner.train_step()
    print(f"  {', '.join(f'{k} {v:.3g}' for k, v in row.items())}", flush=True)
    (task,) = protocol.tasks(store, p)
    train = protocol.load(store, task.number, task.few_shot, p, chosen)
    with stages.stage("fine-tuning step"):
        fine_tune(set_up(learner.nets, train.x, train.y, p, extractors), epochs=1)
    with stages.stage("evaluation and table"):
        rows = [*methods.ours(learner.nets, "exercise", p, extractors, methods.BEFORE, methods.AFTER), *methods.trivial()]
        cells = protocol.run_cells(folder / "cells", store, p, rows, p.shots, chosen)
        frames, features = protocol.measure(cells, [m.name for m in rows])
        table = tables.table1(frames, features, p, "exercise")
        tables.write(table, tables.with_arrows(tables.wide(table, tables.SHOWN)), folder / "tables", "table1", f"An exercise of {p.name}: two steps of training, no result.")
    return pd.DataFrame(stages.rows)
