"""A prepared corpus of many videos with frames of 8² pixels, written without preparing anything."""

import json
from itertools import groupby
from operator import itemgetter

import numpy as np
from talking_heads.data.frame_files import write_frames
from talking_heads.data.manifest import MANIFEST


def manifest_lines(split, videos, sources, frames=4):
    """Lines of a manifest; every third source is left out, and the videos are in no order."""
    lines = []
    for video in np.random.default_rng(0).permutation(videos).tolist():
        for source in range(sources):
            usable = (video + source) % 3 > 0
            lines.append(
                {
                    "split": split,
                    "person": f"p{video // 2:03d}",
                    "video": f"ü{video:03d}",
                    "source": f"../videos/{video}/{source}.mp4",
                    "frames": (frames + source) * usable,
                    "key": "0123456789ab",
                    "size": 8,
                    "note": "" if usable else "left out: dark",
                    **({"of": 50, "fps": 25.0, "square": [0.5, 1, 8]} if usable else {}),
                }
            )
    return lines


def write_manifest(root, lines):
    root.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / MANIFEST).write_text(text, encoding="utf-8")


def write_videos(root, lines):
    """A manifest's videos with frames that state their number."""
    by_video = itemgetter("person", "video")
    for number, ((person, video), group) in enumerate(groupby(sorted(lines, key=by_video), by_video)):
        count = sum(line["frames"] for line in group)
        folder = root / lines[0]["split"] / person / video
        folder.mkdir(parents=True)
        write_frames(folder, np.full((count, 8, 8, 3), number % 256, np.uint8))
        np.savez(folder / "track.npz", landmarks=np.full((count, 68, 2), 4.0, np.float32))
