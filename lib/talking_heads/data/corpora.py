"""The corpus of a profile: rendered speakers or your own videos, prepared once and reused."""

from pathlib import Path

from talking_heads.config import Profile, digest
from talking_heads.data.planning import Settings, is_complete
from talking_heads.data.prepare import merge, prepare
from talking_heads.data.sources import TALKING_LAYOUTS
from talking_heads.data.speakers.clips import VERSION
from talking_heads.data.speakers.write import write_speakers
from talking_heads.data.store import Store
from talking_heads.files import waiting_lock
from talking_heads.shards import Shard


def folder(profile: Profile, root: Path | str) -> Path:
    """The folder of a profile's corpus below ``root``.

    The name of a rendered corpus contains a digest of the profile's seed and ``data`` section, and the
    renderer's version. The corpus of your own videos is ``<root>/<layout>``.
    """
    if not profile.data.real:
        return Path(root) / f"speakers-{digest(profile.seed, profile.data)}-v{VERSION}"
    return Path(root) / profile.data.layout


def prepared(profile: Profile, root: Path | str, talking: bool = False) -> Path:
    """The folder of a profile's prepared corpus.

    With ``talking`` it contains talking clips. They lie beside the frames for few-shot heads, except for
    CREMA-D and LRW, of which both systems use talking clips.
    """
    apart = talking and profile.data.layout not in TALKING_LAYOUTS
    return folder(profile, root) / ("talking" if apart else "prepared")


def settings_of(profile: Profile, talking: bool = False) -> Settings:
    """How a profile's corpus is prepared."""
    if talking or (profile.data.real and profile.data.layout in TALKING_LAYOUTS):
        clips = profile.diffused.clips
        return Settings(clips.image_size, 0, clips.alignment)
    return Settings(profile.data.image_size, profile.data.frames_per_video)


def ensure(
    profile: Profile,
    root: Path | str,
    device: str = "cpu",
    talking: bool = False,
    shard: Shard | None = None,
    merging: bool = False,
    workers: int | None = None,
) -> Path:
    """Render and prepare what is missing of a profile's corpus; returns the prepared folder.

    Two runs may share a corpus: the second one waits for the first and reuses its result. Of your own videos
    machines may prepare a ``shard`` each, which ``merging`` joins. Raises ValueError where the profile
    expects your own videos and the folder does not exist, and as :func:`prepare` and :func:`merge` do.
    """
    check_sizes(profile)
    corpus = folder(profile, root)
    if profile.data.real and not (corpus / "videos").is_dir():
        raise ValueError(
            f"{corpus / 'videos'}: profile {profile.name} expects your copy of {profile.data.layout} in "
            "this folder (a link is enough); see the README"
        )
    corpus.mkdir(parents=True, exist_ok=True)
    target = prepared(profile, root, talking)
    if (shard or merging) and profile.data.real:
        layout, settings = profile.data.layout, settings_of(profile, talking)
        if merging:
            merge(corpus / "videos", target, settings, layout)
        else:
            prepare(corpus / "videos", target, settings, layout, device, workers, shard=shard)
        return target
    with waiting_lock(corpus):
        if not profile.data.real:
            layout = "folder"
            write_speakers(corpus / "videos", profile)
        else:
            layout = profile.data.layout
        prepare(corpus / "videos", target, settings_of(profile, talking), layout, device, workers)
    return target


def find(profile: Profile, root: Path | str, device: str = "cpu", talking: bool = False) -> Path:
    """The prepared folder of a profile's corpus, for what reads it.

    Where jobs prepare it, a complete corpus is taken as it is: its videos may be gone, and are not compared
    with it, which takes minutes for a million clips. Else as :func:`ensure`.
    """
    target = prepared(profile, root, talking)
    if profile.protocol.jobs and is_complete(target, settings_of(profile, talking)):
        check_sizes(profile)
        return target
    return ensure(profile, root, device, talking)


def check_sizes(profile: Profile) -> None:
    """Raises ValueError where both systems use the same clips, at different sizes."""
    size, talking_size = profile.data.image_size, profile.diffused.clips.image_size
    if profile.data.real and profile.data.layout in TALKING_LAYOUTS and size != talking_size:
        raise ValueError(
            f"profile {profile.name}: data.image_size is {size} and diffused.clips.image_size is "
            f"{talking_size}; both systems use the same clips of {profile.data.layout}"
        )


def store(profile: Profile, root: Path | str, split: str, talking: bool = False) -> Store:
    """One split of a profile's prepared corpus.

    Raises what :class:`Store` does, also where the frames do not have the profile's size.
    """
    size = profile.diffused.clips.image_size if talking else profile.data.image_size
    return Store(prepared(profile, root, talking), split, size)
