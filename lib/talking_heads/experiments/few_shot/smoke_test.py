"""A profile from end to end, with its real networks and almost no data: ``python -m talking_heads
smoke-test``.

What takes days is done once: prepare, two meta-learning steps, one fine-tuning, one evaluation, the table. It
prints what each took, so that a machine is known to be able to run a profile before the days begin.
"""

from pathlib import Path

import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.data.prepare import Settings, prepare
from talking_heads.data.speakers.write import write_speakers
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot import frame_metrics, methods, protocol, tables
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.metrics.timing import Stopwatch
from talking_heads.nn.perceptual import Extractor, make_extractors
from talking_heads.workbook.write_table import write_table

SMALL = {
    "few_shot.meta_learning.batch_videos": 1,
    "few_shot.fine_tuning.epochs": 1,
    "protocol.test_videos": 1,
    "protocol.holdout_frames": 4,
    "protocol.shots": [1],
    "protocol.small_shots": [1],
    "data.frames_per_video": 32,
    "data.speakers.meta_identities": 1,
    "data.speakers.meta_videos": 1,
    "data.speakers.meta_frames": 12,
    "data.speakers.evaluation_identities": 1,
    "data.speakers.evaluation_videos": 1,
    "data.speakers.evaluation_frames": 40,
    "data.speakers.evaluation_frames_other": 1,
}


def available_extractors(profile: Profile, device: torch.device) -> list[Extractor]:
    """The profile's feature networks; untrained ones of the same layout where theirs were not fetched."""
    try:
        extractors = make_extractors(profile)
    except FileNotFoundError as error:
        print(f"  untrained feature networks stand in: {error}", flush=True)
        extractors = make_extractors(profile, random=True)
    return [extractor.to(device) for extractor in extractors]


def smoke_test(profile: Profile, clips: Path | None, folder: Path, device: torch.device) -> pd.DataFrame:
    """Go through a profile in ``folder``, on ``clips`` (videos with or without landmark sidecars) or rendered
    speakers.

    Returns the stages; the table is written to ``folder``. Raises what the stages do.
    """
    data = {"data.source": "speakers" if clips is None else "videos"}  # whatever the profile's own corpus is
    small, stopwatch = profile.override({**SMALL, **data}), Stopwatch(device)
    with stopwatch.stage("prepare"):
        if clips is None:
            clips = folder / "videos"
            write_speakers(clips, small)
        settings = Settings(small.data.image_size, small.data.frames_per_video)
        prepare(clips, folder / "prepared", settings, device=str(device), quiet=True)
    store = Store(folder / "prepared", "test")
    extractors = available_extractors(small, device)
    learner = MetaLearner(small, small.few_shot.trainings.variants[0], store, extractors, device)
    for step in (1, 2):
        with stopwatch.stage(f"meta-learning step {step}"):
            row = learner.train_step()
    print(f"  {', '.join(f'{name} {value:.3g}' for name, value in row.items())}", flush=True)
    (task,) = protocol.tasks(store, small)
    train = protocol.load(store, task.number, task.few_shot, small, device)
    with stopwatch.stage("fine-tuning step"):
        fine_tune(set_up(learner.nets, train.x, train.y, small, extractors), epochs=1)
    with stopwatch.stage("evaluation and table"):
        rows = methods.ours(learner.nets, "untrained", small, extractors, methods.BEFORE, methods.AFTER)
        rows += methods.trivial()
        cells = protocol.run_cells(folder / "cells", store, small, rows, small.protocol.shots, device)
        names = [method.name for method in rows]
        frames, features = frame_metrics.measure(cells, names, device, real=small.data.real)
        table = tables.table1(tables.Measured(frames, features), small, "smoke test")
        shown = tables.add_arrows(tables.wide_table(table))
        caption = f"A smoke test of {profile.name}: two steps of training, no result."
        write_table(table, shown, folder / "tables", "table1", caption)
    return pd.DataFrame(stopwatch.rows)
