"""The identity gap: generated frames and scores of one identity after several epochs of fine-tuning."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from talking_heads.animation.head_files import HeadSettings, KeptHead
from talking_heads.config import Profile
from talking_heads.data.frames import Frames
from talking_heads.few_shot.fine_tuning import FineTuning, fine_tune, steps_per_epoch
from talking_heads.few_shot.head import Head, generate
from talking_heads.judges.faces import features_of, similarity_metric
from talking_heads.metrics.distances import cosine
from talking_heads.metrics.images import ssim

EPOCHS = (0, 1, 2, 5, 10, 20, 40)
COLOURS = ("tab:blue", "tab:orange")  # of SSIM and of the identity similarity
TICKS = 12  # epochs labelled below a curve, at most


class ScoreCurve:
    """Mean scores over epochs as a PNG image, with one epoch marked.

    Axes and lines are drawn once for each set of epochs. After that a call draws only the marks, which takes
    a few milliseconds.
    """

    def __init__(self, metrics: Sequence[str]):
        self.canvas = FigureCanvasAgg(Figure(figsize=(4.2, 1.7), dpi=100))
        self.axes = axes = self.canvas.figure.add_axes((0.11, 0.24, 0.86, 0.62))
        colours = dict(zip(metrics, COLOURS, strict=False))
        self.lines = {name: axes.plot([], [], color=c, label=name)[0] for name, c in colours.items()}
        self.marks = {name: axes.plot([], [], "o", color=c, animated=True)[0] for name, c in colours.items()}
        self.rule = axes.axvline(0, color="0.6", linestyle="--", linewidth=1, animated=True)
        axes.set_xlabel("epoch", fontsize=7, labelpad=1)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7, ncols=2, frameon=False, loc="lower left", bbox_to_anchor=(0, 0.97))
        self.epochs: list[int] = []
        self.background = None  # the canvas without marks

    def png(self, scores: pd.DataFrame, epoch: int) -> bytes:
        """The curve of ``scores``, which have a row for each epoch and a column for each metric."""
        if self.epochs != list(scores.index):
            self._draw_background(scores)
        position = self.epochs.index(epoch)
        self.canvas.restore_region(self.background)
        self.rule.set_xdata([position, position])
        self.axes.draw_artist(self.rule)
        for name, mark in self.marks.items():
            mark.set_data([position], [scores[name].to_numpy()[position]])
            self.axes.draw_artist(mark)
        image = cv2.cvtColor(np.asarray(self.canvas.buffer_rgba()), cv2.COLOR_RGBA2BGR)
        return cv2.imencode(".png", image)[1].tobytes()

    def _draw_background(self, scores: pd.DataFrame) -> None:
        self.epochs = list(scores.index)
        positions = range(len(self.epochs))
        for name, line in self.lines.items():
            line.set_data(positions, scores[name].to_numpy())
        step = -(-len(self.epochs) // TICKS)
        self.axes.set_xticks(positions[::step], [str(epoch) for epoch in self.epochs[::step]])
        self.axes.relim()
        self.axes.autoscale_view()
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.canvas.figure.bbox)


@dataclass
class FineTuningHistory:
    """Fine-tuning on the frames ``train``, evaluated on the held-out frames ``test`` after several epochs."""

    train: Frames  # T frames
    test: Frames  # n frames
    real: bool = False  # whether they show a real person
    images: dict[int, np.ndarray] = field(default_factory=dict)  # generated, (n, S, S, 3) uint8, by epoch
    scores: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # (n,), by epoch and metric
    heads: dict[int, Head] = field(default_factory=dict)  # by epoch

    @property
    def epochs(self) -> list[int]:
        """The evaluated epochs. Epoch 0 is the feed-forward head."""
        return list(self.images)

    @property
    def frame_count(self) -> int:
        """The number n of held-out frames."""
        return len(self.test.images)

    def add(self, epoch: int, head: Head) -> None:
        """Evaluate a head on the held-out frames, and keep a copy of it."""
        device, points = self.test.x.device, self.test.points[:, :68]
        generated, truth = generate(head, self.test.y), self.test.images
        self.scores[epoch] = {"SSIM": np.array([ssim(a, b) for a, b in zip(generated, truth, strict=True)])}
        features, true = (
            features_of(images, points, real=self.real, device=device) for images in (generated, truth)
        )
        if features is not None and true is not None:
            self.scores[epoch][similarity_metric(self.real)] = cosine(features, true)
        self.heads[epoch] = copy.deepcopy(head)
        self.images[epoch] = generated

    def mean_scores(self) -> pd.DataFrame:
        """Mean scores over the held-out frames: a row for each epoch, a column for each metric."""
        means = {
            epoch: {metric: values.mean() for metric, values in scores.items()}
            for epoch, scores in self.scores.items()
        }
        return pd.DataFrame(means).T.rename_axis("epoch")

    def pictures(self, frame: int, epoch: int) -> dict[str, np.ndarray]:
        """Images (S, S, 3) uint8 for a held-out frame, by title: source, truth, results and differences."""
        truth = self.test.images[frame]
        before, after = self.images[0][frame], self.images[epoch][frame]
        return {
            "source": self.train.images[0],
            "ground truth": truth,
            "feed-forward": before,
            f"epoch {epoch}": after,
            "feed-forward − truth": difference_map(before, truth),
            f"epoch {epoch} − truth": difference_map(after, truth),
        }

    def captions(self, frame: int, epoch: int) -> list[str]:
        """A caption for each of :meth:`pictures`: the scores of the two results, otherwise empty."""
        return ["", "", self._caption(frame, 0), self._caption(frame, epoch), "", ""]

    def _caption(self, frame: int, epoch: int) -> str:
        return ", ".join(f"{metric} {self.scores[epoch][metric][frame]:.3f}" for metric in self.scores[epoch])

    def curve(self, epoch: int) -> bytes:
        """Mean scores over epochs as a PNG image, with ``epoch`` marked."""
        return self._curve.png(self.mean_scores(), epoch)

    @cached_property
    def _curve(self) -> ScoreCurve:
        return ScoreCurve(list(self.mean_scores()))


def record_fine_tuning(
    tuning: FineTuning,
    train: Frames,
    test: Frames,
    epochs: Sequence[int] = EPOCHS,
    watch: Callable[[int, FineTuningHistory], bool | None] | None = None,
    real: bool | None = None,
) -> FineTuningHistory:
    """Run a fine-tuning on the frames ``train`` and evaluate it on ``test`` after each of ``epochs``.

    ``tuning`` comes from :func:`fine_tuning.set_up`. ``watch(epoch, history)`` is called after each
    evaluation; it stops the run by returning True. Raises ValueError where ``epochs`` lacks 0, the
    feed-forward head.

    ``real`` states that the frames show a real person; by default they are those of the profile's corpus.
    """
    if 0 not in epochs:
        raise ValueError(f"the epochs {list(epochs)} lack 0, the feed-forward head")
    history = FineTuningHistory(train, test, tuning.profile.data.real if real is None else real)
    steps = steps_per_epoch(len(train.x), tuning.profile.few_shot.fine_tuning.batch)

    def evaluate(step: int, tuning: FineTuning) -> bool | None:
        epoch, remainder = divmod(step, steps)
        if remainder or epoch not in epochs:
            return None
        history.add(epoch, tuning.head.eval())
        tuning.head.train()
        return watch(epoch, history) if watch else None

    fine_tune(tuning, tuning.profile.seed, epochs=max(epochs), watch=evaluate)
    return history


def kept_heads(history: FineTuningHistory, profile: Profile, card: dict) -> dict[int, KeptHead]:
    """The heads of a history by epoch. ``card`` is that of :func:`head_files.keep_head`; "epoch" is added."""
    settings, train = HeadSettings.of_profile(profile), history.train
    return {
        epoch: KeptHead(head, settings, train.images, train.points, {**card, "epoch": epoch})
        for epoch, head in history.heads.items()
    }


def difference_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute difference of two images (S, S, 3) uint8 as colours, dark for 0 and bright for 64 or more."""
    difference = np.abs(a.astype(int) - b.astype(int)).mean(-1)
    levels = (difference * 4).clip(0, 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
