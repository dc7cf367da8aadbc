"""The corpus of procedural speakers as video files in VoxCeleb's layout, with exact landmarks beside them."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...profiles import Profile
from ...progress import Progress
from ..video import write
from .clips import make_clip

# first person of every split; person n of a corpus is the same whatever the profile
FIRST = {"meta": 0, "validation": 100_000, "test": 200_000}


class Job(NamedTuple):
    split: str
    person: int
    video: int
    frames: int
    fps: float


def jobs(profile: Profile) -> list[Job]:
    """All clips of a profile's corpus."""
    p = profile
    out = [Job("meta", FIRST["meta"] + i, v, p.meta_frames, p.meta_fps) for i in range(p.meta_people) for v in range(p.meta_videos)]
    for split in ("validation", "test"):
        for i in range(p.eval_people):
            out += [Job(split, FIRST[split] + i, v, p.eval_frames if v == 0 else p.eval_frames_other, p.eval_fps) for v in range(p.eval_videos)]
    return out


def clip_path(root: Path, job: Job) -> Path:
    return root / job.split / "mp4" / f"id{job.person:06d}" / f"video{job.video}" / "00001.mp4"


def _write_clips(root: Path, seed: int, size: int, batch: list[Job]) -> int:
    torch.set_num_threads(1)
    for job in batch:
        path = clip_path(root, job)
        clip = make_clip(seed, job.person, job.video, job.frames, job.fps, size)
        write(path, clip.frames, clip.fps, clip.sound)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, landmarks=clip.landmarks, pupils=clip.pupils, hidden=clip.hidden, fps=clip.fps,
                            phonemes=np.array([s.phoneme for s in clip.segments]), ends=np.array([s.end for s in clip.segments], np.float32))
        os.replace(temporary, path.with_suffix(".npz"))  # last: a clip is done when its landmarks are there
    return sum(job.frames for job in batch)


def write_speakers(root: Path, profile: Profile, workers: int | None = None) -> int:
    """Render what is missing of a profile's corpus below ``root``; returns the number of clips rendered."""
    todo = [j for j in jobs(profile) if not clip_path(root, j).with_suffix(".npz").exists()]
    if not todo:
        return 0
    batches = [todo[k:k + 4] for k in range(0, len(todo), 4)]
    progress = Progress("rendering speakers", sum(j.frames for j in todo), "frames")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as executor:
        n = len(batches)
        for frames in executor.map(_write_clips, [root] * n, [profile.seed] * n, [profile.image_size] * n, batches):
            progress.add(frames)
    return len(todo)
