"""Video files through PyAV: frames with their times, sound on the same clock, and writing.

The clock of a video starts with its first frame. Times are those that the streams state, never a frame's number over a
nominal rate: a rate may vary, be missing or be wrong, and sound may start before or after the pictures.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from ..files import replacing
from .photographs import flatten

SOUND_RATE = 16_000
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".ts", ".mts", ".m2ts", ".vob",
                  ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".ogm", ".mxf", ".divx", ".dv", ".rm", ".rmvb", ".y4m",
                  ".mjpeg", ".mjpg", ".gif"}
CONTAINERS = {".mp4": ("mp4", "libx264", "aac"), ".m4v": ("mp4", "libx264", "aac"), ".mov": ("mov", "libx264", "aac"),
              ".mkv": ("matroska", "libx264", "aac"), ".webm": ("webm", "libvpx-vp9", "libopus")}
CACHE = 128 * 2**20  # bytes of decoded frames that a video may hold; a larger one is decoded again where it is read again
JUMP = 60.0  # seconds; a longer pause between two frames is a jump of the clock, as between clips that were joined
MIXED_UP = 8  # frame intervals; a time that falls by more is a jump of the clock, too
ALIGNED = 0.02  # seconds that a packet of sound may lie off the clock before silence is put in or sound is cut
ASSUMED_RATE = 25.0  # frames a second where the file states neither times nor a rate
SQUARE = 0.01  # a pixel's width over its height may differ from 1 by this much, and counts as square
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class UnreadableVideo(ValueError):
    """The file gives no frames; the message says why."""


@dataclass
class Video:
    """A whole video in memory."""

    frames: list[np.ndarray]  # (H, W, 3) uint8, RGB
    fps: float
    sound: np.ndarray | None  # (samples,) int16 at 16 kHz, from the first frame on
    note: str  # what is odd about it, "" if nothing


def open_file(path: Path) -> av.container.InputContainer:
    """A container to read. ``path`` is a file whatever its name looks like, and what is in it opens nothing but files.

    Raises :class:`UnreadableVideo`, and MemoryError.
    """
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except MemoryError:
        raise
    except UnicodeEncodeError as error:
        raise UnreadableVideo("its name is not valid UTF-8; rename it") from error
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"not a readable video ({type(error).__name__})") from error


@dataclass(frozen=True)
class Shape:
    """How a stream's frames are stored: what a player does to them before they are seen."""

    pixel_aspect: float = 1.0  # width over height of a pixel
    transposed: bool = False
    left_right: bool = False  # mirrored after that
    top_bottom: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame, stream: av.VideoStream) -> "Shape":
        """From the header's pixel aspect and display matrix, which are the same for all frames.

        The frames' own ``side_data`` would keep each of them in memory until Python looks for cycles.
        """
        stated = float(stream.sample_aspect_ratio or 1)
        aspect = stated if 1 / 16 <= stated <= 16 and abs(stated - 1) > SQUARE else 1.0
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls(aspect)
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])  # (x, y) goes to (a x + c y, b x + d y)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(aspect, False, a < 0, d < 0)
        return cls(aspect, True, c < 0, b < 0)

    @property
    def stretch(self) -> np.ndarray:
        """(2,) x and y from the stored, upright frame to the one that is seen: its pixels are square, no side is shorter."""
        stretch = np.array([max(self.pixel_aspect, 1.0), max(1 / self.pixel_aspect, 1.0)])
        return stretch[::-1] if self.transposed else stretch

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of a frame as it is seen."""
        width, height = (frame.height, frame.width) if self.transposed else (frame.width, frame.height)
        x, y = self.stretch
        return round(height * y), round(width * x)

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as it is seen, (H, W, 3) uint8, RGB."""
        image = flatten(frame.to_ndarray(format="rgba" if _has_alpha(frame) else "rgb24"))[0]
        if self.transposed:
            image = image.swapaxes(0, 1)
        image = np.ascontiguousarray(image[::-1 if self.top_bottom else 1, ::-1 if self.left_right else 1])
        height, width = self.size(frame)
        return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def open_video(path: Path) -> "VideoFile":
    """One pass over a video: its times, sizes and faults; its frames too, where they are few.

    Raises :class:`UnreadableVideo` where no frame can be decoded, and MemoryError.
    """
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty file")
    scan, cache, held = _Scan(), {}, 0
    with open_file(path) as container:
        stream = _video_stream(container)
        header = float(stream.average_rate or stream.guessed_rate or 0)
        for number, (frame, whole) in enumerate(_decode(container, stream, scan)):
            if not number:
                shape = Shape.of(frame, stream)
            scan.add(frame, whole, stream, shape)
            if whole and cache is not None:
                cache[number] = shape.picture(frame)
                held += cache[number].nbytes
                if held > CACHE:
                    cache = None
        stored, duration = stream.frames, stream.duration
        if duration is not None:
            duration = float((duration + (stream.start_time or 0)) * stream.time_base)
    if not any(scan.whole):
        raise UnreadableVideo(scan.broken_off or "no frame can be decoded")

    whole, sizes = np.array(scan.whole), np.array(scan.sizes)
    common, counts = np.unique(sizes[whole], axis=0, return_counts=True)
    size = common[counts.argmax()]
    aspect = sizes[:, 0] / sizes[:, 1] / (size[0] / size[1])
    usable = whole & (np.abs(np.log(aspect)) < 0.02)
    scaled = (sizes != size).any(1)
    timed = [t for t in scan.times if t is not None]
    known = len(timed) == 1 or len(set(timed)) > 1
    ordered = _in_order(scan.times) if known else np.arange(len(whole)) / (header or ASSUMED_RATE)
    times = _continuous(ordered) - ordered[0]
    fps, constant = _rate(times, header)

    notes = []
    if scan.broken_off:
        notes.append(f"damaged after frame {len(whole)} ({scan.broken_off})")
    if damaged := scan.errors + int((~whole).sum()):
        notes.append(f"{damaged} damaged frames, which are left out")
    if stored > scan.packets and duration is not None and duration - scan.end > 1.5 / fps and not notes:
        notes.append(f"truncated: {scan.packets} of {stored} frames")
    if others := int((whole & ~usable).sum()):
        notes.append(f"{others} frames of another shape than {size[1]}×{size[0]}, which are left out")
    if changed := int((usable & scaled).sum()):
        notes.append(f"{changed} frames of another size than {size[1]}×{size[0]}")
    if shape.pixel_aspect != 1:
        notes.append(f"pixels are not square ({shape.pixel_aspect:.3f}:1): frames are stretched to their true shape")
    if scan.alpha:
        notes.append("transparent parts are filled with the colour of the border, or white")
    if not known:
        notes.append(f"no times in the file: {fps:g} frames a second are assumed")
    elif not constant:
        gaps = np.diff(times)
        notes.append(f"variable frame rate, {1 / gaps.max():.3g} to {1 / gaps[gaps > 0].min():.3g} frames a second")
    if not has_sound(path):
        notes.append("no sound")
    return VideoFile(path, times, float(ordered[0]), fps, np.flatnonzero(usable), scaled, (int(size[0]), int(size[1])),
                     shape, "; ".join(notes), cache)


@dataclass
class VideoFile:
    """A video, or a photograph as a video of one frame: what is known of it, and its frames when they are asked for.

    Frames are upright, mirrored where the file's header says so, their pixels are square, and transparent parts are filled.
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
        return cls(None, np.zeros(1), 0.0, 0.0, np.arange(1), np.zeros(1, bool), image.shape[:2], Shape(), note, {0: image})

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
            stream = _video_stream(container)
            decoded = enumerate(_decode(container, stream, _Scan()))
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
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR)

    def sound(self, rate: int = SOUND_RATE) -> np.ndarray | None:
        """(samples,) int16 at ``rate`` Hz, mono, from the first frame on; None where there is none."""
        return None if self.path is None else read_sound(self.path, rate, self.start, self.seconds + JUMP)


def read(path: Path) -> Video:
    """A whole video in memory, and its sound at 16 kHz, mono. Raises what :func:`open_video` does."""
    opened = open_video(path)
    return Video(list(opened.frames()), opened.fps, opened.sound(), opened.note)


@dataclass
class _Scan:
    """What one pass over a stream finds."""

    times: list[float | None] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (height, width) as shown
    packets: int = 0
    errors: int = 0  # packets that cannot be decoded
    broken_off: str = ""  # the error that ends the stream early
    alpha: bool = False
    end: float = 0.0  # of the last frame, on the file's own clock

    def add(self, frame: av.VideoFrame, whole: bool, stream: av.VideoStream, shape: Shape) -> None:
        base = frame.time_base or stream.time_base
        self.times.append(None if frame.pts is None else float(frame.pts * base))
        self.whole.append(whole)
        self.sizes.append(shape.size(frame))
        self.alpha = self.alpha or (_has_alpha(frame) and int(frame.to_ndarray(format="rgba")[..., 3].min()) < 255)
        if frame.pts is not None:
            self.end = max(self.end, float((frame.pts + (frame.duration or 0)) * base))


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    if stream is None:
        raise UnreadableVideo("no video stream")
    return stream


def _decode(container: av.container.InputContainer, stream: av.VideoStream, scan: _Scan) -> Iterator[tuple[av.VideoFrame, bool]]:
    """All frames in the order in which they are shown, and whether each is whole.

    After an error frames are damaged until one that needs no other. Faults are counted in ``scan``. Raises MemoryError.
    """
    name = stream.codec_context.name
    if name in ALPHA_DECODERS and {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") == "1":
        decoder = av.CodecContext.create(ALPHA_DECODERS[name], "r")  # FFmpeg's own decoders drop the transparency
    else:
        decoder = stream.codec_context
        decoder.thread_type = "AUTO"
    broken = seen = False
    packets = iter(container.demux(stream))
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            scan.broken_off, packet = type(error).__name__, None
        last = packet is None or packet.size == 0
        scan.packets += not last
        try:
            frames = decoder.decode(None if last else packet)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError):
            if not last:
                scan.errors, broken = scan.errors + 1, True
            frames = []
        for frame in frames:
            broken = (broken and not frame.key_frame) or (frame.is_corrupt and seen)
            seen = seen or not frame.is_corrupt
            yield frame, not broken and not frame.is_corrupt
        if last:
            return


def _in_order(times: list[float | None]) -> np.ndarray:
    """Seconds of frames that come in the order in which they are shown, without gaps; some containers mix their times up."""
    raw = np.array([np.nan if t is None else t for t in times])
    known = np.isfinite(raw)
    if known.sum() < 2:
        return np.where(known, raw, raw[known][0])
    raw = np.interp(np.arange(len(raw)), np.flatnonzero(known), raw[known])
    steps = np.diff(raw)
    mixed_up = steps.min() < 0 < steps.max() and -steps.min() <= MIXED_UP * np.median(steps[steps > 0])
    return np.sort(raw) if mixed_up else raw


def _continuous(times: np.ndarray) -> np.ndarray:
    """Seconds (n,) that never fall and never jump, as the clock does where clips were joined."""
    steps = np.diff(times)
    jumps = (steps < 0) | (steps > JUMP)
    if not jumps.any():
        return times
    steps[jumps] = np.median(steps[~jumps]) if not jumps.all() else 1 / ASSUMED_RATE
    return times[0] + np.concatenate([[0], np.cumsum(steps)])


def _rate(times: np.ndarray, header: float) -> tuple[float, bool]:
    """Frames a second, and whether they are constant: no frame half a frame from where they would be."""
    number, span = np.arange(len(times)), times[-1]
    if not span:
        return (header if 1 <= header <= 1000 else ASSUMED_RATE), True
    for rate, tolerance in ((header, 0.1), (number[-1] / span, 0.5)):
        if rate and np.abs(times - number / rate).max() < tolerance / rate:
            return float(rate), True
    gaps = np.diff(times)
    rate = 1 / float(np.median(gaps[gaps > 0]))
    return (header if abs(np.log(rate / (header or rate * 2))) < 0.05 else rate), False


def _has_alpha(frame: av.VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def has_sound(path: Path) -> bool:
    """Whether any sound of a file can be decoded. Raises what :func:`open_file` does."""
    with open_file(path) as container:
        stream = container.streams.best("audio")
        return stream is not None and next(_sound_frames(container, stream), None) is not None


def read_sound(path: Path, rate: int = SOUND_RATE, start: float = 0.0, end: float = np.inf) -> np.ndarray | None:
    """(samples,) int16 at ``rate`` Hz, mono, from ``start`` to at most ``end`` seconds after it, on the file's own clock.

    Sound that starts late or pauses is preceded by silence, sound before ``start`` is cut. None where there is none.
    Raises MemoryError.
    """
    pieces: list[tuple[int, np.ndarray]] = []  # (first sample, samples)
    with open_file(path) as container:
        stream = container.streams.best("audio")
        if stream is None:
            return None
        run: _SoundRun | None = None
        shift, previous = 0.0, None  # a clock that jumps is set right, as for the frames
        for frame in _sound_frames(container, stream):
            seconds = run.next if frame.pts is None and run else float((frame.pts or 0) * frame.time_base) + shift
            if previous is not None and not -0.1 < seconds - previous < JUMP:
                shift, seconds = shift + previous - seconds, previous
            if run is None or not run.takes(frame, seconds):
                if run is not None:
                    pieces += run.finish()
                run = _SoundRun(frame, seconds, rate, start)
            pieces += run.add(frame)
            previous = seconds + frame.samples / frame.sample_rate
            if previous - start > end:
                break
        if run is not None:
            pieces += run.finish()
    length = max((first + len(samples) for first, samples in pieces), default=0)
    if length <= 0:
        return None
    sound = np.zeros(min(length, int(end * rate)) if np.isfinite(end) else length, np.int16)
    for first, samples in pieces:
        visible = samples[max(0, -first):][:max(0, len(sound) - max(0, first))]
        sound[max(0, first):max(0, first) + len(visible)] = visible
    return sound


def _sound_frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded sound; packets that cannot be decoded are passed over. Raises MemoryError."""
    packets = iter(container.demux(stream))
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from stream.codec_context.decode(packet if packet.size else None)
            if not packet.size:
                return
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, EOFError):
                return
            if not isinstance(error, av.InvalidDataError):
                return


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
        return (frame.format.name, frame.layout.name, frame.sample_rate) == self.layout and abs(seconds - self.next) < ALIGNED

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


def container_of(path: Path) -> tuple[str, str, str]:
    """FFmpeg's container, video and sound codec for a file's ending. Raises ValueError for an ending that is not written."""
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        ending = f"the ending {path.suffix}" if path.suffix else "a name without an ending"
        raise ValueError(f"{path}: {ending} cannot be written; give one of {' '.join(CONTAINERS)}") from None


def write(path: Path, frames: Iterable[np.ndarray], fps: float, sound: np.ndarray | None = None, lossless: bool = True, comment: str = "",
          rate: int = SOUND_RATE) -> None:
    """Write frames (H, W, 3) uint8, with (samples,) float sound at ``rate`` Hz, in the format of the path's ending.

    Lossless is H.264 on RGB planes and FLAC; otherwise what browsers play: H.264 and AAC, or VP9 and Opus in a webm.
    ``comment`` goes into the file's metadata. The file appears by rename. Raises what :func:`container_of` and
    :func:`files.replacing` do.
    """
    name, codec, sound_codec = container_of(path)
    pixels, options = "yuv420p", {"crf": "16"} if codec == "libx264" else {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6"}
    if lossless:
        codec, sound_codec, pixels, options = "libx264rgb", "flac", "rgb24", {"crf": "0", "preset": "ultrafast"}
    with replacing(path) as temporary, av.open(f"file:{temporary}", "w", format=name) as container:
        if comment:
            container.metadata["comment"] = comment
        video = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        video.pix_fmt = pixels
        audio = None
        if sound is not None and len(sound):
            audio = container.add_stream(sound_codec, rate=48_000 if sound_codec == "libopus" else rate, layout="mono")
        for number, image in enumerate(frames):
            if number == 0:
                video.height, video.width = image.shape[:2]
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            samples = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            resampler = av.AudioResampler(format=audio.format, layout="mono", rate=audio.rate)
            for start in range(0, len(samples), 1024):
                frame = av.AudioFrame.from_ndarray(samples[None, start:start + 1024], format="s16", layout="mono")
                frame.sample_rate, frame.pts = rate, start
                for part in resampler.resample(frame):
                    container.mux(audio.encode(part))
            container.mux(audio.encode(None))
