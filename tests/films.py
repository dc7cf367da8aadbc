"""Small videos as people really have them: any times, shapes, headers and sound, made by the tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48_000
TICK = Fraction(1, 1000)


def click(seconds: float, at: float) -> np.ndarray:
    """Silence of ``seconds`` with a loud click at ``at``: (samples,) int16."""
    sound = np.zeros(round(seconds * RATE), np.int16)
    first = round(at * RATE)
    sound[first : first + 480] = 20_000
    return sound


def heard_at(sound: np.ndarray, rate: int) -> float:
    """Seconds of a click."""
    loud = np.abs(sound.astype(float))
    return float(np.argmax(loud > 0.4 * loud.max()) / rate)


def film(
    path: Path,
    frames,
    times,
    sound: np.ndarray | None = None,
    sound_start: float = 0.0,
    codec: str = "libx264",
    rate=25,
    aspect: Fraction | None = None,
    pixels: str = "yuv420p",
    source: str = "rgb24",
    layout: str = "mono",
    container: str | None = None,
    options: dict | None = None,
) -> Path:
    """Write frames (H, W, 3 or 4) uint8 that are shown at ``times`` (seconds), and sound from
    ``sound_start`` on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path}", "w", format=container) as file:
        video = file.add_stream(
            codec,
            rate=rate,
            options=options or ({"crf": "1", "preset": "ultrafast"} if codec == "libx264" else {}),
        )
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], pixels
        video.codec_context.time_base = video.time_base = TICK
        if pixels == "yuva420p":
            video.metadata["alpha_mode"] = "1"
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        audio = None
        if sound is not None:
            audio = file.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=RATE, layout=layout)
        for image, seconds in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=source)
            frame.pts, frame.time_base = round(seconds / TICK), TICK
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio is not None:
            resampler = av.AudioResampler(format=audio.format, layout=layout, rate=RATE)
            for first in range(0, len(sound), 1024):
                frame = av.AudioFrame.from_ndarray(
                    sound[None, first : first + 1024], format="s16", layout="mono"
                )
                frame.sample_rate, frame.pts, frame.time_base = (
                    RATE,
                    first + round(sound_start * RATE),
                    Fraction(1, RATE),
                )
                for part in resampler.resample(frame):
                    file.mux(audio.encode(part))
            file.mux(audio.encode(None))
    return path
