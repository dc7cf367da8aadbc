"""What is trained on many people: FT and FF on the large corpus; on the small one ours, its ablations, and the baselines.

The reference's people are rendered for it, apart from any profile's corpus: once into a pool on a CPU, as training goes on
a GPU. The content steps are the same for variants that differ in L_MCH alone; they are trained once and shared.
"""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from .. import losses
from ..baselines.training import BaselineLearner
from ..corpus import build
from ..corpus.episodes import Episode, EpisodeSampler, PoolVideos, Subset, Videos, to_image
from ..corpus.speakers.pool import LiveVideos
from ..corpus.store import Store
from ..devices import choose
from ..driving import face_shape
from ..evaluation.timing import slowness
from ..judges.networks import WEIGHTS
from ..judges.training import MINUTES, POOLS, SEED, pool, train_judges
from ..meta_learning import MetaLearner, export
from ..perceptual import embedded_digest, make_extractors
from ..profiles import Profile, load
from ..tensors import code_digest
from ..training_loop import Collapsed, load_checkpoint, meta_learn, training_key
from .git import commit

TRAINING_CODE = ("networks/*.py", "judges/networks.py", "losses.py", "perceptual.py", "meta_learning.py", "training_loop.py", "corpus/landmarks.py", "corpus/episodes.py")
WATCH_EVERY, SHEET_EVERY = 100, 500  # steps
LIVE_PEOPLE = 4_000  # a row of W for each of their videos, with two moments in every checkpoint


@dataclass(frozen=True)
class Training:
    """One training: its corpus, its learner, and what it changes in the profile."""

    about: str
    small: bool = False  # on the profile's small share of the people
    times: int = 1  # as many of the small corpus's steps
    learner: Callable = MetaLearner
    changes: dict[str, Any] = field(default_factory=dict)


TRAININGS = {
    "ft": Training("with L_MCH, made for fine-tuning"),
    "ff": Training("without L_MCH and twice as long, made to be used as it is"),
    "small": Training("as ft, on the small corpus", small=True),
    "no-match": Training("without L_MCH, on the small corpus", small=True),
    "no-match-one-shot": Training("without L_MCH and with K = 1, on the small corpus", small=True, changes={"k_shot": 1, "k_min": 1}),
    "pix2pixhd": Training("Pix2pixHD, on the small corpus", small=True, learner=BaselineLearner),
    "x2face": Training("X2Face, on the small corpus", small=True, times=3, learner=BaselineLearner),  # after 3,000 steps its loss still fell
}


def settings(profile: Profile, name: str) -> Profile:
    """The profile as a training reads it: with its own changes and, on the small corpus, its own number of steps, in proportion."""
    training = TRAININGS[name]
    share = profile.content_steps / max(1, profile.meta_steps)
    small_steps = training.times * profile.small_steps
    steps = {"meta_steps": small_steps, "content_steps": round(share * small_steps)} if training.small else {}
    return dataclasses.replace(profile, **steps, **training.changes)


def share(videos: Videos, part: float) -> Videos:
    """The videos of the first ``part`` of the people; all of them for 1."""
    if part >= 1:
        return videos
    people = list(dict.fromkeys(videos.person(v) for v in range(len(videos))))
    chosen = set(people[:max(2, round(part * len(people)))])
    return Subset(videos, [v for v in range(len(videos)) if videos.person(v) in chosen])


def save_sheet(episodes: list[Episode], made: list[Tensor], path: Path) -> None:
    """A picture of how far a training is: for each video what E sees, the landmarks, the generated and the true target."""
    rows = [[e.x_s[:, 0], e.y_t[:, 0], x_hat.unflatten(0, e.x_t.shape[:2])[:, 0], e.x_t[:, 0]] for e, x_hat in zip(episodes, made)]
    Image.fromarray(np.concatenate([np.concatenate(list(to_image(strip)), 1) for row in rows for strip in row])).save(path)


def train(profile: Profile, name: str, videos: Videos, validation: Videos, runs: Path, people: dict, *, seconds: float = math.inf,
          device: torch.device = torch.device("cpu"), command: str = "") -> Path:
    """Run a training, or go on with it, for ``seconds``; returns its exported weights, written after every slice.

    Every ``WATCH_EVERY`` steps the content loss on fixed episodes of ``validation`` and the spread of ê go into the log, and
    every ``SHEET_EVERY`` a sheet of pictures beside it.
    """
    training, p = TRAININGS[name], settings(profile, name)
    if training.small:
        videos, people = share(videos, p.small_share), {**people, "share": p.small_share}
    learner = training.learner(p, name, videos, [e.to(device) for e in make_extractors(p)], device)
    folder = runs / f"meta-{name}"
    for other in (n for n, t in TRAININGS.items() if (t.small, t.learner, t.changes) == (training.small, training.learner, training.changes)):
        content = runs / f"meta-{other}" / "content.pt"
        if training.learner is MetaLearner and content.exists() and not (folder / "checkpoint.pt").exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(content, folder / "checkpoint.pt")
            (folder / "lineage.json").write_text(json.dumps([{**s, "variant": s.get("variant", other)} for s in slices(content.parent)]))

    k = min(p.k_shot, max(validation.frame_count(v) for v in range(len(validation))) - 1)
    judged = [EpisodeSampler(validation, k, k, p.targets, p.batch_videos, p.image_size, p.line_width, seed).next(device) for seed in range(6)]

    def watch(learner) -> dict[str, float]:
        made = [learner.draw(e) for e in judged]
        if learner.step % SHEET_EVERY == 0:
            save_sheet(judged[:2], made[:2], folder / f"step{learner.step:06d}.png")
        out = {"validation": float(np.mean([losses.content_loss(x_hat, e.x_t.flatten(0, 1), learner.extractors).item() for x_hat, e in zip(made, judged)]))}
        if training.learner is MetaLearner:
            out |= learner.spread(validation)
        return out

    checkpoint, exported = folder / "checkpoint.pt", folder / "weights.safetensors"
    step = load_checkpoint(checkpoint, p)["step"] if checkpoint.exists() else 0
    if step >= learner.total and exported.exists():
        print(f"  {name}: at its end already, weights in {exported}", flush=True)
        return exported
    begin_slice(folder, step, device)
    try:
        meta_learn(learner, folder, seconds=seconds, watch=watch, watch_every=WATCH_EVERY)
        collapsed = {}
    except Collapsed as alarm:  # an ablation may end so: its last weights show it
        print(f"  {name}: {alarm}", flush=True)
        collapsed = {"collapsed": str(alarm)}
    about = {"profile": profile.name, "seed": p.seed, "steps": learner.step, "of": learner.total, "commit": commit(), "command": command,
             "people": people, "device": str(device), "extractors": {n: embedded_digest(n) for n in p.extractors}, "about": training.about, **collapsed,
             "lineage": slices(folder)}
    if training.learner is MetaLearner:
        export(learner, exported, about)
    else:
        learner.export(exported, about)
    print(f"  {name}: step {learner.step}/{learner.total}, weights in {exported}", flush=True)
    return exported


def slices(folder: Path) -> list[dict]:
    """Which code trained which steps: for every slice of a training the step that it began with, its commit and its device.

    The first ones name their ``variant`` where the content steps are another's; "not recorded" is a slice of older code.
    """
    path = folder / "lineage.json"
    return json.loads(path.read_text()) if path.exists() else []


def begin_slice(folder: Path, step: int, device: torch.device) -> None:
    """Note which code goes on from a step; slices whose steps were all lost are not listed."""
    known = [s for s in slices(folder) if s["from"] < step]
    if step and not known:
        known = [{"from": 0, "commit": "not recorded", "device": "not recorded"}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lineage.json").write_text(json.dumps([*known, {"from": step, "commit": commit(), "device": str(device)}]))


def chapter_folder(runs: Path, profile: Profile, people: Store) -> Path:
    """Where a chapter's own short training lies: for other settings, people, feature networks or code it starts anew."""
    parts = [training_key(profile), people.identity(), code_digest(*TRAINING_CODE), *map(embedded_digest, profile.extractors)]
    return Path(runs) / f"chapter-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:12]}"


def train_reference(profile_name: str, name: str, data: Path, results: Path, seconds: float, device: str) -> None:
    """``python -m talking_heads meta-learn``: the weights that are committed as the reference."""
    profile = load(profile_name)
    train_on_pools(profile, name, data, results / profile.name / "runs" / "reference", choose(device), seconds=seconds,
                   command=f"python -m talking_heads meta-learn --profile {profile.name} --variant {name}")


def train_on_pools(profile: Profile, name: str, data: Path, runs: Path, device: torch.device, *, seconds: float = math.inf, command: str = "") -> Path:
    """A training on the people of the reference weights, who belong to no profile's corpus; its exported weights."""
    if device.type == "cuda":
        first = POOLS["features"]["first"]
        videos: Videos = LiveVideos(SEED, first, LIVE_PEOPLE, POOLS["features"]["videos"], 16, profile.image_size, device)
        people = {"seed": SEED, "first": first, "people": LIVE_PEOPLE, "rendered": "as training goes"}
    else:
        videos, people = PoolVideos(pool("features", data / "pools")), {"seed": SEED, **POOLS["features"]}
    return train(profile, name, videos, PoolVideos(pool("verification_test", data / "pools")), runs, people, seconds=seconds, device=device, command=command)


def fit_face_shape(profile: Profile, data: Path) -> None:
    """``python -m talking_heads face-shape``: the linear face model, fitted to the profile's people."""
    people = build.store(profile, data, "meta")
    model = face_shape.fit([np.concatenate([people.track(v)["landmarks"] for v in videos]) for videos in people.people().values()])
    face_shape.FILE.parent.mkdir(parents=True, exist_ok=True)
    model.save(face_shape.FILE, {"profile": profile.name, "people": people.identity(), "commit": commit(),
                                 "command": f"python -m talking_heads face-shape --profile {profile.name}"})
    print(f"  {face_shape.FILE.name}: fitted on {len(people.people())} people of profile {profile.name}", flush=True)


def train_own_judges(profile: Profile, data: Path) -> None:
    """``--weights scratch``: the judges and the face model, as far as this run has not made them; those of the package are there."""
    if missing := [n for n in MINUTES if not (WEIGHTS / f"{n}.safetensors").exists()]:
        train_judges(data / "pools", missing, times=slowness(torch.device("cpu")))  # longer where a minute does less
    if not face_shape.FILE.exists():
        fit_face_shape(profile, data)


def train_from_corpus(profile: Profile, names: Sequence[str], data: Path, results: Path, device: torch.device) -> list[Path]:
    """``--weights scratch``: train on the profile's own corpus and nothing that was committed; what other code trained is put aside."""
    runs, code = Path(results) / profile.name / "runs", code_digest(*TRAINING_CODE, "baselines/*.py")
    for name in names:
        put_aside(runs / f"meta-{name}", code)
    videos = build.store(profile, data, "meta")
    people = {"corpus": str(build.folder(profile, data).name), "videos": len(videos)}
    validation = build.store(profile, data, "validation")
    return [train(profile, n, videos, validation, runs, people, device=device,
                  command=f"./run_all.sh --profile {profile.name} --weights scratch") for n in names]


def put_aside(folder: Path, code: str) -> None:
    """Rename a training's folder unless it is of ``code``; note in the one that is used now what code it is of."""
    note = folder / "code.txt"
    if folder.exists() and (known := note.read_text() if note.exists() else "unknown") != code:
        aside = next(p for n in count(1) if not (p := folder.with_name(f"{folder.name}-{known}-{n}")).exists())
        print(f"  {folder.name}: trained by other code, kept as {aside.name}; trains anew", flush=True)
        folder.rename(aside)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(code)


def stability(profile: Profile, data: Path, results: Path, device: torch.device) -> tuple[pd.DataFrame, dict[str, list[dict]]]:
    """Short trainings on the small corpus with and without L_FM, ``stability_seeds`` of each: when does one diverge?

    L_ADV has the paper's weight of 1 in them. Columns: feature_matching ("with", "without"), seed, start and end (content loss when D
    joins and over the last steps), step (the last one, where the alarm stopped it), apart (how much higher D scores real frames
    than generated ones over the last steps), diverged: stopped, or ended higher than it started; and since (the first step from which its
    running content loss stays above the start, or the one where it was stopped). Also the logged rows of each run, by name.
    """
    rows, logs = [], {}
    people = build.store(profile, data, "meta")
    videos = share(people, profile.small_share)
    extractors = [e.to(device) for e in make_extractors(profile)]
    for feature_matching, seed in product(("with", "without"), range(profile.stability_seeds)):
        steps, content = profile.stability_steps, profile.stability_steps // 3
        p = dataclasses.replace(profile, seed=seed, meta_steps=steps, meta_epochs=0, content_steps=content, adversarial_weight=1.0,
                                feature_matching_weight=profile.feature_matching_weight if feature_matching == "with" else 0.0)
        folder = chapter_folder(Path(results) / profile.name / "runs", p, people)
        alarmed = folder / "collapsed.txt"  # a training that was stopped stays so
        if not alarmed.exists():
            try:
                meta_learn(MetaLearner(p, "small", videos, extractors, device), folder)
            except Collapsed as alarm:
                print(f"  {alarm}", flush=True)
                alarmed.write_text(str(alarm))
        log = logs[f"{feature_matching} L_FM, seed {seed}"] = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
        loss = [row["cnt"] for row in log]
        edge = max(1, content // 5)
        start, end = float(np.mean(loss[content - edge:content])), float(np.mean(loss[-edge:]))
        apart = float(np.mean([row["r_real"] - row["r_fake"] for row in log[-edge:] if "r_real" in row] or [np.nan]))
        running = pd.Series(loss).rolling(edge, min_periods=1).mean()
        below = running.index[(running <= start) & (running.index >= content)]
        diverged = alarmed.exists() or end > start
        since = len(loss) if alarmed.exists() else (below[-1] if len(below) else content - 1) + 2
        rows.append([feature_matching, seed, start, end, len(loss), apart, bool(diverged), since if diverged else np.nan])
    return pd.DataFrame(rows, columns=["feature_matching", "seed", "start", "end", "step", "apart", "diverged", "since"]), logs
