"""The motion of a speaker in a video: pose, gaze, blinks, brows, smile and the mouth of an utterance."""

import math

import numpy as np

from talking_heads.data.speakers.anatomy import POSE
from talking_heads.data.speakers.paint import STYLE
from talking_heads.data.speakers.speech import Segment, mouth_track

# limits of a frame's pose, radians
LIMITS = {"yaw": math.radians(45), "pitch": math.radians(20), "roll": math.radians(15)}
# the plain corpus: how much of the head's motion remains, and its even backgrounds and light
PLAIN_MOTION = 0.2
PLAIN_BACKGROUNDS = (0.3, 0.5, 0.7)  # lightness
PLAIN_STYLE = {
    "light_x": 0.0,
    "light_y": -0.4,
    "warmth": 0.0,
    "exposure": 1.0,
    "contrast": 1.0,
    "background_hue": 0.0,
    "background_saturation": 0.0,
    "background_kind": 0.0,
    "background_x": 0.0,
    "background_seed": 0.0,
}


def draw_style(rng: np.random.Generator) -> dict[str, float]:
    """Draw clothes, background, light and camera of one video."""
    return {name: float(rng.uniform(low, high)) for name, (low, high) in STYLE.items()}


def plain_style(style: dict[str, float]) -> dict[str, float]:
    """A style of :func:`draw_style` in the plain corpus: one of few backgrounds, and light from above."""
    choice = int(style["background_hue"] * len(PLAIN_BACKGROUNDS)) % len(PLAIN_BACKGROUNDS)
    return style | PLAIN_STYLE | {"background_light": PLAIN_BACKGROUNDS[choice]}


def plain_motion(pose: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A pose of :func:`draw_motion` in the plain corpus: the head hardly turns, the face moves as before."""
    return pose | {name: PLAIN_MOTION * pose[name] for name in (*LIMITS, "shift_x", "shift_y")}


def smooth_walk(rng: np.random.Generator, times: np.ndarray, period: float, count: int = 4) -> np.ndarray:
    """A smooth random track (n,) of unit variance at ``times`` (n,) in seconds.

    It is a sum of ``count`` sines, and changes direction about every ``period`` seconds.
    """
    rates = rng.uniform(0.5, 1.6, count) / period
    phases = times[:, None] * rates + rng.random(count)
    waves = np.sin(2 * np.pi * phases) * rng.uniform(0.6, 1.0, count)
    return waves.sum(1) * math.sqrt(2 / count) / 0.82


def draw_motion(
    rng: np.random.Generator, times: np.ndarray, segments: list[Segment]
) -> dict[str, np.ndarray]:
    """Draw the pose of one video at ``times`` (n,) in seconds: every name of ``POSE`` as (n,) float32."""
    n = len(times)
    pose = {name: np.full(n, value) for name, value in POSE.items()}
    centre = {"yaw": rng.normal(0, 0.16), "pitch": rng.normal(0, 0.06), "roll": rng.normal(0, 0.05)}
    spread = {
        "yaw": rng.uniform(0.16, 0.42),
        "pitch": rng.uniform(0.05, 0.14),
        "roll": rng.uniform(0.04, 0.11),
    }
    for name, limit in LIMITS.items():
        track = centre[name] + spread[name] * smooth_walk(rng, times, 1.6)
        pose[name] = limit * np.tanh(track / limit)
    pose["shift_x"] = 0.05 * smooth_walk(rng, times, 2.5)
    pose["shift_y"] = 0.03 * smooth_walk(rng, times, 2.0)
    pose.update(mouth_track(segments, times, rng.uniform(0.75, 1.15)))
    mood = rng.uniform(-0.15, 0.75)
    pose["smile"] = np.clip(mood + 0.30 * smooth_walk(rng, times, 1.8), -0.3, 1.0)
    brows = rng.uniform(-0.1, 0.3) + 0.40 * smooth_walk(rng, times, 1.2)
    skew = 0.12 * smooth_walk(rng, times, 2.0)
    pose["brow_left"], pose["brow_right"] = np.clip(brows + skew, -0.3, 1), np.clip(brows - skew, -0.3, 1)
    pose["frown"] = np.clip(0.35 * smooth_walk(rng, times, 2.2) - 0.1, 0, 1)
    # the gaze jumps between targets; the lids follow it down, and close for a fifth of a second in a blink
    jumps = np.sort(rng.uniform(0, times[-1] + 0.1, rng.poisson(1.2 * times[-1]) + 1))
    fixation = np.searchsorted(jumps, times)
    targets = rng.uniform(-1, 1, (len(jumps) + 1, 2)) * [0.8, 0.6]
    pose["gaze_x"], pose["gaze_y"] = targets[fixation].T
    blink = np.zeros(n)
    for middle in np.arange(rng.uniform(0, 2.0), times[-1] + 0.2, 2.2) + rng.uniform(-0.6, 0.6):
        blink = np.maximum(blink, np.clip(1.25 - np.abs(times - middle) / 0.12, 0, 1))
    lids = np.clip(blink + 0.4 * pose["gaze_y"].clip(0) + rng.uniform(0, 0.12), 0, 1)
    pose["blink_left"] = pose["blink_right"] = lids
    return {name: np.asarray(track, np.float32) for name, track in pose.items()}
