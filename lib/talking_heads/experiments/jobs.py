"""The jobs of a profile, and the chapters that read what they leave."""

import dataclasses
import math
from pathlib import Path

import pandas as pd

from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.manifest import MANIFEST
from talking_heads.data.sources import TALKING_LAYOUTS
from talking_heads.devices import cores
from talking_heads.diffused.audio_pretraining import encoder_path
from talking_heads.experiments.benchmark import TABLE
from talking_heads.experiments.few_shot.trainings import TRAININGS
from talking_heads.experiments.projection import CLIPS, DAY, quantity
from talking_heads.workbook.stages import Chapter, Job

PREPARE, STABILITY, EVALUATE, OBSERVE, MEASURE = "prepare", "stability", "evaluate", "observe", "measure"
AUDIO, DIFFUSION = "audio-encoder", "train-diffusion"


def training_job(variant: str) -> str:
    """The name of the job that trains a variant."""
    return f"meta-learn-{variant}"


def jobs_of(
    profile: Profile, weights: str, data: Path, device: str, ranks: int | None = None
) -> tuple[Job, ...]:
    """The jobs of a profile in their order, none where its chapters do everything themselves.

    ``ranks`` is the number of processes of a training, by default one for each visible GPU.
    """
    if not profile.protocol.jobs:
        return ()
    common = ("--profile", profile.name)
    on_device = (*common, "--device", device)
    in_ranks = (*on_device, "--ranks", str(ranks)) if ranks else on_device
    manifest = str((corpora.prepared(profile, data) / MANIFEST).resolve())
    videos = profile.data.real
    prepare = Job(
        PREPARE, "crops and landmarks of all videos", (), (manifest,), command=("prepare", *on_device),
        shards=videos, merges=videos,
    )  # fmt: skip
    if profile.data.layout in TALKING_LAYOUTS:
        encoder = str(encoder_path(profile.diffused.audio_encoder).resolve())
        listen = Job(
            AUDIO, "the audio encoder, on synthesised speech", (), (encoder,), command=(AUDIO, *on_device)
        )
        train = Job(
            DIFFUSION, "the denoising network", (PREPARE, AUDIO),
            ("runs/reference/diffusion/weights.safetensors",), command=(DIFFUSION, *in_ranks), nodes=True,
        )  # fmt: skip
        evaluate = Job(
            EVALUATE, "the clips of Tables 1 and 3", (DIFFUSION,), (), shards=True,
            command=("evaluate", *on_device, "--weights", weights, "--system", "diffused"),
        )  # fmt: skip
        return prepare, listen, train, evaluate
    trainings = [
        Job(
            training_job(variant),
            TRAININGS[variant].description,
            (PREPARE,),
            (f"runs/meta-{variant}/weights.safetensors",),
            command=("meta-learn", *in_ranks, "--variant", variant),
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
    observe = Job(
        OBSERVE, "USER-proxy of Table 1", (EVALUATE,), (), command=(OBSERVE, *on_device, "--weights", weights)
    )
    observers = [observe] if profile.protocol.observer_steps else []
    measure = Job(MEASURE, "the times of Table 2", (), (), command=("measure", *on_device), local=True)
    short = Job(
        STABILITY, "short trainings with and without L_FM", (PREPARE,), (), command=(STABILITY, *on_device)
    )
    shorts = [short] if profile.protocol.stability_seeds else []
    return prepare, *trainings, *shorts, evaluate, *observers, measure


def expected_days(profile: Profile, results: Path) -> dict[str, float]:
    """The days of jobs, as the last ``benchmark`` of a few-shot profile projects them; none without one.

    Trainings run on one device like the measured one. Preparing uses this machine's cores and finds no
    landmarks. Evaluating fine-tunes one method.
    """
    path = Path(results) / profile.name / "tables" / f"{TABLE}.csv"
    if not path.exists() or profile.data.layout in TALKING_LAYOUTS:
        return {}
    measured, section = pd.read_csv(path).set_index("quantity")["value"], profile.protocol
    days = {
        training_job(variant): float(measured[row])
        for variant in profile.few_shot.trainings.variants
        if (row := quantity(profile.name, variant)) in measured
    }
    seconds = [measured.get(f"fine-tuning, T = {t}", math.nan) for t in section.shots]
    days[EVALUATE] = section.test_videos * section.seeds * sum(seconds) / DAY
    if "preparing" in measured and profile.data.layout in CLIPS:
        days[PREPARE] = CLIPS[profile.data.layout] / (measured["preparing"] * cores()) / DAY
    return {name: value for name, value in days.items() if math.isfinite(value)}


def reading(chapters: tuple[Chapter, ...], jobs: tuple[Job, ...], weights: str) -> tuple[Chapter, ...]:
    """The chapters, each with the jobs that it needs, and with the chapters that train its ``weights``, which
    have all cores for themselves.
    """
    trainers = {name for chapter in chapters for name in chapter.trained_by if weights == "scratch"}
    names = {job.name for job in jobs}
    trained = tuple(job.name for job in jobs if job.command[0] == "meta-learn")
    needs = {
        "01_speakers_and_landmarks": (PREPARE,),
        "03_meta_learning": trained,
        "05_comparison": (EVALUATE, OBSERVE),
        "06_ablations": (STABILITY, EVALUATE),
        "07_timing": (MEASURE,),
        "20_diffusion_on_faces": (PREPARE, AUDIO) if DIFFUSION in names else (),
        "21_sound_and_motion": (DIFFUSION,),
        "22_talking": (EVALUATE,) if DIFFUSION in names else (),
    }
    return tuple(
        dataclasses.replace(
            chapter,
            needs=(
                *chapter.needs,
                *(chapter.trained_by if weights == "scratch" else ()),
                *(name for name in needs.get(chapter.name, ()) if name in names),
            ),
            alone=chapter.alone or chapter.name in trainers,
        )
        for chapter in chapters
    )
