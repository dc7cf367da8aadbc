"""A training with its provenance: which code trained from which step, and the weights that it exports."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from talking_heads.provenance import commit
from talking_heads.training import lineage, loop


class RecordedTraining:
    """A training in its folder.

    The steps are :func:`loop.train` on :attr:`learner` within :meth:`recording`; then comes :meth:`export`.
    """

    def __init__(self, name: str, learner: Any, folder: Path, device: torch.device, metadata: dict[str, Any]):
        self.name, self.learner, self.folder, self.device = name, learner, folder, device
        self.metadata = metadata  # of the weights

    @property
    def exported(self) -> Path:
        """The weights of the last slice."""
        return self.folder / "weights.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the training is at its end. Raises ValueError as :func:`loop.restore` does."""
        return loop.is_finished(self.learner, self.folder) and self.exported.exists()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records which code trains from which step.

        Raises ValueError where another process trains in the folder, and as :func:`loop.saved_step` does.
        """
        with lineage.training_in(self.folder, loop.saved_step(self.learner, self.folder), self.device):
            yield

    def export(self) -> Path:
        """Write the weights with their provenance."""
        provenance = {
            "of": self.learner.total,
            "commit": commit(),
            "lineage": lineage.slices(self.folder),
        }
        self.learner.export(self.exported, self.metadata | provenance)
        step = f"step {self.learner.step}/{self.learner.total}"
        print(f"  {self.name}: {step}, weights in {self.exported}", flush=True)
        return self.exported
