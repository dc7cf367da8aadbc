"""From a photograph (or several, or a clip) and a driver's clip to a moving head: ``python -m talking_heads animate``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from ..corpus import crops, video
from ..corpus.episodes import to_tensor
from ..corpus.landmarks import draw_all
from ..corpus.prepare import Detect, Look, Settings, cut, look, spread
from ..corpus.sidecars import find_sidecar
from ..corpus.sources import unusable, walk
from ..evaluation.methods import Frames, feed_forward, nearest_frames
from ..evaluation.metrics import ssim
from ..files import appended, check_outputs, replacing, try_outputs
from ..fine_tuning import fine_tune, set_up
from ..meta_learning import Networks
from ..perceptual import make_extractors
from ..profiles import Profile
from .face_shape import FaceShape
from .heads import KeptHead, check_card, keep_head, load_head, owner_of
from .smoothing import steady

MARK = "synthetic"
SHOWN = 256  # pixels of an exported video's side, at least
HEARD = 48_000  # Hz of an exported video's sound


def named_look(path: Path, most: int, detect: Detect | None) -> Look:
    """A source with its landmarks. Raises ValueError, naming the file."""
    try:
        return look(path, most, detect)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise MemoryError(f"{path}: memory ran out while it was read; close other programs, or shorten or shrink it") from error


def detector_for(paths: Sequence[Path], device: str | torch.device = "cpu") -> Detect | None:
    """face-alignment's networks where one of the files has no landmarks beside it, else None.

    Raises FileNotFoundError where a file is not there, and without the networks' weights.
    """
    if missing := [str(p) for p in paths if not p.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: no such file")
    if all(map(find_sidecar, paths)):
        return None
    from ..corpus.detector import Detector
    return Detector(device, quiet=False)


def detector_if_there(device: str | torch.device = "cpu") -> Detect | None:
    """face-alignment's networks where their weights have been fetched."""
    from ..corpus.detector import Detector
    try:
        return Detector(device, quiet=False)
    except FileNotFoundError:
        return None


def learned_from(paths: Sequence[Path], driver: Path) -> list[Path]:
    """The files to learn from: a folder stands for its photographs and clips, without the driver and what this command wrote.

    Prints what of a folder is left out. Raises ValueError where it has nothing else.
    """
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        reasons = {candidate: reason or _not_learned_from(candidate, driver) for candidate, reason in walk(path)}
        for candidate, reason in reasons.items():
            if reason:
                print(f"  {candidate}: left out: {reason}")
        inside = [candidate for candidate, reason in reasons.items() if reason == ""]
        if not inside:
            raise ValueError(f"{path}: a folder without photographs or videos to learn from")
        files += inside
    return files


def _not_learned_from(path: Path, driver: Path) -> str | None:
    """Why a file of a folder is not learned from, "" where it is, None where nobody would expect it to be."""
    if reason := unusable(path):
        return reason
    if reason is not None and driver.exists() and path.samefile(driver):
        return "it is the driver"
    return "this command wrote it" if reason is not None and written_here(path) else reason


def check_files(out: Path, keep: Path | None, inputs: Sequence[Path], person: str | None) -> dict[str, Path]:
    """The files that ``animate`` will write, by option, once their names, places and rights are known to be good.

    Neither may be an input (landmarks beside one included), the other one, a file that this kit did not write, or the head
    of another person. Raises ValueError, and FileNotFoundError where an input is not there.
    """
    if missing := [str(p) for p in inputs if not p.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: no such file")
    video.container_of(out)
    outputs = {"--out": out} | ({} if keep is None else {"--keep": keep})
    check_outputs(outputs, [*inputs, *(beside for p in inputs if (beside := find_sidecar(p)))])
    try_outputs(outputs, 0)
    if out.exists() and out.stat().st_size and not written_here(out):
        raise ValueError(f"--out {out}: exists and was not written by this command; move it away or choose another name")
    if keep is not None and keep.exists() and keep.stat().st_size and (owner := owner_of(keep)) != person:
        whose = "was not written by this command" if owner is None else f"is the head of {owner!r}"
        raise ValueError(f"--keep {keep}: exists and {whose}; move it away or choose another name")
    return outputs


def written_here(path: Path) -> bool:
    """Whether a file is a video that :func:`export` wrote."""
    try:
        with video.open_file(path) as container:
            return {k.lower(): v for k, v in container.metadata.items()}.get("comment", "").startswith(f"{MARK}: ")
    except (video.UnreadableVideo, OSError):
        return False


def source_frames(paths: Sequence[Path], profile: Profile, most: int, detect: Detect | None, pupils: bool = False) -> Frames:
    """The frames to learn from: at most ``most`` of photographs and clips, cropped, and one of each source at least.

    Their points are 70 where ``pupils`` are asked for, all sources have them and the profile's networks know them, else 68.
    Raises ValueError, naming the file.
    """
    cuts, squares = [], []
    for path in paths:
        seen = named_look(path, most, detect)
        framing = seen.known["landmarks"][seen.good]
        about, arrays = cut(seen, framing, Settings(profile.image_size, most), most)
        cuts.append(arrays)
        squares.append(crops.in_crop(crops.clip_square(framing), crops.Square(*about["square"]), profile.image_size))
    kept = [spread(len(c["frames"]), k) for c, k in zip(cuts, shares([len(c["frames"]) for c in cuts], most))]
    images, points = (np.concatenate([c[name][k] for c, k in zip(cuts, kept)]) for name in ("frames", "landmarks"))
    if pupils and profile.pupils and all("pupils" in c for c in cuts):
        points = np.concatenate([points, np.concatenate([c["pupils"][k] for c, k in zip(cuts, kept)])], 1)
    square = tuple(np.median(squares, axis=0).tolist())
    return Frames(images, points, to_tensor(images), to_tensor(draw_all(points, profile.image_size, profile.line_width)), square)


def shares(counts: Sequence[int], most: int) -> list[int]:
    """How many frames each source gives: ``most`` together, but one of each at least; who has the most gives up first."""
    left = list(counts)
    while sum(left) > max(most, len(left)):
        left[int(np.argmax(left))] -= 1
    return left


@dataclasses.dataclass
class Driver:
    """A driver's clip: its landmarks (n, 68, 2), or (n, 70, 2) with pupils, in pixels of a crop, its rate and its sound."""

    points: np.ndarray
    fps: float
    sound: np.ndarray | None  # (samples,) float, mono
    rate: int = video.SOUND_RATE  # of the sound, Hz


def read_driver(path: Path, size: int, detect: Detect | None) -> Driver:
    """Landmarks of every frame of a clip, and pupils where they are known; what was not found is taken from the frames around.

    Raises ValueError, naming the file, where there is none in half of the frames.
    """
    seen = named_look(path, 0, detect)
    if seen.good.mean() < 0.5:
        raise ValueError(f"{path}: a face in {int(seen.good.sum())} of {len(seen.good)} frames only; choose another clip")
    if not seen.clip.fps:
        raise ValueError(f"{path}: a photograph cannot drive; give a video")
    points = seen.known["landmarks"].astype(np.float64)
    if "pupils" in seen.known and np.isfinite(seen.known["pupils"]).any(0).all():
        points = np.concatenate([points, seen.known["pupils"]], 1)
    times, clock = seen.clip.times[seen.looked], seen.clip.clock()  # one rate, so that the sound stays with the lips
    track = np.empty((len(clock), *points.shape[1:]))
    for p in range(points.shape[1]):
        for axis in range(2):
            found = seen.good & np.isfinite(points[:, p, axis])
            track[:, p, axis] = np.interp(clock, times[found], points[found, p, axis])
    sound = seen.clip.sound(HEARD)
    return Driver(crops.to_crop(track, crops.clip_square(track[:, :68]), size), seen.clip.fps, None if sound is None else sound / 32768, HEARD)


def learn(nets: Networks, few: Frames, profile: Profile, path: Path, card: dict, device: torch.device, log: bool = True) -> KeptHead:
    """Fine-tune a head on ``few`` and keep it at ``path``. Raises ValueError where :func:`keep_head` would refuse the card."""
    card = check_card({**card, "T": len(few.images)})
    extractors = [e.to(device) for e in make_extractors(profile)]
    head = fine_tune(set_up(nets, few.x.to(device), few.y.to(device), profile, extractors), profile.seed, log=log)
    return load_head(keep_head(path, head, few, profile, card), device)


def perform(head: KeptHead, driver: Driver, adapt: bool = True, smooth: bool = True) -> np.ndarray:
    """The head doing what the driver does: frames (n, S, S, 3) uint8.

    ``adapt`` keeps the head's own face shape (:mod:`face_shape`), ``smooth`` takes out the detector's trembling.
    """
    points = steady(driver.points, driver.fps) if smooth else driver.points
    if adapt:
        points = FaceShape.load().adapt(points, head.points, head.settings.image_size)
    if head.square:  # a face that fills its picture is driven as large as it was learned
        points = crops.from_crop(points, crops.Square(*head.square), head.settings.image_size)
    return head.drive(points)


def export(path: Path, frames: np.ndarray, driver: Driver, card: dict, mark: bool = True) -> Path:
    """Write a video with the driver's sound. Its metadata says that it is synthetic; so does a corner of it, unless ``mark`` is off."""
    factor = max(1, -(-SHOWN // frames.shape[1]))

    def enlarged(frame: np.ndarray) -> np.ndarray:
        large = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        size = large.shape[0] / 640
        at = round(8 * size), large.shape[0] - round(10 * size)
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1.5)) if mark else ():  # a dark rim under white letters
            cv2.putText(large, MARK, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, max(1, round(width * size)), cv2.LINE_AA)
        return large

    about = f"{MARK}: a neural talking head of {card['person']} ({card['kind']}), learned from {card['T']} frames; not a recording"
    video.write(path, map(enlarged, frames), driver.fps, driver.sound, lossless=False, comment=about, rate=driver.rate)
    return path


def astronaut_points() -> np.ndarray:
    """68 landmarks and two pupils, (70, 2), placed by hand on scikit-image's portrait of an astronaut (``skimage.data.astronaut``)."""
    return np.loadtxt(Path(__file__).with_name("astronaut.csv"), delimiter=",", skiprows=1)


def write_photograph(path: Path, image: np.ndarray, points: np.ndarray) -> Path:
    """A photograph (H, W, 3) uint8 with its landmarks (68, 2), or (70, 2) with pupils, beside it, as ``prepare`` and ``animate`` read them."""
    with replacing(path) as temporary:
        if not cv2.imwrite(str(temporary), image[..., ::-1]):
            raise OSError(f"{path}: the photograph cannot be written")
    pupils = {"pupils": points[None, 68:].astype(np.float32)} if len(points) == 70 else {}
    with replacing(appended(path, ".npz")) as temporary:
        np.savez(temporary, landmarks=points[None, :68].astype(np.float32), **pupils)
    return path


def closeness(path: Path, nets: Networks, profile: Profile, device: torch.device, folder: Path) -> pd.DataFrame:
    """How near heads of a real clip come: SSIM on hold-out frames of its second half, before and after fine-tuning, for every T.

    Beside them, that of the nearest training frame: what a clip gives away by hardly moving.

    Raises ValueError, naming the clip, where it is too short, and what :func:`detector_for` does.
    """
    first, rest = halves(source_frames([path], profile, 2 * max(profile.shots), detector_for([path], device)))
    if len(first.images) < max(profile.shots):
        raise ValueError(f"{path}: {len(first.images) + len(rest.images)} usable frames, {2 * max(profile.shots)} are needed")
    order, rows = np.random.default_rng(profile.seed).permutation(len(first.images)), {}
    for t in profile.shots:
        few = part(first, order[:t])
        card = {"person": path.stem, "kind": "real person", "origin": path.name, "weights": ""}
        head = learn(nets, few, profile, folder / f"{path.name}_T{t}.head", card, device, log=False)
        made = {"nearest frame": nearest_frames(few, rest.points), "before": feed_forward(nets, on(few, device), rest.y.to(device), profile),
                "after": head.drive(rest.points)}
        rows[t] = {name: np.mean([ssim(a, b) for a, b in zip(images, rest.images)]) for name, images in made.items()}
    return pd.DataFrame(rows).T.rename_axis("T")


def on(frames: Frames, device: torch.device) -> Frames:
    return dataclasses.replace(frames, x=frames.x.to(device), y=frames.y.to(device))


def halves(frames: Frames) -> tuple[Frames, Frames]:
    """The first half of a source, to learn from, and the second, held out; of a single photograph both are that photograph."""
    n = len(frames.images)
    return part(frames, np.arange(max(1, n // 2))), part(frames, np.arange(n // 2, n))


def part(frames: Frames, chosen: np.ndarray) -> Frames:
    return Frames(frames.images[chosen], frames.points[chosen], frames.x[chosen], frames.y[chosen])
