"""Weights of meta-learned networks: training them, and finding the ones a chapter should use.

The reference's people are rendered for it, apart from any profile's corpus: once into a pool on a CPU, as training goes on
a GPU. The content steps, the same for both variants, are trained once and shared.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..corpus import build
from ..corpus.episodes import PoolVideos, Videos, flat_sheet
from ..corpus.speakers.pool import LiveVideos
from ..devices import choose
from ..judges.networks import WEIGHTS
from ..judges.training import POOLS, SEED, pool
from ..meta_learning import MetaLearner, Networks, export, meta_learn, restore_weights
from ..perceptual import make_extractors
from ..profiles import Profile, load
from ..tensors import load_weights, sha256
from .git import commit
from .runner import read_status

LIVE_PEOPLE = 20_000


def train_variant(profile: Profile, variant: str, videos: Videos, runs: Path, people: dict, *, seconds: float = math.inf,
                  device: torch.device = torch.device("cpu"), command: str = "") -> Path:
    """Train a variant, or go on with it, for ``seconds``; returns its exported weights, written after every slice."""
    extractors = [e.to(device) for e in make_extractors(profile)]
    learner = MetaLearner(profile, variant, videos, extractors, device)
    folder = runs / f"meta-{variant}"
    other = runs / f"meta-{'ff' if variant == 'ft' else 'ft'}" / "content.pt"
    if not (folder / "checkpoint.pt").exists() and other.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, folder / "checkpoint.pt")

    def sheet(learner: MetaLearner) -> None:
        Image.fromarray(flat_sheet(learner.sampler, learner.ema, device)).save(folder / f"step{learner.step:06d}.png")

    meta_learn(learner, folder, seconds=seconds, sheet=sheet)
    about = {"profile": profile.name, "seed": profile.seed, "steps": learner.step, "of": learner.total, "commit": commit(), "command": command,
             "people": people, "device": str(device), "extractors": {n: judge_digest(n) for n in profile.extractors},
             "lineage": f"content steps 0-{profile.content_steps} shared by ft and ff, then this variant alone"}
    export(learner, folder / "weights.safetensors", about)
    print(f"  {variant}: step {learner.step}/{learner.total}, weights in {folder / 'weights.safetensors'}", flush=True)
    return folder / "weights.safetensors"


def judge_digest(name: str) -> str:
    path = WEIGHTS / f"{name}.safetensors"
    return sha256(path)[:16] if path.exists() else "fetched"


def train_reference(profile_name: str, variant: str, data: Path, results: Path, seconds: float, device: str) -> None:
    """``python -m talking_heads meta-learn``: the weights that are committed as the reference."""
    profile, chosen = load(profile_name), choose(device)
    if chosen.type == "cuda":
        first = POOLS["features"]["first"]
        videos: Videos = LiveVideos(SEED, first, LIVE_PEOPLE, POOLS["features"]["videos"], 16, profile.image_size, chosen)
        people = {"seed": SEED, "first": first, "people": LIVE_PEOPLE, "rendered": "as training goes"}
    else:
        videos, people = PoolVideos(pool("features", data / "pools")), {"seed": SEED, **POOLS["features"]}
    train_variant(profile, variant, videos, results / profile.name / "runs", people, seconds=seconds, device=chosen,
                  command=f"python -m talking_heads meta-learn --profile {profile.name} --variant {variant}")


def train_from_corpus(profile: Profile, variants: Sequence[str], data: Path, results: Path, device: torch.device) -> list[Path]:
    """``--weights scratch``: train on the profile's own corpus and nothing that was committed."""
    videos = build.store(profile, data, "meta")
    people = {"corpus": str(build.folder(profile, data).name), "videos": len(videos)}
    return [train_variant(profile, v, videos, Path(results) / profile.name / "runs", people, device=device,
                          command=f"./run_all.sh --profile {profile.name} --weights scratch") for v in variants]


def weights_path(profile: Profile, variant: str, weights: str, results: Path) -> Path:
    """Where the weights of a variant lie: committed for "reference", the profile's own run for "scratch".

    Raises ValueError where a profile has no reference weights, FileNotFoundError where the file is not there.
    """
    if weights == "reference":
        if not profile.reference_weights:
            raise ValueError(f"profile {profile.name} has no reference weights; use --weights scratch")
        path = Path(results) / "reference" / "weights" / f"{variant}.safetensors"
        remedy = "it is not among the committed weights"
    else:
        path = Path(results) / profile.name / "runs" / f"meta-{variant}" / "weights.safetensors"
        remedy = "chapter 03_meta_learning trains it"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no weights of variant {variant}; {remedy}")
    return path


def load_networks(profile: Profile, variant: str, weights: str, results: Path, device: torch.device = torch.device("cpu")) -> tuple[Networks, dict]:
    """Meta-learned networks and what made them. Raises what :func:`weights_path` does."""
    state, about = load_weights(weights_path(profile, variant, weights, results))
    return restore_weights(profile, state, device), about


def describe(about: dict) -> str:
    """A line that every table about these weights shows."""
    return (f"{about['variant'].upper()} weights: profile {about['profile']}, step {about['step']} of {about['of']}, "
            f"{about['people'].get('people', about['people'].get('videos', '?'))} {'people' if 'people' in about['people'] else 'videos'}, code {about['commit'] or 'unknown'}")


def digest(profile: Profile, weights: str, results: Path) -> str:
    """Twelve hex digits of the weights of both variants: results of other weights are never mixed in."""
    known = []
    for variant in ("ft", "ff"):
        try:
            known.append(sha256(weights_path(profile, variant, weights, results)))
        except FileNotFoundError:
            known.append("absent")
    return hashlib.sha256("".join(known).encode()).hexdigest()[:12]


def keep(profile: Profile, results: Path) -> Path:
    """Copy a finished run's tables, figures, notebooks and report, without its trainings, to ``results/reference``.

    Raises ValueError where a chapter of the run is not ok.
    """
    source, target = Path(results) / profile.name, Path(results) / "reference"
    outcomes = read_status(source)
    bad = [n for n, o in outcomes.items() if o.status != "ok"]
    if bad or not outcomes:
        raise ValueError(f"{source}: {', '.join(bad) or 'no chapter has run'}, not ok; run ./run_all.sh --profile {profile.name} first")
    for name in ("tables", "figures", "notebooks"):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(".*", "*.html"))
    for name in ("status.json", "records.jsonl", "index.html", "verification.json"):
        shutil.copy(source / name, target / name)
    log = Path(results) / "laptop-full" / "runs" / "meta-ft" / "stats.jsonl"
    if log.exists():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        (target / "runs-ft.json").write_text(json.dumps(rows[::20]))
    return target
