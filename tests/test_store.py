"""The manifest's index, and a corpus of many videos."""

import hashlib
import json

import pytest
from talking_heads.data import manifest
from talking_heads.data.store import CorpusDamaged, Store
from tiny_corpus import manifest_lines, write_manifest


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
    index_time = (root / manifest.INDEX).stat().st_mtime_ns
    with monkeypatch.context() as context:
        context.setattr(manifest, "iterate_manifest", lambda root: pytest.fail("the index is current"))
        assert (len(Store(root, "meta")), Store(root, "meta").digest()) == before
    another = {**lines[0], "frames": 3, "video": "z", "of": 9, "fps": 1, "square": [0, 0, 8]}
    write_manifest(root, [*lines, another])
    store = Store(root, "meta")
    assert len(store) == before[0] + 1 and store.digest() != before[1]
    assert (root / manifest.INDEX).stat().st_mtime_ns > index_time
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
