"""Generation of clips that is saved on the way: it may be interrupted, and goes on."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.frames import to_image
from talking_heads.diffused.generation import Generator
from talking_heads.nn.weight_files import load_weights, save_weights
from talking_heads.progress import Progress

SAVE_EVERY = 30.0  # seconds


@dataclass
class Generation:
    """The generation of B clips of n frames, as :meth:`Generator.talk` does it."""

    generator: Generator
    identity: Tensor  # (B, 3, S, S)
    audio: Tensor  # (B, n, 2 m_y + 1, A)
    seeds: Sequence[int]  # of the noise, one for each clip
    weights: str  # name of the weights
    partial: Path  # where generated frames are saved
    truth: Tensor | None = None  # (B, n, 3, S, S), motion frames in place of the generated ones
    done: int = 0  # frames that are saved

    def run(self) -> np.ndarray:
        """All frames (B, n, S, S, 3) uint8; what is saved of the same generation is not generated again.

        An interrupt saves what is complete. The saved frames remain until :meth:`clear`.
        """
        key, count = self._key(), self.audio.shape[1]
        images, motion = self._saved(key)
        self.done = len(images)
        earlier = [self.identity] * (len(images) - len(motion)) + motion
        progress = Progress("generating", len(self.identity) * (count - len(images)), "frames")
        saved = time.time()
        try:
            for frame in self.generator.talk(self.identity, self.audio, self.seeds, earlier, self.truth):
                images.append(to_image(frame))
                motion = [*motion, frame][-max(1, self.generator.section.conditions.motion_frames) :]
                progress.add(len(frame))
                if time.time() - saved > SAVE_EVERY:
                    saved = time.time()
                    self._save(images, motion, key)
        except KeyboardInterrupt:
            if images:
                self._save(images, motion, key)
            raise
        return np.stack(images, 1)

    def clear(self) -> None:
        """Remove the saved frames."""
        self.partial.unlink(missing_ok=True)

    def _key(self) -> str:
        """Changes with the identity frames, the sound, the seeds, the weights and the settings."""
        tensors = [value for value in (self.identity, self.audio, self.truth) if value is not None]
        words = f"{list(self.seeds)} {self.weights} {self.generator.section.model_dump_json()}"
        parts = [*(value.cpu().numpy().tobytes() for value in tensors), words.encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def _saved(self, key: str) -> tuple[list[np.ndarray], list[Tensor]]:
        if not self.partial.exists():
            return [], []
        state, metadata = load_weights(self.partial)
        if metadata.get("key") != key:
            return [], []
        return list(state["images"].numpy()), list(state["motion"].to(self.identity.device))

    def _save(self, images: list[np.ndarray], motion: list[Tensor], key: str) -> None:
        state = {"images": torch.from_numpy(np.stack(images)), "motion": torch.stack(motion)}
        save_weights(self.partial, state, {"key": key})
        self.done = len(images)
