"""Prepared corpora of noise, for measurements: of a profile's size, and of VoxCeleb2's number of videos."""

from pathlib import Path

import numpy as np

from talking_heads.config import Profile
from talking_heads.data.frame_files import TRACK, write_frames
from talking_heads.data.manifest import MANIFEST, manifest_line

VIDEOS_EACH, CLIPS_EACH = 25, 7  # videos of an identity and clips of a video of VoxCeleb2, on average
TINY, TINY_FRAMES = 8, 12  # side of the frames of a corpus of that size, and frames of a clip
FACE = 68  # landmarks


def random_corpus(root: Path, profile: Profile, videos: int) -> Path:
    """A prepared corpus of noise at a profile's size, with enough frames in each video for an episode."""
    rng, size = np.random.default_rng(0), profile.data.image_size
    frames = profile.few_shot.meta_learning.k_shot + profile.few_shot.meta_learning.targets
    write_manifest(root, videos, 1, frames, size)
    for number in range(videos):
        write_noise(folder_of(root, number), frames, size, rng)
    return root


def write_tiny_corpus(root: Path, videos: int) -> Path:
    """A prepared corpus of so many videos of ``CLIPS_EACH`` clips, with frames of 8².

    The folders of its videos are links to a few that have frames: writing all of them would take minutes.
    """
    rng, written = np.random.default_rng(0), [root.parent / f"written/{n}" for n in range(VIDEOS_EACH)]
    for folder in written:
        write_noise(folder, CLIPS_EACH * TINY_FRAMES, TINY, rng)
    write_manifest(root, videos, CLIPS_EACH, TINY_FRAMES, TINY)
    for number in range(videos):
        folder = folder_of(root, number)
        if number % VIDEOS_EACH == 0:
            folder.parent.mkdir(parents=True)
        folder.symlink_to(written[number % VIDEOS_EACH])
    return root


def write_noise(folder: Path, frames: int, size: int, rng: np.random.Generator) -> None:
    """A prepared video of noise."""
    folder.mkdir(parents=True)
    coarse = rng.integers(0, 256, (frames, size // 8, size // 8, 3), np.uint8)
    write_frames(folder, coarse.repeat(8, 1).repeat(8, 2))
    points = rng.uniform(0.2 * size, 0.8 * size, (frames, FACE, 2)).astype(np.float32)
    np.savez(folder / TRACK, landmarks=points)


def folder_of(root: Path, number: int) -> Path:
    """The folder of a video of the random corpora."""
    return root / "meta" / identity_of(number) / f"{number:06d}"


def identity_of(number: int) -> str:
    """The identity of a video of the random corpora: as many videos each as in VoxCeleb2, on average."""
    return f"id{number // VIDEOS_EACH:05d}"


def write_manifest(root: Path, videos: int, clips: int, frames: int, size: int) -> None:
    """A manifest of so many videos of so many clips with so many frames each."""
    root.mkdir(parents=True)
    with (root / MANIFEST).open("w", encoding="utf-8") as log:
        for number in range(videos):
            line = {
                "split": "meta",
                "person": identity_of(number),
                "video": f"{number:06d}",
                "frames": frames,
                "key": "benchmark",
                "size": size,
                "note": "",
                "of": 200,
                "fps": 25.0,
                "square": [0.0, 0.0, 224.0],
            }
            for clip in range(clips):
                source = f"../videos/{line['person']}/{line['video']}/{clip:05d}.mp4"
                log.write(manifest_line({**line, "source": source}))
