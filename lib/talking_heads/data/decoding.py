"""Reading files with PyAV: opening, demuxing and decoding, with frames as a player shows them."""

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np

from talking_heads.data.photographs import flatten

# seconds by which timestamps may decrease or jump ahead; beyond these limits the clock of a new clip starts
BACK, JUMP = 0.25, 600.0
SQUARE = 0.01  # a pixel counts as square where its width over its height differs from 1 by at most this
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class UnreadableVideo(ValueError):
    """No frame of the file can be decoded; the message states the cause."""


def check_memory(error: Exception) -> None:
    """Raise MemoryError where an error means that memory ran out; for threads this is EAGAIN."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
        raise MemoryError("memory ran out") from error


def open_file(path: Path) -> av.container.InputContainer:
    """Open a file for reading.

    ``path`` is always a local file, also where its name resembles a URL, and its content can open only files.
    Raises :class:`UnreadableVideo`, also for a photograph, OSError where the file cannot be opened, and
    MemoryError.
    """
    with path.open("rb"):  # raises OSError where the system refuses access, before FFmpeg reports a bad video
        pass
    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except UnicodeEncodeError as error:
        raise UnreadableVideo("its name is not valid UTF-8; rename it") from error
    except (av.FFmpegError, OSError, MemoryError) as error:
        check_memory(error)
        raise UnreadableVideo(f"not a readable video ({type(error).__name__})") from error
    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        container.close()
        raise UnreadableVideo("a photograph, not a video")
    return container


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The best video stream. Raises :class:`UnreadableVideo` where none can be decoded."""
    stream = container.streams.best("video")
    if stream is None:
        raise UnreadableVideo("no video stream")
    if stream.codec_context is None:
        raise UnreadableVideo("its video codec is unknown; convert it to H.264")
    return stream


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The best audio stream, None where none can be decoded."""
    readable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    best = container.streams.best("audio")
    return best if best in readable else next(iter(readable), None)


def packets(
    container: av.container.InputContainer, selected: av.VideoStream | av.AudioStream
) -> Iterator[av.Packet]:
    """The packets of one stream, with times on one clock; the last packet is empty.

    Where clips were joined, timestamps of pictures and sound start again. They are shifted to follow the end
    of the previous clip (of its longer stream), and keep their distance from each other. Raises what
    demuxing does.
    """
    streams = [s for s in (container.streams.best("video"), sound_stream(container)) if s is not None]
    clock = _JoinedClock()
    for packet in container.demux(streams):
        clock.shift(packet)
        if packet.stream.index == selected.index:
            yield packet


class _JoinedClock:
    """One clock for the packets of joined clips. Times are in seconds, streams are given by their index."""

    def __init__(self) -> None:
        self.offsets = [0.0]  # of every clip: what is added to its times
        self.ends = [-np.inf]  # of every clip: its last time
        self.clip: dict[int, int] = {}  # of every stream: number of the clip that is being read
        self.previous: dict[int, float] = {}  # of every stream: time of the previous packet
        self.step: dict[
            int, float
        ] = {}  # of every stream: time between packets, where they state no duration

    def shift(self, packet: av.Packet) -> None:
        """Move the times of a packet to the common clock."""
        stamp = packet.pts if packet.dts is None else packet.dts
        if not packet.size or stamp is None:
            return
        clip = self._clip_of(packet.stream.index, float(stamp * packet.time_base))
        self.ends[clip] = max(self.ends[clip], self._end(packet, stamp))
        ticks = round(self.offsets[clip] / packet.time_base)
        if ticks:
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks

    def _clip_of(self, index: int, seconds: float) -> int:
        """The number of the clip that a packet belongs to: a new one where the clock starts again."""
        self.clip.setdefault(index, 0)
        if index in self.previous:
            elapsed = seconds - self.previous[index]
            if -BACK < elapsed < JUMP:
                self.step[index] = max(0.0, elapsed)
            else:
                self.clip[index] += 1
                if self.clip[index] == len(self.offsets):
                    self.offsets.append(self.offsets[-1] + self.ends[-1] - seconds)
                    self.ends.append(-np.inf)
        self.previous[index] = seconds
        return self.clip[index]

    def _end(self, packet: av.Packet, stamp: int) -> float:
        shown = float((stamp if packet.pts is None else packet.pts) * packet.time_base)
        if packet.duration:
            return shown + float(packet.duration * packet.time_base)
        return shown + self.step.get(packet.stream.index, 0.0)


@dataclass(frozen=True)
class Shape:
    """How the frames of a stream are stored, and thus how a player transforms them for display."""

    pixel_aspect: float = 1.0  # width over height of a pixel
    transposed: bool = False
    left_right: bool = False  # mirrored after transposing
    top_bottom: bool = False

    @classmethod
    def from_header(cls, frame: av.VideoFrame, stream: av.VideoStream) -> "Shape":
        """Read the pixel aspect and the display matrix of the header, which are the same for all frames.

        Only the first frame is read: access to ``side_data`` keeps a frame in memory until Python collects
        reference cycles.
        """
        stated = float(stream.sample_aspect_ratio or 1)
        aspect = stated if 1 / 16 <= stated <= 16 and abs(stated - 1) > SQUARE else 1.0
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # side data of a type without a name in PyAV; the rotation is still available
            turns = round(frame.rotation / 90) % 4
            return cls(aspect, turns % 2 == 1, turns in (2, 3), turns in (1, 2))
        if matrix is None:
            return cls(aspect)
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])  # (x, y) maps to (a x + c y, b x + d y)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(aspect, False, a < 0, d < 0)
        return cls(aspect, True, c < 0, b < 0)

    @property
    def stretch(self) -> np.ndarray:
        """Factors (2,) of x and y from the stored, upright frame to the displayed one.

        Displayed pixels are square, and no side becomes shorter.
        """
        stretch = np.array([max(self.pixel_aspect, 1.0), max(1 / self.pixel_aspect, 1.0)])
        return stretch[::-1] if self.transposed else stretch

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of a frame as displayed."""
        width, height = (frame.height, frame.width) if self.transposed else (frame.width, frame.height)
        x, y = self.stretch
        return round(height * y), round(width * x)

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as displayed, (H, W, 3) uint8, RGB."""
        image = flatten(frame.to_ndarray(format="rgba" if has_alpha(frame) else "rgb24"))[0]
        if self.transposed:
            image = image.swapaxes(0, 1)
        image = np.ascontiguousarray(image[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1])
        height, width = self.size(frame)
        if image.shape[:2] == (height, width):
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


@dataclass
class Scan:
    """Times, sizes and faults that are recorded during one pass over a stream."""

    times: list[float | None] = field(default_factory=list)  # seconds, of every frame
    intact: list[bool] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (height, width) as displayed
    packets: int = 0
    errors: int = 0  # packets that cannot be decoded
    fatal_error: str = ""  # the error that ends the stream early
    alpha: bool = False
    interlaced: bool = False
    end: float = 0.0  # seconds at the end of the last frame, on the clock of the file

    def add(self, frame: av.VideoFrame, intact: bool, stream: av.VideoStream, shape: Shape) -> None:
        """Record a decoded frame."""
        base = frame.time_base or stream.time_base
        self.times.append(None if frame.pts is None else float(frame.pts * base))
        self.intact.append(intact)
        self.sizes.append(shape.size(frame))
        self.interlaced = self.interlaced or frame.interlaced_frame
        self.alpha = self.alpha or _is_transparent(frame)
        if frame.pts is not None:
            self.end = max(self.end, float((frame.pts + (frame.duration or 0)) * base))


def decode(
    container: av.container.InputContainer, stream: av.VideoStream, scan: Scan
) -> Iterator[tuple[av.VideoFrame, bool]]:
    """All frames in display order, each with whether it is intact.

    After an error, frames count as damaged until the next key frame. Faults are counted in ``scan``. Raises
    MemoryError.
    """
    after_error = any_intact = False
    for frames in decode_packets(container, stream, _video_decoder(stream), scan):
        after_error = after_error or frames is None
        for frame in frames or ():
            after_error = (after_error and not frame.key_frame) or (frame.is_corrupt and any_intact)
            any_intact = any_intact or not frame.is_corrupt
            yield frame, not after_error and not frame.is_corrupt


def _video_decoder(stream: av.VideoStream) -> av.codec.context.CodecContext:
    """The decoder of a stream; VP8 and VP9 with transparency need libvpx, as FFmpeg's decoders drop it."""
    name = stream.codec_context.name
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name in ALPHA_DECODERS and tags.get("alpha_mode") == "1":
        return av.CodecContext.create(ALPHA_DECODERS[name], "r")
    decoder = stream.codec_context
    decoder.thread_type = "AUTO"
    return decoder


def decode_packets(
    container: av.container.InputContainer,
    stream: av.VideoStream | av.AudioStream,
    decoder: av.codec.context.CodecContext,
    scan: Scan,
) -> Iterator[list | None]:
    """The frames of every packet of a stream, None for a packet that cannot be decoded.

    Faults are counted in ``scan``. Raises MemoryError.
    """
    source = packets(container, stream)
    last = False
    while not last:
        try:
            packet = next(source, None)
        except (av.FFmpegError, OSError, MemoryError) as error:
            check_memory(error)
            scan.fatal_error, packet = type(error).__name__, None
        last = packet is None or packet.size == 0
        scan.packets += not last
        try:
            yield decoder.decode(None if last else packet)
        except (av.FFmpegError, OSError, MemoryError) as error:
            check_memory(error)
            if not last:
                scan.errors += 1
                yield None


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the pixel format of a frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


def _is_transparent(frame: av.VideoFrame) -> bool:
    return has_alpha(frame) and int(frame.to_ndarray(format="rgba")[..., 3].min()) < 255
