"""Metrics of a generated talking clip against the true one: of each frame, and of the whole clip."""

from collections.abc import Sequence

import numpy as np
import torch

from talking_heads.data.sound import FPS
from talking_heads.data.windows import head_speed
from talking_heads.judges import lip_reading
from talking_heads.judges import use as judges
from talking_heads.judges.faces import Face
from talking_heads.metrics import lip_sync
from talking_heads.metrics.flow import flow_by_region
from talking_heads.metrics.images import cpbd, mean_squared_error, psnr, ssim

VERSION = 3  # raised when the same clips give other values
LMD = "LMD, normalised"  # in interocular distances; the paper's, about 3, must have another unit
SOUND_CORRELATION = "mouth opening of the sound"  # correlation with the true mouth of the clip that is heard
HEAD_MOTION = "head motion"  # mean speed of the nose, in interocular distances a second
PER = "PER-judge"  # phoneme error rate, read from the lips; phonemes that look alike are one


def pixel_metrics(images: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """MSE, PSNR, SSIM and CPBD (n,) of images (n, H, W, 3) uint8; see :mod:`metrics.images`."""
    mse = mean_squared_error(images, truth)
    return {
        "MSE": mse,
        "PSNR": psnr(mse),
        "SSIM": np.array([ssim(a, b) for a, b in zip(images, truth, strict=True)]),
        "CPBD": cpbd(images),
    }


def mean_flow(frames: np.ndarray, landmarks: np.ndarray, name: str = "flow") -> dict[str, float]:
    """Mean optical flow by region of frames (n, H, W, 3) uint8 with landmarks (n, 68, 2), in pixels a frame,
    as "``name`` of the mouth" and so on.
    """
    by_region = flow_by_region(frames, landmarks)
    return {f"{name} of the {region}": float(values.mean()) for region, values in by_region.items()}


def lip_reading_errors(
    images: np.ndarray, landmarks: np.ndarray, visemes: Sequence[int], device: str | torch.device = "cpu"
) -> float:
    """PER-judge of a clip: images (n, S, S, 3) uint8 with landmarks (n, 68, 2), and what is said in it."""
    return lip_reading.error_rate(judges.find_visemes(images, landmarks, device), visemes)


def face_metrics(
    generated: Face, truth: Face, points: np.ndarray, silent: np.ndarray | None
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """LMD and identity similarity of each frame (n,), and the metrics of the whole clip.

    Lips are compared with ``points`` (n, 68, 2), the true landmarks as exactly as they are known; the eyes
    with what is found in true frames. ``silent`` (n,) are the frames without sound, None where there is no
    sound. Metrics of identity are left out where there are no features.
    """
    n = len(points)
    by_frame = {LMD: lip_sync.landmark_distance(generated.landmarks, points)}
    of_clip = {
        name: lip_sync.track_correlation(track(generated.landmarks), track(points))
        for name, track in (
            ("mouth opening", lip_sync.mouth_opening),
            ("mouth width", lip_sync.mouth_width),
        )
    }
    if silent is not None:
        of_clip["mouth closed in silence"] = lip_sync.closed_share(generated.landmarks, silent)
    of_clip[HEAD_MOTION] = head_speed(generated.landmarks)
    of_clip[f"true {HEAD_MOTION}"] = head_speed(truth.landmarks)
    of_clip["blinks a second"] = lip_sync.blinks(generated.landmarks) / n * FPS
    of_clip["true blinks a second"] = lip_sync.blinks(truth.landmarks) / n * FPS
    if generated.features is not None and truth.features is not None:
        by_frame[truth.similarity] = similarity = generated.similarity_to(truth)
        of_clip[f"{truth.similarity}, first second"] = float(similarity[: lip_sync.SECOND].mean())
        of_clip[f"{truth.similarity}, last second"] = float(similarity[-lip_sync.SECOND :].mean())
    return by_frame, of_clip
