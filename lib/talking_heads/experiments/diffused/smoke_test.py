"""Diffused Heads from end to end at a profile's own sizes, with almost no data: ``python -m talking_heads
smoke-test --system diffused``.

What takes days is done once: prepare, two training steps, a generated clip, its measurement and the table.
"""

from pathlib import Path

import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.data.prepare import Settings, prepare
from talking_heads.data.sound import FPS
from talking_heads.data.speakers.clips import ClipSettings
from talking_heads.data.speakers.talking import FIRST, SEED
from talking_heads.data.speakers.write import Job, write_clips
from talking_heads.data.store import Store
from talking_heads.data.windows import StoreClips
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.training import DiffusionLearner
from talking_heads.experiments.diffused import protocol, tables
from talking_heads.metrics.timing import Stopwatch
from talking_heads.workbook.write_table import write_table

FRAMES, DENOISING_STEPS = 3, 8
SMALL = {
    "diffused.training.batch": 1,
    "diffused.sampling.steps": DENOISING_STEPS,
    "diffused.protocol.identities": 2,
    "diffused.protocol.seconds": FRAMES / FPS,
}


def smoke_test(profile: Profile, clips: Path | None, folder: Path, device: torch.device) -> pd.DataFrame:
    """Go through a profile in ``folder``, on ``clips`` (videos with sound) or rendered speakers.

    Returns the stages; the table is written to ``folder``. Raises what the stages do.
    """
    source = "speakers" if clips is None else "videos"
    data = {"data.source": source, "data.layout": "folder"}  # whatever the profile's own corpus is
    small, stopwatch = profile.override({**SMALL, **data}), Stopwatch(device)
    section = small.diffused
    size = section.clips.image_size
    with stopwatch.stage("prepare"):
        if clips is None:
            clips = folder / "videos"
            numbers = (FIRST["evaluation"], FIRST["evaluation"] + 1)
            jobs = [Job("test", ClipSettings(SEED, number, 0, 10, FPS, size)) for number in numbers]
            write_clips(clips, jobs)
        settings = Settings(size, 50, section.clips.alignment)
        prepare(clips, folder / "prepared", settings, device=str(device), quiet=True)
    talking = StoreClips(Store(folder / "prepared", "test", size))
    encoder = build_encoder(section.audio_encoder).eval()
    learner = DiffusionLearner(small, talking, encoder, device)
    for step in (1, 2):
        with stopwatch.stage(f"training step {step}"):
            row = learner.train_step()
    print(f"  {', '.join(f'{name} {value:.3g}' for name, value in row.items())}", flush=True)
    del learner.optimiser
    generator = Generator(learner.ema, section)
    evaluation = protocol.Evaluation(small, talking, generator, encoder, "untrained", folder, device)
    rows = (protocol.OURS, protocol.FROZEN)
    with stopwatch.stage(f"generation, {DENOISING_STEPS} denoising steps a frame"):
        chosen = protocol.run(evaluation, rows)
    with stopwatch.stage("evaluation and table"):
        table = tables.table1(protocol.measure(evaluation, chosen, rows), small)
        caption = f"A smoke test of {profile.name}: two steps of training, no result."
        write_table(table, tables.shown(table), folder / "tables", "talking_table1", caption)
    return pd.DataFrame(stopwatch.rows)
