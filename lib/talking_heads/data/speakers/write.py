"""The corpus of procedural speakers as video files in VoxCeleb's layout, with exact landmarks beside them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from talking_heads.config import Profile
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.speech import PHONEMES, Segment
from talking_heads.data.video import write
from talking_heads.devices import cores
from talking_heads.processes import worker_pool
from talking_heads.progress import Progress

# first identity of every split; the identity of a number is the same in all profiles
FIRST = {"meta": 0, "validation": 100_000, "test": 200_000}


class Job(NamedTuple):
    """A clip to render, and the split that it belongs to."""

    split: str
    clip: ClipSettings


def jobs(profile: Profile) -> list[Job]:
    """All clips of a profile's corpus."""
    section = profile.data.speakers

    def job(split: str, number: int, video: int, frames: int, fps: float) -> Job:
        identity, size = FIRST[split] + number, profile.data.image_size
        return Job(split, ClipSettings(profile.seed, identity, video, frames, fps, size))

    clips = [
        job("meta", number, video, section.meta_frames, section.meta_fps)
        for number in range(section.meta_identities)
        for video in range(section.meta_videos)
    ]
    for split in ("validation", "test"):
        for number in range(section.evaluation_identities):
            for video in range(section.evaluation_videos):
                frames = section.evaluation_frames_other if video else section.evaluation_frames
                clips.append(job(split, number, video, frames, section.evaluation_fps))
    return clips


def clip_path(root: Path, job: Job) -> Path:
    """The video file of a clip."""
    return root / job.split / "mp4" / f"id{job.clip.identity:06d}" / f"video{job.clip.video}" / "00001.mp4"


def _write_clips(root: Path, batch: list[Job]) -> int:
    """Render clips and write them; returns the number of frames."""
    torch.set_num_threads(1)
    for job in batch:
        path = clip_path(root, job)
        clip = make_clip(job.clip)
        write(path, clip.frames, clip.fps, clip.sound)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(
            temporary,
            landmarks=clip.landmarks,
            pupils=clip.pupils,
            hidden=clip.hidden,
            fps=clip.fps,
            phonemes=np.array([segment.phoneme for segment in clip.segments]),
            ends=np.array([segment.end for segment in clip.segments], np.float32),
        )
        temporary.replace(path.with_suffix(".npz"))  # comes last: a clip with landmarks is complete
    return sum(job.clip.frames for job in batch)


def read_phonemes(sidecar: Path) -> list[Segment]:
    """What is said in a clip that was written beside ``sidecar``; empty where the file does not state it.

    Raises ValueError where its phonemes are not those of procedural speech, each with its end in seconds.
    """
    try:
        with np.load(sidecar, allow_pickle=False) as data:
            if "phonemes" not in data:
                return []
            names, ends = data["phonemes"].tolist(), data["ends"].astype(float).tolist()
        if set(names) - set(PHONEMES):
            raise ValueError(f"unknown: {', '.join(sorted(map(str, set(names) - set(PHONEMES))))}")
        return [Segment(*values) for values in zip(names, [0.0, *ends[:-1]], ends, strict=True)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{sidecar}: cannot be read for its phonemes ({error}); write them as {', '.join(PHONEMES)} with "
            "their ends in seconds, or leave them out"
        ) from error


def write_speakers(root: Path, profile: Profile) -> int:
    """Render what is missing of a profile's corpus below ``root``; returns the number of rendered clips."""
    return write_clips(root, jobs(profile))


def write_clips(root: Path, clips: list[Job]) -> int:
    """Render the clips that are missing below ``root``; returns their number."""
    todo = [job for job in clips if not clip_path(root, job).with_suffix(".npz").exists()]
    if not todo:
        return 0
    batches = [todo[k : k + 4] for k in range(0, len(todo), 4)]
    progress = Progress("rendering speakers", sum(job.clip.frames for job in todo), "frames")
    with worker_pool(cores()) as executor:
        for frames in executor.map(_write_clips, [root] * len(batches), batches):
            progress.add(frames)
    return len(todo)
