"""Heads of real clips, measured on their held-out second half."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from talking_heads.animation.animate import (
    detector_for,
    halves,
    inspect,
    learn,
    source_frames,
    write_photograph,
)
from talking_heads.config import Profile
from talking_heads.data.prepare_video import spread
from talking_heads.data.shared_detector import Detect
from talking_heads.experiments.few_shot.frame_metrics import Judged, compare
from talking_heads.experiments.few_shot.paper_metrics import ARCFACE_CSIM, arcface_session
from talking_heads.few_shot.baselines.trivial import nearest_frames
from talking_heads.few_shot.head import feed_forward
from talking_heads.few_shot.networks.build import Networks
from talking_heads.metrics import inception, recogniser
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.workbook.write_table import with_interval

CLIPS = "TALKING_HEADS_CLIPS"  # environment variable: a folder of your own clips
METRICS = ("SSIM", ARCFACE_CSIM, recogniser.CSIM, "landmark error")
GAIN = "after minus before"
# means over eight clips of eight real people, with the committed weights of `laptop`
REFERENCE = Path(__file__).with_suffix(".csv")


def own_clips() -> list[Path]:
    """The ``.mp4`` files of the folder that the environment variable ``TALKING_HEADS_CLIPS`` names; none
    where it is not set. Raises ValueError for a folder that is missing or has none.
    """
    folder = os.environ.get(CLIPS)
    clips = sorted(Path(folder).glob("*.mp4")) if folder else []
    if folder and not clips:
        problem = "no .mp4 file in it" if Path(folder).is_dir() else "no such folder"
        raise ValueError(f"{CLIPS}: {folder}: {problem}; name the folder of your clips, or unset it")
    return clips


def reference() -> pd.DataFrame:
    """The means over eight clips that are not included, as :func:`summary` returns them."""
    return pd.read_csv(REFERENCE)


def measure(
    paths: Sequence[Path], nets: Networks, profile: Profile, device: torch.device, folder: Path
) -> pd.DataFrame:
    """The rows of :func:`heads_by_shots` for every clip: columns clip, metric, T, and the means of its
    columns. Clips that cannot be used are left out, which is printed; raises ValueError where none remains.
    """
    tables, session = [], arcface_session(device)
    for path in paths:
        try:
            table = _by_shots(path, nets, profile, device, folder, session)
        except ValueError as error:
            print(f"  left out: {error}", flush=True)
        else:
            tables.append(table.reset_index().assign(clip=path.stem))
    if not tables:
        raise ValueError("none of the clips can be used")
    rows = pd.concat(tables, ignore_index=True)
    return rows[["clip", *rows.columns.drop("clip")]]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The means of :func:`measure` over clips: columns metric, T, method, value with its 95 % interval
    (Student), and n_clips.

    The methods are the columns of :func:`heads_by_shots` and the paired difference ``GAIN``.
    """
    wide = rows.assign(**{GAIN: rows["after"] - rows["before"]})
    means = []
    for (metric, t), group in wide.groupby(["metric", "T"], sort=False):
        for method, values in group.drop(columns=["clip", "metric", "T"]).items():
            value, low, high, _ = mean_estimate(values.dropna().to_numpy())
            row = {"metric": metric, "T": t, "method": method, "value": value, "ci_low": low, "ci_high": high}
            means.append(row | {"n_clips": int(values.notna().sum())})
    return pd.DataFrame(means)


def shown(means: pd.DataFrame) -> pd.DataFrame:
    """A summary for readers: a row for each metric and T, a column for each method."""
    digits = {"SSIM": 2}
    text = [
        with_interval(row.value, row.ci_low, row.ci_high, f".{digits.get(row.metric, 3)}f")
        for row in means.itertuples()
    ]
    index, methods = list(dict.fromkeys(zip(means["metric"], means["T"], strict=True))), means["method"]
    table = means.assign(text=text).pivot(index=["metric", "T"], columns="method", values="text")
    return table.loc[index, list(dict.fromkeys(methods))].reset_index().rename_axis(columns=None)


def write_photographs(path: Path, count: int, folder: Path, detect: Detect | None) -> list[Path]:
    """Evenly spaced frames of a clip's first half as photographs, with their landmarks beside them."""
    inspection = inspect(path, 2 * count, detect)
    usable = np.flatnonzero(inspection.usable)
    first = usable[: max(1, len(usable) // 2)]
    chosen = first[spread(len(first), count)]
    landmarks = inspection.points["landmarks"][chosen]
    images = inspection.clip.frames(inspection.numbers[chosen])
    names = [folder / f"{path.stem}_photograph{number}.png" for number in range(len(chosen))]
    return [write_photograph(*one) for one in zip(names, images, landmarks, strict=True)]


def heads_by_shots(
    path: Path, nets: Networks, profile: Profile, device: torch.device, folder: Path
) -> pd.DataFrame:
    """SSIM on held-out frames of a clip's second half, before and after fine-tuning, for every T; CSIM where
    ArcFace has been fetched; and CSIM-dlib and the landmark error where dlib is installed.

    A row for each metric and T. The nearest training frame stands beside the heads: a clip that hardly moves
    is easy. Heads are kept in ``folder``. Raises ValueError, naming the clip, where it is too short, and what
    :func:`detector_for` does.
    """
    return _by_shots(path, nets, profile, device, folder, arcface_session(device))


def _by_shots(
    path: Path, nets: Networks, profile: Profile, device: torch.device, folder: Path, session: Any
) -> pd.DataFrame:
    most = max(profile.protocol.shots)
    frames = source_frames([path], profile, 2 * most, detector_for([path], device))
    first, rest = halves(frames)
    if len(first.images) < most:
        raise ValueError(f"{path}: {len(frames.images)} usable frames, {2 * most} are needed")
    order = np.random.default_rng(profile.seed).permutation(len(first.images))
    points = rest.points[:, :68]
    truth = Judged.of(rest.images, points, real=True, device=device)
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
