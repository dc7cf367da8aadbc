"""Sound of a file as one track on the clock of its frames."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from .decoding import Scan, decode_packets, open_file, sound_stream

SOUND_RATE = 16_000
ALIGNED = 0.02  # seconds that sound may lie off the clock before silence is put in or sound is cut


def fault_of_sound(path: Path) -> str:
    """ "" for a file whose sound can be decoded, else why not. Raises what :func:`open_file` does."""
    with open_file(path) as container:
        if not container.streams.audio:
            return "no sound"
        stream = sound_stream(container)
        decoded = stream is not None and next(_sound_frames(container, stream), None) is not None
        return "" if decoded else "sound that cannot be decoded"


def read_sound(
    path: Path, rate: int = SOUND_RATE, start: float = 0.0, end: float = np.inf
) -> np.ndarray | None:
    """(samples,) int16 at ``rate`` Hz, mono, from ``start`` to at most ``end`` seconds after it, on the
    file's own clock.

    Sound that starts late or pauses is preceded by silence, sound before ``start`` is cut. None where there
    is none. Raises MemoryError, and what :func:`open_file` does.
    """
    pieces: list[tuple[int, np.ndarray]] = []  # (first sample, samples)
    run: _SoundRun | None = None
    with open_file(path) as container:
        stream = sound_stream(container)
        for frame in [] if stream is None else _sound_frames(container, stream):
            base = frame.time_base or stream.time_base
            seconds = run.next if frame.pts is None and run else float((frame.pts or 0) * base)
            if seconds - start > end:
                break
            if run is None or not run.takes(frame, seconds):
                pieces += run.finish() if run else []
                run = _SoundRun(frame, seconds, rate, start)
            pieces += run.add(frame)
    pieces += run.finish() if run else []
    length = max((first + len(samples) for first, samples in pieces), default=0)
    if length <= 0:
        return None
    sound = np.zeros(min(length, int(end * rate)) if np.isfinite(end) else length, np.int16)
    for first, samples in pieces:
        visible = samples[max(0, -first) :][: max(0, len(sound) - max(0, first))]
        sound[max(0, first) : max(0, first) + len(visible)] = visible
    return sound


def _sound_frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded sound; packets that cannot be decoded are passed over. Raises MemoryError."""
    for frames in decode_packets(container, stream, stream.codec_context, Scan()):
        yield from frames or ()


class _SoundRun:
    """Sound frames of one format that follow one another, resampled together."""

    def __init__(self, frame: av.AudioFrame, seconds: float, rate: int, start: float):
        self.layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        self.begin, self.heard = seconds, 0
        self.position = round((seconds - start) * rate)

    @property
    def next(self) -> float:
        return self.begin + self.heard / self.layout[2]

    def takes(self, frame: av.AudioFrame, seconds: float) -> bool:
        """Whether the frame at ``seconds`` continues this run."""
        return (frame.format.name, frame.layout.name, frame.sample_rate) == self.layout and abs(
            seconds - self.next
        ) < ALIGNED

    def add(self, frame: av.AudioFrame) -> list[tuple[int, np.ndarray]]:
        self.heard += frame.samples
        frame.pts = None
        return self._placed(self.resampler.resample(frame))

    def finish(self) -> list[tuple[int, np.ndarray]]:
        return self._placed(self.resampler.resample(None))

    def _placed(self, frames: list[av.AudioFrame]) -> list[tuple[int, np.ndarray]]:
        placed = []
        for frame in frames:
            samples = frame.to_ndarray()[0]
            placed.append((self.position, samples))
            self.position += len(samples)
        return placed
