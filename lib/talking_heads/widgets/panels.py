"""Interactive panels for notebooks: the identity gap, a head driven live, fine-tuning live, uploads."""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import ipywidgets as widgets
import numpy as np

from talking_heads.animation.animate import write_photograph
from talking_heads.animation.engines import PYTORCH, check_engine, with_engine
from talking_heads.animation.face_rig import FaceRig
from talking_heads.animation.head_files import KeptHead
from talking_heads.data.prepare_video import read_source
from talking_heads.data.shared_detector import Detect
from talking_heads.judges.faces import reliability
from talking_heads.metrics import recogniser
from talking_heads.widgets.landmark_canvas import CANVAS_SIDE, LandmarkPanel, PointCanvas, failure

PICTURE_SIDE = 160  # pixels
PICTURES = 6  # of a history, side by side
TIMED_FRAMES = 20  # the frame rate is the median over the latest ones
SLIDERS = {  # minimum, maximum, initial value, step: degrees, and openings over the distance between the eyes
    "yaw": (-40, 40, 0, 1),
    "pitch": (-20, 20, 0, 1),
    "roll": (-15, 15, 0, 1),
    "mouth": (0.0, 0.6, 0.1, 0.01),
    "eyes": (0.0, 0.4, 0.2, 0.01),
}


class History(Protocol):
    """A fine-tuning that was evaluated on held-out frames after several epochs, as the panels show it."""

    @property
    def epochs(self) -> Sequence[int]:
        """The evaluated epochs."""

    @property
    def frame_count(self) -> int:
        """The number of held-out frames."""

    def pictures(self, frame: int, epoch: int) -> Mapping[str, np.ndarray]:
        """``PICTURES`` images (S, S, 3) uint8 by title."""

    def captions(self, frame: int, epoch: int) -> Sequence[str]:
        """A caption for each picture."""

    def curve(self, epoch: int) -> bytes:
        """Scores over epochs as a PNG image, with ``epoch`` marked."""


Watch = Callable[[int, History], bool]


def png(image: np.ndarray, side: int = PICTURE_SIDE) -> bytes:
    """An image (S, S, 3) uint8 as PNG of ``side``² pixels. Small images are enlarged without smoothing."""
    interpolation = cv2.INTER_NEAREST if side >= image.shape[0] else cv2.INTER_AREA
    resized = cv2.resize(image[..., ::-1], (side, side), interpolation=interpolation)
    return cv2.imencode(".png", resized)[1].tobytes()


class Strip(widgets.HBox):
    """Pictures side by side, with titles above and captions below."""

    def __init__(self, count: int, side: int = PICTURE_SIDE):
        self.side = side
        self.titles = [widgets.HTML() for _ in range(count)]
        self.images = [widgets.Image(format="png", width=side, height=side) for _ in range(count)]
        self.captions = [widgets.HTML() for _ in range(count)]
        columns = zip(self.titles, self.images, self.captions, strict=True)
        super().__init__([widgets.VBox(column) for column in columns])

    def show(self, pictures: Mapping[str, np.ndarray], captions: Sequence[str]) -> None:
        """Replace pictures, titles and captions."""
        contents = zip(pictures.items(), captions, strict=True)
        for number, ((title, picture), caption) in enumerate(contents):
            self.titles[number].value = f"<small><b>{title}</b></small>"
            self.images[number].value = png(picture, self.side)
            self.captions[number].value = f"<small>{caption or '&nbsp;'}</small>"


class HistoryView(widgets.VBox):
    """Pictures and curve of a history."""

    def __init__(self):
        self.strip = Strip(PICTURES)
        self.curve = widgets.Image(format="png", layout={"align_self": "flex-start"})
        super().__init__([self.strip, self.curve])

    def show(self, history: History, frame: int, epoch: int) -> None:
        """Show one held-out frame after one epoch."""
        self.strip.show(history.pictures(frame, epoch), history.captions(frame, epoch))
        self.curve.value = history.curve(epoch)


class GapPanel(widgets.VBox):
    """The identity gap: pictures, scores and curve for an identity, T, a held-out frame and an epoch.

    ``histories`` has a history for each identity and T, all with the same epochs and number of frames.
    """

    def __init__(self, histories: Mapping[tuple[str, int], History]):
        self.histories = histories
        identities = list(dict.fromkeys(identity for identity, _ in histories))
        shots = list(dict.fromkeys(t for _, t in histories))
        first = histories[identities[0], shots[-1]]
        self.identity = widgets.Dropdown(options=identities, description="identity")
        self.shots = widgets.ToggleButtons(
            options=shots, value=shots[-1], description="T", style={"button_width": "3em"}
        )
        self.frame = widgets.IntSlider(0, 0, first.frame_count - 1, description="frame")
        self.epoch = widgets.SelectionSlider(
            options=list(first.epochs), value=max(first.epochs), description="epoch"
        )
        self.view = HistoryView()
        choices, sliders = widgets.HBox([self.identity, self.shots]), widgets.HBox([self.frame, self.epoch])
        super().__init__([choices, sliders, self.view])
        for control in (self.identity, self.shots, self.frame, self.epoch):
            control.observe(self._show, "value")
        self._show()

    def _show(self, _=None) -> None:
        history = self.histories[self.identity.value, self.shots.value]
        self.view.show(history, self.frame.value, self.epoch.value)


class DrivePanel(widgets.VBox):
    """A head driven live, by sliders for its pose or by landmarks that can be dragged.

    ``heads`` is one head, or heads by name and epoch, of which one is chosen; ``engine`` computes it, see
    :func:`with_engine`. What "auto" chooses for the first head computes the others, too. The panel shows the
    frame rate: from the event through landmarks and canvas to the generated frame.
    """

    def __init__(self, heads: KeptHead | Mapping[str, Mapping[int, KeptHead]], engine: str = PYTORCH):
        check_engine(engine)
        self.heads = {"": {0: heads}} if isinstance(heads, KeptHead) else heads
        self.requested = self.engine = engine
        self.computed: dict[tuple[str, int], KeptHead] = {}  # those that were chosen, with the engine
        first_heads = {name: next(iter(by_epoch.values())) for name, by_epoch in self.heads.items()}
        self.rigs = {name: FaceRig.fit(head.points) for name, head in first_heads.items()}
        self.name = widgets.Dropdown(options=list(self.heads), description="head")
        self.epoch = widgets.SelectionSlider(options=[0], description="epoch")
        self.sliders = {name: pose_slider(name) for name in SLIDERS}
        self.canvas = PointCanvas(first_heads[self.name.value].settings.image_size, self._drive)
        self.result = widgets.Image(format="png", width=CANVAS_SIDE, height=CANVAS_SIDE)
        self.rate = widgets.HTML()
        self.seconds: list[float] = []  # from event to frame
        several = len(self.heads) > 1 or len(self.heads[self.name.value]) > 1
        self.choices = widgets.HBox([self.name, self.epoch] if several else [])
        columns = [
            widgets.VBox(list(self.sliders.values())),
            self.canvas,
            widgets.VBox([self.result, self.rate]),
        ]
        row = widgets.HBox(columns, layout={"align_items": "flex-start"})  # a canvas must not stretch
        super().__init__([self.choices, row])
        for slider in self.sliders.values():
            slider.observe(self._pose, "value")
        self._choose()
        self.name.observe(self._choose, "value")
        self.epoch.observe(self._redrive, "value")

    def _drive(self, points: np.ndarray, start: float) -> None:
        chosen = self.name.value, self.epoch.value
        if chosen not in self.computed:
            self.computed[chosen] = self._with_engine(self.heads[self.name.value][self.epoch.value])
        head = self.computed[chosen]
        self.result.value = png(head.drive(points[None])[0], CANVAS_SIDE)
        self.seconds.append(time.perf_counter() - start)
        self.rate.value = f"{1 / np.median(self.seconds[-TIMED_FRAMES:]):.0f} frames per second"

    def _with_engine(self, head: KeptHead) -> KeptHead:
        """The head, computed by the engine; "auto" chooses again where the frames of its choice differ."""
        try:
            computed, self.engine = with_engine(head, self.engine)
        except ValueError:
            if self.engine == self.requested:
                raise
            computed, self.engine = with_engine(head, self.requested)
        return computed

    def _pose(self, _=None) -> None:
        start = time.perf_counter()
        points = self.rigs[self.name.value].pose(**{n: slider.value for n, slider in self.sliders.items()})
        self.canvas.show(points)
        self._drive(points, start)

    def _redrive(self, _=None) -> None:
        self._drive(self.canvas.points, time.perf_counter())

    def _choose(self, _=None) -> None:
        self.epoch.options = list(self.heads[self.name.value])
        self.epoch.value = max(self.epoch.options)
        self._pose()


def pose_slider(name: str) -> widgets.IntSlider | widgets.FloatSlider:
    """The slider of ``SLIDERS`` with this name: integers for angles, real numbers for openings."""
    low, high, value, step = SLIDERS[name]
    kind = widgets.FloatSlider if isinstance(step, float) else widgets.IntSlider
    return kind(min=low, max=high, value=value, step=step, description=name, continuous_update=True)


class TuningPanel(widgets.VBox):
    """Fine-tuning live: one button starts it, another stops it; pictures and curve are updated as it runs.

    ``fine_tune(watch)`` runs the fine-tuning in a thread. It calls ``watch(epoch, history)`` after each
    evaluated epoch, stops where that returns True, and returns the history.
    """

    def __init__(self, fine_tune: Callable[[Watch], History], frame: int = 0):
        self.fine_tune, self.frame = fine_tune, frame
        self.start = widgets.Button(description="fine-tune", button_style="primary")
        self.stop = widgets.Button(description="stop", disabled=True)
        self.status, self.view = widgets.HTML(), HistoryView()
        self.stop_request = threading.Event()
        self.start.on_click(self._start)
        self.stop.on_click(self._stop)
        super().__init__([widgets.HBox([self.start, self.stop, self.status]), self.view])

    def _start(self, _) -> None:
        self.stop_request.clear()
        self.start.disabled, self.stop.disabled = True, False
        threading.Thread(target=self._run, daemon=True).start()

    def _stop(self, _) -> None:
        self.stop_request.set()

    def _watch(self, epoch: int, history: History) -> bool:
        self.view.show(history, self.frame, epoch)
        self.status.value = f"epoch {epoch}"
        return self.stop_request.is_set()

    def _run(self) -> None:
        try:
            history = self.fine_tune(self._watch)
            end = "stopped" if self.stop_request.is_set() else "finished"
            self.status.value = f"{end} after epoch {max(history.epochs)}"
        except Exception as error:
            self.status.value = failure(error)
        finally:
            self.start.disabled, self.stop.disabled = False, True


class UploadPanel(widgets.VBox):
    """Photographs or a video of the reader: the identity gap, and heads that can be driven.

    Files are written into ``folder``. ``learn(paths)`` returns the history of a fine-tuning and its heads by
    epoch. Without a detector the landmarks of each photograph, or of the first frame of a video, are placed
    by hand first. Until something is uploaded, the panel offers the photograph ``example`` (H, W, 3).
    ``engine`` computes the heads, as in :class:`DrivePanel`.
    """

    def __init__(
        self,
        folder: Path,
        learn: Callable[[list[Path]], tuple[History, Mapping[int, KeptHead]]],
        detect: Detect | None,
        example: np.ndarray,
        engine: str = PYTORCH,
    ):
        check_engine(engine)
        self.folder, self.learn, self.detect, self.engine = folder, learn, detect, engine
        self.upload = widgets.FileUpload(
            accept="image/*,video/*", multiple=True, description="photographs or a video"
        )
        self.note = widgets.HTML()
        if detect is None:
            self.note.value = (
                "<small>The weights of face-alignment are missing, so landmarks are placed by hand: "
                "in every photograph, and in the first frame of a video.</small>"
            )
        self.below = widgets.VBox([self._place([example], [])])
        self.upload.observe(self._take, "value")
        super().__init__([widgets.HBox([self.upload, self.note]), self.below])

    def _take(self, _) -> None:
        """Write the uploaded files and continue with them."""
        self.below.children = [widgets.HTML("fine-tuning ..." if self.detect else "reading ...")]
        try:
            paths = self._write_files()
            if self.detect:
                self.below.children = [self._fine_tune(paths)]
            else:
                images = [next(read_source(path).frames()) for path in paths]
                self.below.children = [self._place(images, [])]
        except Exception as error:
            self.below.children = [widgets.HTML(failure(error))]

    def _write_files(self) -> list[Path]:
        """The uploaded files, each in a folder of its own: two of them may have the same name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder, paths = Path(tempfile.mkdtemp(dir=self.folder)), []
        for number, file in enumerate(self.upload.value):
            path = folder / str(number) / Path(file["name"]).name
            path.parent.mkdir()
            path.write_bytes(file["content"])
            paths.append(path)
        return paths

    def _place(self, images: Sequence[np.ndarray], paths: Sequence[Path]) -> widgets.Widget:
        """A panel for the first of ``images``; the others follow it. ``paths`` are those with landmarks."""

        def proceed(landmarks: np.ndarray) -> widgets.Widget:
            path = write_photograph(self.folder / f"photograph{len(paths)}.png", images[0], landmarks)
            finished = [*paths, path]
            return self._place(images[1:], finished) if len(images) > 1 else self._fine_tune(finished)

        return LandmarkPanel(images[0], proceed)

    def _fine_tune(self, paths: list[Path]) -> widgets.Widget:
        history, heads = self.learn(paths)
        shots = len(next(iter(heads.values())).images)
        name, note = "uploaded face", widgets.HTML()
        if any(recogniser.CSIM in caption for caption in history.captions(0, max(history.epochs))):
            note.value = f"<small>{reliability(real=True)}</small>"
        drive = DrivePanel({name: heads}, self.engine)
        return widgets.VBox([GapPanel({(name, shots): history}), note, drive])
