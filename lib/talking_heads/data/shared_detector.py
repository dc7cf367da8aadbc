"""One detector for many threads, which sees the frames of several clips at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, Queue
from threading import Thread
from typing import NamedTuple

import numpy as np

# frames (H, W, 3) of one size -> landmarks (n, 68 or 70, 2), numbers of faces (n,)
Detect = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]
BATCH = 16  # frames that a detector of which nothing is known gets at once, at least
PATIENCE = 0.05  # seconds that a batch that is not full waits for the frames of other clips


class Request(NamedTuple):
    """Frames (H, W, 3) of one size that wait for their landmarks."""

    frames: list[np.ndarray]
    result: Future


class SharedDetector:
    """Detectors, one for each GPU, that serve many threads; frames of several clips are one batch.

    Called as a detector is, with frames of one clip. :meth:`close` lets the detectors go.
    """

    def __init__(self, detectors: Sequence[Detect], batch: int):
        self.batch = batch
        self.requests: Queue[Request | None] = Queue()
        for detector in detectors:
            Thread(target=self._serve, args=(detector,), daemon=True).start()

    def __call__(self, frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        request = Request(frames, Future())
        self.requests.put(request)
        return request.result.result()

    def close(self) -> None:
        """End the threads, which hold the detectors, once all requests are answered."""
        self.requests.put(None)

    def _serve(self, detect: Detect) -> None:
        """Answer requests until the end."""
        other: Request | None = None  # the first one of another size
        while request := other or self.requests.get():
            together, other = self._collect(request)
            try:
                points, faces = detect([frame for request in together for frame in request.frames])
                ends = np.cumsum([len(request.frames) for request in together])[:-1]
                for request, *result in zip(
                    together, np.split(points, ends), np.split(faces, ends), strict=True
                ):
                    request.result.set_result(tuple(result))
            except BaseException as error:
                for request in together:
                    if not request.result.done():
                        request.result.set_exception(error)
        self.requests.put(None)  # for the other detectors

    def _collect(self, first: Request) -> tuple[list[Request], Request | None]:
        """Requests with frames of one size that fill a batch or are all that come soon; and another one."""
        together, count = [first], len(first.frames)
        while count < self.batch:
            try:
                request = self.requests.get(timeout=PATIENCE)
            except Empty:
                break
            if request is None:
                self.requests.put(None)
                break
            if request.frames[0].shape != first.frames[0].shape:
                return together, request
            together.append(request)
            count += len(request.frames)
        return together, None
