"""Profiles at the paper's own sizes, on request: ``./run_all.sh test --paper-size``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
STAGES = [
    "prepare",
    "meta-learning step 1",
    "meta-learning step 2",
    "fine-tuning step",
    "evaluation and table",
]


@pytest.mark.paper_size
@pytest.mark.parametrize("profile", ["voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2"])
def test_a_profile_of_the_paper_passes_the_smoke_test(profile, capsys):
    """Prepare, two meta-learning steps, one fine-tuning step, one evaluation and the table, within 24 GiB."""
    clips = ["--clips", str(Path(CLIPS).resolve())] if CLIPS else []
    process = subprocess.run(
        [sys.executable, "-m", "talking_heads", "smoke-test", "--profile", profile, "--json", *clips],
        capture_output=True,
        text=True,
    )
    with capsys.disabled():
        print(f"\n{profile}\n{process.stdout}")
    assert process.returncode == 0, process.stderr[-2000:]
    stages = {row["stage"]: row for row in json.loads(process.stdout.splitlines()[-1])}
    assert list(stages) == STAGES
    assert max(row["peak GiB so far"] for row in stages.values()) < 24
