"""The jobs of a profile, and the chapters that read what they leave."""

import dataclasses
from pathlib import Path

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.manifest import MANIFEST
from talking_heads.data.sources import TALKING_LAYOUTS
from talking_heads.experiments.few_shot.trainings import TRAININGS
from talking_heads.workbook.stages import Chapter, Job

PREPARE, EVALUATE, MEASURE, DIFFUSION = "prepare", "evaluate", "measure", "train-diffusion"


def training_job(variant: str) -> str:
    """The name of the job that trains a variant."""
    return f"meta-learn-{variant}"


def jobs_of(profile: Profile, weights: str, data: Path, device: str) -> tuple[Job, ...]:
    """The jobs of a profile in their order, none where its chapters do everything themselves."""
    if not profile.protocol.jobs:
        return ()
    common = ("--profile", profile.name)
    on_device = (*common, "--device", device)
    manifest = str((corpora.prepared(profile, data) / MANIFEST).resolve())
    videos = profile.data.source == "videos"
    prepare = Job(
        PREPARE, "crops and landmarks of all videos", (), (manifest,), command=("prepare", *on_device),
        shards=videos, merges=videos,
    )  # fmt: skip
    if profile.data.layout in TALKING_LAYOUTS:
        description, promise = "the denoising network", "runs/reference/diffusion/weights.safetensors"
        command = ("train-diffusion", *on_device)
        return prepare, Job(DIFFUSION, description, (PREPARE,), (promise,), command=command, nodes=True)
    trainings = [
        Job(
            training_job(variant),
            TRAININGS[variant].description,
            (PREPARE,),
            (f"runs/meta-{variant}/weights.safetensors",),
            command=("meta-learn", *on_device, "--variant", variant),
            nodes=True,
        )
        for variant in profile.few_shot.trainings.variants
        if weights == "scratch"
    ]
    trained = tuple(job.name for job in trainings)
    evaluate = Job(
        EVALUATE, "the frames of Table 1 and of the ablations", (PREPARE, *trained), (),
        command=("evaluate", *on_device, "--weights", weights), shards=True,
    )  # fmt: skip
    measure = Job(MEASURE, "the times of Table 2", (), (), command=("measure", *on_device), local=True)
    return prepare, *trainings, evaluate, measure


def reading(chapters: tuple[Chapter, ...], jobs: tuple[Job, ...]) -> tuple[Chapter, ...]:
    """The chapters, each with the jobs that it needs."""
    names = {job.name for job in jobs}
    trained = tuple(job.name for job in jobs if job.command[0] == "meta-learn")
    needs = {
        "01_speakers_and_landmarks": (PREPARE,),
        "03_meta_learning": trained,
        "05_comparison": (EVALUATE,),
        "06_ablations": (EVALUATE,),
        "07_timing": (MEASURE,),
        "21_sound_and_motion": (DIFFUSION,),
    }
    return tuple(
        dataclasses.replace(
            chapter,
            needs=(*chapter.needs, *(name for name in needs.get(chapter.name, ()) if name in names)),
        )
        for chapter in chapters
    )
