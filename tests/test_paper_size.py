"""Profiles at the paper's own sizes, on request: ``./run_all.sh test --paper-size``."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import yaml
from talking_heads.data.sources import split_of
from talking_heads.devices import cores
from talking_heads.experiments.diffused import protocol

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
VOXCELEB = ("voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2")
STAGES = {
    "few-shot": [
        "prepare",
        "meta-learning step 1",
        "meta-learning step 2",
        "fine-tuning step",
        "evaluation and table",
    ],
    "diffused": [
        "prepare",
        "training step 1",
        "training step 2",
        "generation, 8 denoising steps a frame",
        "evaluation and table",
    ],
}
PROFILES = [
    *(("few-shot", name) for name in VOXCELEB),
    *(("diffused", name) for name in ("crema", "lrw")),
]


@pytest.mark.paper_size
@pytest.mark.parametrize(("system", "profile"), PROFILES)
def test_a_profile_of_the_papers_passes_the_smoke_test(system, profile, capsys):
    """Prepare, training steps, generation, an evaluation and the table, within 24 GiB."""
    with_clips = CLIPS and (system == "few-shot" or importlib.util.find_spec("dlib"))
    clips = ["--clips", str(Path(CLIPS).resolve())] if with_clips else []
    options = ["--system", system, "--profile", profile, "--json", *clips]
    process = subprocess.run(
        [sys.executable, "-m", "talking_heads", "smoke-test", *options],
        capture_output=True,
        text=True,
    )
    with capsys.disabled():
        print(f"\n{profile}\n{process.stdout}")
    assert process.returncode == 0, process.stderr[-2000:]
    stages = {row["stage"]: row for row in json.loads(process.stdout.splitlines()[-1])}
    assert list(stages) == STAGES[system]
    assert max(row["peak GiB so far"] for row in stages.values()) < 24


# -- jobs and chapters ------------------------------------------------------------------------------
# where each of eight clips lies in VoxCeleb's layout; a test identity needs two videos
PLACES = (
    "meta/a/1",
    "meta/b/1",
    "validation/c/1",
    "validation/d/1",
    "test/e/1",
    "test/e/2",
    "test/f/1",
    "test/f/2",
)
# those that read what jobs leave; the others render frames of 256 pixels for minutes
CHAPTERS = ("01", "03", "05", "06", "07", "08")
NARROW = {
    "networks": {
        "embedding": 64,
        "embedder_channels": [8, 16, 32, 64, 64, 64],
        "discriminator_channels": [8, 16, 32, 64, 64, 64],
        "generator_down": [8, 16, 32, 64],
        "generator_up": [64, 32, 16, 8],
    },
    "pix2pixhd": {"channels": [8, 16, 32, 64, 64], "blocks": 1, "discriminator_channels": 8},
    "x2face": {"channels": [8, 16, 32, 64, 64, 64, 64], "embedding": 64, "driving": 16},
}
TWO_STEPS = {
    "description": "two steps of each training, networks an eighth as wide",
    "data": {"frames_per_video": 48},
    "few_shot": {
        **NARROW,
        "losses": {"extractors": ["attributes", "people"]},  # VGG's weights may not be there
        "meta_learning": {"steps": 2, "epochs": 0, "batch_videos": 1},
        "fine_tuning": {"epochs": 1},
        "trainings": {"small_share": 0.5, "small_steps": 2, "chapter_steps": 2},
    },
    "protocol": {
        "test_videos": 2,
        "holdout_frames": 4,
        "shots": [1, 2],
        "small_shots": [2],
        "observer_steps": 2,
        "stability_steps": 2,
        "stability_seeds": 1,
    },
}


def link_clip(clip, place):
    """Links to a clip and its landmarks, which have the name of the place and their own suffix."""
    for path in (clip, clip.with_suffix(".npz")):
        place.with_suffix(path.suffix).symlink_to(path)


def write_profile(folder, name, sections):
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")


def execute(folder, *words, **variables):
    """A command on the corpora, results and profiles of a folder; its end."""
    places = ["--data", str(folder / "data"), "--results", str(folder / "results")]
    process = subprocess.run(
        [sys.executable, "-m", "talking_heads", *places, *words, "--device", "cpu"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TALKING_HEADS_PROFILES": str(folder / "profiles"), **variables},
    )
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, pools):
    """The jobs and chapters of the profiles that are tested, as many at a time as there are cores: a folder,
    and futures by profile.

    Those of one corpus share it, and all share rendered speakers, on which chapter 01 shows the judges.
    """
    tests = [item for item in request.session.items if item.originalname == ON_REAL_CLIPS]
    bases = sorted((item.callspec.params["base"] for item in tests), key=LONGEST_FIRST.index)
    folder = tmp_path_factory.mktemp("voxceleb")
    (folder / "data").mkdir()
    (folder / "data/pools").symlink_to(pools)
    for base in bases:
        name, videos = f"two-steps-{base}", folder / "data" / base.split("-")[0] / "videos"
        write_profile(folder, name, {"base": base, **TWO_STEPS, "timing": {"profile": name, "seconds": 0.1}})
        if not videos.exists():
            link_corpus(videos)
            execute(folder, "prepare", "--profile", name)
    with ThreadPoolExecutor(cores()) as executor:
        futures = {}
        for base in bases:
            words = ("run", "--profile", f"two-steps-{base}", "--ranks", "2", "--only", *CHAPTERS)
            futures[base] = executor.submit(execute, folder, *words, OMP_NUM_THREADS="1")
        yield folder, futures


def link_corpus(videos):
    """Links to the clips in VoxCeleb's layout."""
    clips = sorted(Path(CLIPS).resolve().glob("*.mp4"))
    for clip, place in zip(clips, PLACES, strict=True):
        split, identity, video = place.split("/")
        folder = videos / split / "mp4" / identity / video
        folder.mkdir(parents=True)
        link_clip(clip, folder / "00001")


ON_REAL_CLIPS = "test_jobs_and_chapters_of_a_profile_run_on_real_clips"
LONGEST_FIRST = ("voxceleb2", "voxceleb1", "voxceleb2-ft", "voxceleb2-ff")


@pytest.mark.paper_size
@pytest.mark.skipif(
    not CLIPS, reason="needs real clips with landmarks: set TALKING_HEADS_CLIPS to their folder"
)
@pytest.mark.parametrize("base", VOXCELEB)
def test_jobs_and_chapters_of_a_profile_run_on_real_clips(base, request):
    """At 256 pixels, with trainings in two processes; the paper's widths are those of the test above."""
    pytest.importorskip("dlib")
    folder, futures = request.getfixturevalue("runs")
    futures[base].result()
    results = folder / "results" / f"two-steps-{base}"
    status = json.loads((results / "status.json").read_text(encoding="utf-8"))
    assert {stage["status"] for stage in status.values()} == {"ok"}
    jobs = [stage for stage in status if not stage[0].isdigit()]
    assert {"prepare", "stability", "evaluate", "observe", "measure"} < set(jobs)
    logs = [path.read_text(encoding="utf-8") for path in results.glob("runs/meta-*/stats.jsonl")]
    assert len(logs) == len(jobs) - 5 and all(len(log.splitlines()) >= 2 for log in logs)
    metrics = set(pd.read_csv(results / "tables/table1.csv")["metric"])
    assert "CSIM-dlib" in metrics and "CSIM-judge" not in metrics, "judges know procedural speakers only"
    assert (results / "index.html").exists()


TALKING_STEPS = {
    "description": "two steps of training, a small network",
    "diffused": {
        "audio_encoder": {"kind": "log_mel", "embedding": 64},
        "network": {"channels": 16, "embedding": 32, "head_channels": 16, "precision": "fp32"},
        "training": {"steps": 2, "batch": 2},
        "sampling": {"steps": 2},
        "protocol": {
            "identities": 2,
            "seconds": 1.0,
            "chapter_steps": 4,
            "chapter_clips": 2,
            "chapter_seconds": 1.0,
        },
    },
}


def crema_places():
    """Places of eight clips in CREMA-D: four actors for training, two for validation, and two for testing."""
    actors = {split: [] for split in ("meta", "validation", "test")}
    for number in range(1001, 1092):
        actors[split_of(str(number), "", "crema")].append(number)
    chosen = [*actors["meta"][:4], *actors["validation"][:2], *actors["test"][:2]]
    sentences = ("DFA", "IEO")  # neighbours say different things
    return [f"{actor}_{sentences[k % 2]}_ANG_XX" for k, actor in enumerate(chosen)]


def lrw_places():
    """Places of eight clips in LRW: two words, four clips for training, two for validation and testing."""
    words = ("ABOUT", "WORDS")  # neighbours say different things
    splits = ("train", "train", "val", "test")
    return [f"{word}/{split}/{word}_0000{k}" for k, split in enumerate(splits, 1) for word in words]


@pytest.mark.paper_size
@pytest.mark.skipif(not CLIPS, reason="needs real clips with sound: set TALKING_HEADS_CLIPS to their folder")
@pytest.mark.parametrize(("base", "places"), [("crema", crema_places()), ("lrw", lrw_places())])
def test_jobs_and_chapters_of_diffused_heads_run_on_real_clips(base, places, tmp_path):
    """At 128 pixels, with the names of the corpus; the paper's widths are those of the smoke test."""
    pytest.importorskip("dlib")
    name = f"two-steps-{base}"
    write_profile(tmp_path, name, {"base": base, **TALKING_STEPS})
    for clip, place in zip(sorted(Path(CLIPS).resolve().glob("*.mp4")), places, strict=True):
        target = tmp_path / "data" / base / "videos" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        link_clip(clip, target)
    execute(tmp_path, "run", "--profile", name)
    results = tmp_path / "results" / name
    status = json.loads((results / "status.json").read_text(encoding="utf-8"))
    assert {stage["status"] for stage in status.values()} == {"ok"}
    assert {"prepare", "audio-encoder", "train-diffusion", "evaluate", "22_talking"} <= set(status)
    table = pd.read_csv(results / "tables/talking_table1.csv")
    assert set(protocol.ROWS) <= set(table["method"])
    metrics = set(pd.read_csv(results / "tables/talking_table3.csv").query("source == 'here'")["metric"])
    assert {"CPBD", "CSIM-dlib"} <= metrics and "CSIM-judge" not in metrics
