"""``python -m talking_heads speak``: a photograph and a voice become a talking head."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from talking_heads.animation.animate import detection_of, detector_for, inspect
from talking_heads.animation.head_files import check_kind
from talking_heads.animation.identity_frames import (
    IdentityFrame,
    keep_identity,
    load_identity,
    person_of,
)
from talking_heads.animation.synthetic_video import Sound, has_content, refuse_foreign, write_synthetic
from talking_heads.config import Profile
from talking_heads.data import video
from talking_heads.data.decoding import UnreadableVideo
from talking_heads.data.frames import to_tensor
from talking_heads.data.shared_detector import Detect
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.sound import FPS, HOP, SOUND_RATE, read_sound, start_of
from talking_heads.data.talking import align
from talking_heads.data.windows import LENGTH
from talking_heads.devices import choose
from talking_heads.diffused.audio_encoder import embed_clip
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.resumable import Generation, frames_beside
from talking_heads.files import Interrupted, appended, check_outputs, try_outputs
from talking_heads.nn.weight_files import load_metadata

SILENT = 33  # largest sample (int16) of a recording of nothing: 60 dB below full scale
LoadModel = Callable[[torch.device], tuple[Generator, nn.Module, dict]]


@dataclass
class Request:
    """Inputs and outputs of a talking head: a photograph or a kept identity frame, and a sound."""

    sound: Path  # any audio or video file
    out: Path
    photo: Path | None = None
    face: Path | None = None  # a kept identity frame
    keep: Path | None = None  # the file of a new identity frame; <out>.face by default
    person: str | None = None  # of the card; the photograph's name by default
    kind: str = "real person"
    seed: int = 0
    mark: bool = True  # "synthetic" in a corner of the video


def speak(request: Request, profile: Profile, load_model: LoadModel, device_name: str = "auto") -> Path:
    """Generate a talking head of a photograph from sound alone, and write it as a video with that sound.

    Frames lie in a file until the video is written, so that memory hardly grows with the sound.
    ``load_model(device)`` returns the trained generator, the audio encoder and their provenance. What an
    interrupted call has generated is kept beside the output, and the same call goes on. Raises ValueError and
    FileNotFoundError for unusable input before anything is written; :class:`Interrupted` states what is kept.
    """
    check_face(request)
    if request.face and request.keep:
        raise ValueError("--keep says where a new identity frame goes; --face gives one that is kept already")
    keep = None if request.face else request.keep or appended(request.out, ".face")
    partial = appended(request.out, ".partial")
    check_files(request, keep, partial)
    sound = read_speech(request.sound)
    device = choose(device_name)
    size = profile.diffused.clips.image_size
    face, count = find_face(request, size, profile.diffused.clips.alignment, device), -(-len(sound) // HOP)
    try_outputs({"the partial result of --out": partial}, count * face.image.size)
    generator, encoder, metadata = load_model(device)
    if keep:
        keep_identity(keep, face)
    each_side = profile.diffused.conditions.audio_windows
    audio = embed_clip(encoder, sound, count, each_side, device)
    identity = to_tensor(face.image[None], device)
    weights = f"{metadata.get('key')} {metadata.get('step')} {metadata.get('run')}"
    generation = Generation(generator, identity, audio[None], [request.seed], weights, partial)
    print(f"generating {len(audio)} frames", flush=True)
    try:
        frames = generation.run()[0]
    except KeyboardInterrupt as interrupt:
        kept = f"{generation.done} frames are kept in {partial}; the same command goes on from there"
        raise Interrupted(
            f"interrupted; {kept if generation.done else 'no frame is complete'}"
        ) from interrupt
    spoken = Sound(sound, SOUND_RATE)
    write_synthetic(request.out, frames, FPS, spoken, comment_of(face.card), request.mark)
    generation.clear()
    return request.out


def check_face(request: Request) -> None:
    """Raises ValueError where a request has no face, two of them, or an unknown kind."""
    if bool(request.photo) == bool(request.face):
        raise ValueError("give either --photo (a photograph) or --face (a kept identity frame)")
    check_kind(request.kind)


def comment_of(card: dict[str, str]) -> str:
    """The comment of a video of an identity frame with this card."""
    return (
        f"a neural talking head of {card['person']} ({card['kind']}), "
        "generated from one frame and a sound; not a recording"
    )


def check_files(request: Request, keep: Path | None, partial: Path) -> None:
    """Check the names and permissions of what is written.

    Raises ValueError, and FileNotFoundError where an input is missing.
    """
    inputs = [path for path in (request.photo, request.face, request.sound) if path]
    if missing := [str(path) for path in inputs if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: no such file")
    video.container_of(request.out)
    outputs = {"--out": request.out} | ({"--keep": keep} if keep else {})
    sidecars = [sidecar for path in inputs if (sidecar := find_sidecar(path))]
    frames = frames_beside(partial)
    temporary = {"the partial result of --out": partial, "the frames of --out": frames}
    check_outputs({**outputs, **temporary}, [*inputs, *sidecars])
    try_outputs(outputs, 0)
    refuse_foreign(request.out)
    for path in (partial, frames):
        if path.exists() and not _is_partial(partial):
            raise ValueError(f"{path}: is not a partial result of this command; move it away")
    person = request.person or (request.photo.stem if request.photo else None)
    if keep and has_content(keep) and (owner := person_of(keep)) != person:
        cause = "was not written by this command" if owner is None else f"is the identity frame of {owner!r}"
        raise ValueError(f"--keep {keep}: exists and {cause}; move it away or choose another name")


def _is_partial(path: Path) -> bool:
    try:
        return "key" in load_metadata(path)
    except (ValueError, OSError):
        return False


def read_speech(path: Path) -> np.ndarray:
    """The sound of a file, (samples,) int16 at 16 kHz. Raises ValueError, naming the file and the cause."""
    try:
        sound = read_sound(path, start=start_of(path))
    except (UnreadableVideo, OSError) as error:
        raise ValueError(f"{path}: no audio or video file that can be read ({error})") from error
    if sound is None:
        raise ValueError(f"{path}: a file without sound; give a recording of a voice")
    if len(sound) < LENGTH:
        seconds = len(sound) / SOUND_RATE
        raise ValueError(f"{path}: {seconds:.2f} s of sound are less than a window of 0.2 s")
    if np.abs(sound.astype(int)).max() <= SILENT:
        raise ValueError(f"{path}: silence only; give a recording of a voice")
    return sound


def find_face(request: Request, size: int, alignment: str, device: torch.device) -> IdentityFrame:
    """The identity frame of a request, of size² pixels. Raises ValueError, naming the file and the cause."""
    if request.face:
        face = load_identity(request.face)
        if len(face.image) != size:
            raise ValueError(
                f"{request.face}: an identity frame of {len(face.image)}², and the profile's network has "
                f"{size}²; make it again from a photograph"
            )
        return face
    assert request.photo is not None
    detect = detector_for([request.photo], device)
    image = crop_face(request.photo, size, alignment, detect)
    card = {
        "person": request.person or request.photo.stem,
        "kind": request.kind,
        "origin": request.photo.name,
        **detection_of([request.photo], detect),
    }
    return IdentityFrame(image, card)


def crop_face(path: Path, size: int, alignment: str, detect: Detect | None) -> np.ndarray:
    """The face of a photograph, or of the first frame of a clip: (size, size, 3) uint8."""
    inspection = inspect(path, 1, detect)
    first = np.flatnonzero(inspection.usable)[:1]
    points = inspection.points["landmarks"][first]
    return align(inspection.clip, inspection.numbers[first], points, size, alignment)[0][0]
