"""The lip reader: tells from frames of a mouth which visemes are spoken, for PER-judge.

Phonemes that look alike are one viseme (Fisher 1968), because no reader of lips can tell them apart. The
reader is trained on true clips of procedural speakers with connectionist temporal classification (Graves et
al. 2006), and makes errors on true clips, too: those are reported beside the errors on generated ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.data.frames import to_tensor
from talking_heads.data.speakers.speech import Segment
from talking_heads.judges.gaze import between_eyes, cut_strip, device_of

HIGH, WIDE = 24, 32  # pixels of the strip with the mouth
HALF_WIDTH = 0.5  # of the strip, in distances between the outer corners of the eyes
BLANK = 0  # also the class of silence, for which nothing is written
# phonemes with almost the same lips in ``PHONEMES``; the class of a viseme is its group + 1
VISEMES = ("a ae", "e", "uh", "i", "o", "u w", "er r sh", "m b p", "f v", "s z", "t d n l k g")
CLASSES = {phoneme: k for k, group in enumerate(VISEMES, 1) for phoneme in group.split()}


def visemes_of(segments: Sequence[Segment]) -> list[int]:
    """The classes of the visemes of an utterance. Neighbours that look alike are one."""
    return collapse([CLASSES.get(segment.phoneme, BLANK) for segment in segments])


def collapse(classes: Sequence[int]) -> list[int]:
    """Repetitions become one, then blanks are left out: the decoding of a path in CTC."""
    changed = [b for a, b in zip([BLANK, *classes], classes, strict=False) if a != b]
    return [number for number in changed if number != BLANK]


def mouth_strip(images: Tensor, points: np.ndarray) -> Tensor:
    """Mouths as strips (B, 3, HIGH, WIDE), of images (B, 3, S, S) with landmarks (B, 68, 2)."""
    distance = between_eyes(points)[1][:, 0, 0]
    return cut_strip(images, points[:, [48, 54]].mean(1), HALF_WIDTH * distance, HIGH, WIDE)


class LipReader(nn.Module):
    """Strips of consecutive frames (B, n, 3, HIGH, WIDE) -> logits (B, n, 1 + visemes), blank first."""

    def __init__(self, width: int = 96):
        super().__init__()

        def conv(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

        self.frame = nn.Sequential(
            conv(3, 24),
            conv(24, 48),
            conv(48, 64),
            nn.Flatten(),
            nn.Linear(64 * (HIGH // 8) * (WIDE // 8), width),
            nn.ReLU(),
        )
        self.sequence = nn.GRU(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * width, 1 + len(VISEMES))

    def forward(self, strips: Tensor) -> Tensor:
        frames = self.frame(strips.flatten(0, 1)).float().unflatten(0, strips.shape[:2])
        return self.out(self.sequence(frames)[0])


@torch.no_grad()
def read_lips(images: np.ndarray, points: np.ndarray, net: LipReader) -> list[int]:
    """The classes of the visemes in a clip: images (n, S, S, 3) uint8 with landmarks (n, 68, 2)."""
    return read_strips(mouth_strip(to_tensor(images, device_of(net)), points), net)


@torch.no_grad()
def read_strips(strips: Tensor, net: LipReader) -> list[int]:
    """The classes of the visemes in a clip, given its strips (n, 3, HIGH, WIDE)."""
    return collapse(net(strips[None])[0].argmax(-1).tolist())


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """The least number of insertions, deletions and substitutions from one sequence to the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def error_rate(read: Sequence[int], spoken: Sequence[int]) -> float:
    """The edit distance of two sequences, relative to the length of the true one; NaN where it is empty."""
    return edit_distance(read, spoken) / len(spoken) if spoken else float("nan")
