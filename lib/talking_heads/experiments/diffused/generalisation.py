"""Figure 6 (section 5.5): other voices and other languages.

espeak-ng returns the phonemes that it speaks. The true mouth is that of a procedural speaker who is rendered
with the same phonemes. Faces from outside the corpus are measured by dlib. The paper's figure has no numbers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import FPS, SOUND_RATE
from talking_heads.data.speakers import espeak
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.speech import Segment, mouth_track
from talking_heads.data.speakers.talking import SEED, phonemes_of
from talking_heads.data.windows import TalkingClips
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.diffused.audio_pretraining import MOUTH, SpeechReader, load_reader
from talking_heads.diffused.generation import clip_seeds
from talking_heads.experiments.diffused.clip_metrics import LMD
from talking_heads.experiments.diffused.weights import Model
from talking_heads.judges.use import find_landmarks
from talking_heads.metrics import lip_sync, recogniser
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.sections.diffused import Diffused

VERSION = 1  # raised when the same clips give other values
CORPUS = "another speaker of the corpus"
HEARD = "jaw, from sound alone"  # correlation of what the audio encoder's reader hears with the true jaw
METRICS = ("mouth opening", "mouth width", LMD, HEARD)
TABLE = "voices"  # name of the table of single identities
FACES = "outside_faces"  # name of the table of :func:`measure_faces`
ANIMATED = "mouth opening, by dlib"  # its metric
READABLE, FOLLOWED = 0.5, 0.3  # of true clips and of generated faces of the corpus, for voices to be compared
ENLARGED = 4  # times, for dlib, which finds no faces that are as small as those of the small profiles
LARGE = 128  # pixels of a side of frames that are not enlarged
FIRST = 11_000_000  # identity of the speakers, who are in no corpus and no pool


class Voice(NamedTuple):
    """A sound, and what is said in it."""

    name: str
    sound: np.ndarray  # (samples,) int16 at 16 kHz
    segments: list[Segment]


def voices(clips: TalkingClips, number: int, seconds: float) -> list[Voice]:
    """The voice of a clip of procedural speakers, and one of every language, where espeak-ng is installed.

    A language that this espeak-ng cannot speak is left out, which is printed.
    """
    own = Voice(CORPUS, clips.sound(number), phonemes_of(clips.identity(number), seconds))
    found = [own]
    for name, (code, text) in espeak.SENTENCES.items() if espeak.is_installed() else ():
        try:
            found.append(Voice(name, *espeak.speak(text, code)))
        except ValueError as error:
            print(f"{name}: left out, {error}")
    return found


def unseen_speakers(count: int) -> list[str]:
    """Identities of procedural speakers that no network and no earlier measurement has seen."""
    return [f"id{FIRST + number}" for number in range(count)]


def true_clip(identity: str, voice: Voice, frames: int, section: Diffused) -> tuple[np.ndarray, np.ndarray]:
    """The first frame (S, S, 3) uint8 of a procedural speaker who says this, and all landmarks
    (frames, 68, 2).
    """
    settings = _clip_settings(identity, frames, section)
    clip = make_clip(settings, sound=False, only=np.arange(1), segments=voice.segments)
    return clip.frames[0], clip.landmarks


def true_frames(identity: str, voice: Voice, frames: int, section: Diffused) -> np.ndarray:
    """All frames (frames, S, S, 3) uint8 of a procedural speaker who says this."""
    settings = _clip_settings(identity, frames, section)
    return make_clip(settings, sound=False, segments=voice.segments).frames


def _clip_settings(identity: str, frames: int, section: Diffused) -> ClipSettings:
    number = int(identity.removeprefix("id"))
    return ClipSettings(SEED, number, 0, frames, FPS, section.clips.image_size, section.clips.corpus)


def heard_correlation(reader: SpeechReader, voice: Voice, frames: int) -> float:
    """The correlation of the jaw opening that the reader predicts from sound with the true one."""
    embeddings = embed_clip(reader.encoder, voice.sound, frames, reader.each_side)
    with torch.no_grad():
        mouth = reader.mouth(embeddings[:, reader.each_side]).numpy()
    true = mouth_track(voice.segments, np.arange(frames) / FPS, energy=1.0)["jaw_open"]
    return lip_sync.track_correlation(mouth[:, MOUTH.index("jaw_open")], true)


def speak(
    model: Model, faces: Sequence[np.ndarray], sounds: Sequence[np.ndarray], frames: int, seed: int
) -> np.ndarray:
    """Clips (B, frames, S, S, 3) uint8 of faces (S, S, 3) uint8, each with its sound (samples,) int16.

    Clips are generated in batches of the same size as in an evaluation.
    """
    seeds, batch = clip_seeds(seed, range(len(faces))), model.generator.section.protocol.batch
    parts = [slice(first, first + batch) for first in range(0, len(faces), batch)]
    return np.concatenate([_speak(model, faces[p], sounds[p], frames, seeds[p]) for p in parts])


def _speak(
    model: Model, faces: Sequence[np.ndarray], sounds: Sequence[np.ndarray], frames: int, seeds: list[int]
) -> np.ndarray:
    each_side = model.generator.section.conditions.audio_windows
    device = next(model.generator.unet.parameters()).device
    audio = [embed_clip(model.encoder, sound, frames, each_side, device) for sound in sounds]
    identity = to_tensor(np.stack(faces), device)
    generated = model.generator.talk(identity, torch.stack(audio), seeds)
    return np.stack([to_image(frame) for frame in generated], 1)


def measure(
    model: Model, identities: Sequence[str], spoken: Sequence[Voice], seconds: float, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Lips of generated clips, with every voice, against those of a speaker who says the same.

    Returns rows (voice, identity, ``METRICS``) and the clips (voices, identities, n, S, S, 3) uint8, of
    ``seconds`` or as long as the shortest sound.
    """
    section = model.generator.section
    frames = min(round(seconds * FPS), *(int(len(voice.sound) / SOUND_RATE * FPS) for voice in spoken))
    reader = load_reader(section.audio_encoder)
    heard = {voice.name: heard_correlation(reader, voice, frames) for voice in spoken}
    pairs = [(voice, identity) for voice in spoken for identity in identities]
    truth = [true_clip(identity, voice, frames, section) for voice, identity in pairs]
    clips = speak(model, [face for face, _ in truth], [voice.sound for voice, _ in pairs], frames, seed)
    device, rows = next(model.generator.unet.parameters()).device, []
    for (voice, identity), (_, points), clip in zip(pairs, truth, clips, strict=True):
        found = find_landmarks(clip, device)
        values = [
            lip_sync.track_correlation(track(found), track(points))
            for track in (lip_sync.mouth_opening, lip_sync.mouth_width)
        ]
        values += [float(lip_sync.landmark_distance(found, points).mean()), heard[voice.name]]
        rows.append({"voice": voice.name, "identity": identity, **dict(zip(METRICS, values, strict=True))})
    return pd.DataFrame(rows), clips.reshape(len(spoken), len(identities), *clips.shape[1:])


def measure_faces(
    clips: Mapping[str, Sequence[np.ndarray]],
    true_clips: Mapping[str, Sequence[np.ndarray]],
    spoken: Sequence[Voice],
    outside: Collection[str],
) -> pd.DataFrame:
    """How closely mouths follow what is said, on faces on which the judges were not trained.

    ``clips`` are those generated of every face, (n, S, S, 3) uint8 for each of the voices; ``true_clips``, of
    faces of the corpus, are the control of what dlib can read; ``outside`` names the faces from outside the
    corpus. dlib's landmarks give the opening of the mouth, which is correlated with the jaw of what is said;
    it is 0 where no face is found in half of the frames. Columns identity, voice, outside, "true clip",
    ``ANIMATED`` and "found", the share of frames with a face. Raises FileNotFoundError where dlib is missing.
    """
    detect, rows = recogniser.landmark_network(), []
    for is_true, of_kind in ((False, clips), (True, true_clips)):
        for face, of_voices in of_kind.items():
            for voice, frames in zip(spoken, of_voices, strict=True):
                row = {
                    "identity": face,
                    "voice": voice.name,
                    "outside": face in outside,
                    "true clip": is_true,
                }
                rows.append(
                    row | dict(zip((ANIMATED, "found"), _follows(detect, frames, voice), strict=True))
                )
    return pd.DataFrame(rows)


def _follows(detect: Callable, frames: np.ndarray, voice: Voice) -> tuple[float, float]:
    """The two values of :func:`measure_faces` for a clip (n, S, S, 3) uint8."""
    scale = ENLARGED if frames.shape[1] < LARGE else 1
    enlarged = [cv2.resize(frame, None, fx=scale, fy=scale) for frame in frames]
    opening = lip_sync.mouth_opening(detect(enlarged)[0])
    found = np.isfinite(opening)
    jaw = mouth_track(voice.segments, np.arange(len(frames)) / FPS, energy=1.0)["jaw_open"]
    share = float(found.mean())
    return (lip_sync.track_correlation(opening[found], jaw[found]) if share >= 0.5 else 0.0), share


def readable_voices(rows: pd.DataFrame) -> list[str]:
    """The voices of :func:`measure_faces` for which dlib reads the mouths of true clips: a mean of at least
    ``READABLE``.
    """
    return _voices_above(rows[rows["true clip"]], READABLE)


def comparable_voices(rows: pd.DataFrame) -> list[str]:
    """The readable voices that generated faces of the corpus follow, too, by a mean of at least ``FOLLOWED``:
    where they do not, to be no worse than they are means nothing.
    """
    followed = _voices_above(rows[~rows["true clip"] & ~rows["outside"]], FOLLOWED)
    return [voice for voice in readable_voices(rows) if voice in followed]


def _voices_above(rows: pd.DataFrame, least: float) -> list[str]:
    means = rows.groupby("voice", sort=False)[ANIMATED].mean()
    return list(means.index[means >= least])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over identities, with intervals: a row for every voice and metric."""
    lines = []
    for voice, of_voice in rows.groupby("voice", sort=False):
        for metric in METRICS:
            estimate = mean_estimate(of_voice[metric].to_numpy())
            line = {"voice": voice, "metric": metric, "value": estimate.value}
            lines.append(
                line | {"ci_low": estimate.low, "ci_high": estimate.high, "n_identities": len(of_voice)}
            )
    return pd.DataFrame(lines)
