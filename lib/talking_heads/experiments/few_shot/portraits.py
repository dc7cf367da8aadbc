"""Heads that are larger than those of the tables, measured at the size of the tables.

Both kinds of heads are learned from the same frames of validation identities, each at its own size. Generated
frames are shrunk to the smaller size and compared with the true frames there.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from talking_heads import config
from talking_heads.config import Profile
from talking_heads.data import corpora
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.experiments.few_shot import frame_metrics, protocol
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.head import generate
from talking_heads.few_shot.networks.build import Networks
from talking_heads.metrics.statistics import paired
from talking_heads.nn.feature_networks import at_size
from talking_heads.nn.perceptual import make_extractors
from talking_heads.progress import Progress

SHOTS = 8  # T
HIGHER_IS_BETTER = {"SSIM": True, "CSIM-judge": True, "landmark error": False}


def smaller_profile(profile: Profile) -> Profile:
    """The profile whose weights this one's networks grew from, with this one's identities and clips."""
    smaller = config.load(profile.few_shot.trainings.start_profile)
    size = smaller.data.image_size
    data = profile.data.model_copy(update={"image_size": size})
    return smaller.model_copy(update={"data": data, "protocol": profile.protocol})


def shrink(images: np.ndarray, size: int) -> np.ndarray:
    """Frames (n, S, S, 3) uint8 to (n, size, size, 3), by area."""
    return to_image(at_size(to_tensor(images), size, size))


def measure(
    profile: Profile, nets: Networks, frames_of: Profile, data: Path, device: torch.device
) -> pd.DataFrame:
    """Metrics of fine-tuned heads of a profile against the true frames of another one, which may be smaller:
    a row for each validation identity.

    Raises ValueError where the two profiles' corpora have other frames.
    """
    own, reference = (corpora.store(p, data, "validation") for p in (profile, frames_of))
    extractors = [extractor.to(device) for extractor in make_extractors(profile)]
    chosen = protocol.tasks(own, profile, len(own.identities()))
    numbers = {(reference.identity(n), reference.name(n)): n for n in range(len(reference))}
    scale = frames_of.data.image_size / profile.data.image_size
    rows, progress = [], Progress(f"portraits at {profile.data.image_size}", len(chosen), "heads")
    for task in chosen:
        train, test = (
            protocol.load(own, task.number, frames, profile, device)
            for frames in (task.few_shot[:SHOTS], task.hold_out)
        )
        number = numbers[task.identity, own.name(task.number)]
        points, expected = (s.track(n)["landmarks"] for s, n in ((own, task.number), (reference, number)))
        if len(points) != len(expected) or not np.allclose((points + 0.5) * scale - 0.5, expected, atol=1):
            raise ValueError(f"{own.folder(task.number)} and {reference.folder(number)}: other frames")
        truth = protocol.load(reference, number, task.hold_out, frames_of, device)
        head = fine_tune(set_up(nets, train.x, train.y, profile, extractors))
        images = shrink(generate(head, test.y), frames_of.data.image_size)
        scores = frame_metrics.scores(images, truth.images, truth.points, device=device)
        rows.append(
            {"identity": task.identity} | {name: float(scores[name].mean()) for name in HIGHER_IS_BETTER}
        )
        progress.add(1)
    return pd.DataFrame(rows).set_index("identity")


def compare(larger: pd.DataFrame, smaller: pd.DataFrame) -> pd.DataFrame:
    """:func:`measure` of larger against that of smaller heads, paired over identities.

    Columns metric, larger, smaller, gain with its interval (positive is better), n_identities, and whether
    the larger heads are no worse on average.
    """
    rows = []
    for metric, higher in HIGHER_IS_BETTER.items():
        sign = 1 if higher else -1
        a, b = (table[metric].sort_index() for table in (larger, smaller))
        gain, low, high, _ = paired(sign * a.to_numpy(), sign * b.to_numpy())
        means = {"larger": a.mean(), "smaller": b.mean()}
        estimate = {"gain": gain, "ci_low": low, "ci_high": high}
        rows.append({"metric": metric, **means, **estimate, "n_identities": len(a), "no worse": gain >= 0})
    return pd.DataFrame(rows)


def criteria(
    profile: Profile, nets: Networks, smaller_nets: Networks, data: Path, device: torch.device
) -> pd.DataFrame:
    """:func:`compare` of a profile's heads with those of its :func:`smaller_profile`."""
    smaller = smaller_profile(profile)
    for of_size in (profile, smaller):
        corpora.ensure(of_size, data)
    larger = measure(profile, nets, smaller, data, device)
    return compare(larger, measure(smaller, smaller_nets, smaller, data, device))
