"""``python -m talking_heads speak --live``: frames are written while the sound is still coming in.

The sound is raw: 16-bit samples, little-endian, mono, at 16 kHz.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor, nn

from talking_heads.animation.speak import LoadModel, Request, check_face, comment_of, find_face
from talking_heads.animation.synthetic_video import MARK, enlarged, refuse_foreign
from talking_heads.config import Profile
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import FPS, HOP, SOUND_RATE
from talking_heads.data.video import LiveWriter
from talking_heads.data.windows import PEAK
from talking_heads.devices import choose
from talking_heads.diffused.generation import Generator, latency_seconds, stream
from talking_heads.files import Interrupted, check_outputs, try_outputs

STANDARD_INPUT = Path("-")
PATIENCE = 2.0  # seconds without growth after which a file counts as complete
FLOOR = 0.05  # loudest sample that is assumed before anything louder comes, of 1
REPORTED_EVERY = 5.0  # seconds
Read = Callable[[int], bytes]


@dataclass
class Arrivals:
    """The sound so far, and when it came."""

    sound: bytearray = field(default_factory=bytearray)
    counts: list[int] = field(default_factory=list)  # samples so far, after each piece
    times: list[float] = field(default_factory=list)  # of each piece
    loudest: float = FLOOR

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Take in samples (n,) int16; returns them as loud as the clips of the training, as far as the
        loudest sample so far tells.
        """
        self.sound += samples.tobytes()
        self.counts.append(len(self.sound) // 2)
        self.times.append(time.monotonic())
        self.loudest = max(self.loudest, float(np.abs(samples.astype(np.int32)).max()) / 32768)
        return np.rint(samples * (PEAK / self.loudest)).astype(np.int16)

    def of_frame(self, number: int) -> np.ndarray:
        """The samples (n,) int16 from the instant of a frame to the next one."""
        return np.frombuffer(bytes(self.sound[2 * HOP * number : 2 * HOP * (number + 1)]), np.int16)

    def lag(self, number: int) -> float:
        """Seconds since the instant of a frame was heard."""
        piece = bisect_right(self.counts, number * HOP)
        return time.monotonic() - self.times[min(piece, len(self.times) - 1)]


def chunks(read: Read, seconds: float = 0.0) -> Iterator[np.ndarray]:
    """Samples (n,) int16 as they come, those of a frame at once, until the end.

    After the end ``seconds`` are waited for more, as in a file that still grows. An odd last byte is dropped.
    """
    rest, last = b"", time.monotonic()
    while True:
        data = read(2 * HOP)
        if data:
            last, rest = time.monotonic(), rest + data
            whole = len(rest) // 2 * 2
            if whole:
                yield np.frombuffer(rest[:whole], "<i2").astype(np.int16)
            rest = rest[whole:]
        elif time.monotonic() - last >= seconds:
            return
        else:
            time.sleep(0.02)


def speak_live(
    request: Request,
    profile: Profile,
    load_model: LoadModel,
    device_name: str,
    standard_input: BinaryIO,
) -> Path:
    """Generate a talking head from a sound that is still being recorded, and write it frame by frame.

    ``request.sound`` is a raw file, which may grow, or "-" for ``standard_input``. The output is a Matroska
    file that can be played at once. Says how far frames come after the sound. Raises ValueError and
    FileNotFoundError for unusable input before anything is written; after an interrupt the file is complete
    up to the last frame.
    """
    check(request)
    device = choose(device_name)
    face = find_face(request, profile.diffused.clips.image_size, profile.diffused.clips.alignment, device)
    generator, encoder, _ = load_model(device)
    identity = to_tensor(face.image[None], device)
    print(f"a frame needs the sound of the {latency_seconds(profile.diffused):.2f} s after it", flush=True)
    if request.sound == STANDARD_INPUT:
        return _write(request, face.card, (generator, encoder), identity, chunks(standard_input.read))
    with request.sound.open("rb") as file:
        return _write(request, face.card, (generator, encoder), identity, chunks(file.read, PATIENCE))


def check(request: Request) -> None:
    """Check names, permissions and kinds. Raises ValueError, and FileNotFoundError for a missing input."""
    check_face(request)
    if request.keep:
        raise ValueError("--live keeps no identity frame; leave out --keep")
    if request.out.suffix.lower() != ".mkv":
        raise ValueError(f"--out {request.out}: --live writes Matroska; give a name that ends in .mkv")
    inputs = [
        path for path in (request.photo, request.face, request.sound) if path and path != STANDARD_INPUT
    ]
    if missing := [str(path) for path in inputs if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: no such file")
    check_outputs({"--out": request.out}, inputs)
    try_outputs({"--out": request.out}, 0)
    refuse_foreign(request.out)


def _write(
    request: Request,
    card: dict[str, str],
    model: tuple[Generator, nn.Module],
    identity: Tensor,
    source: Iterator[np.ndarray],
) -> Path:
    arrivals, lags, start = Arrivals(), [], time.monotonic()
    reported = start
    frames = stream(*model, identity, (arrivals.add(samples) for samples in source), request.seed)
    with LiveWriter(request.out, round(FPS), f"{MARK}: {comment_of(card)}") as writer:
        try:
            for number, frame in enumerate(frames):
                writer.add(enlarged(to_image(frame)[0], request.mark), arrivals.of_frame(number))
                lags.append(arrivals.lag(number))
                if time.monotonic() - reported > REPORTED_EVERY:
                    reported = time.monotonic()
                    print(f"  frame {number + 1}, {lags[-1]:.2f} s after its sound", flush=True)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(f"interrupted; {len(lags)} frames are in {request.out}") from interrupt
    if not lags:
        raise ValueError(f"{request.sound}: no sound came in")
    seconds, heard = time.monotonic() - start, len(arrivals.sound) / 2 / SOUND_RATE
    print(
        f"{len(lags)} frames of {heard:.1f} s of sound in {seconds:.1f} s; half of them came within "
        f"{np.median(lags):.2f} s after their sound, the last one {lags[-1]:.2f} s"
    )
    return request.out
