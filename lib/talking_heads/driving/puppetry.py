"""Driving one person by another: ranking drivers as the paper does, and measuring adaptation where the truth is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from ..corpus.episodes import to_tensor
from ..corpus.landmarks import draw_all, interocular
from ..corpus.speakers.clips import Clip, make_clip
from ..evaluation import judges, metrics
from ..evaluation.methods import Frames, drive
from ..evaluation.statistics import paired
from ..fine_tuning import fine_tune, set_up
from ..judges.gaze import gaze_error
from ..meta_learning import Networks
from ..profiles import Profile
from .face_shape import FaceShape
from .heads import KeptHead


def rank_drivers(head: KeptHead, tracks: Mapping[str, np.ndarray], frames: int = 12) -> pd.Series:
    """CSIM-judge between the source frame and what each driver's raw track (n, 68, 2) makes of it, best first (section 4.3).

    The paper ranks its drivers so, to find faces of similar geometry.
    """
    source = judges.identity_features(head.images[:1])
    likeness = {}
    for name, points in tracks.items():
        made = head.drive(points[np.linspace(0, len(points) - 1, min(frames, len(points))).round().astype(int)])
        likeness[name] = float((judges.identity_features(made) @ source[0]).mean())
    return pd.Series(likeness, name="CSIM-judge").sort_values(ascending=False)


def performance(seed: int, source: int, driver: int, frames: int, fps: float, size: int) -> tuple[Clip, Clip]:
    """The driver's clip, and the truth: the same motion with the source's face, in the source's own clothes and light."""
    return make_clip(seed, driver, 1, frames, fps, size), make_clip(seed, source, 0, frames, fps, size, sound=False, moved_by=(driver, 1))


def track_error(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of a track (n, 68, 2) to the true one, in distances between the eyes."""
    return float((np.linalg.norm(points - truth, axis=-1).mean(1) / interocular(truth)).mean())


def trial(head: KeptHead, driver: Clip, truth: Clip, model: FaceShape) -> list[dict]:
    """Raw against adapted landmarks for one pair: their distance to the truth, and what the head makes of them."""
    size, rows = head.settings.image_size, []
    real = judges.identity_features(truth.frames)
    for name, points in (("raw", driver.landmarks), ("adapted", model.adapt(driver.landmarks, head.points, size))):
        made = head.drive(points)
        rows.append({"landmarks": name, "track error": track_error(points, truth.landmarks),
                     "CSIM-judge": float(metrics.cosine(judges.identity_features(made), real).mean()),
                     "SSIM": float(np.mean([metrics.ssim(a, b) for a, b in zip(made, truth.frames)]))})
    return rows


def gains(trials: pd.DataFrame, before: str = "raw", after: str = "adapted") -> pd.DataFrame:
    """One kind of landmarks against another over the same pairs (column ``pair``), positive is better, with 95 % intervals over pairs."""
    rows = []
    for metric in (m for m in ("track error", "gaze error", "CSIM-judge", "SSIM") if m in trials):
        sign, means = -1 if "error" in metric else 1, trials.pivot(index="pair", columns="landmarks", values=metric)
        gain, low, high = paired(sign * means[after].to_numpy(), sign * means[before].to_numpy())
        rows.append({"metric": metric, before: means[before].mean(), after: means[after].mean(), "gain": gain, "low": low, "high": high, "pairs": len(means)})
    return pd.DataFrame(rows)


def with_landmarks(clip: Clip, profile: Profile, device: torch.device, pupils: bool) -> Frames:
    """A rendered clip's frames with their landmark images, which show the pupils where asked for."""
    points = np.concatenate([clip.landmarks, clip.pupils], 1) if pupils else clip.landmarks
    return Frames(clip.frames, clip.landmarks, to_tensor(clip.frames, device), to_tensor(draw_all(points, profile.image_size, profile.line_width), device))


def gaze_trial(nets: Networks, few: Clip, test: Clip, profile: Profile, extractors: Sequence, device: torch.device) -> tuple[list[dict], dict[str, np.ndarray]]:
    """One head each, learned and driven with pupils and without: gaze error and SSIM on ``test``, and the frames (n, S, S, 3)."""
    rows, made = [], {}
    for name, pupils in (("68 points", False), ("with pupils", True)):
        learned, driver = (with_landmarks(c, profile, device, pupils) for c in (few, test))
        made[name] = drive(fine_tune(set_up(nets, learned.x, learned.y, profile, extractors), profile.seed), driver.y, profile)
        rows.append({"landmarks": name, "gaze error": float(np.nanmean(gaze_error(made[name], test.landmarks, test.pupils))),
                     "SSIM": float(np.mean([metrics.ssim(a, b) for a, b in zip(made[name], test.frames)]))})
    return rows, made
