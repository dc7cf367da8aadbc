"""Files on disk and over the wire: provenance, digests, the downloader against a server on loopback."""

import functools
import hashlib
import http.server
import threading
import zipfile

import pytest
import torch
from talking_heads.__main__ import main
from talking_heads.nn import pretrained as weights
from talking_heads.nn.weight_files import load_weights, save_weights


@pytest.fixture
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path / "own"))
    return tmp_path


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_weights_carry_what_made_them(tmp_path):
    save_weights(
        tmp_path / "w.safetensors",
        {"a": torch.tensor([0.1, 2.0]), "n": torch.tensor(3)},
        {"seed": 1},
        half=True,
    )
    state, about = load_weights(tmp_path / "w.safetensors")
    assert about == {"seed": 1} and state["a"].dtype == torch.float32 and state["n"].item() == 3
    assert (
        state["a"].tolist() == pytest.approx([0.1, 2.0], abs=1e-4)
        and (tmp_path / "w.safetensors").stat().st_size < 300
    )


def test_foreign_or_damaged_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights"):
        load_weights(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(tmp_path / "bad.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="provenance"):
        load_weights(tmp_path / "foreign.safetensors")


def test_a_pickle_with_code_is_never_executed(homes, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    path = weights.path_of("vggface")
    path.parent.mkdir(parents=True)
    torch.save({"conv1_1.weight": Evil()}, path)
    from talking_heads.nn.perceptual import vgg_extractor

    with pytest.raises(Exception, match="[Ww]eights"):
        vgg_extractor("vggface", path, 1.0)
    assert not (tmp_path / "pwned").exists()


def test_fetch_checks_the_prefix_in_the_name(homes, server, monkeypatch):
    folder, url = server
    content = b"network"
    digest = hashlib.sha256(content).hexdigest()
    (folder / "net.pth").write_bytes(content)
    one = weights.Pretrained(f"net-{digest[:8]}.pth", f"{url}/net.pth", "none", "test", digest[:8])
    monkeypatch.setitem(weights.PRETRAINED, "net", one)
    assert weights.status("net") == "missing"
    path = weights.fetch("net")
    assert (
        path.read_bytes() == content and weights.status("net") == "here" and path.parent.name == "checkpoints"
    )
    path.write_bytes(b"changed")
    assert weights.status("net") == "damaged"
    with pytest.raises(ValueError, match="damaged or another one"):
        weights.find("net")
    monkeypatch.setitem(
        weights.PRETRAINED,
        "net",
        weights.Pretrained("other-00000000.pth", f"{url}/net.pth", "none", "test", "00000000"),
    )
    with pytest.raises(ValueError, match="sha256"):
        weights.fetch("net")
    assert not weights.path_of("net").exists(), "a wrong file is not put in place"


def test_an_unpublished_digest_is_recorded_once_and_held_ever_after(homes, server, monkeypatch):
    folder, url = server
    (folder / "dag.pth").write_bytes(b"first")
    monkeypatch.setitem(
        weights.PRETRAINED, "dag", weights.Pretrained("dag.pth", f"{url}/dag.pth", "none", "test", hub=False)
    )
    weights.fetch("dag").unlink()
    (folder / "dag.pth").write_bytes(b"second")
    with pytest.raises(ValueError, match="damaged or another one"):
        weights.fetch("dag")


def test_a_member_of_an_archive_and_a_dead_link(homes, server, monkeypatch):
    folder, url = server
    with zipfile.ZipFile(folder / "pack.zip", "w") as z:
        z.writestr("models/net.onnx", b"onnx")
    monkeypatch.setitem(
        weights.PRETRAINED,
        "packed",
        weights.Pretrained("net.onnx", f"{url}/pack.zip", "none", "test", hub=False, member="net.onnx"),
    )
    assert weights.fetch("packed").read_bytes() == b"onnx"
    monkeypatch.setitem(
        weights.PRETRAINED,
        "gone",
        weights.Pretrained("gone.pth", f"{url}/gone.pth", "none", "test", hub=False),
    )
    with pytest.raises(OSError):
        weights.fetch("gone")
    assert not weights.path_of("gone").exists()


def test_commands_say_what_is_there_and_what_is_missing(homes, capsys):
    assert main(["weights", "list"]) == 0
    said = capsys.readouterr().out
    for name, one in weights.PRETRAINED.items():
        assert (
            name in said and one.file in said and one.licence in said and str(weights.path_of(name)) in said
        )
    assert said.count("missing") == len(weights.PRETRAINED)
    assert main(["weights", "fetch", "nothing"]) == 2 and "vgg19" in capsys.readouterr().err
