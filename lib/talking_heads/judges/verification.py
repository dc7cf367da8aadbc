"""Verification of the judges on identities that none of them is trained on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import openings
from talking_heads.data.sound import FPS
from talking_heads.data.speakers.clips import spoken
from talking_heads.data.speakers.traits import NAMES, VOICE
from talking_heads.judges.gaze import GazeJudge, device_of, eyes_open, gaze_error_of, relative
from talking_heads.judges.lip_reading import LipReader, error_rate, read_lips, visemes_of
from talking_heads.judges.networks import IdentityJudge
from talking_heads.judges.pools import POOLS, SEED, pool, trait_table

VISIBLE_NAMES = [n for n in NAMES if n not in VOICE]
APPEARANCE = (
    "skin_tone",
    "skin_warmth",
    "hair_lightness",
    "hair_redness",
    "hair_grey",
    "hair_length",
    "hair_amount",
)


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Error rate at the threshold where false acceptance and false rejection are equal.

    ``same`` (n,) and ``different`` (m,) are scores of genuine pairs and of impostors.
    """
    thresholds = np.sort(np.concatenate([same, different]))
    rejection = np.searchsorted(np.sort(same), thresholds) / len(same)
    acceptance = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    index = np.argmin(np.abs(rejection - acceptance))
    return float((rejection[index] + acceptance[index]) / 2)


@torch.no_grad()
def embed(net: IdentityJudge, images: np.ndarray) -> torch.Tensor:
    """Unit embeddings (n, 128) of images (n, S, S, 3) uint8."""
    batches = [images[k : k + 128] for k in range(0, len(images), 128)]
    return torch.cat([net(to_tensor(batch, device_of(net))).cpu() for batch in batches])


def scores(net: IdentityJudge, folder: Path) -> dict[str, np.ndarray]:
    """CSIM-judge of pairs of frames, one array for each kind of pair.

    - "same": an identity in two videos;
    - "different": two identities;
    - "matched": an identity and one of the five identities with the most similar skin and hair;
    - "same video": different frames of one video, the score of a repeated training frame.
    """
    data = pool("verification_test", folder)
    identities, videos, frames = data.images.shape[:3]
    features = embed(net, data.images.reshape(-1, *data.images.shape[3:])).numpy()
    e = features.reshape(identities, videos, frames, -1)
    video_pairs = [(a, b) for a in range(videos) for b in range(a)]
    same = np.concatenate([(e[:, a] @ e[:, b].transpose(0, 2, 1)).ravel() for a, b in video_pairs])
    same_video = (e @ e.transpose(0, 1, 3, 2))[:, :, *np.triu_indices(frames, 1)].ravel()

    first, second = e[:, 0], e[:, 1]  # the videos of impostor pairs

    def impostors(pairs: list[tuple[int, int]]) -> np.ndarray:
        return np.concatenate([(first[i] @ second[j].T).ravel() for i, j in pairs])

    appearance = trait_table("verification_test")[:, [VISIBLE_NAMES.index(name) for name in APPEARANCE]]
    gap = np.abs(appearance[:, None] - appearance[None]).sum(-1) + 1e3 * np.eye(identities)
    nearest = np.argsort(gap, axis=1)[:, :5]
    return {
        "same": same,
        "different": impostors([(i, j) for i in range(identities) for j in range(identities) if i != j]),
        "matched": impostors([(i, j) for i in range(identities) for j in nearest[i]]),
        "same video": same_video,
    }


def read_landmarks(find: Callable[[np.ndarray], np.ndarray], folder: Path) -> dict[str, float]:
    """Accuracy of landmarks on true frames of the test pool; ``find`` maps images to landmarks (n, 68, 2).

    ``error`` is in distances between the outer corners of the eyes; ``mouth`` and ``eyes`` are correlations
    of the openings.
    """
    data = pool("verification_test", folder)
    points = data.points[..., :68, :].reshape(-1, 68, 2)
    estimate = find(data.images.reshape(-1, *data.images.shape[3:]))
    scale = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    mouth, eyes = (
        float(np.corrcoef(estimated, true)[0, 1])
        for estimated, true in zip(openings(estimate), openings(points), strict=True)
    )
    error = np.linalg.norm(estimate - points, axis=-1).mean(1) / scale
    return {"error": round(float(error.mean()), 4), "mouth": round(mouth, 3), "eyes": round(eyes, 3)}


def verify(net: IdentityJudge, folder: Path) -> dict[str, float]:
    """Equal error rates of pairs of frames of the test pool, over all impostors and over matched ones."""
    s = scores(net, folder)
    return {
        "eer": round(equal_error_rate(s["same"], s["different"]), 4),
        "eer_matched": round(equal_error_rate(s["same"], s["matched"]), 4),
    }


def read_gaze(net: GazeJudge, folder: Path) -> dict[str, float]:
    """Gaze error on true frames of the test pool, and the error of a constant estimate, the mean pupils."""
    data = pool("verification_test", folder)
    images, points = data.images.reshape(-1, *data.images.shape[3:]), data.points.reshape(-1, 70, 2)
    landmarks, pupils = points[:, :68], points[:, 68:]
    error = gaze_error_of(images, landmarks, pupils, net)
    true = relative(pupils, landmarks)[eyes_open(landmarks)]
    return {
        "error": round(float(np.nanmean(error)), 4),
        "error of the mean": round(float(np.linalg.norm(true - true.mean(0), axis=-1).mean()), 4),
    }


def read_utterances(
    net: LipReader, folder: Path, find: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """PER-judge of true clips of the test pool; ``find`` maps images to landmarks (n, 68, 2)."""
    images, spoken_visemes = pool("lips_test", folder).images[:, 0], utterances("lips_test")
    rates = [
        error_rate(read_lips(clip, find(clip), net), visemes)
        for clip, visemes in zip(images, spoken_visemes, strict=True)
    ]
    return {"error": round(float(np.mean(rates)), 4)}


def utterances(name: str) -> list[list[int]]:
    """The visemes of the clips of a pool with one video of each identity."""
    settings = POOLS[name]
    first, seconds = settings["first"], settings["frames"] / FPS
    return [visemes_of(spoken(SEED, first + number, 0, seconds)) for number in range(settings["people"])]
