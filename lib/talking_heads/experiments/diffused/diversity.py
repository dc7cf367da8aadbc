"""How differently heads move with other random noise: a model whose modes have collapsed moves them alike."""

import numpy as np
import pandas as pd

from talking_heads.data.landmarks import interocular
from talking_heads.devices import in_threads
from talking_heads.experiments.diffused import protocol
from talking_heads.experiments.diffused.protocol import OTHER_SEED, OURS, Evaluation, Speaker
from talking_heads.judges.faces import landmarks_of

METRICS = "seed_spread"  # name of the table of single identities


def head_track(landmarks: np.ndarray) -> np.ndarray:
    """Displacement (n, 2) of a head from its first frame, in interocular distances; landmarks (n, 68, 2)."""
    centres = landmarks.mean(1)
    return (centres - centres[0]) / interocular(landmarks).mean()


def track_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square distance of two tracks (n, 2)."""
    return float(np.sqrt(((a - b) ** 2).sum(1).mean()))


def spread(evaluation: Evaluation) -> pd.DataFrame:
    """The distance of head tracks of two clips of the same identity and sound, generated with two seeds, and
    that of two true clips of different identities.

    Columns identity, "between seeds" and "between clips", in interocular distances. Generates what is
    missing.
    """
    chosen = protocol.run(evaluation, [OURS, OTHER_SEED])

    def track(images: np.ndarray, points: np.ndarray) -> np.ndarray:
        real, device = evaluation.profile.data.real, evaluation.device
        return head_track(landmarks_of(images, points, real=real, device=device))

    def measure(speaker: Speaker) -> dict[str, str | float]:
        generated = [np.load(evaluation.path(speaker, row)) for row in (OURS, OTHER_SEED)]
        numbers = np.arange(len(generated[0]))
        true = [evaluation.clips.read(clip, numbers) for clip in (speaker.number, speaker.other)]
        points = true[0][1]
        pairs = [(images, points) for images in generated], true
        seeds, clips = (track_distance(*(track(*clip) for clip in pair)) for pair in pairs)
        return {"identity": speaker.identity, "between seeds": seeds, "between clips": clips}

    return pd.DataFrame(in_threads(measure, chosen, evaluation.device))
