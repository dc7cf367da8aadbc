"""Video files: frames with their times, sound on the same clock, and writing.

The clock of a video starts with its first frame. Times are those that the streams state, never a frame's
number over a nominal rate: a rate may vary, be missing or be wrong, and sound may start before or after the
pictures.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from ..files import replacing
from .decoding import Scan, Shape, UnreadableVideo, check_memory, decode, open_file, video_stream
from .sound import SOUND_RATE, fault_of_sound, read_sound

VIDEO_SUFFIXES = set(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".qt",
        ".avi",
        ".mkv",
        ".webm",
        ".mpg",
        ".mpeg",
        ".mpe",
        ".m2v",
        ".ts",
        ".mts",
        ".m2ts",
        ".vob",
        ".flv",
        ".f4v",
        ".wmv",
        ".asf",
        ".3gp",
        ".3g2",
        ".ogv",
        ".ogm",
        ".mxf",
        ".divx",
        ".dv",
        ".rm",
        ".rmvb",
        ".y4m",
        ".mjpeg",
        ".mjpg",
        ".gif",
    ]
)
CONTAINERS = {
    ".mp4": ("mp4", "libx264", "aac"),
    ".m4v": ("mp4", "libx264", "aac"),
    ".mov": ("mov", "libx264", "aac"),
    ".mkv": ("matroska", "libx264", "aac"),
    ".webm": ("webm", "libvpx-vp9", "libopus"),
}
# bytes of decoded frames that a video may hold; a larger one is decoded again where it is read again
CACHE = 128 * 2**20
SOUND_AFTER = 60.0  # seconds of sound that are read beyond the last frame
ASSUMED_RATE = 25.0  # frames a second where the file states neither times nor a rate
FASTEST = 120.0  # frames a second of the clock of a video whose rate varies
# containers without times, for which FFmpeg assumes 25 frames a second
RAW = {"h264", "hevc", "vvc", "mjpeg", "m4v", "mpegvideo", "h263", "h261", "dirac", "vc1", "cavsvideo", "obu"}


@dataclass
class Video:
    """A whole video in memory."""

    frames: list[np.ndarray]  # (H, W, 3) uint8, RGB
    fps: float
    sound: np.ndarray | None  # (samples,) int16 at 16 kHz, from the first frame on
    note: str  # what is odd about it, "" if nothing


def open_video(path: Path) -> "VideoFile":
    """One pass over a video: its times, sizes and faults; its frames too, where they are few.

    Raises :class:`UnreadableVideo` where no frame can be decoded, and MemoryError.
    """
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty file")
    scan, cache, held = Scan(), {}, 0
    with open_file(path) as container:
        stream = video_stream(container)
        header = float(stream.average_rate or stream.guessed_rate or 0)
        for number, (frame, whole) in enumerate(decode(container, stream, scan)):
            if not number:
                shape = Shape.of(frame, stream)
            scan.add(frame, whole, stream, shape)
            if whole and cache is not None:
                cache[number] = shape.picture(frame)
                held += cache[number].nbytes
                if held > CACHE:
                    cache = None
        stored, stated = stream.frames, _stated_end(container, stream)
        raw = container.format.name in RAW
    if not any(scan.whole):
        raise UnreadableVideo(scan.broken_off or "no frame can be decoded")

    whole, sizes = np.array(scan.whole), np.array(scan.sizes)
    common, counts = np.unique(sizes[whole], axis=0, return_counts=True)
    size = common[counts.argmax()]
    aspect = sizes[:, 0] / sizes[:, 1] / (size[0] / size[1])
    usable = whole & (np.abs(np.log(aspect)) < 0.02)
    scaled = (sizes != size).any(1)
    ordered = None if raw else _in_order(scan.times)
    timed = ordered is not None
    if not timed:
        ordered = np.arange(len(whole)) / (header or ASSUMED_RATE)
    times = ordered - ordered[0]
    fps, constant = _rate(times, header)

    notes = []
    if scan.broken_off:
        notes.append(f"damaged after frame {len(whole)} ({scan.broken_off})")
    if damaged := scan.errors + int((~whole).sum()):
        notes.append(f"{damaged} damaged frames, which are left out")
    if stated - scan.end > 1.5 / fps and not notes and (stored > scan.packets or not stored):
        rest = (
            f"{scan.packets} of {stored} frames"
            if stored
            else f"it ends after {scan.end:.1f} of {stated:.1f} seconds"
        )
        notes.append(f"truncated: {rest}")
    if others := int((whole & ~usable).sum()):
        notes.append(f"{others} frames of another shape than {size[1]}×{size[0]}, which are left out")
    if changed := int((usable & scaled).sum()):
        notes.append(f"{changed} frames of another size than {size[1]}×{size[0]}")
    if shape.pixel_aspect != 1:
        notes.append(
            f"pixels are not square ({shape.pixel_aspect:.3f}:1): frames are stretched to their true shape"
        )
    if scan.interlaced:
        notes.append("interlaced: every frame mixes two moments; deinterlace it for better frames")
    if scan.alpha:
        notes.append("transparent parts are filled with the colour of the border, or white")
    if not timed:
        notes.append(f"no times in the file: {fps:g} frames a second are assumed")
    elif not constant:
        gaps = np.diff(times)
        notes.append(
            f"variable frame rate, {1 / gaps.max():.3g} to {1 / gaps[gaps > 0].min():.3g} frames a second"
        )
    if fault := fault_of_sound(path):
        notes.append(fault)
    return VideoFile(
        path,
        times,
        float(ordered[0]),
        fps,
        np.flatnonzero(usable),
        scaled,
        (int(size[0]), int(size[1])),
        shape,
        "; ".join(notes),
        cache,
    )


@dataclass
class VideoFile:
    """A video, or a photograph as a video of one frame: what is known of it, and its frames when they are
    asked for.

    Frames are upright, mirrored where the file's header says so, their pixels are square, and transparent
    parts are filled.
    """

    path: Path | None
    times: np.ndarray  # (n,) seconds of all frames, damaged ones too, the first at 0
    start: float  # seconds of the first frame on the file's own clock
    fps: float  # the rate where it is constant, otherwise that of most frames; 0 for a photograph
    usable: np.ndarray  # (m,) numbers of the frames that are neither damaged nor of another shape
    scaled: np.ndarray  # (n,) bool: stored at another size than most, and scaled to it
    size: tuple[int, int]  # (height, width) of the frames as they are read
    shape: Shape  # how the frames are stored
    note: str  # what is odd about it, "" if nothing
    cache: dict[int, np.ndarray] | None = None  # decoded frames, where they are few

    @classmethod
    def of_image(cls, image: np.ndarray, note: str = "") -> "VideoFile":
        """A photograph (H, W, 3) uint8."""
        return cls(
            None,
            np.zeros(1),
            0.0,
            0.0,
            np.arange(1),
            np.zeros(1, bool),
            image.shape[:2],
            Shape(),
            note,
            {0: image},
        )

    @property
    def seconds(self) -> float:
        """The clock at the end of the last frame."""
        return float(self.times[-1] + (1 / self.fps if self.fps else 0))

    def clock(self) -> np.ndarray:
        """(k,) seconds: the times of a constant rate ``fps``, from the first frame to the last."""
        return np.arange(int(self.times[-1] * self.fps + 0.5) + 1) / self.fps if self.fps else np.zeros(1)

    def shown_at(self, seconds: np.ndarray) -> np.ndarray:
        """Numbers of the usable frames that a player shows at these times (k,)."""
        late = 0.25 / self.fps if self.fps else 0  # a clock of whole milliseconds may be early
        found = np.searchsorted(self.times[self.usable], np.asarray(seconds) + late, "right") - 1
        return self.usable[found.clip(0)]

    def frames(self, numbers: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 by their numbers, which must not decrease; all usable ones by default.

        Raises MemoryError, and :class:`UnreadableVideo` where the file changed after it was opened.
        """
        wanted = [int(n) for n in (self.usable if numbers is None else numbers)]
        if self.cache is not None:
            yield from (self._fit(self.cache[n]) for n in wanted)
            return
        with open_file(self.path) as container:
            stream = video_stream(container)
            decoded = enumerate(decode(container, stream, Scan()))
            number, image = -1, None
            for n in wanted:
                while number < n:
                    number, (frame, _) = next(decoded, (-1, (None, False)))
                    if frame is None:
                        raise UnreadableVideo(f"frame {n} cannot be read a second time; did the file change?")
                    image = self._fit(self.shape.picture(frame)) if number == n else None
                yield image

    def _fit(self, image: np.ndarray) -> np.ndarray:
        height, width = self.size
        if image.shape[:2] == self.size:
            return image
        return cv2.resize(
            image,
            (width, height),
            interpolation=cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR,
        )

    def sound(self, rate: int = SOUND_RATE) -> np.ndarray | None:
        """(samples,) int16 at ``rate`` Hz, mono, from the first frame on; None where there is none."""
        return (
            None if self.path is None else read_sound(self.path, rate, self.start, self.seconds + SOUND_AFTER)
        )


def read(path: Path) -> Video:
    """A whole video in memory, and its sound at 16 kHz, mono. Raises what :func:`open_video` does."""
    opened = open_video(path)
    return Video(list(opened.frames()), opened.fps, opened.sound(), opened.note)


def _stated_end(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds at which the header ends the pictures, on the file's own clock; -inf where it does not say."""
    start = float((stream.start_time or 0) * stream.time_base)
    if stream.duration is not None:
        return start + float(stream.duration * stream.time_base)
    tagged = {k.lower(): v for k, v in stream.metadata.items()}.get("duration", "")
    if re.fullmatch(r"\d+:\d+:[\d.]+", tagged):  # of Matroska, on its own clock
        hours, minutes, seconds = map(float, tagged.split(":"))
        return 3600 * hours + 60 * minutes + seconds
    if (
        container.duration is not None
        and not container.streams.audio
        and container.format.name not in ("mpegts", "mpeg")
    ):
        return start + container.duration / av.time_base
    return -np.inf


def _in_order(times: list[float | None]) -> np.ndarray | None:
    """Seconds of frames that come in the order in which they are shown; None where the file states none.

    Some containers mix times up or leave some out, which are then those of even steps.
    """
    raw = np.array([np.nan if t is None else t for t in times])
    number = np.flatnonzero(np.isfinite(raw))
    if len(raw) == 1 and len(number):
        return raw
    known = np.sort(raw[number])
    if not len(known) or known[0] == known[-1]:
        return None
    filled = np.interp(np.arange(len(raw)), number, raw[number])
    step = np.median(np.diff(known)[np.diff(known) > 0])
    before, after = np.arange(number[0]), np.arange(number[-1] + 1, len(raw))
    filled[before] = raw[number[0]] - step * (number[0] - before)
    filled[after] = known[-1] + step * (after - number[-1])
    return np.sort(filled)


def _rate(times: np.ndarray, header: float) -> tuple[float, bool]:
    """Frames a second, and whether they are constant: no frame half a frame from where they would be."""
    number, span = np.arange(len(times)), times[-1]
    if not span:
        return (header if 1 <= header <= 1000 else ASSUMED_RATE), True
    for rate, tolerance in ((header, 0.1), (number[-1] / span, 0.5)):
        if rate and np.abs(times - number / rate).max() < tolerance / rate:
            return float(rate), True
    gaps = np.diff(times)
    rate = min(1 / float(np.median(gaps[gaps > 0])), FASTEST)
    return (header if abs(np.log(rate / (header or rate * 2))) < 0.05 else rate), False


def container_of(path: Path) -> tuple[str, str, str]:
    """FFmpeg's container, video and sound codec for a file's ending. Raises ValueError for an ending that
    is not written.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        ending = f"the ending {path.suffix}" if path.suffix else "a name without an ending"
        raise ValueError(f"{path}: {ending} cannot be written; give one of {' '.join(CONTAINERS)}") from None


@contextmanager
def _encoding(path: Path) -> Iterator[None]:
    """Raises OSError, naming the file, for what FFmpeg raises."""
    try:
        yield
    except av.FFmpegError as error:
        check_memory(error)
        raise OSError(f"{path}: cannot be written ({error.strerror}); is the disk full?") from error


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    sound: np.ndarray | None = None,
    lossless: bool = True,
    comment: str = "",
    rate: int = SOUND_RATE,
) -> None:
    """Write frames (H, W, 3) uint8, with (samples,) float sound at ``rate`` Hz, in the format of the
    path's ending.

    Lossless is H.264 on RGB planes and FLAC; otherwise what browsers play: H.264 and AAC, or VP9 and Opus in
    a webm. ``comment`` goes into the file's metadata. The file appears by rename. Raises what
    :func:`container_of` and :func:`files.replacing` do.
    """
    name, codec, sound_codec = container_of(path)
    pixels, options = (
        "yuv420p",
        {"crf": "16"}
        if codec == "libx264"
        else {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6"},
    )
    if lossless:
        codec, sound_codec, pixels, options = (
            "libx264rgb",
            "flac",
            "rgb24",
            {"crf": "0", "preset": "ultrafast"},
        )
    with (
        replacing(path) as temporary,
        _encoding(path),
        av.open(f"file:{temporary}", "w", format=name) as container,
    ):
        if comment:
            container.metadata["comment"] = comment
        video = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        video.pix_fmt = pixels
        audio = None
        if sound is not None and len(sound):
            audio = container.add_stream(
                sound_codec, rate=48_000 if sound_codec == "libopus" else rate, layout="mono"
            )
        for number, image in enumerate(frames):
            if number == 0:
                video.height, video.width = image.shape[:2]
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
            )
        container.mux(video.encode(None))
        if audio is not None:
            samples = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            resampler = av.AudioResampler(format=audio.format, layout="mono", rate=audio.rate)
            for start in range(0, len(samples), 1024):
                frame = av.AudioFrame.from_ndarray(
                    samples[None, start : start + 1024], format="s16", layout="mono"
                )
                frame.sample_rate, frame.pts = rate, start
                for part in resampler.resample(frame):
                    container.mux(audio.encode(part))
            container.mux(audio.encode(None))
