"""Preparation of talking clips: consecutive frames at 25 a second, aligned, with their sound."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d
from skimage.transform import SimilarityTransform

from talking_heads.data.crops import Square, clip_square, crop, keep_inside, to_crop, warp
from talking_heads.data.sound import FPS, HOP, SOUND_RATE
from talking_heads.data.video import VideoFile

# landmarks that change little with speech: the base of the nose and the corners of the eyes
ANCHORS = [33, 36, 39, 42, 45]
# their mean positions in the crop of :mod:`crops`, as shares of its side, over faces that look ahead
MEAN_FACE = np.array([[0.5, 0.672], [0.337, 0.494], [0.447, 0.498], [0.553, 0.498], [0.663, 0.494]])
SMOOTHED = 7  # frames over which the anchors are averaged
ALIGNMENTS = ("square", "similarity")


class Unusable(ValueError):
    """A clip that cannot become a talking clip; the message is the reason."""


class TalkingClip(NamedTuple):
    """Consecutive frames with their landmarks in pixels of the crop, times in seconds and sound."""

    frames: np.ndarray  # (n, size, size, 3) uint8
    landmarks: np.ndarray  # (n, 68, 2)
    time: np.ndarray  # (n,)
    sound: np.ndarray  # (n * HOP,) int16
    square: Square  # the crop of the clip, or with "similarity" the one that it would have


def longest_run(usable: np.ndarray) -> slice:
    """The longest run of true values of (n,), the first one of equals."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], usable.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return slice(0, 0)
    best = int((ends - starts).argmax())
    return slice(int(starts[best]), int(ends[best]))


def cut_talking(
    clip: VideoFile, landmarks: np.ndarray, usable: np.ndarray, size: int, alignment: str, most: int = 0
) -> TalkingClip:
    """The longest run of a clip in which every frame has usable landmarks, at most ``most`` frames (0: all).

    ``landmarks`` (N, 68, 2) and ``usable`` (N,) are those of all N frames of the source. Frames have a
    constant rate; where the rate of the source differs, a frame is the one that a player shows at that time.
    With ``alignment`` "square" all frames have the crop of :mod:`crops`, with "similarity" each is moved,
    turned and scaled so that its eyes and nose lie on the mean face. Raises :class:`Unusable` for a clip
    without sound, or with fewer than two frames.
    """
    sound = clip.sound()
    if sound is None:
        raise Unusable("no sound")
    instants = np.arange(int(clip.seconds * FPS + 1e-6)) / FPS
    shown = clip.shown_at(instants)
    run = longest_run(usable[shown])
    if most:
        run = slice(run.start, min(run.stop, run.start + most))
    shown, instants = shown[run], instants[run]
    if len(shown) < 2:
        raise Unusable("fewer than two consecutive frames with a face at 25 frames a second")
    points = landmarks[shown]
    frames, aligned = align(clip, shown, points, size, alignment)
    first = round(instants[0] * SOUND_RATE)
    samples = sound[first : first + len(shown) * HOP]
    samples = np.pad(samples, (0, len(shown) * HOP - len(samples)))  # sound may end before the pictures
    square = keep_inside(clip_square(points), clip.size[1], clip.size[0])
    return TalkingClip(frames, aligned, instants.astype(np.float32), samples, square)


def align(
    clip: VideoFile, shown: np.ndarray, points: np.ndarray, size: int, alignment: str
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (n, size, size, 3) with these numbers (n,), aligned by their landmarks ``points`` (n, 68, 2).

    Returns the landmarks in pixels of the aligned frames, too.
    """
    by = _align_by_similarity if alignment == "similarity" else _align_by_square
    return by(clip, shown, points, size)


def _align_by_square(
    clip: VideoFile, shown: np.ndarray, points: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    height, width = clip.size
    square = keep_inside(clip_square(points), width, height)
    frames = [crop(image, square, size) for image in clip.frames(shown)]
    return np.stack(frames), to_crop(points, square, size)


def _align_by_similarity(
    clip: VideoFile, shown: np.ndarray, points: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    anchors = uniform_filter1d(points[:, ANCHORS], SMOOTHED, axis=0, mode="nearest")
    frames, aligned = [], []
    for image, positions, face in zip(clip.frames(shown), anchors, points, strict=True):
        transform = SimilarityTransform.from_estimate(MEAN_FACE * size - 0.5, positions)
        frames.append(warp(image, transform.params[:2], transform.scale, size))
        aligned.append(transform.inverse(face))
    return np.stack(frames), np.stack(aligned).astype(np.float32)
