"""The identity gap of one person: a fine-tuning looked at after several epochs, as pictures, scores and a curve."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pandas as pd

from ..driving.heads import KeptHead, settings_of
from ..evaluation import judges, metrics
from ..evaluation.methods import Frames, drive
from ..fine_tuning import FineTuning, Head, fine_tune, set_up, steps_per_epoch
from ..meta_learning import Networks
from ..profiles import Profile

EPOCHS = (0, 1, 2, 5, 10, 20, 40)
NAMES = ("SSIM", "CSIM-judge")


@dataclass
class Record:
    """Fine-tuning on ``few``, seen on the hold-out frames ``test``: images (n, S, S, 3), scores (n,) and the head itself by epoch."""

    few: Frames
    test: Frames
    images: dict[int, np.ndarray] = field(default_factory=dict)
    scores: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    heads: dict[int, Head] = field(default_factory=dict)

    def add(self, epoch: int, images: np.ndarray) -> None:
        self.images[epoch] = images
        alike = metrics.cosine(judges.identity_features(images), judges.identity_features(self.test.images))
        self.scores[epoch] = {"SSIM": np.array([metrics.ssim(a, b) for a, b in zip(images, self.test.images)]), "CSIM-judge": alike}

    def table(self) -> pd.DataFrame:
        """Mean scores over the hold-out frames by epoch."""
        return pd.DataFrame({e: {n: v.mean() for n, v in s.items()} for e, s in self.scores.items()}).T.rename_axis("epoch")


def record(nets: Networks, few: Frames, test: Frames, profile: Profile, extractors: Sequence, epochs: Sequence[int] = EPOCHS,
           watch: Callable[[int, Record], bool | None] | None = None) -> Record:
    """Fine-tune and look after each of ``epochs``. ``watch(epoch, record)`` is told, and stops it by returning True."""
    out, per_epoch = Record(few, test), steps_per_epoch(len(few.x), profile.tune_batch)

    def look(step: int, tuning: FineTuning) -> bool | None:
        epoch, rest = divmod(step, per_epoch)
        if rest or epoch not in epochs:
            return None
        out.add(epoch, drive(tuning.head.eval(), test.y, profile))
        out.heads[epoch] = copy.deepcopy(tuning.head)
        tuning.head.train()
        return watch(epoch, out) if watch else None

    fine_tune(set_up(nets, few.x, few.y, profile, extractors), profile.seed, epochs=max(epochs), watch=look)
    return out


def kept(r: Record, profile: Profile, card: dict) -> dict[int, KeptHead]:
    """The heads of a record by epoch, ready to be driven; ``card`` as for :func:`heads.keep_head`."""
    return {epoch: KeptHead(head, settings_of(profile), r.few.images, r.few.points, {**card, "epoch": epoch}) for epoch, head in r.heads.items()}


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two pictures (S, S, 3) differ: dark for not at all, bright for half the range or more."""
    gap = np.abs(a.astype(int) - b.astype(int)).mean(-1)
    return cv2.applyColorMap((gap * 2).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def pictures(r: Record, frame: int, epoch: int) -> dict[str, np.ndarray]:
    """What one looks at, by name, each (S, S, 3)."""
    truth, before, after = r.test.images[frame], r.images[min(r.images)][frame], r.images[epoch][frame]
    return {"source": r.few.images[0], "ground truth": truth, "feed-forward": before, f"epoch {epoch}": after,
            "feed-forward − truth": difference(before, truth), f"epoch {epoch} − truth": difference(after, truth)}


def captions(r: Record, frame: int, epoch: int) -> list[str]:
    """What stands under each of :func:`pictures`."""
    say = lambda e: ", ".join(f"{n} {r.scores[e][n][frame]:.3f}" for n in NAMES)
    return ["", "", say(min(r.images)), say(epoch), "", ""]


def curve(r: Record, epoch: int, width: int = 420, height: int = 150) -> str:
    """Mean scores over epochs as SVG, the chosen epoch marked."""
    table, left, base = r.table(), 44, height - 24
    epochs, shown = list(table.index), []
    x = {e: left + (width - left - 12) * k / max(1, len(epochs) - 1) for k, e in enumerate(epochs)}
    low, high = float(table.min().min()), float(table.max().max())
    y = lambda v: base - (base - 12) * (v - low) / max(1e-6, high - low)
    for name, colour in zip(NAMES, ("#1f77b4", "#ff7f0e")):
        points = " ".join(f"{x[e]:.1f},{y(v):.1f}" for e, v in table[name].items())
        shown.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{left + 6 + 70 * len(shown)}" y="10" font-size="11" fill="{colour}">{name}</text>'
                     f'<circle cx="{x[epoch]:.1f}" cy="{y(table[name][epoch]):.1f}" r="5" fill="{colour}"/>')
    ticks = "".join(f'<text x="{x[e]:.1f}" y="{height - 8}" font-size="10" text-anchor="middle">{e}</text>' for e in epochs)
    sides = "".join(f'<text x="{left - 4}" y="{y(v) + 4:.1f}" font-size="10" text-anchor="end">{v:.2f}</text>' for v in (low, high))
    line = f'<line x1="{x[epoch]:.1f}" x2="{x[epoch]:.1f}" y1="12" y2="{base}" stroke="#aaa" stroke-dasharray="3"/>'
    return f'<svg width="{width}" height="{height}" role="img" aria-label="scores over epochs">{line}{"".join(shown)}{ticks}{sides}</svg>'
