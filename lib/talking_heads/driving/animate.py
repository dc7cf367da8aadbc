"""From a photograph (or several, or a clip) and a driver's clip to a moving head: ``python -m talking_heads animate``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from ..corpus import crops, video
from ..corpus.episodes import to_tensor
from ..corpus.landmarks import draw_all
from ..corpus.prepare import Detect, Look, Settings, cut, look
from ..evaluation.methods import Frames
from ..fine_tuning import fine_tune, set_up
from ..meta_learning import Networks
from ..perceptual import make_extractors
from ..profiles import Profile
from .face_shape import FaceShape
from .heads import KeptHead, keep_head, load_head
from .smoothing import steady

MARK = "synthetic"
SHOWN = 256  # pixels of an exported video's side, at least


def named_look(path: Path, most: int, detect: Detect | None) -> Look:
    """A source with its landmarks. Raises ValueError, naming the file."""
    try:
        return look(path, most, detect)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def source_frames(paths: Sequence[Path], profile: Profile, most: int, detect: Detect | None) -> Frames:
    """The frames to learn from: at most ``most`` of photographs or of a clip, cropped. Raises ValueError, naming the file."""
    images, points = [], []
    for path in paths:
        seen = named_look(path, most, detect)
        _, arrays = cut(seen, seen.known["landmarks"][seen.good], Settings(profile.image_size, most), most)
        images.append(arrays["frames"]), points.append(arrays["landmarks"])
    images, points = np.concatenate(images)[:most], np.concatenate(points)[:most]
    return Frames(images, points, to_tensor(images), to_tensor(draw_all(points, profile.image_size, profile.line_width)))


@dataclasses.dataclass
class Driver:
    """A driver's clip: its landmarks (n, 68, 2) in pixels of a crop of ``size``², its rate and its sound."""

    points: np.ndarray
    fps: float
    sound: np.ndarray | None  # float at 16 kHz


def read_driver(path: Path, size: int, detect: Detect | None) -> Driver:
    """Landmarks of every frame of a clip; where no face was found they are taken from the frames around.

    Raises ValueError, naming the file, where there is none in half of the frames.
    """
    seen = named_look(path, 0, detect)
    if seen.good.mean() < 0.5:
        raise ValueError(f"{path}: a face in {int(seen.good.sum())} of {len(seen.good)} frames only; choose another clip")
    if not seen.clip.fps:
        raise ValueError(f"{path}: a photograph cannot drive; give a video")
    points = seen.known["landmarks"].astype(np.float64)
    at = np.arange(len(points))
    for p in range(68):
        for axis in range(2):
            points[:, p, axis] = np.interp(at, at[seen.good], points[seen.good, p, axis])
    sound = None if seen.clip.sound is None else seen.clip.sound / 32768
    return Driver(crops.to_crop(points, crops.clip_square(points), size), seen.clip.fps, sound)


def learn(nets: Networks, few: Frames, profile: Profile, path: Path, card: dict, device: torch.device, log: bool = True) -> KeptHead:
    """Fine-tune a head on ``few`` and keep it at ``path``."""
    extractors = [e.to(device) for e in make_extractors(profile)]
    head = fine_tune(set_up(nets, few.x.to(device), few.y.to(device), profile, extractors), profile.seed, log=log)
    return load_head(keep_head(path, head, few, profile, {**card, "T": len(few.images)}), device)


def perform(head: KeptHead, driver: Driver, adapt: bool = True, smooth: bool = True) -> np.ndarray:
    """The head doing what the driver does: frames (n, S, S, 3) uint8.

    ``adapt`` keeps the head's own face shape (:mod:`face_shape`), ``smooth`` takes out the detector's trembling.
    """
    points = steady(driver.points, driver.fps) if smooth else driver.points
    if adapt:
        points = FaceShape.load().adapt(points, head.points, head.settings.image_size)
    return head.drive(points)


def export(path: Path, frames: np.ndarray, driver: Driver, card: dict, mark: bool = True) -> Path:
    """Write a video with the driver's sound. Its metadata says that it is synthetic; so does a corner of it, unless ``mark`` is off."""
    factor = max(1, -(-SHOWN // frames.shape[1]))
    large = [cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for f in frames]
    if mark:
        for f in large:
            size = f.shape[0] / 640
            at = round(8 * size), f.shape[0] - round(10 * size)
            for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1.5)):  # a dark rim under white letters
                cv2.putText(f, MARK, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, max(1, round(width * size)), cv2.LINE_AA)
    about = f"{MARK}: a neural talking head of {card['person']} ({card['kind']}), learned from {card['T']} frames; not a recording"
    video.write(path, np.stack(large), driver.fps, driver.sound, lossless=False, comment=about)
    return path
