"""Training of control: further layers beside the trained network, which stays as it is.

For each sample, the speed of the head is measured on its clip, and how far the eyes are shut on its target
frame.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talking_heads.config import Profile
from talking_heads.data.windows import head_speed
from talking_heads.diffused.model import control_state
from talking_heads.diffused.training import SECTIONS, DiffusionLearner

CLIPS = 200  # training clips over which the usual speed of a head, a median, is taken


class ControlLearner(DiffusionLearner):
    """Training of the layers of controls; all other weights stay those of :meth:`start_from`.

    Its arguments are those of :class:`DiffusionLearner`.
    """

    variant = "control"
    sections = (*SECTIONS, "control")
    controlled = True

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.unet.requires_grad_(False)
        layers = control_state(self.unet)
        trained = [p.requires_grad_() for name, p in self.unet.named_parameters() if name in layers]
        self.optimiser = torch.optim.Adam(trained, lr=self.section.control.learning_rate, fused=True)
        self.total = self.section.control.steps

    @staticmethod
    def check(profile: Profile) -> None:
        """Raises ValueError where a profile trains no controls."""
        if not profile.diffused.control.steps:
            raise ValueError("diffused.control.steps is 0: this profile trains no controls")

    def learning_rate(self) -> float:
        """Falls to zero."""
        return self.section.control.learning_rate * (1 - self.step / self.total)

    def exported_state(self) -> dict[str, Tensor]:
        """The averaged layers of controls alone."""
        return control_state(self.ema)

    def export(self, path: Path, metadata: dict) -> None:
        """As :meth:`DiffusionLearner.export`, with the usual speed of a head."""
        super().export(path, {**metadata, "head speed": self.usual_speed()})

    def usual_speed(self) -> float:
        """The median speed of a head in the training clips, in interocular distances a second."""
        clips = self.dataset.clips
        numbers = np.linspace(0, len(clips) - 1, min(CLIPS, len(clips))).astype(int)
        read = (clips.read(n, np.arange(clips.frame_count(n)))[1] for n in numbers.tolist())
        return float(np.median([head_speed(points) for points in read if len(points) > 1]))
