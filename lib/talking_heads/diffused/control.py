"""Control of head motion and blinks in generation, which the paper does not have.

Layers beside the trained network (:mod:`diffused.control_training`) obey two values in every frame: the
logarithm of :func:`windows.head_speed`, and :func:`windows.shut_eyes`.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from talking_heads.data.sound import FPS
from talking_heads.data.windows import SLOWEST
from talking_heads.sections.diffused import Sampling

# seconds after the middle of a blink at which the eyes begin to open, and at which they are fully open
SHUT, OPEN = 0.12, 0.24
JITTER = 0.3  # largest shift of a blink in either direction, as a share of the mean time between blinks


def shut_at(number: int, rate: float, seed: int) -> float:
    """How far the eyes are shut in a frame, 0 to 1, with ``rate`` blinks a second at random times."""
    if not rate:
        return 0.0
    time = number / FPS
    middles = [
        (blink + 0.5 + np.random.default_rng([seed, blink]).uniform(-JITTER, JITTER)) / rate
        for blink in range(max(0, int(time * rate) - 1), int(time * rate) + 2)
    ]
    distance = min(abs(time - middle) for middle in middles)
    return float(np.clip((OPEN - distance) / (OPEN - SHUT), 0, 1))


def open_eyes(control: Tensor | None) -> Tensor | None:
    """The control values (B, 2) with open eyes; the argument itself where all are open, and for None."""
    if control is None or not control[:, 1].any():
        return control
    return control * control.new_tensor([1.0, 0.0])


def control_of(sampling: Sampling, usual_speed: float, seeds: Sequence[int], number: int) -> Tensor:
    """The control values (B, 2) of frame ``number`` in clips with these seeds."""
    speed = math.log(max(sampling.head_motion * usual_speed, SLOWEST))
    return torch.tensor([[speed, shut_at(number, sampling.blink_rate, seed)] for seed in seeds])
