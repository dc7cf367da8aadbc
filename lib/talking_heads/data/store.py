"""A prepared corpus: the videos of a split, in a fixed order."""

import os
from pathlib import Path

import numpy as np

from talking_heads.data import manifest
from talking_heads.data.frame_files import SOUND, TRACK, CorpusDamaged, read_frames


class Store:
    """The videos of one split of a prepared corpus, ordered by identity and name.

    Raises FileNotFoundError where there is no prepared corpus, ValueError where the split is empty or its
    frames do not have ``size``² pixels, and :class:`CorpusDamaged` where the manifest cannot be read.
    """

    def __init__(self, root: Path, split: str, size: int | None = None):
        self.root, self.split = root, split
        path = root / manifest.MANIFEST
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no prepared corpus here; run 'python -m talking_heads prepare' first"
            )
        self.index = manifest.read_index(root, split)
        self.size = self.index.size
        if not len(self):
            notes = {line["note"] for line in manifest.read_manifest(root) if line["split"] == split}
            reasons = "; ".join(sorted(notes)) or "no sources"
            raise ValueError(f"{path}: split {split!r} holds no usable video; reasons: {reasons}")
        if size is not None and size != self.size:
            raise ValueError(
                f"{path}: frames of {self.size}², {size}² are needed; prepare again with --size {size}"
            )

    def __len__(self) -> int:
        return len(self.index.frames)

    def frame_count(self, number: int) -> int:
        """Number of frames of a video."""
        return int(self.index.frames[number])

    def duration(self, number: int) -> float:
        """Length of a video's sources in seconds, with the frames that were left out."""
        return float(self.index.seconds[number])

    def identity(self, number: int) -> str:
        """Identity of a video."""
        return os.fsdecode(self.index.person[number])

    def name(self, number: int) -> str:
        """Name of a video."""
        return os.fsdecode(self.index.video[number])

    def folder(self, number: int) -> Path:
        """Folder of a video's frames and track."""
        return self.root / self.split / self.identity(number) / self.name(number)

    def read(self, number: int, frames: np.ndarray, pupils: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frames (k, S, S, 3) uint8 and landmarks (k, 68, 2) float32 of a video.

        With ``pupils`` the landmarks are (k, 70, 2), and missing pupils are NaN.
        """
        images, points = read_frames(self.folder(number), frames)
        return images, points if pupils else points[:, :68]

    def sound(self, number: int) -> np.ndarray:
        """The sound of a video's clips, one after the other: (samples,) int16, memory-mapped.

        Raises :class:`CorpusDamaged` where the video was prepared without it.
        """
        path = self.folder(number) / SOUND
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CorpusDamaged(
                f"{path}: no sound of this video ({error}); prepare the corpus again as talking clips"
            ) from error

    def track(self, number: int) -> dict[str, np.ndarray]:
        """All arrays of a video's track: landmarks, clip, time, and pupils and hidden where present."""
        with np.load(self.folder(number) / TRACK) as track:
            return dict(track)

    def digest(self) -> str:
        """Eight hex digits that change with the prepared videos."""
        return self.index.digest

    def identities(self) -> dict[str, list[int]]:
        """Numbers of the videos of every identity."""
        numbers: dict[str, list[int]] = {}
        for number in range(len(self)):
            numbers.setdefault(self.identity(number), []).append(number)
        return numbers

    def first_source(self, number: int) -> dict:
        """The manifest's line of a video's first usable source; ``source`` is relative to ``root``.

        Raises :class:`CorpusDamaged` where the manifest was written anew since the corpus was opened.
        """
        path = self.root / manifest.MANIFEST
        line = manifest.line_at(path, self.index.source_position[self.index.first_source[number]])
        if (line.get("person"), line.get("video")) != (self.identity(number), self.name(number)):
            raise CorpusDamaged(f"{path}: has changed since the corpus was opened; start again")
        return line
