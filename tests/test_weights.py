"""Weight files and downloads: provenance, digests, and the downloader against a server on loopback."""

import hashlib
import http.server
import json
import re
import threading
import zipfile
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from talking_heads.__main__ import main
from talking_heads.config import digest
from talking_heads.files import appended
from talking_heads.nn import pretrained
from talking_heads.nn.downloads import UNFINISHED, VALIDATOR
from talking_heads.nn.perceptual import vgg_extractor
from talking_heads.nn.weight_files import load_weights, save_weights


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path / "weights"))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files quietly, with an ETag and from a byte on; of a file named ``short`` it announces ten bytes
    more than it sends, and of one named ``cut`` it sends three bytes to who does not resume.
    """

    ranges: ClassVar[list[str]] = []  # that were requested

    def do_GET(self):
        wanted, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if wanted:
            self.ranges.append(wanted)
        if not path.is_file():
            return self.send_error(404)
        content, first = path.read_bytes(), 0
        if wanted and self.headers["If-Range"] == '"same"':
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if first >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if first else 200)
        self.send_header("ETag", '"same"')
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : None if first or path.name != "cut" else 3])

    def log_message(self, *args):
        pass

    def send_header(self, keyword, value):
        if keyword == "Content-Length" and self.path.endswith("short"):
            value = str(int(value) + 10)
        super().send_header(keyword, value)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def register(monkeypatch):
    """Adds a network to those that can be fetched."""

    def add(name, file, url, **fields):
        network = pretrained.Pretrained(file, url, "none", "test", **fields)
        monkeypatch.setitem(pretrained.PRETRAINED, name, network)

    return add


# -- weight files -----------------------------------------------------------------------------------
def test_weights_carry_their_provenance(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.tensor([0.1, 2.0]), "n": torch.tensor(3)}, {"seed": 1}, half=True)
    state, metadata = load_weights(path)
    assert metadata == {"seed": 1} and state["a"].dtype == torch.float32 and state["n"].item() == 3
    assert state["a"].tolist() == pytest.approx([0.1, 2.0], abs=1e-4) and path.stat().st_size < 300


def test_foreign_or_damaged_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights"):
        load_weights(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(tmp_path / "bad.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="provenance"):
        load_weights(tmp_path / "foreign.safetensors")


class Malicious:
    """A pickled object that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_never_executed(tmp_path):
    torch.save({"conv1_1.weight": Malicious(tmp_path / "executed")}, tmp_path / "vggface.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        vgg_extractor("vggface", tmp_path / "vggface.pth", 1.0)
    assert not (tmp_path / "executed").exists()


# -- downloads --------------------------------------------------------------------------------------
def test_fetch_checks_the_prefix_in_the_name(server, register):
    folder, url = server
    digest = hashlib.sha256(b"network").hexdigest()
    (folder / "net.pth").write_bytes(b"network")
    register("net", f"net-{digest[:8]}.pth", f"{url}/net.pth", prefix=digest[:8])
    assert pretrained.status("net") == "missing"
    path = pretrained.fetch("net")
    assert path.read_bytes() == b"network" and path.parent.name == "checkpoints"
    assert pretrained.status("net") == "here"
    path.write_bytes(b"changed")
    assert pretrained.status("net") == "damaged"
    with pytest.raises(ValueError, match="damaged or another one"):
        pretrained.find("net")


def test_the_progress_of_a_download_is_shown(server, register, capsys):
    folder, url = server
    (folder / "net.pth").write_bytes(bytes(2_500_000))
    register("net", "net.pth", f"{url}/net.pth", hub=False)
    pretrained.fetch("net")
    assert re.search(r"fetching net\.pth\S*: 2/2 MB, .* 0\.0 min left", capsys.readouterr().out)


def test_a_file_of_another_digest_is_not_put_in_place(server, register):
    folder, url = server
    (folder / "net.pth").write_bytes(b"network")
    register("net", "other-00000000.pth", f"{url}/net.pth", prefix="00000000")
    with pytest.raises(ValueError, match="sha256"):
        pretrained.fetch("net")
    assert not pretrained.path_of("net").exists()


def test_an_unpublished_digest_is_recorded_once_and_checked_from_then_on(server, register):
    folder, url = server
    (folder / "dag.pth").write_bytes(b"first")
    register("dag", "dag.pth", f"{url}/dag.pth", hub=False)
    pretrained.fetch("dag").unlink()
    (folder / "dag.pth").write_bytes(b"second")
    with pytest.raises(ValueError, match="damaged or another one"):
        pretrained.fetch("dag")


@pytest.mark.parametrize("member", ["models/net.onnx", "net.onnx"])
def test_a_member_of_an_archive_is_extracted(server, register, member):
    """Also one with the name that the file has afterwards, which must not overwrite the archive."""
    folder, url = server
    content = torch.randn(200_000).numpy().tobytes()
    with zipfile.ZipFile(folder / "pack.zip", "w") as archive:
        archive.writestr(member, content)
    register("packed", "net.onnx", f"{url}/pack.zip", hub=False, member="net.onnx")
    assert pretrained.fetch("packed").read_bytes() == content


def test_an_archive_without_the_member_and_a_file_that_is_no_archive_are_refused(server, register):
    folder, url = server
    with zipfile.ZipFile(folder / "pack.zip", "w") as archive:
        archive.writestr("other.onnx", b"onnx")
    (folder / "page.zip").write_bytes(b"<html>")
    register("packed", "net.onnx", f"{url}/pack.zip", hub=False, member="net.onnx")
    with pytest.raises(ValueError, match=r"pack\.zip: the archive holds no net\.onnx"):
        pretrained.fetch("packed")
    register("packed", "net.onnx", f"{url}/page.zip", hub=False, member="net.onnx")
    with pytest.raises(ValueError, match=r"page\.zip: not a readable zip archive"):
        pretrained.fetch("packed")


@pytest.mark.parametrize(
    "file, message",
    [("missing.pth", "the download failed.*404"), ("short", "(5 of 15 bytes arrived|the download failed)")],
)
def test_a_failed_download_names_its_address_and_puts_nothing_in_place(server, register, file, message):
    folder, url = server
    (folder / "short").write_bytes(b"bytes")
    register("net", "net.pth", f"{url}/{file}", hub=False)
    with pytest.raises(OSError, match=f"{url}/{file}: {message}"):
        pretrained.fetch("net")
    path = pretrained.path_of("net")
    kept = [other.name for other in path.parent.iterdir() if other.name != ".lock"]
    assert all(name.startswith("net.pth-") for name in kept)
    assert sorted(name[-5:] for name in kept) == ([".json", ".part"] if file == "short" else []), "it is kept"


@pytest.mark.parametrize(
    "arrived, tag, ranges",
    [
        (b"", "same", []),
        (b"net", "same", ["bytes=3-"]),
        (b"network", "same", ["bytes=7-"]),  # all of it: the program ended before the rename
        (b"something longer", "same", ["bytes=16-"]),
        (b"ten", "another", ["bytes=3-"]),  # of a file that the server has replaced
        (b"ten", "", []),
    ],
)
def test_an_interrupted_download_is_resumed(server, register, monkeypatch, arrived, tag, ranges):
    """Only if the server still has the same file."""
    monkeypatch.setattr(Handler, "ranges", [])
    folder, url = server
    (folder / "net.pth").write_bytes(b"network")
    source = f"{url}/net.pth"
    register("net", "net.pth", source, hub=False, prefix=hashlib.sha256(b"network").hexdigest())
    path = pretrained.path_of("net")
    path.parent.mkdir()
    downloaded = path.with_name(f"net.pth-{digest(source)}")
    appended(downloaded, UNFINISHED).write_bytes(arrived)
    appended(downloaded, VALIDATOR).write_text(json.dumps(tag and f'"{tag}"'))
    assert pretrained.fetch("net").read_bytes() == b"network"
    assert {other.name for other in path.parent.iterdir()} == {"net.pth", "digests.json", ".lock"}
    assert Handler.ranges == ranges


def test_a_broken_download_is_resumed_by_the_next_call(server, register, monkeypatch):
    folder, url = server
    (folder / "cut").write_bytes(b"network")
    register("net", "net.pth", f"{url}/cut", hub=False)
    with pytest.raises(OSError, match="resumes it"):
        pretrained.fetch("net")
    assert pretrained.fetch("net").read_bytes() == b"network"


def test_the_second_source_is_tried(server, register, capsys):
    """Where the first one is gone or has another file; the second one has the file without an archive."""
    folder, url = server
    (folder / "net.onnx").write_bytes(b"network")
    (folder / "pack.zip").write_bytes(b"<html>")
    for number, first in enumerate(("gone.zip", "pack.zip")):
        name, mirror = f"net{number}", f"{url}/net.onnx"
        register(name, f"{name}.onnx", f"{url}/{first}", hub=False, member="net.onnx", mirror=mirror)
        assert pretrained.fetch(name).read_bytes() == b"network"
        printed = capsys.readouterr().out
        assert f"{url}/{first}" in printed and "trying the second source" in printed
    register("net2", "net2.onnx", f"{url}/gone.zip", hub=False, mirror=f"{url}/gone.onnx")
    with pytest.raises(OSError, match=r"gone\.onnx: the download failed"):
        pretrained.fetch("net2")


def test_a_server_that_cannot_be_reached_is_named(register):
    register("net", "net.pth", "http://127.0.0.1:9/net.pth", hub=False)
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/net\.pth: the download failed"):
        pretrained.fetch("net")


def test_a_damaged_record_of_digests_is_named(tmp_path, register):
    register("net", "net.pth", "http://127.0.0.1:9/net.pth", hub=False)
    path = pretrained.path_of("net")
    path.parent.mkdir()
    path.write_bytes(b"network")
    (path.parent / "digests.json").write_text('{"net.pth": 1}')
    with pytest.raises(ValueError, match=r"digests\.json: damaged"):
        pretrained.verify("net")


# -- the command ------------------------------------------------------------------------------------
def test_the_command_lists_every_network_with_its_licence_and_place(capsys):
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    for name, network in pretrained.PRETRAINED.items():
        for text in (name, network.file, network.licence, str(pretrained.path_of(name))):
            assert text in printed
    assert printed.count("missing") == len(pretrained.PRETRAINED)


def test_the_command_refuses_an_unknown_name(capsys):
    assert main(["weights", "fetch", "nothing"]) == 2
    assert "no pretrained network 'nothing'; there are: vgg19" in capsys.readouterr().err
