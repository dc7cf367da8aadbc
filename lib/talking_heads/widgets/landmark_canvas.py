"""Landmarks on a canvas: dragged with the mouse, or placed on a photograph by hand."""

import html
import time
from collections.abc import Callable

import cv2
import ipywidgets as widgets
import numpy as np
from ipycanvas import Canvas, hold_canvas

from talking_heads.animation.face_rig import ANCHORS
from talking_heads.animation.face_shape import FaceShape
from talking_heads.data.landmarks import PARTS

CANVAS_SIDE = 320  # pixels
GRAB_RADIUS = 12  # pixels of the canvas: the farthest landmark that a click grabs


def failure(error: Exception) -> str:
    """The status that a panel shows for an error; the traceback of a callback or thread is invisible."""
    return f"failed: {html.escape(str(error))}"


class PointCanvas(Canvas):
    """Landmarks (n, 2) that can be dragged, over an image of ``size``² pixels.

    ``on_drag(points, start)`` is called with the points, in pixels of the image, and the time of the event
    (``time.perf_counter``).
    """

    def __init__(
        self,
        size: int,
        on_drag: Callable[[np.ndarray, float], None] | None = None,
        side: int = CANVAS_SIDE,
    ):
        super().__init__(width=side, height=side)
        self.size, self.on_drag, self.scale = size, on_drag, side / size
        self.points = np.zeros((0, 2))
        self.background: np.ndarray | None = None
        self.drag_index: int | None = None  # of the landmark that follows the mouse
        self.on_mouse_down(self._press)
        self.on_mouse_move(self._drag)
        self.on_mouse_up(self._release)

    def show(self, points: np.ndarray, background: np.ndarray | None = None) -> None:
        """Show landmarks (n, 2) in pixels of the image, and a background (H, W, 3) where one is given."""
        self.points = np.array(points, float)
        if background is not None:
            self.background = background
        self._draw()

    def _draw(self) -> None:
        positions = (self.points + 0.5) * self.scale
        with hold_canvas():
            self.fill_style = "#111"
            self.fill_rect(0, 0, self.width, self.height)
            if self.background is not None:
                shape = self.width, self.height
                self.put_image_data(cv2.resize(self.background, shape, interpolation=cv2.INTER_CUBIC), 0, 0)
            if len(positions) >= 68:
                self._draw_lines(positions)
            if len(positions):
                self.fill_style = "#fff"
                self.fill_circles(positions[:, 0], positions[:, 1], 2.5)

    def _draw_lines(self, positions: np.ndarray) -> None:
        self.line_width = 1.5
        for first, last, closed, colour in PARTS:
            line = [tuple(position) for position in positions[first : last + 1]]
            self.stroke_style = "rgb({}, {}, {})".format(*colour)
            self.stroke_lines([*line, line[0]] if closed else line)

    def image_position(self, x: float, y: float) -> np.ndarray:
        """A position on the canvas in pixels of the image."""
        return np.array([x, y]) / self.scale - 0.5

    def _press(self, x: float, y: float) -> None:
        if not len(self.points):
            return
        distances = np.linalg.norm((self.points + 0.5) * self.scale - (x, y), axis=1)
        self.drag_index = int(distances.argmin()) if distances.min() < GRAB_RADIUS else None

    def _drag(self, x: float, y: float) -> None:
        if self.drag_index is None:
            return
        start = time.perf_counter()
        self.points[self.drag_index] = self.image_position(x, y)
        self._draw()
        if self.on_drag:
            self.on_drag(self.points, start)

    def _release(self, x: float, y: float) -> None:
        self.drag_index = None


class LandmarkPanel(widgets.VBox):
    """Landmarks for a photograph (H, W, 3), by hand: click the anchors, then drag the points that are off.

    ``proceed(landmarks)`` is called with the landmarks (68, 2) in pixels of the photograph. The widget that
    it returns appears below.
    """

    def __init__(self, image: np.ndarray, proceed: Callable[[np.ndarray], widgets.Widget]):
        self.proceed = proceed
        self.clicks: list[np.ndarray] = []  # anchors so far, in pixels of the photograph
        height, width = image.shape[:2]
        side = max(height, width)
        square = np.zeros((side, side, 3), np.uint8)
        square[:height, :width] = image
        self.status, self.below = widgets.HTML(), widgets.VBox()
        self.accept = widgets.Button(description="use these points", disabled=True)
        self.restart = widgets.Button(description="start again")
        self.canvas = PointCanvas(side, side=2 * CANVAS_SIDE)
        self.canvas.show(np.zeros((0, 2)), square)
        self.canvas.on_mouse_down(self._click)
        self.accept.on_click(self._accept)
        self.restart.on_click(self._restart)
        super().__init__([self.status, self.canvas, widgets.HBox([self.accept, self.restart]), self.below])
        self._prompt()

    def _prompt(self) -> None:
        if len(self.clicks) < len(ANCHORS):
            self.status.value = f"Click the <b>{list(ANCHORS.values())[len(self.clicks)]}</b>."
        else:
            self.status.value = "Drag the points that are off, then use these points."

    def _click(self, x: float, y: float) -> None:
        if len(self.clicks) == len(ANCHORS):
            return
        self.clicks.append(self.canvas.image_position(x, y))
        complete = len(self.clicks) == len(ANCHORS)
        anchors = np.array(self.clicks)
        self.canvas.show(FaceShape.load().place(anchors, list(ANCHORS)) if complete else anchors)
        self.canvas.drag_index = None
        self.accept.disabled = not complete
        self._prompt()

    def _accept(self, _) -> None:
        self.status.value = "fine-tuning ..."
        try:
            self.below.children = [self.proceed(self.canvas.points.copy())]
            self._prompt()
        except Exception as error:
            self.status.value = failure(error)

    def _restart(self, _) -> None:
        self.clicks.clear()
        self.accept.disabled = True
        self.canvas.show(np.zeros((0, 2)))
        self._prompt()
