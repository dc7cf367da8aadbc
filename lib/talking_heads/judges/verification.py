"""How well the identity judge tells people apart whom no judge has seen: equal error rates and histograms."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..corpus.episodes import to_tensor
from ..corpus.landmarks import openings
from ..corpus.speakers.traits import NAMES, VOICE
from .networks import IdentityJudge

VISIBLE_NAMES = [n for n in NAMES if n not in VOICE]
LOOKS = ("skin_tone", "skin_warmth", "hair_lightness", "hair_redness", "hair_grey", "hair_length", "hair_amount")


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Rate at which a threshold accepts as many impostors as it refuses genuine pairs."""
    thresholds = np.sort(np.concatenate([same, different]))
    refused = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    at = np.argmin(np.abs(refused - accepted))
    return float((refused[at] + accepted[at]) / 2)


@torch.no_grad()
def embed(net: IdentityJudge, images: np.ndarray) -> torch.Tensor:
    """(n, S, S, 3) uint8 -> (n, 128)."""
    return torch.cat([net(x) for x in to_tensor(images).split(128)])


def scores(net: IdentityJudge, folder: Path) -> dict[str, np.ndarray]:
    """CSIM-judge of frame pairs from different videos: same person, different people, impostors matched in skin and hair.

    A person's matched impostors are the five people nearest in skin and hair traits. "same video" has pairs of different
    frames of one video: what a repeated training frame would score.
    """
    from .training import pool, trait_table
    data = pool("verification_test", folder)
    people, videos, frames = data.images.shape[:3]
    e = embed(net, data.images.reshape(-1, *data.images.shape[3:])).reshape(people, videos, frames, -1).numpy()
    same = np.concatenate([(e[:, a] @ e[:, b].transpose(0, 2, 1)).ravel() for a in range(videos) for b in range(a)])
    one_video = (e @ e.transpose(0, 1, 3, 2))[:, :, *np.triu_indices(frames, 1)].ravel()
    flat = e[:, :2].reshape(people, 2 * frames, -1)
    looks = trait_table("verification_test")[:, [VISIBLE_NAMES.index(n) for n in LOOKS]]
    gap = np.abs(looks[:, None] - looks[None]).sum(-1) + 1e3 * np.eye(people)
    nearest = np.argsort(gap, axis=1)[:, :5]
    matched = np.concatenate([(flat[i, :frames] @ flat[j, frames:].T).ravel() for i in range(people) for j in nearest[i]])
    different = np.concatenate([(flat[i, :frames] @ flat[j, frames:].T).ravel() for i in range(people) for j in range(people) if i != j])
    return {"same": same, "different": different, "matched": matched, "same video": one_video}


def read_landmarks(find: Callable[[np.ndarray], np.ndarray], folder: Path) -> dict[str, float]:
    """How well landmarks are found, by ``find(images)``, in true frames of people whom no judge has seen.

    ``error`` in distances between the eyes' outer corners, and the correlations of the mouth's and the eyes' opening.
    """
    from .training import pool
    data = pool("verification_test", folder)
    points = data.points[..., :68, :].reshape(-1, 68, 2)
    found = find(data.images.reshape(-1, *data.images.shape[3:]))
    scale = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    related = [np.corrcoef(a, b)[0, 1] for a, b in zip(openings(found), openings(points))]
    return {"error": round(float((np.linalg.norm(found - points, axis=-1).mean(1) / scale).mean()), 4),
            "mouth": round(float(related[0]), 3), "eyes": round(float(related[1]), 3)}


def verify(net: IdentityJudge, folder: Path) -> dict[str, float]:
    """Equal error rates of frame pairs on unseen people, over all impostors and over matched ones."""
    s = scores(net, folder)
    return {"eer": round(equal_error_rate(s["same"], s["different"]), 4),
            "eer_matched": round(equal_error_rate(s["same"], s["matched"]), 4)}
