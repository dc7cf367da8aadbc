"""What is trained on many identities: FT and FF on the large corpus; ours, its ablations and baselines on the
small one.

The reference's identities are rendered for it, apart from any profile's corpus: once into a pool on a CPU, as
training goes on on a GPU. The content steps are the same for variants that differ in L_MCH alone; they are
trained once and shared.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from talking_heads import config
from talking_heads.animation import face_shape
from talking_heads.config import Profile, digest
from talking_heads.data import corpora
from talking_heads.data.episodes import (
    Episode,
    EpisodeDataset,
    EpisodeSettings,
    PoolVideos,
    Subset,
    Videos,
)
from talking_heads.data.frames import to_image
from talking_heads.data.loader import worker_count
from talking_heads.data.speakers.pool import LiveVideos, PoolSettings
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot.weights import weights_path
from talking_heads.few_shot import losses
from talking_heads.few_shot.baselines.training import BaselineLearner
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.few_shot.networks.build import restore_networks
from talking_heads.files import sha256, write_text
from talking_heads.judges.pools import POOLS, SEED, pool
from talking_heads.judges.training import MINUTES, train_judges
from talking_heads.metrics.timing import slowness
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.perceptual import embedded_digest, make_extractors
from talking_heads.nn.weight_files import load_weights
from talking_heads.provenance import commit
from talking_heads.training import distributed, lineage, loop
from talking_heads.training.alarms import Collapsed
from talking_heads.training.checkpoints import recorded_key
from talking_heads.training.recorded import RecordedTraining

WATCH_EVERY, SHEET_EVERY = 100, 500  # steps
WATCHED = 6  # batches of validation episodes
LIVE_IDENTITIES = 4_000  # a row of W for each of their videos, with two moments in every checkpoint
LIVE_FRAMES = 16  # of a video


@dataclass(frozen=True)
class Training:
    """One training: its corpus, its learner, and what it changes in the profile."""

    description: str
    small: bool = False  # on the profile's small share of the identities
    times: int = 1  # as many of the small corpus's steps
    learner: Callable = MetaLearner
    overrides: dict[str, Any] = field(default_factory=dict)

    def shares_content_steps(self, other: "Training") -> bool:
        """Whether both learn the same in their content steps."""
        if self.learner is not MetaLearner or other.learner is not MetaLearner:
            return False
        return self.small == other.small and self.overrides == other.overrides


ONE_SHOT = {"few_shot.meta_learning.k_shot": 1, "few_shot.meta_learning.k_min": 1}
TRAININGS = {
    "ft": Training("with L_MCH, for fine-tuning"),
    "ff": Training("without L_MCH and twice as long, for feed-forward use"),
    "small": Training("as ft, on the small corpus", small=True),
    "no-match": Training("without L_MCH, on the small corpus", small=True),
    "no-match-one-shot": Training(
        "without L_MCH and with K = 1, on the small corpus", small=True, overrides=ONE_SHOT
    ),
    "pix2pixhd": Training("Pix2pixHD, on the small corpus", small=True, learner=BaselineLearner),
    # three times as long: after 3,000 steps its loss still fell
    "x2face": Training("X2Face, on the small corpus", small=True, times=3, learner=BaselineLearner),
}


def settings(profile: Profile, name: str) -> Profile:
    """The profile of a training: with its overrides and, on the small corpus, its own number of steps, in
    proportion.
    """
    training, section = TRAININGS[name], profile.few_shot.meta_learning
    overrides = dict(training.overrides)
    if training.small:
        steps = training.times * profile.few_shot.trainings.small_steps
        content_steps = round(section.content_steps / max(1, section.steps) * steps)
        overrides |= {
            "few_shot.meta_learning.steps": steps,
            "few_shot.meta_learning.content_steps": content_steps,
        }
    return profile.override(overrides)


def share(videos: Videos, fraction: float) -> Videos:
    """The videos of the first ``fraction`` of the identities; all of them for 1."""
    if fraction >= 1:
        return videos
    identities = list(dict.fromkeys(videos.identity(v) for v in range(len(videos))))
    chosen = set(identities[: max(2, round(fraction * len(identities)))])
    return Subset(videos, [v for v in range(len(videos)) if videos.identity(v) in chosen])


@dataclass
class TrainingData:
    """Videos to train on, validation videos, and the provenance of the former."""

    videos: Videos
    validation: Videos
    origin: dict[str, Any]


def reference_data(profile: Profile, root: Path, device: torch.device) -> TrainingData:
    """The identities of the reference weights, who belong to no profile's corpus."""
    size = profile.data.image_size
    validation = PoolVideos(pool("verification_test", root / "pools", size))
    if device.type != "cuda":
        videos = PoolVideos(pool("features", root / "pools", size))
        return TrainingData(videos, validation, {"seed": SEED, **POOLS["features"]})
    changed = {"people": LIVE_IDENTITIES, "frames": LIVE_FRAMES, "size": size}
    live = LiveVideos(PoolSettings(seed=SEED, **{**POOLS["features"], **changed}), device)
    first = live.settings.first
    origin = {"seed": SEED, "first": first, "people": LIVE_IDENTITIES, "rendered": "as training goes"}
    return TrainingData(live, validation, origin)


def corpus_data(profile: Profile, root: Path) -> TrainingData:
    """The profile's own corpus."""
    videos = corpora.store(profile, root, "meta")
    origin = {"corpus": corpora.folder(profile, root).name, "videos": len(videos)}
    return TrainingData(videos, corpora.store(profile, root, "validation"), origin)


def training_data(profile: Profile, root: Path, device: torch.device) -> TrainingData:
    """What ``meta-learn`` trains on: a pool where the profile says so, else the profile's own corpus.

    What is missing of it is rendered and prepared, before torchrun starts several processes. Raises
    ValueError where your own videos are not there.
    """
    if profile.few_shot.trainings.pool:
        return reference_data(profile, root, device)
    if not distributed.started_by_torchrun():
        corpora.find(profile, root, str(device))
    return corpus_data(profile, root)


def start_weights(profile: Profile, name: str, results: Path) -> Path | None:
    """The committed weights that a variant's networks grow from, None where they start from nothing.

    Raises FileNotFoundError as :func:`reference_weights` does.
    """
    start = profile.few_shot.trainings.start_profile
    return weights_path(config.load(start), name, "reference", results) if start else None


def runs_folder(profile: Profile, results: Path) -> Path:
    """Where ``meta-learn`` trains. Chapters find there what was trained on the profile's own corpus."""
    runs = Path(results) / profile.name / "runs"
    return runs / "reference" if profile.few_shot.trainings.pool else runs


class TrainingRun(RecordedTraining):
    """The training of a variant; validation episodes are watched.

    ``start`` are weights of the profile's ``start_profile``, from which its networks grow.
    """

    def __init__(
        self,
        profile: Profile,
        name: str,
        data: TrainingData,
        runs: Path,
        device: torch.device,
        command: str = "",
        workers: int | None = None,
        start: Path | None = None,
    ):
        training, changed = TRAININGS[name], settings(profile, name)
        fraction = changed.few_shot.trainings.small_share if training.small else 1.0
        videos = share(data.videos, fraction)
        extractors = [extractor.to(device) for extractor in make_extractors(changed)]
        if isinstance(data.videos, LiveVideos):  # which the process that trains renders on its GPU
            workers = 0
        workers = worker_count(workers, device, distributed.ranks())
        learner = training.learner(changed, name, videos, extractors, device, workers)
        if training.small:
            learner.settings["few_shot.trainings.small_share"] = fraction
        self.validation = data.validation
        metadata = {
            "profile": profile.name,
            "seed": changed.seed,
            "command": command,
            "people": {**data.origin, "share": fraction},
            "device": str(device),
            "extractors": {n: embedded_digest(n) for n in changed.few_shot.losses.extractors},
            "about": training.description,
        }
        if start:
            smaller = config.load(profile.few_shot.trainings.start_profile)
            learner.grow(restore_networks(smaller, load_weights(start)[0], device))
            learner.settings["started from"] = metadata["started_from"] = sha256(start)[:12]
        super().__init__(name, learner, runs / f"meta-{name}", device, metadata)
        with distributed.main_first():
            self._share_content_steps(runs)
        self.episodes = self._validation_episodes(changed)

    def _share_content_steps(self, runs: Path) -> None:
        """Begin where another variant's content steps ended, if this training has not begun."""
        if (self.folder / loop.CHECKPOINT).exists():
            return
        training = TRAININGS[self.name]
        for other, candidate in TRAININGS.items():
            donor = runs / f"meta-{other}"
            if not training.shares_content_steps(candidate) or not (donor / loop.CONTENT).exists():
                continue
            if recorded_key(donor) != self.learner.key:
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            pieces = [{"variant": other, **piece} for piece in lineage.slices(donor)]
            write_text(self.folder / lineage.LINEAGE, json.dumps(pieces))
            shutil.copy(donor / loop.CONTENT, self.folder / loop.CHECKPOINT)
            return

    def _validation_episodes(self, changed: Profile) -> list[Episode]:
        frames = max(self.validation.frame_count(v) for v in range(len(self.validation)))
        section = changed.few_shot.meta_learning
        k = min(section.k_shot, frames - 1)
        shape = EpisodeSettings(
            k,
            k,
            section.targets,
            section.batch_videos,
            changed.data.image_size,
            changed.few_shot.landmark_images.line_width,
        )
        return [EpisodeDataset(self.validation, shape, seed)[0].to(self.device) for seed in range(WATCHED)]

    def watch(self, learner: Any) -> dict[str, float]:
        """The content loss on fixed validation episodes and the spread of ê; at times a sheet of pictures."""
        generated = [learner.draw(episode) for episode in self.episodes]
        if learner.step % SHEET_EVERY == 0:
            save_sheet(self.episodes[:2], generated[:2], self.folder / f"step{learner.step:06d}.png")
        content = [
            losses.content_loss(x_hat, episode.x_t.flatten(0, 1), learner.extractors).item()
            for x_hat, episode in zip(generated, self.episodes, strict=True)
        ]
        row = {"validation": float(np.mean(content))}
        return row | (learner.spread(self.validation) if isinstance(learner, MetaLearner) else {})

    @contextmanager
    def recording(self) -> Iterator[None]:
        """As :meth:`RecordedTraining.recording`; an alarm ends the training, not the program.

        An ablation may collapse: its last weights show it.
        """
        try:
            with super().recording():
                yield
        except Collapsed as alarm:
            print(f"  {self.name}: {alarm}", flush=True)
            self.metadata["collapsed"] = str(alarm)


def train(run: TrainingRun) -> Path:
    """Train to the end, or go on; returns the exported weights."""
    if run.finished:
        print(f"  {run.name}: at its end already, weights in {run.exported}", flush=True)
        return run.exported
    with run.recording():
        loop.train(run.learner, run.folder, watch=run.watch, watch_every=WATCH_EVERY)
    return run.export()


def train_from_corpus(
    profile: Profile, names: Sequence[str], root: Path, results: Path, device: torch.device
) -> list[Path]:
    """``--weights scratch``: train on the profile's own corpus, and start from nothing that was committed."""
    runs, data = Path(results) / profile.name / "runs", corpus_data(profile, root)
    command = f"./run_all.sh --profile {profile.name} --weights scratch"
    return [train(TrainingRun(profile, name, data, runs, device, command)) for name in names]


def chapter_folder(runs: Path, learner: MetaLearner, videos: Store) -> Path:
    """The folder of a chapter's own short training: another one for other settings, identities or feature
    networks.
    """
    extractors = [embedded_digest(name) for name in learner.profile.few_shot.losses.extractors]
    return Path(runs) / f"chapter-{digest(learner.key, videos.digest(), extractors)}"


def save_sheet(episodes: Sequence[Episode], generated: Sequence[Tensor], path: Path) -> None:
    """A picture of a training's state: for each video the source, the landmarks, the generated and the true
    target.
    """
    strips = []
    for episode, x_hat in zip(episodes, generated, strict=True):
        targets = x_hat.unflatten(0, episode.x_t.shape[:2])
        for frames in (episode.x_s, episode.y_t, targets, episode.x_t):
            strips.append(np.concatenate(list(to_image(frames[:, 0])), 1))
    Image.fromarray(np.concatenate(strips)).save(path)


# -- the embedded networks ------------------------------------------------------------------------
def fit_face_shape(profile: Profile, root: Path) -> None:
    """``python -m talking_heads face-shape``: the linear face model, fitted to the profile's identities."""
    store = corpora.store(profile, root, "meta")
    identities = store.identities()
    tracks = [
        np.concatenate([store.track(video)["landmarks"] for video in videos])
        for videos in identities.values()
    ]
    metadata = {
        "profile": profile.name,
        "people": store.digest(),
        "commit": commit(),
        "command": f"python -m talking_heads face-shape --profile {profile.name}",
    }
    face_shape.FILE.parent.mkdir(parents=True, exist_ok=True)
    face_shape.fit(tracks).save(face_shape.FILE, metadata)
    print(
        f"  {face_shape.FILE.name}: fitted on {len(identities)} identities of profile {profile.name}",
        flush=True,
    )


def train_own_judges(profile: Profile, root: Path) -> None:
    """``--weights scratch``: the judges and the face model, as far as this run has not trained them."""
    if missing := [name for name in MINUTES if not (WEIGHTS / f"{name}.safetensors").exists()]:
        train_judges(root / "pools", missing, times=slowness(torch.device("cpu")))  # longer on slow machines
    if not face_shape.FILE.exists():
        fit_face_shape(profile, root)
