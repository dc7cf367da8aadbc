"""The sound of a file as one track on the clock of its frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from talking_heads.data.decoding import Scan, decode_packets, open_file, sound_stream

SOUND_RATE = 16_000  # Hz
FPS = 25.0  # frames a second of talking clips
HOP = round(SOUND_RATE / FPS)  # samples of a frame
ALIGNED = 0.02  # seconds by which sound may deviate from the clock before it is moved


def to_int16(sound: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as int16; int16 stays as it is."""
    if sound.dtype == np.int16:
        return sound
    return (np.clip(sound, -1, 1) * 32767).astype(np.int16)


def start_of(path: Path) -> float:
    """Seconds on the clock of a file at which it starts. Raises what :func:`open_file` does."""
    with open_file(path) as container:
        return (container.start_time or 0) / av.time_base


def fault_of_sound(path: Path) -> str:
    """Why the sound of a file cannot be decoded, "" where it can. Raises what :func:`open_file` does."""
    with open_file(path) as container:
        if not container.streams.audio:
            return "no sound"
        stream = sound_stream(container)
        decoded = stream is not None and next(_sound_frames(container, stream), None) is not None
        return "" if decoded else "sound that cannot be decoded"


def read_sound(
    path: Path, rate: int = SOUND_RATE, start: float = 0.0, end: float = np.inf
) -> np.ndarray | None:
    """Read the sound of a file as (samples,) int16 at ``rate`` Hz, mono; None where there is none.

    The track begins at ``start`` seconds on the clock of the file and has at most ``end`` seconds. Gaps are
    filled with silence, sound before ``start`` is dropped. Raises MemoryError, and what :func:`open_file`
    does.
    """
    pieces: list[tuple[int, np.ndarray]] = []  # (position of the first sample, samples)
    run: _SoundRun | None = None
    with open_file(path) as container:
        stream = sound_stream(container)
        for frame in [] if stream is None else _sound_frames(container, stream):
            base: Any = frame.time_base or getattr(stream, "time_base", None)
            seconds = run.next if frame.pts is None and run else float((frame.pts or 0) * base)
            if seconds - start > end:
                break
            if run is None or not run.continues(frame, seconds):
                pieces += run.finish() if run else []
                run = _SoundRun(frame, seconds, rate, start)
            pieces += run.add(frame)
    pieces += run.finish() if run else []
    length = max((first + len(samples) for first, samples in pieces), default=0)
    if length <= 0:
        return None
    sound = np.zeros(min(length, int(end * rate)) if np.isfinite(end) else length, np.int16)
    for first, samples in pieces:
        position = max(0, first)
        audible = samples[max(0, -first) :][: max(0, len(sound) - position)]
        sound[position : position + len(audible)] = audible
    return sound


def _sound_frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded sound, without the packets that cannot be decoded. Raises MemoryError."""
    for frames in decode_packets(container, stream, stream.codec_context, Scan()):
        yield from frames or ()


class _SoundRun:
    """Consecutive sound frames of one format, which are resampled together."""

    def __init__(self, frame: av.AudioFrame, seconds: float, rate: int, start: float):
        self.layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        self.start, self.samples = seconds, 0  # samples at the rate of the file
        self.position = round((seconds - start) * rate)  # in samples of the track

    @property
    def next(self) -> float:
        """Seconds at which the next frame is expected."""
        return self.start + self.samples / self.layout[2]

    def continues(self, frame: av.AudioFrame, seconds: float) -> bool:
        """Whether the frame at ``seconds`` continues this run."""
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        return layout == self.layout and abs(seconds - self.next) < ALIGNED

    def add(self, frame: av.AudioFrame) -> list[tuple[int, np.ndarray]]:
        """Resample a frame; returns pieces of the track as (position, samples)."""
        self.samples += frame.samples
        frame.pts = None
        return self._pieces(self.resampler.resample(frame))

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """The remaining pieces at the end of the run."""
        return self._pieces(self.resampler.resample(None))

    def _pieces(self, frames: list[av.AudioFrame]) -> list[tuple[int, np.ndarray]]:
        pieces = []
        for frame in frames:
            samples = frame.to_ndarray()[0]
            pieces.append((self.position, samples))
            self.position += len(samples)
        return pieces
