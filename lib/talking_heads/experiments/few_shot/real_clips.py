"""Heads of real clips, measured on their held-out second half."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from talking_heads.animation.animate import detector_for, halves, learn, source_frames
from talking_heads.config import Profile
from talking_heads.few_shot.baselines.trivial import nearest_frames
from talking_heads.few_shot.head import feed_forward
from talking_heads.few_shot.networks.build import Networks
from talking_heads.metrics import recogniser
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.images import ssim


def heads_by_shots(
    path: Path, nets: Networks, profile: Profile, device: torch.device, folder: Path
) -> pd.DataFrame:
    """SSIM on held-out frames of a clip's second half, before and after fine-tuning, for every T; and the
    identity similarity CSIM-dlib where its network is installed.

    A row for each metric and T. The nearest training frame stands beside the heads: a clip that hardly moves
    is easy. Heads are kept in ``folder``. Raises ValueError, naming the clip, where it is too short, and what
    :func:`detector_for` does.
    """
    most = max(profile.protocol.shots)
    frames = source_frames([path], profile, 2 * most, detector_for([path], device))
    first, rest = halves(frames)
    if len(first.images) < most:
        raise ValueError(f"{path}: {len(frames.images)} usable frames, {2 * most} are needed")
    order = np.random.default_rng(profile.seed).permutation(len(first.images))
    truth, points = rest.images, rest.points[:, :68]
    features = recogniser.face_features(truth, points) if recogniser.is_installed() else None
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for t in profile.protocol.shots:
        few = first.select(order[:t])
        card = {"person": path.stem, "kind": "real person", "origin": path.name, "weights": ""}
        head = learn(nets, few, profile, folder / f"{path.name}_T{t}.head", card, log=False)
        generated = {
            "nearest frame": nearest_frames(few, rest.points),
            "before": feed_forward(nets, few.to(device), rest.y.to(device)),
            "after": head.drive(rest.points),
        }
        rows["SSIM", t] = {
            name: float(np.mean([ssim(a, b) for a, b in zip(images, truth, strict=True)]))
            for name, images in generated.items()
        }
        if features is not None:
            rows[recogniser.CSIM, t] = {
                name: float(cosine(recogniser.face_features(images, points), features).mean())
                for name, images in generated.items()
            }
    table = pd.DataFrame(rows).T.rename_axis(["metric", "T"])
    return table.sort_index(level="metric", ascending=False, sort_remaining=False)
