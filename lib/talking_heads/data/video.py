"""Video files: frames with their times, sound on the same clock, and writing.

The clock of a video starts with its first frame. Times are those that the streams state, not a frame's
number over a nominal rate: a rate may vary, be missing or be wrong, and sound may start before or after the
pictures.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np

from talking_heads.data.decoding import (
    Scan,
    Shape,
    UnreadableVideo,
    check_memory,
    decode,
    open_file,
    video_stream,
)
from talking_heads.data.sound import SOUND_RATE, fault_of_sound, read_sound, to_int16
from talking_heads.data.timestamps import ASSUMED_RATE, frame_rate, in_order, stated_end
from talking_heads.files import replacing

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v"),
    *(".ts", ".mts", ".m2ts", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv"),
    *(".ogm", ".mxf", ".divx", ".dv", ".rm", ".rmvb", ".y4m", ".mjpeg", ".mjpg", ".gif"),
}
# suffix -> FFmpeg's container, video codec and sound codec of files that are written
CONTAINERS = {
    ".mp4": ("mp4", "libx264", "aac"),
    ".m4v": ("mp4", "libx264", "aac"),
    ".mov": ("mov", "libx264", "aac"),
    ".mkv": ("matroska", "libx264", "aac"),
    ".webm": ("webm", "libvpx-vp9", "libopus"),
}
CACHE = 128 * 2**20  # bytes of decoded frames to keep; longer videos are decoded again for every reading
SOUND_AFTER = 60.0  # seconds of sound to read beyond the last frame
# containers without times, for which FFmpeg assumes 25 frames per second
RAW = {"h264", "hevc", "vvc", "mjpeg", "m4v", "mpegvideo", "h263", "h261", "dirac", "vc1", "cavsvideo", "obu"}


@dataclass
class VideoFile:
    """An opened video, or a photograph as a video of one frame; frames are decoded on demand.

    Frames are oriented and mirrored as the header states, their pixels are square, and transparent parts are
    filled.
    """

    path: Path | None
    times: np.ndarray  # (n,) seconds of all frames, also of damaged ones; the first is 0
    start: float  # seconds of the first frame on the clock of the file
    fps: float  # the rate where it is constant, otherwise that of most frames; 0 for a photograph
    usable: np.ndarray  # (m,) numbers of the frames that are neither damaged nor of another aspect ratio
    scaled: np.ndarray  # (n,) bool: stored at another size than most frames, and resized to it
    size: tuple[int, int]  # (height, width) of the frames that are read
    shape: Shape  # how the frames are stored
    note: str  # what is unusual about the video, "" if nothing
    # decoded frames by their numbers, where they are few; those of a video are converted when they are read
    cache: dict[int, np.ndarray | av.VideoFrame] | None = None

    @classmethod
    def of_image(cls, image: np.ndarray, note: str = "") -> "VideoFile":
        """A photograph (H, W, 3) uint8 as a video of one frame."""
        return cls(
            path=None,
            times=np.zeros(1),
            start=0.0,
            fps=0.0,
            usable=np.arange(1),
            scaled=np.zeros(1, bool),
            size=image.shape[:2],
            shape=Shape(),
            note=note,
            cache={0: image},
        )

    @property
    def seconds(self) -> float:
        """The time at the end of the last frame."""
        return float(self.times[-1] + (1 / self.fps if self.fps else 0))

    def clock(self) -> np.ndarray:
        """(k,) seconds at the constant rate ``fps``, from the first frame to the last."""
        return np.arange(int(self.times[-1] * self.fps + 0.5) + 1) / self.fps if self.fps else np.zeros(1)

    def shown_at(self, seconds: np.ndarray) -> np.ndarray:
        """Numbers (k,) of the usable frames that a player shows at times (k,)."""
        tolerance = 0.25 / self.fps if self.fps else 0  # times in whole milliseconds may be too early
        times = np.asarray(seconds) + tolerance
        index = np.searchsorted(self.times[self.usable], times, "right") - 1
        return self.usable[index.clip(0)]

    def frames(self, numbers: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 with the given numbers, which must not decrease; all usable ones by default.

        Raises MemoryError, and :class:`UnreadableVideo` where the file changed after it was opened.
        """
        selected = [int(number) for number in (self.usable if numbers is None else numbers)]
        if self.cache is not None:
            for number in selected:
                stored = self.cache[number]
                yield self._fit(stored if isinstance(stored, np.ndarray) else self.shape.picture(stored))
            return
        assert self.path is not None
        with open_file(self.path) as container:
            decoded = enumerate(decode(container, video_stream(container), Scan()))
            position = -1
            image: Any = None
            for number in selected:
                while position < number:
                    position, (frame, _) = next(decoded, (-1, (None, False)))
                    if frame is None:
                        raise UnreadableVideo(
                            f"frame {number} cannot be read a second time; did the file change?"
                        )
                    image = self._fit(self.shape.picture(frame)) if position == number else None
                yield image

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """The image resized to the size of the video."""
        height, width = self.size
        if image.shape[:2] == self.size:
            return image
        interpolation = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
        return cv2.resize(image, (width, height), interpolation=interpolation)

    def sound(self, rate: int = SOUND_RATE) -> np.ndarray | None:
        """(samples,) int16 at ``rate`` Hz, mono, from the first frame on; None where there is none."""
        if self.path is None:
            return None
        return read_sound(self.path, rate, self.start, self.seconds + SOUND_AFTER)


@dataclass
class Video:
    """A whole video in memory."""

    frames: list[np.ndarray]  # (H, W, 3) uint8, RGB
    fps: float
    sound: np.ndarray | None  # (samples,) int16 at 16 kHz, from the first frame on
    note: str  # what is unusual about it, "" if nothing


def read(path: Path) -> Video:
    """Read a whole video with its sound at 16 kHz, mono. Raises what :func:`open_video` does."""
    opened = open_video(path)
    return Video(list(opened.frames()), opened.fps, opened.sound(), opened.note)


def open_video(path: Path) -> VideoFile:
    """Read a video once to find its times, sizes and faults; its frames are kept where they are few.

    Raises :class:`UnreadableVideo` where no frame can be decoded, OSError where the file cannot be opened,
    and MemoryError.
    """
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty file")
    scan, header, cache = _scan_file(path)
    if header.shape is None or not any(scan.intact):
        raise UnreadableVideo(scan.fatal_error or "no frame can be decoded")
    size, usable, scaled = _common_size(scan)
    clock, timed = _frame_times(scan, header)
    times = clock - clock[0]
    fps, constant = frame_rate(times, header.rate)
    notes = [
        *_fault_notes(scan, header, fps),
        *_size_notes(np.array(scan.intact), usable, scaled, size),
        *_picture_notes(scan, header.shape),
        *_rate_notes(times, fps, timed, constant),
        *filter(None, [fault_of_sound(path)]),
    ]
    return VideoFile(
        path=path,
        times=times,
        start=float(clock[0]),
        fps=fps,
        usable=np.flatnonzero(usable),
        scaled=scaled,
        size=size,
        shape=header.shape,
        note="; ".join(notes),
        cache=cache,
    )


class _Header(NamedTuple):
    """The header's statements about the video stream."""

    shape: Shape | None  # None where no frame can be decoded
    rate: float  # frames per second, 0 if not stated
    frames: int  # number of frames, 0 if not stated
    end: float  # seconds at the end of the pictures on the clock of the file, -inf if not stated
    has_times: bool


def _scan_file(path: Path) -> tuple[Scan, _Header, dict[int, np.ndarray | av.VideoFrame] | None]:
    """Decode all frames once. Returns the decoded frames, too, None where they exceed ``CACHE`` bytes."""
    scan, shape, size = Scan(), None, 0
    cache: dict[int, np.ndarray | av.VideoFrame] | None = {}
    with open_file(path) as container:
        stream = video_stream(container)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        for number, (frame, intact) in enumerate(decode(container, stream, scan)):
            shape = shape or Shape.from_header(frame, stream)
            scan.add(frame, intact, stream, shape)
            if intact and cache is not None:
                cache[number] = frame
                size += sum(plane.buffer_size for plane in frame.planes)
                if size > CACHE:
                    cache = None
        has_times = container.format.name not in RAW
        header = _Header(shape, rate, stream.frames, stated_end(container, stream), has_times)
    return scan, header, cache


def _common_size(scan: Scan) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """The most frequent (height, width), and the frames that are usable and that are resized, (n,) bool.

    A frame is usable where it is intact and its aspect ratio differs from the most frequent one by less than
    2 %.
    """
    intact, sizes = np.array(scan.intact), np.array(scan.sizes)
    distinct, counts = np.unique(sizes[intact], axis=0, return_counts=True)
    height, width = distinct[counts.argmax()]
    aspect = sizes[:, 0] / sizes[:, 1] / (height / width)
    usable = intact & (np.abs(np.log(aspect)) < 0.02)
    return (int(height), int(width)), usable, (sizes != (height, width)).any(1)


def _frame_times(scan: Scan, header: _Header) -> tuple[np.ndarray, bool]:
    """Seconds (n,) of the frames on the clock of the file, and whether the file states them."""
    times = in_order(scan.times) if header.has_times else None
    if times is not None:
        return times, True
    return np.arange(len(scan.times)) / (header.rate or ASSUMED_RATE), False


def _fault_notes(scan: Scan, header: _Header, fps: float) -> list[str]:
    """What is damaged or missing.

    With one thread FFmpeg reports the last packet of a truncated file as damaged, with several it drops it.
    """
    damage, truncation = _damage_notes(scan), _truncation_notes(scan, header, fps)
    if not scan.fatal_error and scan.packets < header.frames:
        return [*truncation, *damage]
    return damage or truncation


def _damage_notes(scan: Scan) -> list[str]:
    notes = []
    if scan.fatal_error:
        notes.append(f"damaged after frame {len(scan.intact)} ({scan.fatal_error})")
    if damaged := scan.errors + scan.intact.count(False):
        notes.append(f"{damaged} damaged frames, which are left out")
    return notes


def _truncation_notes(scan: Scan, header: _Header, fps: float) -> list[str]:
    if header.end - scan.end <= 1.5 / fps or 0 < header.frames <= scan.packets:
        return []
    if header.frames:
        return [f"truncated: {scan.packets} of {header.frames} frames"]
    return [f"truncated: it ends after {scan.end:.1f} of {header.end:.1f} seconds"]


def _size_notes(
    intact: np.ndarray, usable: np.ndarray, scaled: np.ndarray, size: tuple[int, int]
) -> list[str]:
    notes, (height, width) = [], size
    if other_shapes := int((intact & ~usable).sum()):
        notes.append(f"{other_shapes} frames of another shape than {width}×{height}, which are left out")
    if other_sizes := int((usable & scaled).sum()):
        notes.append(f"{other_sizes} frames of another size than {width}×{height}")
    return notes


def _picture_notes(scan: Scan, shape: Shape) -> list[str]:
    notes = []
    if shape.pixel_aspect != 1:
        notes.append(
            f"pixels are not square ({shape.pixel_aspect:.3f}:1): frames are stretched to their true shape"
        )
    if scan.interlaced:
        notes.append("interlaced: every frame mixes two moments; deinterlace it for better frames")
    if scan.alpha:
        notes.append("transparent parts are filled with the colour of the border, or white")
    return notes


def _rate_notes(times: np.ndarray, fps: float, timed: bool, constant: bool) -> list[str]:
    if not timed:
        return [f"no times in the file: {fps:g} frames a second are assumed"]
    if constant:
        return []
    gaps = np.diff(times)
    slowest, fastest = 1 / gaps.max(), 1 / gaps[gaps > 0].min()
    return [f"variable frame rate, {slowest:.3g} to {fastest:.3g} frames a second"]


def container_of(path: Path) -> tuple[str, str, str]:
    """FFmpeg's container, video codec and sound codec for the suffix of a file to write.

    Raises ValueError for a suffix that is not supported.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        ending = f"the ending {path.suffix}" if path.suffix else "a name without an ending"
        raise ValueError(f"{path}: {ending} cannot be written; give one of {' '.join(CONTAINERS)}") from None


@contextmanager
def _encoding(path: Path) -> Iterator[None]:
    """Raise OSError, with the name of the file, in place of FFmpeg's errors."""
    try:
        yield
    except av.FFmpegError as error:
        check_memory(error)
        raise OSError(f"{path}: cannot be written ({error.strerror}); is the disk full?") from error


class _Encoder(NamedTuple):
    container: str
    codec: str
    pixels: str
    options: dict[str, str]
    sound_codec: str


def _encoder(path: Path, lossless: bool) -> _Encoder:
    container, codec, sound_codec = container_of(path)
    if lossless:
        return _Encoder(container, "libx264rgb", "rgb24", {"crf": "0", "preset": "ultrafast"}, "flac")
    if codec == "libx264":
        return _Encoder(container, codec, "yuv420p", {"crf": "16"}, sound_codec)
    options = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6"}
    return _Encoder(container, codec, "yuv420p", options, sound_codec)


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    sound: np.ndarray | None = None,
    lossless: bool = True,
    comment: str = "",
    rate: int = SOUND_RATE,
) -> None:
    """Write frames (H, W, 3) uint8, with (samples,) sound, int16 or float in [-1, 1], at ``rate`` Hz.

    The suffix of the path determines the container. Lossless files have H.264 on RGB planes and FLAC, the
    others what browsers play: H.264 and AAC, or VP9 and Opus in a webm. ``comment`` is stored in the file's
    metadata. The file appears by rename. Raises OSError where it cannot be written, and what
    :func:`container_of` and :func:`files.replacing` do.
    """
    encoder = _encoder(path, lossless)
    with (
        replacing(path) as temporary,
        _encoding(path),
        av.open(f"file:{temporary}", "w", format=encoder.container) as container,
    ):
        if comment:
            container.metadata["comment"] = comment
        frame_rate = Fraction(fps).limit_denominator(1001)
        video = container.add_stream(encoder.codec, rate=frame_rate, options=encoder.options)
        assert isinstance(video, av.VideoStream)
        video.pix_fmt = encoder.pixels
        audio = None
        if sound is not None and len(sound):
            sound_rate = 48_000 if encoder.sound_codec == "libopus" else rate
            audio = container.add_stream(encoder.sound_codec, rate=sound_rate, layout="mono")
        for number, image in enumerate(frames):
            if number == 0:
                video.height, video.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None and isinstance(audio, av.AudioStream):
            _write_sound(container, audio, sound, rate)


def _write_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, sound: np.ndarray, rate: int
) -> None:
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate)
    for start in range(0, len(sound), 1024):
        samples = to_int16(sound[start : start + 1024])
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        for resampled in resampler.resample(frame):
            container.mux(stream.encode(resampled))
    container.mux(stream.encode(None))


class LiveWriter:
    """A video that can be played while it is written: Matroska with H.264 and the sound as it is.

    As a context, it completes the file. Raises OSError where it cannot be written.
    """

    def __init__(self, path: Path, fps: int, comment: str):
        self.path, self.samples = path, 0
        flushing = {"flush_packets": "1", "cluster_time_limit": "100"}  # milliseconds
        with _encoding(path):
            self.container = av.open(f"file:{path}", "w", format="matroska", options=flushing)
        self.container.metadata["comment"] = comment
        options = {"crf": "16", "preset": "veryfast", "tune": "zerolatency"}
        self.video = self.container.add_stream("libx264", rate=fps, options=options)
        self.audio = self.container.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")

    def __enter__(self) -> "LiveWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with _encoding(self.path):
            if self.video.codec_context.is_open:
                self.container.mux(self.video.encode(None))
            self.container.close()

    def add(self, image: np.ndarray, sound: np.ndarray) -> None:
        """Write a frame (H, W, 3) uint8, and the samples (n,) int16 until the next one."""
        with _encoding(self.path):
            if not self.video.codec_context.is_open:
                self.video.height, self.video.width = image.shape[:2]
                self.video.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self.container.mux(self.video.encode(frame))
            if len(sound):
                piece = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
                piece.sample_rate, piece.pts = SOUND_RATE, self.samples
                self.samples += len(sound)
                self.container.mux(self.audio.encode(piece))
