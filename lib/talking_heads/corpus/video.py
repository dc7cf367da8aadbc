"""Video files through PyAV: reading frames and 16 kHz sound, writing without loss."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SOUND_RATE = 16_000
MOST = 8 * 2**30  # bytes of a video's frames in memory
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class UnreadableVideo(ValueError):
    """The file gives no frames; the message says why."""


@dataclass
class Video:
    frames: list[np.ndarray]  # (H, W, 3) uint8, RGB
    fps: float
    sound: np.ndarray | None  # (samples,) int16 at 16 kHz
    note: str  # what is odd about it, "" if nothing
    at: np.ndarray | None = None  # (n,) the frames' numbers in the file, where some are left out

    @property
    def numbers(self) -> np.ndarray:
        """(n,) the frames' numbers in the file."""
        return np.arange(len(self.frames)) if self.at is None else self.at


def read(path: Path, sound: bool = True) -> Video:
    """All frames of a video, and its sound at 16 kHz, mono. Raises :class:`UnreadableVideo`, also where memory would not hold them."""
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty file")
    notes = []
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"not a readable video ({type(error).__name__})") from error
    with container:
        if not container.streams.video:
            raise UnreadableVideo("no video stream")
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 25)
        stream.thread_type = "AUTO"
        frames: list[np.ndarray] = []
        at, damaged = [], 0
        try:
            for number, frame in enumerate(container.decode(stream)):
                if frame.is_corrupt:  # the decoder filled it up from its neighbours
                    damaged += 1
                    continue
                at.append(number)
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))  # as a telephone means it
                frames.append(np.ascontiguousarray(upright))
                if len(frames) * frames[0].nbytes > MOST:
                    height, width = frames[0].shape[:2]
                    raise UnreadableVideo(f"more than {len(frames) - 1} frames of {width}×{height} do not fit into memory; cut it into shorter clips or scale it down")
        except (av.FFmpegError, OSError) as error:
            notes.append(f"damaged after frame {len(frames)} ({type(error).__name__})")
        if damaged:
            notes.append(f"{damaged} damaged frames, which are left out")
        expected = stream.frames
        if expected and len(frames) < expected and not notes:
            notes.append(f"truncated: {len(frames)} of {expected} frames")
    if not frames:
        raise UnreadableVideo("; ".join(notes) or "no frame can be decoded")
    wave = read_sound(path) if sound else None
    if sound and wave is None:
        notes.append("no sound")
    return Video(frames, fps, wave, "; ".join(notes), np.array(at) if damaged else None)


def read_sound(path: Path, rate: int = SOUND_RATE) -> np.ndarray | None:
    """(samples,) int16 at ``rate`` Hz, mono; None where there is none."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return None
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            parts = []
            for frame in container.decode(container.streams.audio[0]):
                parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
            parts += [f.to_ndarray()[0] for f in resampler.resample(None)]
    except (av.FFmpegError, OSError):
        return None
    return np.concatenate(parts) if parts else None


def write(path: Path, frames: np.ndarray, fps: float, sound: np.ndarray | None = None, lossless: bool = True, comment: str = "",
          rate: int = SOUND_RATE) -> None:
    """Write (n, H, W, 3) uint8 frames, with (samples,) float sound at ``rate`` Hz, as mp4 (by rename).

    Lossless is H.264 on RGB planes and FLAC; otherwise H.264 4:2:0 and AAC, which every browser plays. ``comment`` goes into
    the file's metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.mp4")
    with av.open(str(temporary), "w", format="mp4") as container:
        if comment:
            container.metadata["comment"] = comment
        if lossless:
            video = container.add_stream("libx264rgb", rate=Fraction(fps).limit_denominator(1000), options={"crf": "0", "preset": "ultrafast"})
            video.pix_fmt = "rgb24"
        else:
            video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16"})
            video.pix_fmt = "yuv420p"
        video.height, video.width = frames.shape[1:3]
        audio = None
        if sound is not None and len(sound):
            audio = container.add_stream("flac" if lossless else "aac", rate=rate, layout="mono")
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            samples = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            resampler = av.AudioResampler(format=audio.format, layout="mono", rate=rate)
            for start in range(0, len(samples), 1024):
                frame = av.AudioFrame.from_ndarray(samples[None, start:start + 1024], format="s16", layout="mono")
                frame.sample_rate, frame.pts = rate, start
                for part in resampler.resample(frame):
                    container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    temporary.replace(path)
