"""Heads of real clips, measured on their held-out second half."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from talking_heads.animation.animate import detector_for, halves, learn, source_frames
from talking_heads.config import Profile
from talking_heads.experiments.few_shot.frame_metrics import Judged, compare
from talking_heads.experiments.few_shot.paper_metrics import ARCFACE_CSIM, arcface_session
from talking_heads.few_shot.baselines.trivial import nearest_frames
from talking_heads.few_shot.head import feed_forward
from talking_heads.few_shot.networks.build import Networks
from talking_heads.metrics import inception, recogniser
from talking_heads.metrics.distances import cosine

METRICS = ("SSIM", ARCFACE_CSIM, recogniser.CSIM, "landmark error")


def heads_by_shots(
    path: Path, nets: Networks, profile: Profile, device: torch.device, folder: Path
) -> pd.DataFrame:
    """SSIM on held-out frames of a clip's second half, before and after fine-tuning, for every T; CSIM where
    ArcFace has been fetched; and CSIM-dlib and the landmark error where dlib is installed.

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
    points = rest.points[:, :68]
    truth = Judged.of(rest.images, points, real=True, device=device)
    session = arcface_session(device)
    true_features = inception.arcface_features(rest.images, points, session) if session else None
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
        for name, images in generated.items():
            metrics = compare(
                Judged.of(images, points, real=True, device=device), truth, truth.face.landmarks
            )
            if true_features is not None:
                features = inception.arcface_features(images, points, session)
                metrics[ARCFACE_CSIM] = cosine(features, true_features)
            for metric, values in metrics.items():
                if metric in METRICS and np.isfinite(values).all():
                    rows.setdefault((metric, t), {})[name] = float(values.mean())
    table = pd.DataFrame(rows).T.rename_axis(["metric", "T"])
    return table.reindex([metric for metric in METRICS if metric in table.index.levels[0]], level="metric")
