"""Generation of clips that is saved on the way: it may be interrupted, and goes on.

Frames go to a file as they are generated, and are read from it, so that memory does not grow with the clip.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.frames import to_image
from talking_heads.diffused.generation import Generator
from talking_heads.files import appended, stating_full_disks
from talking_heads.nn.weight_files import load_weights, save_weights
from talking_heads.progress import Progress

SAVE_EVERY = 30.0  # seconds


def frames_beside(partial: Path) -> Path:
    """The file of the generated frames, beside the one of the state."""
    return appended(partial, ".frames")


@dataclass
class Generation:
    """The generation of B clips of n frames, as :meth:`Generator.talk` does it."""

    generator: Generator
    identity: Tensor  # (B, 3, S, S)
    audio: Tensor  # (B, n, 2 m_y + 1, A)
    seeds: Sequence[int]  # of the noise, one for each clip
    weights: str  # name of the weights
    partial: Path  # the file of the state: how many frames are complete, and the newest of them
    truth: Tensor | None = None  # (B, n, 3, S, S), motion frames in place of the generated ones
    done: int = 0  # frames that are saved

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of the file of frames: (n, B, S, S, 3)."""
        batch, channels, height, width = self.identity.shape
        return self.audio.shape[1], batch, height, width, channels

    def run(self) -> np.ndarray:
        """All frames (B, n, S, S, 3) uint8, which are read from their file as they are used; what is saved of
        the same generation is not generated again.

        An interrupt saves what is complete. The files remain until :meth:`clear`. Raises OSError where they
        cannot be written.
        """
        key, count = self._key(), self.shape[0]
        complete = self._saved(key)  # one value, which an interrupt cannot divide
        self.done, motion = complete
        earlier = [self.identity] * (self.done - len(motion)) + motion
        progress = Progress("generating", len(self.identity) * (count - self.done), "frames")
        kept, saved = max(1, self.generator.section.conditions.motion_frames), time.time()
        with self._appending(key) as file:
            try:
                for frame in self.generator.talk(self.identity, self.audio, self.seeds, earlier, self.truth):
                    file.write(to_image(frame).tobytes())
                    complete = complete[0] + 1, [*complete[1], frame][-kept:]
                    progress.add(len(frame))
                    if time.time() - saved > SAVE_EVERY:
                        saved = time.time()
                        self._save(file, *complete, key)
            except KeyboardInterrupt:
                if complete[0]:
                    self._save(file, *complete, key)
                else:
                    self.clear()
                raise
        return np.memmap(frames_beside(self.partial), np.uint8, "r", shape=self.shape).swapaxes(0, 1)

    def clear(self) -> None:
        """Remove the files."""
        frames_beside(self.partial).unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)

    def _key(self) -> str:
        """Changes with the identity frames, the sound, the seeds, the weights and the settings."""
        tensors = [value for value in (self.identity, self.audio, self.truth) if value is not None]
        words = f"{list(self.seeds)} {self.weights} {self.generator.section.model_dump_json()}"
        digest = hashlib.sha256()
        for value in tensors:
            digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
        digest.update(words.encode())
        return digest.hexdigest()[:16]

    def _saved(self, key: str) -> tuple[int, list[Tensor]]:
        """How many frames are saved of the same generation, and the newest of them, (B, 3, S, S) each."""
        frames = frames_beside(self.partial)
        if not self.partial.exists() or not frames.exists():
            return 0, []
        state, metadata = load_weights(self.partial)
        done = metadata.get("done", 0)
        if metadata.get("key") != key or frames.stat().st_size < done * self._frame_bytes:
            return 0, []
        return done, list(state["motion"].to(self.identity.device)) if done else []

    @property
    def _frame_bytes(self) -> int:
        return int(np.prod(self.shape[1:]))

    @contextmanager
    def _appending(self, key: str) -> Iterator[BinaryIO]:
        """The file of frames, to which others are appended after those that are saved. The state is written
        before it: a file of frames without a state beside it is not ours.
        """
        path = frames_beside(self.partial)
        if not self.done:
            self._write_state(0, [], key)
        with stating_full_disks(path), path.open("r+b" if self.done else "wb") as file:
            file.truncate(self.done * self._frame_bytes)
            file.seek(0, os.SEEK_END)
            yield file

    def _save(self, file: BinaryIO, done: int, motion: list[Tensor], key: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        self._write_state(done, motion, key)
        self.done = done

    def _write_state(self, done: int, motion: list[Tensor], key: str) -> None:
        state = {"motion": torch.stack(motion)} if motion else {}
        save_weights(self.partial, state, {"key": key, "done": done})
