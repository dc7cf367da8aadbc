"""The speech of a speaker: a sequence of phonemes, the movement of the mouth, and the sound.

The sound is a source-filter model: a pulse train or noise, shaped in the short-time Fourier domain by three
formants (Fant 1960; formant frequencies are textbook averages of adult speakers).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import istft, stft

RATE = 16_000  # samples per second
TRACK_RATE = 200  # control points per second


@dataclass(frozen=True)
class Phoneme:
    """Articulation of one phoneme."""

    formants: tuple[float, float, float]  # hertz, for a vocal tract of mean length
    voice: float  # amplitude of the pulse train
    noise: float  # amplitude of the noise
    noise_centre: float  # of the noise band, hertz
    seconds: float
    jaw: float  # opening, 0 to 1
    wide: float  # spread lips, -1 to 1
    round: float  # rounded and protruded, 0 to 1
    press: float  # lips pressed together, 0 to 1


VOWELS = {
    "a": Phoneme((750, 1250, 2550), 1.0, 0, 0, 0.14, 1.00, 0.2, 0.0, 0),
    "ae": Phoneme((680, 1700, 2500), 1.0, 0, 0, 0.13, 0.80, 0.5, 0.0, 0),
    "e": Phoneme((500, 1850, 2550), 0.9, 0, 0, 0.12, 0.50, 0.6, 0.0, 0),
    "i": Phoneme((290, 2250, 3000), 0.8, 0, 0, 0.12, 0.20, 1.0, 0.0, 0),
    "o": Phoneme((480, 900, 2450), 0.9, 0, 0, 0.13, 0.55, -0.4, 0.8, 0),
    "u": Phoneme((320, 800, 2300), 0.8, 0, 0, 0.12, 0.22, -0.6, 1.0, 0),
    "uh": Phoneme((600, 1200, 2450), 0.9, 0, 0, 0.09, 0.50, 0.0, 0.1, 0),
    "er": Phoneme((480, 1350, 1700), 0.8, 0, 0, 0.11, 0.35, -0.1, 0.4, 0),
}
CONSONANTS = {
    "m": Phoneme((250, 1000, 2200), 0.45, 0, 0, 0.08, 0.0, 0.0, 0.0, 1),
    "b": Phoneme((250, 900, 2200), 0.25, 0.10, 800, 0.07, 0.0, 0.0, 0.1, 1),
    "p": Phoneme((300, 900, 2200), 0.0, 0.30, 1000, 0.09, 0.0, 0.0, 0.1, 1),
    "f": Phoneme((300, 1200, 2400), 0.0, 0.30, 5000, 0.10, 0.08, 0.2, 0.0, 0.6),
    "v": Phoneme((300, 1200, 2400), 0.35, 0.15, 5000, 0.07, 0.08, 0.2, 0.0, 0.6),
    "s": Phoneme((300, 1700, 2600), 0.0, 0.45, 6200, 0.11, 0.10, 0.6, 0.0, 0),
    "z": Phoneme((300, 1700, 2600), 0.30, 0.30, 6200, 0.09, 0.10, 0.6, 0.0, 0),
    "sh": Phoneme((300, 1700, 2500), 0.0, 0.50, 3200, 0.11, 0.15, -0.3, 0.7, 0),
    "t": Phoneme((300, 1700, 2600), 0.0, 0.35, 4500, 0.07, 0.12, 0.3, 0.0, 0),
    "d": Phoneme((300, 1700, 2600), 0.25, 0.15, 4000, 0.06, 0.14, 0.2, 0.0, 0),
    "n": Phoneme((280, 1600, 2600), 0.45, 0, 0, 0.07, 0.14, 0.2, 0.0, 0),
    "l": Phoneme((350, 1200, 2700), 0.6, 0, 0, 0.07, 0.30, 0.2, 0.0, 0),
    "k": Phoneme((300, 1900, 2300), 0.0, 0.35, 2500, 0.08, 0.25, 0.1, 0.0, 0),
    "g": Phoneme((300, 1900, 2300), 0.25, 0.20, 2200, 0.07, 0.25, 0.1, 0.0, 0),
    "r": Phoneme((350, 1200, 1600), 0.6, 0, 0, 0.07, 0.20, -0.2, 0.5, 0),
    "w": Phoneme((300, 700, 2200), 0.6, 0, 0, 0.07, 0.12, -0.5, 1.0, 0),
}
SILENCE = Phoneme((500, 1500, 2500), 0, 0, 0, 0.2, 0.02, 0.0, 0.0, 0.15)
PHONEMES = {**VOWELS, **CONSONANTS, "_": SILENCE}


class Segment(NamedTuple):
    """A phoneme of an utterance."""

    phoneme: str
    start: float  # seconds
    end: float


def utterance(rng: np.random.Generator, seconds: float) -> list[Segment]:
    """Draw words of one to three syllables with short pauses, for at least ``seconds`` seconds."""
    segments: list[Segment] = []
    pace = rng.uniform(0.85, 1.2)

    def append(name: str, length: float) -> None:
        start = segments[-1].end if segments else 0.0
        segments.append(Segment(name, start, start + length))

    append("_", rng.uniform(0.0, 0.25))
    vowels, consonants = list(VOWELS), list(CONSONANTS)
    while segments[-1].end < seconds:
        for _ in range(rng.integers(1, 4)):
            if rng.random() < 0.9:
                name = consonants[rng.integers(len(consonants))]
                append(name, PHONEMES[name].seconds / pace * rng.uniform(0.85, 1.2))
            name = vowels[rng.integers(len(vowels))]
            append(name, PHONEMES[name].seconds / pace * rng.uniform(0.85, 1.5))
            if rng.random() < 0.3:
                name = consonants[rng.integers(len(consonants))]
                append(name, PHONEMES[name].seconds / pace)
        if rng.random() < 0.35:
            append("_", rng.uniform(0.08, 0.40))
    return segments


def _tracks(segments: list[Segment], columns: list[str], seconds: float, smooth: float) -> np.ndarray:
    """Fields of the phonemes at ``TRACK_RATE``, smoothed over ``smooth`` seconds: (len(columns), n)."""
    n = int(np.ceil(seconds * TRACK_RATE)) + 1
    edges = np.array([s.end for s in segments])
    index = np.searchsorted(edges, np.arange(n) / TRACK_RATE, side="right").clip(max=len(segments) - 1)
    values = np.array([[getattr(PHONEMES[s.phoneme], c) for s in segments] for c in columns], np.float64)
    return gaussian_filter1d(values[:, index], smooth * TRACK_RATE, axis=1, mode="nearest")


def mouth_track(segments: list[Segment], times: np.ndarray, energy: float) -> dict[str, np.ndarray]:
    """The mouth at ``times`` (n,) in seconds: jaw_open, mouth_wide, mouth_round, lip_press, each (n,).

    Coarticulation is a blur of 35 ms; the lips still close completely on m, b and p.
    """
    tracks = _tracks(segments, ["jaw", "wide", "round", "press"], float(times.max()) + 0.1, 0.035)
    grid = np.arange(tracks.shape[1]) / TRACK_RATE
    jaw, wide, rounded, press = (np.interp(times, grid, track) for track in tracks)
    press = np.clip(1.6 * press, 0, 1)
    jaw = np.clip(jaw * 1.15 * energy * (1 - press), 0, 1)
    return {"jaw_open": jaw, "mouth_wide": wide, "mouth_round": np.clip(rounded, 0, 1), "lip_press": press}


def synthesise(
    segments: list[Segment], seconds: float, pitch: float, tract: float, rng: np.random.Generator
) -> np.ndarray:
    """Synthesise the sound of an utterance: (n,) float32 in [-1, 1] at 16 kHz, n = round(seconds * RATE).

    ``pitch`` is in hertz. ``tract`` is the relative length of the vocal tract, by which formants are divided.
    """
    n = round(seconds * RATE)
    voice, noise, noise_centre = _tracks(segments, ["voice", "noise", "noise_centre"], seconds, 0.010)
    values = np.array([PHONEMES[s.phoneme].formants for s in segments]).T
    edges = np.array([s.end for s in segments])
    grid = np.arange(len(voice)) / TRACK_RATE
    index = np.searchsorted(edges, grid, side="right").clip(max=len(segments) - 1)
    formants = gaussian_filter1d(values[:, index], 0.025 * TRACK_RATE, axis=1, mode="nearest") / tract
    # source: pulses at a slowly varying pitch, and noise
    drift = gaussian_filter1d(rng.standard_normal(len(grid)), 0.15 * TRACK_RATE) * 1.8
    f0 = pitch * 2 ** (np.clip(drift, -0.35, 0.35) - 0.10 * grid / max(seconds, 0.1))
    time = np.arange(n) / RATE
    phase = np.cumsum(np.interp(time, grid, f0)) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = {"voice": pulses * np.sqrt(RATE / pitch) * 0.25, "noise": rng.standard_normal(n) * 0.25}
    hop = RATE // TRACK_RATE
    spectra = {}
    for name, wave in source.items():
        frequencies, instants, spectra[name] = stft(wave, RATE, nperseg=4 * hop, noverlap=3 * hop)
    f = frequencies[:, None]

    def resample(track: np.ndarray) -> np.ndarray:
        return np.interp(instants, grid, track)[None]

    # filter: three formants of the voice, one band of the noise
    gain = np.zeros((len(f), len(instants)))
    for formant, (width, level) in zip(formants, ((90, 1.0), (120, 0.55), (180, 0.28)), strict=True):
        gain += level / (1 + ((f - resample(formant)) / width) ** 2)
    band = np.exp(-(((f - np.clip(resample(noise_centre), 500, None)) / 1400) ** 2))
    voiced = resample(voice) * gain * spectra["voice"]
    spectrum = voiced + resample(noise) * band * spectra["noise"]
    _, wave = istft(spectrum, RATE, nperseg=4 * hop, noverlap=3 * hop)
    wave = np.pad(wave, (0, max(0, n - len(wave))))[:n]
    return (0.7 * wave / max(np.abs(wave).max(), 1e-6)).astype(np.float32)
