"""Files through PyAV: opening them, and their frames one after the other, as a player shows them."""

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np

from .photographs import flatten

BACK, JUMP = 0.25, 600.0  # seconds that times may fall or pause; beyond, the clock begins anew
SQUARE = 0.01  # a pixel's width over its height may differ from 1 by this much, and counts as square
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class UnreadableVideo(ValueError):
    """The file gives no frames; the message says why."""


def check_memory(error: Exception) -> None:
    """Raises MemoryError where an error means that memory ran out, as EAGAIN does of threads."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
        raise MemoryError("memory ran out") from error


def open_file(path: Path) -> av.container.InputContainer:
    """A container to read. ``path`` is a file whatever its name looks like, and what is in it opens
    nothing but files.

    Raises :class:`UnreadableVideo`, also for a photograph, OSError where the file cannot be opened, and
    MemoryError.
    """
    with path.open("rb"):  # what the system refuses is no fault of the video
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
    """The pictures of a container. Raises :class:`UnreadableVideo` where there are none, or none that can be
    decoded.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise UnreadableVideo("no video stream")
    if stream.codec_context is None:
        raise UnreadableVideo("its video codec is unknown; convert it to H.264")
    return stream


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The sound of a container, None where there is none that can be decoded."""
    readable = [s for s in container.streams.audio if s.codec_context is not None]
    best = container.streams.best("audio")
    return best if best in readable else next(iter(readable), None)


def packets(container: av.container.InputContainer, wanted: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of one stream, with times on one clock; the last one is empty.

    Where clips were joined, the times of pictures and of sound begin anew: they go on after the end of what
    came before, of the stream that ends last, and keep their distance. Raises what demuxing does.
    """
    streams = [s for s in (container.streams.best("video"), sound_stream(container)) if s is not None]
    offsets, ends = [0.0], [-np.inf]  # of every joined part: what is added to its times, and its last time
    part = {s.index: 0 for s in streams}
    last: dict[int, float] = {}
    step: dict[int, float] = {}  # between packets, for those that do not state how long they last
    for packet in container.demux(streams):
        index, stamp = packet.stream.index, packet.pts if packet.dts is None else packet.dts
        if packet.size and stamp is not None:
            seconds = float(stamp * packet.time_base)
            if index in last and not -BACK < seconds - last[index] < JUMP:
                part[index] += 1
                if part[index] == len(offsets):
                    offsets.append(offsets[-1] + ends[-1] - seconds)
                    ends.append(-np.inf)
            elif index in last:
                step[index] = max(0.0, seconds - last[index])
            last[index] = seconds
            shown = float((stamp if packet.pts is None else packet.pts) * packet.time_base)
            end = shown + (
                float(packet.duration * packet.time_base) if packet.duration else step.get(index, 0.0)
            )
            ends[part[index]] = max(ends[part[index]], end)
            ticks = round(offsets[part[index]] / packet.time_base)
            if ticks:
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
        if index == wanted.index:
            yield packet


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
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # side data that PyAV has no name for; it still knows the rotation
            turns = round(frame.rotation / 90) % 4
            return cls(aspect, turns % 2 == 1, turns in (2, 3), turns in (1, 2))
        if matrix is None:
            return cls(aspect)
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])  # (x, y) goes to (a x + c y, b x + d y)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(aspect, False, a < 0, d < 0)
        return cls(aspect, True, c < 0, b < 0)

    @property
    def stretch(self) -> np.ndarray:
        """(2,) x and y from the stored, upright frame to the one that is seen: its pixels are square, no
        side is shorter.
        """
        stretch = np.array([max(self.pixel_aspect, 1.0), max(1 / self.pixel_aspect, 1.0)])
        return stretch[::-1] if self.transposed else stretch

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of a frame as it is seen."""
        width, height = (frame.height, frame.width) if self.transposed else (frame.width, frame.height)
        x, y = self.stretch
        return round(height * y), round(width * x)

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as it is seen, (H, W, 3) uint8, RGB."""
        image = flatten(frame.to_ndarray(format="rgba" if has_alpha(frame) else "rgb24"))[0]
        if self.transposed:
            image = image.swapaxes(0, 1)
        image = np.ascontiguousarray(image[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1])
        height, width = self.size(frame)
        return (
            image
            if image.shape[:2] == (height, width)
            else cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        )


@dataclass
class Scan:
    """What one pass over a stream finds."""

    times: list[float | None] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (height, width) as shown
    packets: int = 0
    errors: int = 0  # packets that cannot be decoded
    broken_off: str = ""  # the error that ends the stream early
    alpha: bool = False
    interlaced: bool = False
    end: float = 0.0  # of the last frame, on the file's own clock

    def add(self, frame: av.VideoFrame, whole: bool, stream: av.VideoStream, shape: Shape) -> None:
        base = frame.time_base or stream.time_base
        self.times.append(None if frame.pts is None else float(frame.pts * base))
        self.whole.append(whole)
        self.sizes.append(shape.size(frame))
        self.interlaced = self.interlaced or frame.interlaced_frame
        self.alpha = self.alpha or (
            has_alpha(frame) and int(frame.to_ndarray(format="rgba")[..., 3].min()) < 255
        )
        if frame.pts is not None:
            self.end = max(self.end, float((frame.pts + (frame.duration or 0)) * base))


def decode(
    container: av.container.InputContainer, stream: av.VideoStream, scan: Scan
) -> Iterator[tuple[av.VideoFrame, bool]]:
    """All frames in the order in which they are shown, and whether each is whole.

    After an error frames are damaged until one that needs no other. Faults are counted in ``scan``. Raises
    MemoryError.
    """
    name = stream.codec_context.name
    if name in ALPHA_DECODERS and {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") == "1":
        # FFmpeg's own decoders drop the transparency
        decoder = av.CodecContext.create(ALPHA_DECODERS[name], "r")
    else:
        decoder = stream.codec_context
        decoder.thread_type = "AUTO"
    broken = seen = False
    for frames in decode_packets(container, stream, decoder, scan):
        broken = broken or frames is None
        for frame in frames or ():
            broken = (broken and not frame.key_frame) or (frame.is_corrupt and seen)
            seen = seen or not frame.is_corrupt
            yield frame, not broken and not frame.is_corrupt


def decode_packets(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    decoder: av.codec.context.CodecContext,
    scan: Scan,
) -> Iterator[list | None]:
    """The frames of every packet of a stream, None for one that cannot be decoded; faults are counted in
    ``scan``. Raises MemoryError.
    """
    source = packets(container, stream)
    last = False
    while not last:
        try:
            packet = next(source, None)
        except (av.FFmpegError, OSError, MemoryError) as error:
            check_memory(error)
            scan.broken_off, packet = type(error).__name__, None
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
    return any(component.is_alpha for component in frame.format.components)
