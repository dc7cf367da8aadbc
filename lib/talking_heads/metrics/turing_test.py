"""The Turing test (section 5.3, Table 2): raters see clips with sound and vote whether each one is real.

The paper showed 140 people ten clips of each of two methods and ten real ones. A row's score is the share of
votes *real*. Sheets, files and intervals are those of the user study (:mod:`metrics.user_study`).
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from talking_heads.data.sound import FPS
from talking_heads.data.video import write
from talking_heads.metrics import user_study

CHOICES = ("real", "synthetic")
TRUE_CLIPS = "true clips"  # the row of real ones
SIDE = 256  # pixels; smaller clips are enlarged
VOTE_COLUMNS = ("method", "real", "ci_low", "ci_high", "answers", "raters", "identities", "effect")


@dataclass
class ClipQuestion:
    """A clip: frames (n, S, S, 3) uint8 at 25 a second, and its sound (samples,) int16 at 16 kHz."""

    method: str
    identity: str
    frames: np.ndarray
    sound: np.ndarray
    t: int = 1  # identity frames

    @property
    def fake(self) -> int:
        """The number of the right choice."""
        return CHOICES.index("real" if self.method == TRUE_CLIPS else "synthetic")

    def content(self) -> bytes:
        """Frames and sound."""
        return self.frames.tobytes() + self.sound.tobytes()

    @cached_property
    def mp4(self) -> bytes:
        """The clip as a file that browsers play, at least ``SIDE`` pixels wide, without any mark."""
        side = max(SIDE, self.frames.shape[1] // 2 * 2)
        frames = [cv2.resize(frame, (side, side), interpolation=cv2.INTER_CUBIC) for frame in self.frames]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write(path, frames, FPS, self.sound, lossless=False)
            return path.read_bytes()


def draw_questions(
    clips: Mapping[str, Mapping[str, np.ndarray]],
    sounds: Mapping[str, np.ndarray],
    count: int,
    seed: int = 0,
) -> list[ClipQuestion]:
    """``count`` clips of every row, in random order.

    ``clips`` maps a row, one of them ``TRUE_CLIPS``, to the frames of every identity, ``sounds`` an identity
    to its sound. Identities are equally frequent over the whole study, up to one, and no clip comes twice.
    Raises ValueError without true clips, and where a row has fewer identities than ``count``.
    """
    if TRUE_CLIPS not in clips:
        raise ValueError(f"a Turing test needs {TRUE_CLIPS}; there are {', '.join(clips)}")
    rng, counts = np.random.default_rng(seed), Counter[str]()
    questions: list[ClipQuestion] = []
    for method, frames in clips.items():
        if len(frames) < count:
            raise ValueError(f"{method}: clips of {len(frames)} identities, and {count} are needed")
        for identity in user_study.draw_balanced(sorted(frames), count, rng, counts):
            questions.append(ClipQuestion(method, identity, frames[identity], sounds[identity]))
    return [questions[number] for number in rng.permutation(len(questions))]


def votes(answers: pd.DataFrame, key: pd.DataFrame) -> pd.DataFrame:
    """The share of votes *real* of every row, with a 95 % interval over raters and identities.

    Columns ``VOTE_COLUMNS``; the interval is that of :func:`user_study.accuracy`.
    """
    found = user_study.accuracy(answers, key).drop(columns="T").rename(columns={"USER": "real"})
    synthetic = found["method"] != TRUE_CLIPS  # found means a vote for synthetic, else one for real
    values, low, high = found["real"], found["ci_low"], found["ci_high"]
    found["real"] = values.where(~synthetic, 1 - values)
    found["ci_low"], found["ci_high"] = low.where(~synthetic, 1 - high), high.where(~synthetic, 1 - low)
    return found[list(VOTE_COLUMNS)]


def measure(folder: Path, run_id: str) -> tuple[pd.DataFrame | None, list[str]]:
    """:func:`votes` of a study's folder, and notes; None where :func:`user_study.usable_answers` has none.

    Raises what :func:`user_study.load_study` does.
    """
    answers, key, notes = user_study.usable_answers(folder, run_id, len(CHOICES))
    return (None if answers is None else votes(answers, key)), notes
