"""Pretraining of the audio encoder on sound alone: ``python -m talking_heads audio-encoder``.

The encoder learns to predict the phoneme and the shape of the mouth at the middle of a window, from the
synthesised speech of procedural speakers. It is tested on voices that it has not heard.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.data.sound import FPS, HOP, SOUND_RATE, to_int16
from talking_heads.data.speakers.clips import speaker
from talking_heads.data.speakers.speech import PHONEMES, mouth_track, synthesise, utterance
from talking_heads.data.speakers.traits import person_rng
from talking_heads.data.windows import LENGTH
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.files import waiting_lock
from talking_heads.metrics.statistics import correlation
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.weight_files import load_weights, save_weights
from talking_heads.progress import Progress
from talking_heads.sections.diffused import AudioEncoder
from talking_heads.training import loop
from talking_heads.training.checkpoints import key_of
from talking_heads.training.rows import read_row

VERSION = 1  # of the training: raised when the same settings give other weights
SEED = 1
TRAINING, TEST = 4_000_000, 5_000_000  # first identities, in no corpus and in no other pool
VOICES, TEST_VOICES, SECONDS, TEST_SECONDS = 800, 100, 6.0, 4.0
STEPS, BATCH, LEARNING_RATE = 8000, 256, 2e-3
MOUTH = ("jaw_open", "mouth_wide", "mouth_round", "lip_press")
MOUTH_WEIGHT = 20.0  # of the mouth's squared error beside the cross-entropy of phonemes
NOISE, GAIN = (1e-5, 1e-2), (0.2, 1.4)  # of augmentation: standard deviation and factor, drawn log-uniformly
NAMES = list(PHONEMES)
RECURRENT = 2  # windows on each side of the middle one, for an encoder that is recurrent over them


class Speech(NamedTuple):
    """The utterances of some voices with their ground truth."""

    sound: np.ndarray  # (voices, samples) int16
    edges: list[np.ndarray]  # ends of the phonemes in seconds
    phonemes: list[np.ndarray]  # their numbers in ``PHONEMES``
    mouth: np.ndarray  # (voices, n, 4), every 5 ms

    @classmethod
    def of(cls, first: int, voices: int, seconds: float) -> "Speech":
        """One utterance of each identity ``first`` ... ``first + voices - 1``."""
        sounds, edges, phonemes, mouths = [], [], [], []
        progress = Progress("synthesising speech", voices, "voices")
        for identity in range(first, first + voices):
            rng, traits = person_rng(SEED, identity, 0), speaker(SEED, identity)
            segments = utterance(rng, seconds)
            sounds.append(to_int16(synthesise(segments, seconds, traits["pitch"], traits["tract"], rng)))
            edges.append(np.array([segment.end for segment in segments]))
            phonemes.append(np.array([NAMES.index(segment.phoneme) for segment in segments]))
            tracks = mouth_track(segments, np.arange(0, seconds, 0.005), energy=1.0)
            mouths.append(np.stack([tracks[name] for name in MOUTH], -1))
            progress.add(1)
        return cls(np.stack(sounds), edges, phonemes, np.stack(mouths).astype(np.float32))

    def windows(
        self, voices: np.ndarray, instants: np.ndarray, each_side: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (k, 2 each_side + 1, samples), phonemes (k,) and mouths (k, 4) of voices (k,) at instants
        (k,) in seconds. All windows lie inside the sound.
        """
        middle = np.round(instants * SOUND_RATE).astype(int) - LENGTH // 2
        first = middle[:, None] + HOP * np.arange(-each_side, each_side + 1)
        samples = np.stack(
            [[self.sound[v, s : s + LENGTH] for s in starts] for v, starts in zip(voices, first, strict=True)]
        )
        numbers = [
            self.phonemes[v][np.searchsorted(self.edges[v], t, side="right").clip(max=len(self.edges[v]) - 1)]
            for v, t in zip(voices, instants, strict=True)
        ]
        mouth = self.mouth[voices, np.round(instants / 0.005).astype(int)]
        return torch.from_numpy(samples / 32768).float(), torch.tensor(numbers), torch.from_numpy(mouth)


class SpeechReader(nn.Module):
    """An encoder with linear heads for the phoneme and the mouth at the middle one of its windows."""

    def __init__(self, section: AudioEncoder):
        super().__init__()
        # windows beside the middle one that the encoder uses
        self.each_side = 0 if section.kind == "log_mel" else RECURRENT
        self.encoder = build_encoder(section)
        self.phonemes = nn.Linear(section.embedding, len(NAMES))
        self.mouth = nn.Linear(section.embedding, len(MOUTH))

    @property
    def margin(self) -> float:
        """Seconds of sound that the windows of an instant need on each side."""
        return LENGTH / 2 / SOUND_RATE + self.each_side / FPS

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (k, n, samples) -> logits (k, phonemes) and mouths (k, 4)."""
        embedding = self.encoder(sound)[:, self.each_side]
        return self.phonemes(embedding), self.mouth(embedding)


def augment(sound: Tensor, rng: np.random.Generator) -> Tensor:
    """Windows (k, n, samples) at another loudness, with white noise."""

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(np.exp(rng.uniform(np.log(low), np.log(high), (len(sound), 1, 1)))).float()

    noise = torch.from_numpy(rng.standard_normal(sound.shape, np.float32))
    return sound * draw(*GAIN) + noise * draw(*NOISE)


class AudioLearner:
    """The reader, its optimiser and the speech that it hears: everything that a checkpoint holds."""

    variant = "audio encoder"
    content_steps = 0

    def __init__(
        self,
        section: AudioEncoder,
        device: str | torch.device = "cpu",
        steps: int = STEPS,
        voices: int = VOICES,
    ):
        torch.manual_seed(SEED)
        self.device, self.step, self.total = device, 0, steps
        self.rng, self.speech = np.random.default_rng(SEED), Speech.of(TRAINING, voices, SECONDS)
        self.reader = SpeechReader(section).to(device).train()
        self.optimiser = torch.optim.AdamW(self.reader.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, LEARNING_RATE, total_steps=steps + 1
        )
        self.settings = {
            "version of the code": VERSION,
            "steps": steps,
            "voices": voices,
            "diffused.audio_encoder": section,
        }
        self.key = key_of(self.settings)

    def train_step(self) -> dict[str, float]:
        """Draw a batch of windows and update; returns the row of the log."""
        margin = self.reader.margin
        instants = self.rng.uniform(margin, SECONDS - 0.01 - margin, BATCH)
        voices = self.rng.integers(len(self.speech.sound), size=BATCH)
        sound, *targets = self.speech.windows(voices, instants, self.reader.each_side)
        phonemes, mouth = (target.to(self.device) for target in targets)
        logits, predicted = self.reader(augment(sound, self.rng).to(self.device))
        terms = {"phonemes": F.cross_entropy(logits, phonemes), "mouth": F.mse_loss(predicted, mouth)}
        self.optimiser.zero_grad()
        (terms["phonemes"] + MOUTH_WEIGHT * terms["mouth"]).backward()
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return read_row({"step": self.step - 1, **terms})

    def state(self, folder: Path) -> dict:
        """Everything that the next step depends on."""
        return {
            "key": self.key,
            "variant": self.variant,
            "step": self.step,
            "reader": self.reader.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": self.rng.bit_generator.state,
        }

    def restore(self, state: dict, folder: Path) -> None:
        """Continue from a state."""
        self.reader.load_state_dict(state["reader"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.bit_generator.state = state["rng"]
        self.step = state["step"]

    def steps_left(self, state: dict) -> int:
        """Steps that a saved training still has."""
        return self.total - state["step"]


def train_encoder(
    section: AudioEncoder,
    path: Path,
    folder: Path,
    command: str = "",
    device: str | torch.device = "cpu",
    steps: int = STEPS,
    voices: int = VOICES,
) -> dict[str, float]:
    """Train the encoder of a profile and write it to ``path``; returns :func:`measure_reader`'s result.

    Its checkpoints lie in ``folder``, from which an interrupted training goes on, until it is finished.
    """
    learner = AudioLearner(section, device, steps, voices)
    loop.train(learner, folder)
    result = measure_reader(learner.reader.cpu())
    metadata = {"command": command, "steps": steps, "result": result}
    save_weights(path, learner.reader.state_dict(), metadata, half=True)
    shutil.rmtree(folder)
    return result


@torch.no_grad()
def measure_reader(reader: SpeechReader) -> dict[str, float]:
    """Accuracy of phonemes and correlations of the mouth, at 25 frames a second of unheard voices."""
    speech = Speech.of(TEST, TEST_VOICES, TEST_SECONDS)
    margin = reader.margin + 0.02
    instants = np.arange(margin, TEST_SECONDS - margin, 0.04)
    voices = np.repeat(np.arange(TEST_VOICES), len(instants))
    sound, phonemes, mouth = speech.windows(voices, np.tile(instants, TEST_VOICES), reader.each_side)
    logits, predicted = reader.eval()(sound)
    correlations = [correlation(a, b) for a, b in zip(predicted.T.numpy(), mouth.T.numpy(), strict=True)]
    accuracy = (logits.argmax(1) == phonemes).float().mean().item()
    return {
        "phoneme accuracy": round(accuracy, 4),
        **{f"correlation of {name}": round(r, 4) for name, r in zip(MOUTH, correlations, strict=True)},
    }


def encoder_path(section: AudioEncoder) -> Path:
    """Where the committed weights of an encoder lie."""
    return WEIGHTS / f"audio_{section.kind}.safetensors"


def ensure_encoder(
    section: AudioEncoder,
    runs: Path,
    command: str = "",
    device: str | torch.device = "cpu",
    again: bool = False,
) -> dict[str, float]:
    """Train the encoder of a profile where its weights are missing, or ``again``.

    Of two processes the second one waits for the first. Checkpoints lie below ``runs``. Returns the result,
    or an empty one where nothing was trained.
    """
    path = encoder_path(section)
    if path.exists() and not again:
        return {}
    runs.mkdir(parents=True, exist_ok=True)
    with waiting_lock(runs):
        if path.exists() and not again:  # the first process trained it
            return {}
        return train_encoder(section, path, runs / "audio-encoder", command, device)


def load_reader(section: AudioEncoder) -> SpeechReader:
    """The trained encoder with its heads, frozen. Raises FileNotFoundError where its weights are missing."""
    path = encoder_path(section)
    if not path.exists():
        command = "python -m talking_heads audio-encoder --profile NAME"
        raise FileNotFoundError(f"{path}: no weights of the audio encoder; '{command}' trains this profile's")
    reader = SpeechReader(section)
    reader.load_state_dict(load_weights(path)[0])
    return reader.eval().requires_grad_(False)
