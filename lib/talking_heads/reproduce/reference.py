"""Training of the reference weights: ``python -m talking_heads meta-learn --variant ft|ff``.

The people are rendered for it, apart from any profile's corpus. On the CPU they are rendered once into
a pool; the content steps, the same for both variants, are trained once and shared.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from ..corpus.episodes import PoolVideos, flat_sheet
from ..devices import choose
from ..judges.training import POOLS, SEED, pool
from ..meta_learning import MetaLearner, export, meta_learn
from ..perceptual import make_extractors
from ..profiles import load

REFERENCE = Path("results/reference/weights")


def commit() -> str:
    """The git commit of the working tree, with "+" where it has changes; "" outside a checkout."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def train_reference(profile_name: str, variant: str, data: Path, results: Path, seconds: float, device: str) -> None:
    """Train or go on for ``seconds``; write the weights when the last step is done, and after every slice."""
    profile = load(profile_name)
    chosen = choose(device)
    videos = PoolVideos(pool("features", data / "pools"))
    extractors = [e.to(chosen) for e in make_extractors(profile)]
    learner = MetaLearner(profile, variant, videos, extractors, chosen)
    folder = results / profile.name / "runs" / f"meta-{variant}"
    other = folder.parent / f"meta-{'ff' if variant == 'ft' else 'ft'}" / "content.pt"
    if not (folder / "checkpoint.pt").exists() and other.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, folder / "checkpoint.pt")

    def sheet(learner: MetaLearner) -> None:
        Image.fromarray(flat_sheet(learner.sampler, learner.ema, chosen)).save(folder / f"step{learner.step:06d}.png")

    meta_learn(learner, folder, seconds=seconds, sheet=sheet)
    about = {"profile": profile.name, "seed": profile.seed, "steps": learner.step, "of": learner.total, "commit": commit(),
             "command": f"python -m talking_heads meta-learn --profile {profile.name} --variant {variant}",
             "people": {"seed": SEED, **POOLS["features"]}, "device": str(chosen),
             "lineage": f"content steps 0-{profile.content_steps} shared by ft and ff, then this variant alone"}
    export(learner, folder / "weights.safetensors", about)
    print(f"{variant}: step {learner.step}/{learner.total}, weights in {folder / 'weights.safetensors'}")
