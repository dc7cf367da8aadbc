"""Cross-identity reenactment (section 4.3): driver ranking, landmark adaptation and gaze.

Rendered clips give the ground truth that real videos lack: one identity with the motion of another.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from talking_heads.animation.face_shape import FaceShape
from talking_heads.animation.head_files import KeptHead
from talking_heads.config import Profile
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all, interocular
from talking_heads.data.speakers.clips import Clip, ClipSettings, make_clip
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.head import generate
from talking_heads.few_shot.networks.build import Networks
from talking_heads.judges.faces import features_of, similarity_metric
from talking_heads.judges.use import gaze_error, identity_features
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.images import ssim
from talking_heads.metrics.statistics import paired

METRICS = ("track error", "gaze error", "CSIM-judge", "SSIM")
LOWER_IS_BETTER = ("track error", "gaze error")


def rank_drivers(
    head: KeptHead,
    tracks: Mapping[str, np.ndarray],
    frames: int = 12,
    device: str | torch.device = "cpu",
    *,
    real: bool = False,
) -> pd.Series:
    """CSIM-judge, of ``real`` people CSIM-dlib, between the source frame and the frames that each driver's
    track generates, best first; NaN where dlib is needed and missing.

    ``tracks`` are landmarks (n, 68, 2) without adaptation; ``frames`` frames of each, evenly spaced, are
    used. The paper ranks drivers in the same way, to find faces of similar geometry (section 4.3).
    """
    source = features_of(head.images[:1], head.points[:1, :68], real=real, device=device)
    if source is None:
        return pd.Series(float("nan"), list(tracks), name=similarity_metric(real))
    similarity = {}
    for name, track in tracks.items():
        count = min(frames, len(track))
        numbers = np.linspace(0, len(track) - 1, count).round().astype(int)
        frames_of_driver = head.drive(track[numbers])
        generated = features_of(frames_of_driver, track[numbers], real=real, device=device)
        assert generated is not None
        similarity[name] = float(cosine(generated, source).mean())
    return pd.Series(similarity, name=similarity_metric(real)).sort_values(ascending=False)


def render_performance(
    seed: int, source: int, driver: int, frames: int, fps: float, size: int
) -> tuple[Clip, Clip]:
    """The driver's clip and the ground truth, which shows the source identity with the same motion.

    Face, clothes and light of the ground truth are the source's.
    """
    driver_clip = make_clip(ClipSettings(seed, driver, 1, frames, fps, size))
    settings = ClipSettings(seed, source, 0, frames, fps, size)
    truth = make_clip(settings, sound=False, moved_by=(driver, 1))
    return driver_clip, truth


def track_error(landmarks: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance between two tracks (n, 68, 2), over the true distance between the eyes."""
    distances = np.linalg.norm(landmarks - truth, axis=-1).mean(1)
    return float((distances / interocular(truth)).mean())


def mean_ssim(generated: np.ndarray, truth: np.ndarray) -> float:
    """Mean SSIM of frames (n, S, S, 3) uint8."""
    return float(np.mean([ssim(a, b) for a, b in zip(generated, truth, strict=True)]))


def evaluate_adaptation(
    head: KeptHead, driver: Clip, truth: Clip, model: FaceShape, device: str | torch.device = "cpu"
) -> list[dict]:
    """Raw, adapted and true landmarks of one pair of identities: a row each, compared with the ground truth.

    A row has the columns landmarks ("raw", "adapted" or "true"), track error, CSIM-judge and SSIM.
    """
    adapted = model.adapt(driver.landmarks, head.points, head.settings.image_size)
    true_features = identity_features(truth.frames, device)
    rows = []
    for name, track in (("raw", driver.landmarks), ("adapted", adapted), ("true", truth.landmarks)):
        generated = head.drive(track)
        similarity = cosine(identity_features(generated, device), true_features)
        rows.append(
            {
                "landmarks": name,
                "track error": track_error(track, truth.landmarks),
                "CSIM-judge": float(similarity.mean()),
                "SSIM": mean_ssim(generated, truth.frames),
            }
        )
    return rows


def paired_gains(trials: pd.DataFrame, before: str = "raw", after: str = "adapted") -> pd.DataFrame:
    """The gain of one kind of landmarks over another on the same pairs: one row for each metric.

    ``trials`` has the columns pair, landmarks, and one for each metric. A positive gain is an improvement.
    The columns low and high are its 95 % interval over pairs.
    """
    rows = []
    for metric in METRICS:
        if metric not in trials:
            continue
        values = trials.pivot(index="pair", columns="landmarks", values=metric)
        sign = -1 if metric in LOWER_IS_BETTER else 1
        gain = paired(sign * values[after].to_numpy(), sign * values[before].to_numpy())
        rows.append(
            {
                "metric": metric,
                before: values[before].mean(),
                after: values[after].mean(),
                "gain": gain.value,
                "low": gain.low,
                "high": gain.high,
                "pairs": len(values),
            }
        )
    return pd.DataFrame(rows)


def clip_frames(clip: Clip, profile: Profile, device: torch.device, pupils: bool) -> Frames:
    """The frames of a rendered clip; with ``pupils`` their landmark images show the pupils."""
    landmarks = np.concatenate([clip.landmarks, clip.pupils], 1) if pupils else clip.landmarks
    line_width = profile.few_shot.landmark_images.line_width
    drawings = draw_all(landmarks, profile.data.image_size, line_width)
    return Frames(clip.frames, clip.landmarks, to_tensor(clip.frames, device), to_tensor(drawings, device))


def evaluate_gaze(
    nets: Networks, train: Clip, test: Clip, profile: Profile, extractors: Sequence, device: torch.device
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Gaze of two heads on the clip ``test``: one fine-tuned and driven with pupils, one without.

    Returns a row for each head, with the columns landmarks ("68 points" or "with pupils"), gaze error and
    SSIM, and the generated frames (n, S, S, 3) by name.
    """
    rows, generated = [], {}
    for name, pupils in (("68 points", False), ("with pupils", True)):
        training_frames = clip_frames(train, profile, device, pupils)
        driver = clip_frames(test, profile, device, pupils)
        tuning = set_up(nets, training_frames.x, training_frames.y, profile, extractors)
        frames = generate(fine_tune(tuning, profile.seed), driver.y)
        errors = gaze_error(frames, test.landmarks, test.pupils, device)
        rows.append(
            {
                "landmarks": name,
                "gaze error": float(np.nanmean(errors)),
                "SSIM": mean_ssim(frames, test.frames),
            }
        )
        generated[name] = frames
    return rows, generated
