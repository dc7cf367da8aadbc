"""Many rendered identities in two memory-mapped arrays, on which judges and reference weights are trained.

A pool needs no video files. It is rendered in parallel, and an interrupted run continues where it stopped.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from talking_heads.config import digest
from talking_heads.data.sound import SOUND_RATE, to_int16
from talking_heads.data.speakers.clips import VERSION, Clip, ClipSettings, make_clip
from talking_heads.devices import cores
from talking_heads.files import waiting_lock, write_text
from talking_heads.processes import worker_pool
from talking_heads.sections.diffused import Corpus

COMPLETE = "pool.json"  # exists for a complete pool


@dataclass(frozen=True)
class PoolSettings:
    """The clips of a pool: of identities ``first`` ... ``first + people - 1`` of the corpus ``seed``."""

    seed: int
    first: int
    people: int  # number of identities
    videos: int  # of every identity
    frames: int  # of every video
    size: int  # side of the frames in pixels
    fps: float = 2.5
    sound: bool = False  # whether the clips are stored with their sound
    corpus: Corpus = "diverse"

    @property
    def samples(self) -> int:
        """Samples of a clip's sound at 16 kHz."""
        return round(self.frames / self.fps * SOUND_RATE)

    def clip(self, number: int, video: int) -> ClipSettings:
        """A video of the identity with this number in the pool."""
        identity = self.first + number
        return ClipSettings(self.seed, identity, video, self.frames, self.fps, self.size, self.corpus)

    def metadata(self) -> dict:
        """The settings and the renderer's version, as they are stored with a pool."""
        values = asdict(self)
        # pools that were rendered before there was sound, or another corpus, stay valid
        if not self.sound:
            values.pop("sound")
        if self.corpus == "diverse":
            values.pop("corpus")
        return {**values, "version": VERSION}


class Pool:
    """The arrays of a pool, memory-mapped.

    ``images`` is (identities, videos, frames, size, size, 3) uint8. ``points`` is (identities, videos,
    frames, 70, 2) float32: 68 landmarks and two pupils in pixels. ``sound`` is (identities, videos, samples)
    int16 at 16 kHz, None where it was not stored.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.points = np.load(folder / "points.npy", mmap_mode="r")
        sound = folder / "sound.npy"
        self.sound: np.ndarray | None = np.load(sound, mmap_mode="r") if sound.exists() else None

    def metadata(self) -> dict:
        """The settings, the renderer's version, and the type of device where it was not a CPU."""
        return json.loads((self.folder / COMPLETE).read_text(encoding="utf-8"))

    def digest(self) -> str:
        """Changes with the metadata."""
        return digest(self.metadata())


def make_pool(
    folder: Path,
    settings: PoolSettings,
    workers: int | None = None,
    device: str | torch.device = "cpu",
) -> Pool:
    """Render a pool, or what is missing of it. A second process waits for the first.

    A CPU renders one identity on each core, a GPU one after the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with waiting_lock(folder):
        return _make_pool(folder, settings, workers, torch.device(device))


def _make_pool(folder: Path, settings: PoolSettings, workers: int | None, device: torch.device) -> Pool:
    metadata = settings.metadata()
    if device.type != "cpu":  # its frames differ in the last levels
        metadata["device"] = device.type
    complete = folder / COMPLETE
    if complete.exists() and json.loads(complete.read_text(encoding="utf-8")) == metadata:
        return Pool(folder)
    done = _rendered(folder, metadata)
    if not done:
        complete.unlink(missing_ok=True)
        (folder / "done.json").unlink(missing_ok=True)  # of other settings, whose arrays are overwritten
        shape = (settings.people, settings.videos, settings.frames)
        pixels = (*shape, settings.size, settings.size, 3)
        np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, pixels).flush()
        np.lib.format.open_memmap(folder / "points.npy", "w+", np.float32, (*shape, 70, 2)).flush()
        if settings.sound:
            samples = (settings.people, settings.videos, settings.samples)
            np.lib.format.open_memmap(folder / "sound.npy", "w+", np.int16, samples).flush()
    todo = [number for number in range(settings.people) if number not in done]
    batches = [todo[k : k + 4] for k in range(0, len(todo), 4)]
    start, last = time.time(), 0.0
    with worker_pool((workers or cores()) if device.type == "cpu" else 1) as executor:
        n = len(batches)
        arguments = ([folder] * n, [settings] * n, batches, [str(device)] * n)
        for numbers in executor.map(_render_identities, *arguments):
            done.update(numbers)
            if time.time() - last > 10 or len(done) == settings.people:
                last = time.time()
                _keep_rendered(folder, metadata, done)
                frames = (len(done) - settings.people + len(todo)) * settings.videos * settings.frames
                rate = frames / (last - start)
                print(f"  {len(done)}/{settings.people} identities rendered, {rate:.0f} frames/s", flush=True)
    write_text(complete, json.dumps(metadata))
    return Pool(folder)


def _rendered(folder: Path, metadata: dict) -> set[int]:
    """Numbers of the identities that an interrupted run with the same settings rendered."""
    path = folder / "done.json"
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return set(state["done"]) if state.get("about") == metadata else set()


def _keep_rendered(folder: Path, metadata: dict, numbers: set[int]) -> None:
    temporary = folder / "done.tmp"
    temporary.write_text(json.dumps({"about": metadata, "done": sorted(numbers)}), encoding="utf-8")
    temporary.replace(folder / "done.json")


def _render_identities(folder: Path, settings: PoolSettings, numbers: list[int], device: str) -> list[int]:
    """Render the identities with these numbers into the arrays of a pool."""
    torch.set_num_threads(1)
    images = np.load(folder / "images.npy", mmap_mode="r+")
    points = np.load(folder / "points.npy", mmap_mode="r+")
    sound = np.load(folder / "sound.npy", mmap_mode="r+") if settings.sound else None
    for number in numbers:
        for video in range(settings.videos):
            clip = make_clip(settings.clip(number, video), device, sound=settings.sound)
            if sound is not None:
                sound[number, video] = to_int16(clip.sound)
            images[number, video] = clip.frames
            points[number, video] = np.concatenate([clip.landmarks, clip.pupils], 1)
    return numbers


class LiveVideos:
    """Videos of procedural speakers that are rendered when they are read.

    On a GPU this takes milliseconds per frame. Videos are numbered by identity.
    """

    def __init__(self, settings: PoolSettings, device: str | torch.device):
        self.settings, self.device = settings, torch.device(device)

    def __len__(self) -> int:
        return self.settings.people * self.settings.videos

    def frame_count(self, video: int) -> int:
        """Number of frames of a video."""
        return self.settings.frames

    def identity(self, video: int) -> str:
        """Number of the identity of a video."""
        return str(self.settings.first + video // self.settings.videos)

    def name(self, video: int) -> str:
        """Number of a video among those of its identity."""
        return str(video % self.settings.videos)

    def clip_settings(self, video: int) -> ClipSettings:
        """The settings by which a video is rendered."""
        return self.settings.clip(*divmod(video, self.settings.videos))

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and landmarks (k, 68, 2), with ``pupils`` (k, 70, 2)."""
        clip = make_clip(self.clip_settings(video), self.device, sound=False, only=frames)
        points = np.concatenate([clip.landmarks, clip.pupils], 1) if pupils else clip.landmarks
        return clip.frames, points[frames]


class LiveClips(LiveVideos):
    """Talking clips that are rendered as training goes, with their sound.

    A clip is rendered as a whole, which takes a GPU as many calls as one of its frames. Batches are drawn
    from ``kept`` clips, of which each step replaces one: a window over all clips, which moves by one a step.
    """

    kept = 256

    def __init__(self, settings: PoolSettings, device: str | torch.device):
        super().__init__(settings, device)
        self._clips: dict[int, Clip] = {}

    def window(self, step: int, rank: int = 0) -> np.ndarray:
        """Numbers of the clips from which a rank draws the batch of a step; others are kept no longer."""
        numbers = (rank * self.kept + step + np.arange(self.kept)) % len(self)
        for video in self._clips.keys() - set(numbers.tolist()):
            del self._clips[video]
        return numbers

    def read(self, video: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`LiveVideos.read`."""
        clip = self._render(video)
        points = np.concatenate([clip.landmarks, clip.pupils], 1) if pupils else clip.landmarks
        return clip.frames[frames], points[frames]

    def sound(self, video: int) -> np.ndarray:
        """The sound of a clip, (samples,) int16 at 16 kHz."""
        return to_int16(self._render(video).sound)

    def metadata(self) -> dict:
        """The settings, the renderer's version, and how the clips are rendered."""
        return {**self.settings.metadata(), "rendered": "as training goes", "device": self.device.type}

    def digest(self) -> str:
        """Changes with the metadata."""
        return digest(self.metadata())

    def _render(self, video: int) -> Clip:
        if video not in self._clips:
            self._clips[video] = make_clip(self.clip_settings(video), self.device)
        return self._clips[video]
