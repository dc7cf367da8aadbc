"""Panels for notebooks: ipywidgets and a canvas over the plain functions of :mod:`gap` and :mod:`..driving`."""

import html
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import ipywidgets as w
import numpy as np
from ipycanvas import Canvas, hold_canvas

from ..corpus.landmarks import PARTS
from ..corpus.prepare import Detect, read_source
from ..driving.animate import write_photograph
from ..driving.face_shape import FaceShape
from ..driving.heads import KeptHead
from ..driving.puppet import ANCHORS, puppet_of
from . import gap

SIDE = 160  # pixels of a picture in a panel
LARGE = 320  # of the canvas


def png(image: np.ndarray, side: int = SIDE) -> bytes:
    """A picture (S, S, 3) uint8, enlarged by whole pixels where it is small."""
    large = cv2.resize(image[..., ::-1], (side, side), interpolation=cv2.INTER_NEAREST if side >= image.shape[0] else cv2.INTER_AREA)
    return cv2.imencode(".png", large)[1].tobytes()


class Strip(w.HBox):
    """Pictures side by side, with titles above and captions below."""

    def __init__(self, count: int, side: int = SIDE):
        self.side = side
        self.titles, self.captions = ([w.HTML() for _ in range(count)] for _ in range(2))
        self.images = [w.Image(format="png", width=side, height=side) for _ in range(count)]
        super().__init__([w.VBox(column) for column in zip(self.titles, self.images, self.captions)])

    def show(self, pictures: Mapping[str, np.ndarray], captions: list[str]) -> None:
        for title, image, caption, (name, picture), text in zip(self.titles, self.images, self.captions, pictures.items(), captions):
            title.value, image.value, caption.value = f"<small><b>{name}</b></small>", png(picture, self.side), f"<small>{text or '&nbsp;'}</small>"


def gap_panel(records: Mapping[tuple[str, int], gap.Record]) -> w.VBox:
    """Choose a person, T, a hold-out frame and an epoch: pictures, scores, and the curve with the epoch marked."""
    people, shots = (list(dict.fromkeys(k[i] for k in records)) for i in (0, 1))
    person, t = w.Dropdown(options=people, description="person"), w.ToggleButtons(options=shots, description="T", value=shots[-1], style={"button_width": "3em"})
    first = records[people[0], shots[-1]]
    frame = w.IntSlider(0, 0, len(first.test.images) - 1, description="frame")
    epoch = w.SelectionSlider(options=list(first.images), value=max(first.images), description="epoch")
    strip, curve = Strip(6), w.HTML()

    def show(_=None) -> None:
        r = records[person.value, t.value]
        strip.show(gap.pictures(r, frame.value, epoch.value), gap.captions(r, frame.value, epoch.value))
        curve.value = gap.curve(r, epoch.value)

    for control in (person, t, frame, epoch):
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox([person, t]), w.HBox([frame, epoch]), strip, curve])


class PointCanvas(Canvas):
    """Landmarks (n, 2) that can be dragged, over a picture; ``moved(points)`` is called with them in pixels of ``size``."""

    def __init__(self, size: int, moved: Callable[[np.ndarray], None], side: int = LARGE):
        super().__init__(width=side, height=side)
        self.size, self.moved, self.scale = size, moved, side / size
        self.points, self.back, self.held, self.since = np.zeros((0, 2)), None, None, 0.0
        self.on_mouse_down(self._down), self.on_mouse_move(self._move), self.on_mouse_up(self._up)

    def put(self, points: np.ndarray, back: np.ndarray | None = None) -> None:
        """Show points in pixels of ``size``, over a picture where one is given."""
        self.points, self.back = np.array(points, float), back if back is not None else self.back
        self._draw()

    def _draw(self) -> None:
        at = (self.points + 0.5) * self.scale
        with hold_canvas():
            self.fill_style = "#111"
            self.fill_rect(0, 0, self.width, self.height)
            if self.back is not None:
                self.put_image_data(cv2.resize(self.back, (self.width, self.height), interpolation=cv2.INTER_CUBIC), 0, 0)
            self.line_width = 1.5
            for first, last, closed, colour in PARTS if len(at) >= 68 else ():
                self.stroke_style = "rgb({}, {}, {})".format(*colour)
                line = [*at[first:last + 1], *([at[first]] if closed else [])]
                self.stroke_lines([tuple(p) for p in line])
            self.fill_style = "#fff"
            self.fill_circles(at[:, 0], at[:, 1], 2.5) if len(at) else None

    def _down(self, x: float, y: float) -> None:
        if len(self.points):
            apart = np.linalg.norm((self.points + 0.5) * self.scale - (x, y), axis=1)
            self.held = int(apart.argmin()) if apart.min() < 12 else None

    def _move(self, x: float, y: float) -> None:
        if self.held is not None:
            self.since = time.perf_counter()
            self.points[self.held] = np.array([x, y]) / self.scale - 0.5
            self._draw()
            self.moved(self.points)

    def _up(self, x: float, y: float) -> None:
        self.held = None


def drive_panel(heads: KeptHead | Mapping[str, Mapping[int, KeptHead]]) -> w.VBox:
    """A head live: sliders for yaw, pitch, roll, mouth and eyes, and its landmarks to drag. Of several heads, by name and epoch, one is chosen.

    Shows how many pictures a second it would reach: from the move of slider or point, through landmarks and canvas, to the picture.
    """
    heads = {"": {0: heads}} if isinstance(heads, KeptHead) else heads
    name, epoch = w.Dropdown(options=list(heads), description="head"), w.SelectionSlider(options=[0], description="epoch")
    chosen = w.HBox([name, epoch] if len(heads) > 1 or len(next(iter(heads.values()))) > 1 else [])
    result, rate = w.Image(format="png", width=LARGE, height=LARGE), w.HTML()
    ranges = {"yaw": (-40, 40, 0, 1), "pitch": (-20, 20, 0, 1), "roll": (-15, 15, 0, 1), "mouth": (0.0, 0.6, 0.1, 0.01), "eyes": (0.0, 0.4, 0.2, 0.01)}
    sliders = {n: (w.FloatSlider if n in ("mouth", "eyes") else w.IntSlider)(min=a, max=b, value=v, step=s, description=n, continuous_update=True)
               for n, (a, b, v, s) in ranges.items()}
    times: list[float] = []

    def drive(points: np.ndarray) -> None:
        result.value = png(heads[name.value][epoch.value].drive(points[None])[0], LARGE)
        times.append(time.perf_counter() - canvas.since)
        rate.value = f"{1 / np.median(times[-20:]):.0f} pictures a second"

    canvas = PointCanvas(next(iter(heads[name.value].values())).settings.image_size, drive)
    puppets = {n: puppet_of(next(iter(versions.values())).points) for n, versions in heads.items()}

    def slide(_=None) -> None:
        canvas.since = time.perf_counter()
        points = puppets[name.value].points(**{n: s.value for n, s in sliders.items()})
        canvas.put(points)
        drive(points)

    def again(_=None) -> None:
        canvas.since = time.perf_counter()
        drive(canvas.points)

    def choose(_=None) -> None:
        epoch.options = list(heads[name.value])
        epoch.value = max(epoch.options)
        slide()

    for slider in sliders.values():
        slider.observe(slide, "value")
    choose()
    name.observe(choose, "value")
    epoch.observe(again, "value")
    return w.VBox([chosen, w.HBox([w.VBox(list(sliders.values())), canvas, w.VBox([result, rate])], layout={"align_items": "flex-start"})])  # a canvas must not stretch


def tuning_panel(fine_tune: Callable[[Callable], gap.Record], frame: int = 0) -> w.VBox:
    """Fine-tune live: a button starts it, the picture and the curve move while it runs, another stops it.

    ``fine_tune(watch)`` is :func:`gap.record` with everything but ``watch`` given.
    """
    start, stop = w.Button(description="fine-tune", button_style="primary"), w.Button(description="stop", disabled=True)
    strip, curve, said, stopped = Strip(6), w.HTML(), w.HTML(), threading.Event()

    def watch(epoch: int, r: gap.Record) -> bool:
        strip.show(gap.pictures(r, frame, epoch), gap.captions(r, frame, epoch))
        curve.value, said.value = gap.curve(r, epoch), f"epoch {epoch}"
        return stopped.is_set()

    def work() -> None:
        try:
            done = fine_tune(watch)
            said.value = f"{'stopped' if stopped.is_set() else 'done'} after epoch {max(done.images)}"
        except Exception as error:  # a thread's traceback would be seen by nobody
            said.value = f"failed: {html.escape(str(error))}"
        finally:
            start.disabled, stop.disabled = False, True

    def begin(_) -> None:
        stopped.clear()
        start.disabled, stop.disabled = True, False
        threading.Thread(target=work, daemon=True).start()

    start.on_click(begin)
    stop.on_click(lambda _: stopped.set())
    return w.VBox([w.HBox([start, stop, said]), strip, curve])


def placing_panel(image: np.ndarray, done: Callable[[np.ndarray], w.Widget]) -> w.VBox:
    """Landmarks of a photograph (H, W, 3) by hand: click the anchors, then drag the points.

    ``done(points)`` gets them in the photograph's pixels; the widget that it returns appears below.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 3), np.uint8)
    square[:height, :width] = image
    said, placed = w.HTML(), []
    ready, anew = w.Button(description="take these points", disabled=True), w.Button(description="place anew")
    canvas = PointCanvas(side, lambda points: None, 2 * LARGE)

    def ask() -> None:
        left = list(ANCHORS.values())[len(placed):]
        said.value = f"click: <b>{left[0]}</b>" if left else "drag points where they are off, then take them"

    def click(x: float, y: float) -> None:
        if len(placed) < len(ANCHORS):
            placed.append(np.array([x, y]) / canvas.scale - 0.5)
            whole = len(placed) == len(ANCHORS)
            canvas.put(FaceShape.load().place(np.array(placed), list(ANCHORS)) if whole else placed)
            ready.disabled = not whole
            canvas.held = None
            ask()

    def take(_) -> None:
        said.value = "learning ..."
        try:
            below.children = [done(canvas.points.copy())]
            ask()
        except Exception as error:  # a widget's traceback would be seen by nobody
            said.value = f"failed: {html.escape(str(error))}"

    def again(_) -> None:
        placed.clear()
        ready.disabled = True
        canvas.put(np.zeros((0, 2)))
        ask()

    below = w.VBox()
    canvas.put(np.zeros((0, 2)), square)
    canvas.on_mouse_down(click)
    ready.on_click(take), anew.on_click(again)
    ask()
    return w.VBox([said, canvas, w.HBox([ready, anew]), below])


def own_panel(folder: Path, learn: Callable[[list[Path]], tuple[gap.Record, dict[int, KeptHead]]], detect: Detect | None, example: np.ndarray) -> w.VBox:
    """Photographs or a video of one's own: the gap before and after fine-tuning, and heads that can be driven at once.

    Files are put into ``folder``, and ``learn(paths)`` gives the record and the heads of it by epoch. Without a detector the
    points of each photograph, or of a video's first frame, are placed by hand first, and the panel says so; so are those of
    ``example`` (H, W, 3), which is shown until something is loaded.
    """
    upload, below = w.FileUpload(accept="image/*,video/*", multiple=True, description="photographs or a video"), w.VBox()
    by_hand = w.HTML("" if detect else "<small>Without face-alignment's weights points are placed by hand: in every photograph, and in the first frame of a video.</small>")

    def show(paths: list[Path]) -> w.VBox:
        record, versions = learn(paths)
        return w.VBox([gap_panel({("your own", len(record.few.images)): record}), drive_panel({"your own": versions})])

    def place(images: list[np.ndarray], paths: list[Path]) -> w.Widget:
        def done(points: np.ndarray) -> w.Widget:
            known = [*paths, write_photograph(folder / f"placed{len(paths)}.png", images[0], points)]
            return place(images[1:], known) if images[1:] else show(known)

        return placing_panel(images[0], done)

    def take(_) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        loaded = Path(tempfile.mkdtemp(dir=folder))  # two files may have one name
        paths = [loaded / str(number) / Path(f["name"]).name for number, f in enumerate(upload.value)]
        below.children = [w.HTML("learning ..." if detect else "reading ...")]
        try:
            for path, file in zip(paths, upload.value):
                path.parent.mkdir()
                path.write_bytes(file["content"])
            below.children = [show(paths) if detect else place([next(read_source(p).frames()) for p in paths], [])]
        except Exception as error:  # as above
            below.children = [w.HTML(f"failed: {html.escape(str(error))}")]

    upload.observe(take, "value")
    below.children = [place([example], [])]
    return w.VBox([w.HBox([upload, by_hand]), below])
