"""The manifest's index, and a corpus of many videos."""

import hashlib
import json
from itertools import groupby
from operator import itemgetter

import numpy as np
import pytest
from talking_heads.data import manifest
from talking_heads.data.frame_files import write_frames
from talking_heads.data.store import CorpusDamaged, Store


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
    (root / manifest.MANIFEST).write_text(text, encoding="utf-8")


def write_videos(root, lines):
    """A manifest's videos with frames that state their number."""
    by_video = itemgetter("person", "video")
    for number, ((person, video), group) in enumerate(groupby(sorted(lines, key=by_video), by_video)):
        count = sum(line["frames"] for line in group)
        folder = root / lines[0]["split"] / person / video
        folder.mkdir(parents=True)
        write_frames(folder, np.full((count, 8, 8, 3), number % 256, np.uint8))
        np.savez(folder / "track.npz", landmarks=np.full((count, 68, 2), 4.0, np.float32))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "corpus/prepared"


def test_the_index_has_what_the_lines_say(root):
    lines = manifest_lines("meta", 9, 4) + manifest_lines("test", 3, 1)
    write_manifest(root, lines)
    for split in ("meta", "test"):
        store, mine = Store(root, split), [line for line in lines if line["split"] == split]
        usable = [line for line in mine if line["frames"]]
        names = sorted({(line["person"], line["video"]) for line in usable})
        assert [(store.identity(n), store.name(n)) for n in range(len(store))] == names
        for number, name in enumerate(names):
            of_video = [line for line in usable if (line["person"], line["video"]) == name]
            assert store.frame_count(number) == sum(line["frames"] for line in of_video)
            assert store.duration(number) == pytest.approx(2.0 * len(of_video))
            assert store.first_source(number) == of_video[0]
        digested = ("person", "video", "frames", "square")
        content = [["corpus", *(line.get(name) for name in digested)] for line in mine]
        assert store.digest() == hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
    assert store.identities() == {"p000": [0], "p001": [1]}


def test_the_index_is_made_once_and_again_after_a_change(root, monkeypatch):
    lines = manifest_lines("meta", 4, 2)
    write_manifest(root, lines)
    before = len(Store(root, "meta")), Store(root, "meta").digest()
    made = (root / manifest.INDEX).stat().st_mtime_ns
    with monkeypatch.context() as context:
        context.setattr(manifest, "iterate_manifest", lambda root: pytest.fail("the index is current"))
        assert (len(Store(root, "meta")), Store(root, "meta").digest()) == before
    another = {**lines[0], "frames": 3, "video": "z", "of": 9, "fps": 1, "square": [0, 0, 8]}
    write_manifest(root, [*lines, another])
    store = Store(root, "meta")
    assert len(store) == before[0] + 1 and store.digest() != before[1]
    assert (root / manifest.INDEX).stat().st_mtime_ns > made
    (root / manifest.INDEX).write_bytes(b"PK torn")
    assert Store(root, "meta").digest() == store.digest()
    moved = root.parent.rename(root.parents[1] / "other") / "prepared"
    assert Store(moved, "meta").digest() != store.digest(), "the digest contains the name of the corpus"


def test_a_corpus_that_cannot_be_written_to_is_read(root, monkeypatch):
    write_manifest(root, manifest_lines("meta", 4, 2))

    def refuse(path):
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(manifest, "replacing", refuse)
    assert len(Store(root, "meta")) == 4
    assert [path.name for path in root.iterdir()] == [manifest.MANIFEST]


def test_a_manifest_written_anew_under_an_open_corpus_is_noticed(root):
    lines = manifest_lines("meta", 6, 2)
    write_manifest(root, lines)
    store = Store(root, "meta")
    write_manifest(root, lines[::-1])
    with pytest.raises(CorpusDamaged, match=r"manifest.jsonl: has changed since the corpus was opened"):
        store.first_source(0)
