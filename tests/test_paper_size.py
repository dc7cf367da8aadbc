"""Profiles at the paper's own sizes, on request: ``./run_all.sh test --paper-size``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
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
    *(("few-shot", name) for name in ("voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2")),
    *(("diffused", name) for name in ("crema", "lrw")),
]


@pytest.mark.paper_size
@pytest.mark.parametrize(("system", "profile"), PROFILES)
def test_a_profile_of_the_papers_passes_the_smoke_test(system, profile, capsys):
    """Prepare, training steps, generation, an evaluation and the table, within 24 GiB."""
    clips = ["--clips", str(Path(CLIPS).resolve())] if CLIPS else []
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
