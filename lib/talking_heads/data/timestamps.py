"""Times and rates of video frames, from what a file states about them."""

import re

import av
import numpy as np

ASSUMED_RATE = 25.0  # frames per second where the file states neither times nor a rate
FASTEST = 120.0  # highest frames per second for a video of varying rate


def stated_end(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds at which the header ends the pictures, on the clock of the file; -inf if not stated."""
    start = float((stream.start_time or 0) * stream.time_base)
    if stream.duration is not None:
        return start + float(stream.duration * stream.time_base)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    duration = tags.get("duration", "")
    if re.fullmatch(r"\d+:\d+:[\d.]+", duration):  # of Matroska, from the beginning of the clock
        hours, minutes, seconds = map(float, duration.split(":"))
        return 3600 * hours + 60 * minutes + seconds
    video_only = not container.streams.audio and container.format.name not in ("mpegts", "mpeg")
    if container.duration is not None and video_only:
        return start + container.duration / av.time_base
    return -np.inf


def in_order(times: list[float | None]) -> np.ndarray | None:
    """Seconds (n,) of frames in display order; None where the file states none.

    Some containers state times in another order, or not for all frames. They are sorted, and missing times
    are interpolated.
    """
    raw = np.array([np.nan if seconds is None else seconds for seconds in times])
    number = np.flatnonzero(np.isfinite(raw))
    if len(raw) == 1 and len(number):
        return raw
    finite = np.sort(raw[number])
    if not len(finite) or finite[0] == finite[-1]:
        return None
    filled = np.interp(np.arange(len(raw)), number, raw[number])
    step = np.median(np.diff(finite)[np.diff(finite) > 0])
    leading, trailing = np.arange(number[0]), np.arange(number[-1] + 1, len(raw))
    filled[leading] = raw[number[0]] - step * (number[0] - leading)
    filled[trailing] = finite[-1] + step * (trailing - number[-1])
    return np.sort(filled)


def frame_rate(times: np.ndarray, header_rate: float) -> tuple[float, bool]:
    """Frames per second, and whether the rate is constant.

    It is constant where all times lie within 0.1 frames of the header's rate, or within half a frame of the
    mean rate.
    """
    number, span = np.arange(len(times)), times[-1]
    if not span:
        return (header_rate if 1 <= header_rate <= 1000 else ASSUMED_RATE), True
    for rate, tolerance in ((header_rate, 0.1), (number[-1] / span, 0.5)):
        if rate and np.abs(times - number / rate).max() < tolerance / rate:
            return float(rate), True
    gaps = np.diff(times)
    rate = min(1 / float(np.median(gaps[gaps > 0])), FASTEST)
    close = bool(header_rate) and abs(np.log(rate / header_rate)) < 0.05
    return (header_rate if close else rate), False
