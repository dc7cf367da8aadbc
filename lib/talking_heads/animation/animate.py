"""``python -m talking_heads animate``: a head from photographs or a clip, driven by another clip."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from talking_heads.animation.engines import PYTORCH, check_engine, with_engine
from talking_heads.animation.face_shape import FaceShape
from talking_heads.animation.head_files import (
    KeptHead,
    check_card,
    check_kind,
    keep_head,
    load_head,
    owner_of,
)
from talking_heads.animation.smoothing import steady
from talking_heads.animation.synthetic_video import (
    Sound,
    has_content,
    is_ours,
    refuse_foreign,
    write_synthetic,
)
from talking_heads.config import Profile
from talking_heads.data import crops, video
from talking_heads.data.detection import make_detector
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.planning import Settings
from talking_heads.data.prepare_video import Inspection, cut, inspect_source, spread
from talking_heads.data.shared_detector import Detect, detector_name
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sources import unusable, walk
from talking_heads.devices import choose
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.head import BATCH
from talking_heads.few_shot.networks.build import Networks
from talking_heads.files import Interrupted, appended, check_outputs, replacing, try_outputs
from talking_heads.nn.perceptual import make_extractors
from talking_heads.processes import prefetch
from talking_heads.progress import Progress

SOUND_RATE = 48_000  # Hz of an exported video's sound


@dataclass
class Request:
    """Inputs and outputs of a video: a head, learned from ``photos`` or read from ``head``, and a driver."""

    driver: Path  # a clip
    out: Path
    photos: Sequence[Path] = ()
    head: Path | None = None
    keep: Path | None = None  # the file of a learned head; <out>.head by default
    shots: int = 8  # training frames, at most
    person: str | None = None  # of the card; the first photograph's name by default
    kind: str = "real person"
    raw: bool = False  # without adaptation and smoothing of the driver's landmarks
    mark: bool = True  # "synthetic" in a corner of the video
    engine: str = PYTORCH  # that computes the head, see :mod:`engines`


def animate(
    request: Request,
    profile: Profile,
    load_networks: Callable[[torch.device], tuple[Networks, dict]],
    device_name: str = "auto",
) -> Path:
    """Learn or load a head, and write a video of it with the driver's motion and sound.

    ``load_networks(device)`` returns meta-learned networks and their provenance. Raises ValueError and
    FileNotFoundError for unusable input before anything is written; :class:`Interrupted` states what is kept.
    """
    if bool(request.photos) == bool(request.head):
        raise ValueError("give either --photo (photographs, or a clip, to learn from) or --head (a kept one)")
    if request.head and request.keep:
        raise ValueError(
            "--keep says where a head that is learned goes; --head gives one that is kept already"
        )
    check_kind(request.kind)
    check_engine(request.engine)
    photos = find_photos(request.photos, request.driver)
    person = (request.person or request.photos[0].stem) if photos else None
    keep = request.keep or appended(request.out, ".head")
    inputs = [*photos, *([request.head] if request.head else []), request.driver]
    outputs = check_files(request.out, keep if photos else None, inputs, person)
    before = _modified(keep)
    try:
        device = choose(device_name)
        detect = detector_for([*photos, request.driver], device)
        head = load_head(request.head, device) if request.head else None
        size = head.settings.image_size if head else profile.data.image_size
        driver = read_driver(request.driver, size, detect)  # before minutes of fine-tuning
        video_bytes = 20_000 * len(driver.points)
        if head is None:
            nets, metadata = load_networks(device)
            few = source_frames(photos, profile, request.shots, detect, pupils=driver.points.shape[1] == 70)
            head_bytes = 4 * sum(p.numel() for p in nets.generator.parameters())
            try_outputs(outputs, video_bytes + few.images.nbytes + head_bytes)
            print(f"learning a head from {len(few.images)} frames", flush=True)
            card = {
                "person": person,
                "kind": request.kind,
                "origin": ", ".join(photo.name for photo in photos),
                "weights": metadata["commit"],
            }
            card |= detection_of(photos, detect)
            head = learn(nets, few, profile, keep, card)
        else:
            try_outputs(outputs, video_bytes)
        print(f"driving it through {len(driver.points)} frames", flush=True)
        head, _ = with_engine(head, request.engine, BATCH)
        points = motion_for(head, driver, adapt=not request.raw, smooth=not request.raw)
        return export(request.out, render(head, points), driver, head.card, mark=request.mark)
    except KeyboardInterrupt as interrupt:
        message = "interrupted; nothing was written"
        if photos and _modified(keep) != before:
            message = f"interrupted; the head is kept: go on with --head {keep} in place of --photo"
        raise Interrupted(message) from interrupt


def _modified(path: Path | None) -> int | None:
    return path.stat().st_mtime_ns if path and path.exists() else None


# -- the source -------------------------------------------------------------------------------------
def inspect(path: Path, most: int, detect: Detect | None) -> Inspection:
    """A source with its landmarks, at most ``most`` frames (0: all). Raises ValueError, naming the file."""
    try:
        return inspect_source(path, most, detect)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise MemoryError(
            f"{path}: memory ran out while it was read; close other programs, or shorten or shrink it"
        ) from error


def detector_for(paths: Sequence[Path], device: str | torch.device = "cpu") -> Detect | None:
    """A detector (:func:`make_detector`) if one of the files has no landmarks beside it, else None.

    Raises FileNotFoundError where a file or every detector is missing.
    """
    if missing := [str(p) for p in paths if not p.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: no such file")
    if all(map(find_sidecar, paths)):
        return None
    return make_detector(device, quiet=False)


def detection_of(paths: Sequence[Path], detect: Detect | None) -> dict[str, str]:
    """What a card says of the landmarks of files: which detector found them, nothing where all have some."""
    return {"landmarks": detector_name(detect)} if detect and not all(map(find_sidecar, paths)) else {}


def optional_detector(device: str | torch.device = "cpu") -> Detect | None:
    """A detector (:func:`make_detector`), None where there is none."""
    try:
        return make_detector(device, quiet=False)
    except FileNotFoundError:
        return None


def find_photos(paths: Sequence[Path], driver: Path) -> list[Path]:
    """The files to learn from; a folder stands for its photographs and clips.

    The driver and videos of this command are left out of a folder, which is printed. Raises ValueError for a
    folder without usable files.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        reasons = {file: reason or _exclusion(file, driver) for file, reason in walk(path)}
        for file, reason in reasons.items():
            if reason:
                print(f"  {file}: left out: {reason}")
        usable = [file for file, reason in reasons.items() if reason == ""]
        if not usable:
            raise ValueError(f"{path}: a folder without photographs or videos to learn from")
        files += usable
    return files


def _exclusion(path: Path, driver: Path) -> str | None:
    """Why a file of a folder is not used: "" if it is used, None if the reason needs no message."""
    reason = unusable(path)
    if reason != "":
        return reason
    if driver.exists() and path.samefile(driver):
        return "it is the driver"
    return "this command wrote it" if is_ours(path) else ""


def check_files(out: Path, keep: Path | None, inputs: Sequence[Path], person: str | None) -> dict[str, Path]:
    """The files that ``animate`` will write, by option, after a check of their names and permissions.

    Neither may be an input (or landmarks beside one), the other output, a file that this kit did not write,
    or the head of another person. Raises ValueError, and FileNotFoundError where an input is missing.
    """
    if missing := [str(path) for path in inputs if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: no such file")
    video.container_of(out)
    outputs = {"--out": out} | ({} if keep is None else {"--keep": keep})
    sidecars = [sidecar for path in inputs if (sidecar := find_sidecar(path))]
    check_outputs(outputs, [*inputs, *sidecars])
    try_outputs(outputs, 0)
    refuse_foreign(out)
    if keep is not None and has_content(keep) and (owner := owner_of(keep)) != person:
        cause = "was not written by this command" if owner is None else f"is the head of {owner!r}"
        raise ValueError(f"--keep {keep}: exists and {cause}; move it away or choose another name")
    return outputs


def source_frames(
    paths: Sequence[Path], profile: Profile, most: int, detect: Detect | None, pupils: bool = False
) -> Frames:
    """Training frames from photographs and clips, cropped: at most ``most``, but at least one of each source.

    With ``pupils`` they have 70 points if all sources have pupils and the profile's networks are trained with
    them, else 68. Raises ValueError, naming the file.
    """
    size, drawing = profile.data.image_size, profile.few_shot.landmark_images
    cuts, squares = [], []
    for path in paths:
        inspection = inspect(path, most, detect)
        framing = inspection.points["landmarks"][inspection.usable]
        fields, arrays = cut(inspection, framing, Settings(size, most), most)
        cuts.append(arrays)
        squares.append(crops.in_crop(crops.clip_square(framing), crops.Square(*fields["square"]), size))
    counts = shares([len(arrays["frames"]) for arrays in cuts], most)
    indices = [spread(len(arrays["frames"]), count) for arrays, count in zip(cuts, counts, strict=True)]

    def gather(name: str) -> np.ndarray:
        return np.concatenate([arrays[name][index] for arrays, index in zip(cuts, indices, strict=True)])

    images, points = gather("frames"), gather("landmarks")
    if pupils and drawing.pupils and all("pupils" in arrays for arrays in cuts):
        points = np.concatenate([points, gather("pupils")], 1)
    x, y = to_tensor(images), to_tensor(draw_all(points, size, drawing.line_width))
    return Frames(images, points, x, y, tuple(np.median(squares, axis=0).tolist()))


def shares(counts: Sequence[int], most: int) -> list[int]:
    """Frames of each source: ``most`` together, but at least one of each; the largest source loses first."""
    remaining = list(counts)
    while sum(remaining) > max(most, len(remaining)):
        remaining[int(np.argmax(remaining))] -= 1
    return remaining


def halves(frames: Frames) -> tuple[Frames, Frames]:
    """Training frames, the first half, and held-out frames, the second; of one frame both are this frame."""
    n = len(frames.images)
    return frames.select(np.arange(max(1, n // 2))), frames.select(np.arange(n // 2, n))


# -- the driver -------------------------------------------------------------------------------------
@dataclass
class Driver:
    """The landmarks of a driver's clip, in pixels of a crop, and its sound."""

    points: np.ndarray  # (n, 68, 2), or (n, 70, 2) with pupils
    fps: float
    sound: np.ndarray | None  # (samples,) int16 or float in [-1, 1], mono
    rate: int = video.SOUND_RATE  # of the sound, Hz


def read_driver(path: Path, size: int, detect: Detect | None) -> Driver:
    """Landmarks of every frame of a clip, with pupils if the clip has them; gaps are interpolated.

    Raises ValueError, naming the file, where more than half of the frames have no face.
    """
    inspection = inspect(path, 0, detect)
    usable, clip = inspection.usable, inspection.clip
    if usable.mean() < 0.5:
        raise ValueError(
            f"{path}: a face in {int(usable.sum())} of {len(usable)} frames only; choose another clip"
        )
    if not clip.fps:
        raise ValueError(f"{path}: a photograph cannot drive; give a video")
    points = inspection.points["landmarks"].astype(np.float64)
    pupils = inspection.points.get("pupils")
    if pupils is not None and np.isfinite(pupils).any(0).all():
        points = np.concatenate([points, pupils], 1)
    times, clock = clip.times[inspection.numbers], clip.clock()  # one rate keeps sound and lips together
    track = np.empty((len(clock), *points.shape[1:]))
    for p in range(points.shape[1]):
        for axis in range(2):
            valid = usable & np.isfinite(points[:, p, axis])
            track[:, p, axis] = np.interp(clock, times[valid], points[valid, p, axis])
    square = crops.clip_square(track[:, :68])
    return Driver(crops.to_crop(track, square, size), clip.fps, clip.sound(SOUND_RATE), SOUND_RATE)


# -- the head ---------------------------------------------------------------------------------------
def learn(
    nets: Networks,
    few: Frames,
    profile: Profile,
    path: Path,
    card: dict,
    log: bool = True,
) -> KeptHead:
    """Fine-tune a head on training frames and write it to ``path``. Raises as :func:`check_card` does."""
    device = next(nets.generator.parameters()).device
    card = check_card({**card, "T": len(few.images)})
    extractors = [extractor.to(device) for extractor in make_extractors(profile)]
    tuning = set_up(nets, few.x.to(device), few.y.to(device), profile, extractors)
    head = fine_tune(tuning, profile.seed, log=log)
    return load_head(keep_head(path, head, few, profile, card), device)


def perform(head: KeptHead, driver: Driver, adapt: bool = True, smooth: bool = True) -> np.ndarray:
    """The head with the driver's motion (:func:`motion_for`): frames (n, S, S, 3) uint8."""
    return head.drive(motion_for(head, driver, adapt, smooth))


def render(head: KeptHead, points: np.ndarray) -> Iterator[np.ndarray]:
    """The frames (S, S, 3) uint8 of a head, one by one.

    The next batch is computed while the current one is used; memory is independent of the clip's length.
    """
    progress = Progress("rendering", len(points), "frames")
    for batch in prefetch(head.batches(points)):
        yield from batch
        progress.add(len(batch))


def motion_for(head: KeptHead, driver: Driver, adapt: bool = True, smooth: bool = True) -> np.ndarray:
    """The driver's landmarks (n, 68, 2), or (n, 70, 2), as a head is driven by them.

    ``adapt`` keeps the head's face shape (:mod:`face_shape`), ``smooth`` removes the detector's jitter.
    """
    points = steady(driver.points, driver.fps) if smooth else driver.points
    if adapt:
        points = FaceShape.load().adapt(points, head.points, head.settings.image_size)
    if head.square:  # a face that filled its photograph keeps its size
        points = crops.from_crop(points, crops.Square(*head.square), head.settings.image_size)
    return points


def export(path: Path, frames: Iterable[np.ndarray], driver: Driver, card: dict, mark: bool = True) -> Path:
    """Write a video with the driver's sound, marked as synthetic; see :func:`write_synthetic`."""
    comment = (
        f"a neural talking head of {card['person']} ({card['kind']}), "
        f"learned from {card['T']} frames; not a recording"
    )
    return write_synthetic(path, frames, driver.fps, Sound(driver.sound, driver.rate), comment, mark)


# -- an example -------------------------------------------------------------------------------------
def astronaut_points() -> np.ndarray:
    """68 landmarks and two pupils, (70, 2), placed by hand on ``skimage.data.astronaut``."""
    return np.loadtxt(Path(__file__).with_name("astronaut.csv"), delimiter=",", skiprows=1)


def write_photograph(path: Path, image: np.ndarray, points: np.ndarray) -> Path:
    """Write a photograph (H, W, 3) uint8 and its landmarks (68, 2), or (70, 2) with pupils, beside it."""
    with replacing(path) as temporary:
        if not cv2.imwrite(str(temporary), image[..., ::-1]):
            raise OSError(f"{path}: the photograph cannot be written")
    pupils: dict[str, Any] = {"pupils": points[None, 68:].astype(np.float32)} if len(points) == 70 else {}
    with replacing(appended(path, ".npz")) as temporary:
        np.savez(temporary, landmarks=points[None, :68].astype(np.float32), **pupils)
    return path
