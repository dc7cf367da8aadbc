"""The corpus of a profile: rendered or the user's own, prepared once and reused."""

from pathlib import Path

from filelock import FileLock

from ..profiles import Profile, key
from .prepare import Settings, prepare
from .speakers.clips import rendering
from .speakers.write import write_speakers
from .store import Store

SPEAKER_FIELDS = ("seed", "image_size", "meta_people", "meta_videos", "meta_frames", "meta_fps", "eval_people", "eval_videos",
                  "eval_frames", "eval_frames_other", "eval_fps")


def folder(profile: Profile, data: Path | str) -> Path:
    """Where a profile's corpus lies: by its settings and the renderer where it is rendered, ``<data>/<layout>`` where it is the user's own."""
    if profile.corpus == "speakers":
        return Path(data) / f"speakers-{key(profile, *SPEAKER_FIELDS)}-{rendering()}"
    return Path(data) / profile.corpus_layout


def ensure(profile: Profile, data: Path, device: str = "cpu") -> Path:
    """Render and prepare what is missing; returns the prepared corpus.

    Raises ValueError, with the remedy, where the user's own videos are expected and not there.
    """
    root = folder(profile, data)
    if profile.corpus == "videos" and not (root / "videos").is_dir():
        raise ValueError(f"{root / 'videos'}: profile {profile.name} expects your copy of {profile.corpus_layout} there "
                         "(a link will do); see 'On VoxCeleb' in the README")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # two runs may share a corpus: the second one waits, and finds it made
        if profile.corpus == "speakers":
            write_speakers(root / "videos", profile)
        prepare(root / "videos", root / "prepared", Settings(profile.image_size, profile.frames_per_video),
                profile.corpus_layout if profile.corpus == "videos" else "folder", device)
    return root / "prepared"


def store(profile: Profile, data: Path, split: str) -> Store:
    """One split of a profile's prepared corpus, of the profile's size. Raises what :class:`Store` does."""
    return Store(folder(profile, data) / "prepared", split, profile.image_size)
