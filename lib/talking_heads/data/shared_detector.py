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


class DetectionFailed(RuntimeError):
    """The detector itself has failed, not a clip; the message states the cause and what to do."""


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
        self.name = detector_name(detectors[0])
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
                self._answer(detect, together)
            except BaseException as error:
                if len(together) == 1:
                    fail(together[0], error)
                    continue
                for each in together:  # one of them, or their number, is the cause
                    try:
                        self._answer(detect, [each])
                    except BaseException as cause:
                        fail(each, cause)
        self.requests.put(None)  # for the other detectors

    @staticmethod
    def _answer(detect: Detect, requests: Sequence[Request]) -> None:
        """Answer requests with one call of the detector. Raises what it does."""
        points, faces = detect([frame for request in requests for frame in request.frames])
        ends = np.cumsum([len(request.frames) for request in requests])[:-1]
        answers = zip(np.split(points, ends), np.split(faces, ends), strict=True)
        for request, answer in zip(requests, answers, strict=True):
            request.result.set_result(answer)

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


def detector_name(detect: Detect) -> str:
    """The name of a detector, as a corpus records it."""
    return getattr(detect, "name", "another detector")


def fail(request: Request, error: BaseException) -> None:
    """Pass an error on to the clip that asked; PyTorch's errors are the detector's own."""
    if isinstance(error, RuntimeError):
        cause = " ".join(str(error).split())[:200]
        error = DetectionFailed(
            f"landmarks cannot be detected ({cause}); finished videos are kept: run the same command again"
        )
    request.result.set_exception(error)
