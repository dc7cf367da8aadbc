"""Heads and denoising steps as files for other programs, and engines that compute heads."""

import re
import sys

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import engines, export
from talking_heads.animation.head_files import keep_head, load_head
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.experiments.few_shot.weights import load_networks
from talking_heads.few_shot.head import FixedHead, Head
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, metadata_of
from talking_heads.nn.tracing import Traced

CARD = {"person": "Ada", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}


@pytest.fixture(scope="module")
def head_file(profile, few, untrained_head, tmp_path_factory):
    """A kept head, which was not trained."""
    return keep_head(tmp_path_factory.mktemp("heads") / "ada.head", untrained_head, few, profile, CARD)


@pytest.fixture(scope="module")
def exported(head_file):
    """The same head as ONNX."""
    pytest.importorskip("onnxruntime")
    path = head_file.with_suffix(".onnx")
    assert main(["export", "--head", str(head_file), "--to", "onnx", "--out", str(path)]) == 0
    return path


def difference(network, head_file, count):
    """The largest difference between frames of an exported head and those of the head in fp32."""
    head = load_head(head_file)
    y = export.unseen_inputs(head)[:count]
    with torch.no_grad():
        return float((network(y) - FixedHead(head.head)(y)).abs().max())


def test_a_fixed_head_is_the_same_function(head_file):
    head = load_head(head_file).head
    y = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(FixedHead(head)(y), head(y), rtol=1e-4, atol=1e-5)
    assert head.generator.projection is not None, "the head itself does not change"


def test_an_exported_head_has_any_batch_size_and_its_card(head_file, exported):
    network = OnnxNetwork(exported)
    for count in (1, 2, 5):
        assert difference(network, head_file, count) < 1e-4
    metadata = metadata_of(exported)
    assert metadata["card"] == CARD and metadata["settings"]["image_size"] == 32
    assert [path.name for path in exported.parent.glob("*.onnx*")] == ["ada.onnx"], "one file"


def test_int8_of_a_trained_head_is_small_and_close(tmp_path, capsys):
    """Of the reference, without fine-tuning."""
    pytest.importorskip("onnxruntime")
    profile = config.load("laptop")
    nets, _ = load_networks(profile, "ft", "reference", tmp_path)
    clip = make_clip(ClipSettings(0, 940_000, 0, 8, 2.5, 64), sound=False)
    y = to_tensor(draw_all(clip.landmarks, 64, profile.few_shot.landmark_images.line_width))
    few = Frames(clip.frames, clip.landmarks, to_tensor(clip.frames), y)
    with torch.no_grad():
        head = Head(nets.generator, nets.embedder.eval().embed(few.x[None], few.y[None])).eval()
    source, out = keep_head(tmp_path / "a.head", head, few, profile, CARD | {"T": 8}), tmp_path / "a.onnx"
    assert main(["export", "--head", str(source), "--to", "onnx", "--int8", "--out", str(out)]) == 0
    assert re.search(r"SSIM (0\.99|1).*maximum error in levels \d", capsys.readouterr().out)
    assert out.stat().st_size < 1.5e6 and metadata_of(out)["card"]["T"] == 8


def test_an_export_that_differs_is_refused_with_its_value(head_file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "LEAST_SSIM", 1.01)
    out = tmp_path / "a.onnx"
    assert main(["export", "--head", str(head_file), "--to", "onnx", "--int8", "--out", str(out)]) == 2
    assert "error: int8 differs too much from fp32, nothing is written: SSIM 0." in capsys.readouterr().err
    assert not out.exists()


def test_openvino_gets_its_pair_of_files(head_file, tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "ada.xml"
    assert main(["export", "--head", str(head_file), "--to", "openvino", "--out", str(out)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"ada.xml", "ada.bin"}
    assert "Ada" in out.read_text(encoding="utf-8")
    assert difference(OpenVinoNetwork(out), head_file, 3) < 0.1  # bf16 where the processor has it


@pytest.mark.parametrize(
    "options, message",
    [
        (["--to", "onnx", "--out", "a.xml"], r"a file for onnx ends in \.onnx"),
        (["--to", "openvino", "--out", "a.onnx"], r"a file for openvino ends in \.xml"),
    ],
)
def test_names_of_other_formats_are_refused(head_file, options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--head", str(head_file), *options]) == 2
    assert message.replace("\\", "") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_ending_in_capitals_is_openvinos_too(head_file, tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "ada.XML"
    assert main(["export", "--head", str(head_file), "--to", "openvino", "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith("<?xml") and (tmp_path / "ada.bin").exists()


def test_the_head_is_not_overwritten_by_weights_beside_the_export(head_file, tmp_path, capsys):
    source = tmp_path / "ada.bin"
    source.write_bytes(head_file.read_bytes())
    command = ["export", "--head", str(source), "--to", "openvino", "--out", str(tmp_path / "ada.xml")]
    assert main(command) == 2 and "the weights beside --out" in capsys.readouterr().err
    assert source.read_bytes() == head_file.read_bytes()


def test_a_missing_package_is_stated_with_how_to_install_it(head_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    out = tmp_path / "a.onnx"
    assert main(["export", "--head", str(head_file), "--to", "onnx", "--out", str(out)]) == 2
    assert "error: onnx is not installed: ./run_all.sh --with export" in capsys.readouterr().err
    with pytest.raises(ValueError, match="onnx is not installed"):
        engines.check_engine(engines.ONNX)
    engines.check_engine(engines.AUTO)


# -- engines ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [engines.ONNX, engines.OPENVINO])
def test_engines_generate_the_frames_of_the_head(head_file, few, name):
    pytest.importorskip("openvino" if name == engines.OPENVINO else "onnxruntime")
    head = load_head(head_file)
    frames = head.drive(few.points)
    computed, computing = engines.with_engine(head, name)
    other = computed.drive(few.points)
    assert computing == name and other.shape == frames.shape and np.abs(other.astype(int) - frames).mean() < 4
    assert head.network is None


def test_the_fastest_engine_that_passes_is_chosen(head_file, monkeypatch, capsys):
    head = load_head(head_file)
    networks = {engines.PYTORCH: None, engines.ONNX: len, engines.OPENVINO: abs}

    def make_network(head, name):
        if name == engines.INT8:
            raise ValueError("int8 is not the same: SSIM 0.71")
        return networks[name]

    times = {head.head: 3.0, len: 1.0, abs: 2.0}
    monkeypatch.setattr(engines, "make_network", make_network)
    monkeypatch.setattr(engines, "seconds", lambda network, *_: times[network])
    computed, name = engines.with_engine(head, engines.AUTO)
    assert computed.network is len and name == engines.ONNX
    out = capsys.readouterr().out
    assert (
        "onnxruntime-int8: left out, int8 is not the same: SSIM 0.71" in out and "engine: onnxruntime" in out
    )


def test_an_unknown_engine_is_refused_before_anything_is_read(tmp_path, capsys):
    with pytest.raises(ValueError, match="'tensorrt' is no engine; there are: auto, pytorch, onnxruntime"):
        engines.check_engine("tensorrt")
    words = ["animate", "--head", str(tmp_path / "no.head"), "--driver", str(tmp_path / "no.mp4")]
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "a.mp4"), "--engine", "tensorrt"])
    assert "invalid choice: 'tensorrt'" in capsys.readouterr().err


# -- a denoising step -------------------------------------------------------------------------------
@pytest.mark.parametrize("grey", [False, True])
def test_a_denoising_step_with_its_schedule(tmp_path, grey):
    pytest.importorskip("onnxruntime")
    section = config.load("smoke").override({"diffused.conditions.motion_grey": grey}).diffused
    torch.manual_seed(0)
    unet = build_unet(section).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    generator = Generator(unet, section)
    check = export.export_step(generator, tmp_path / "step.onnx", "onnx", {"run": "test"})
    assert check.values["relative error"] < 1e-4
    metadata, step = metadata_of(tmp_path / "step.onnx"), export.DenoisingStep(generator)
    assert metadata["run"] == "test" and len(metadata["alpha_bar"]) == section.sampling.steps
    network = OnnxNetwork(tmp_path / "step.onnx")
    inputs = export.step_inputs(generator, batch=3)
    assert network.names == list(inputs)
    with torch.no_grad():
        torch.testing.assert_close(network(*inputs.values()), step(*inputs.values()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("controlled, noise", [(True, 0.3), (False, 0.0)])
def test_engines_of_the_denoising_network_generate_the_same_frames(controlled, noise):
    """Of a network with all inputs, and of one without controls and levels of noise."""
    pytest.importorskip("onnxruntime")
    changes = {"diffused.network.precision": "fp32", "diffused.sampling.control": controlled}
    changes |= {"diffused.conditions.motion_noise": noise, "diffused.sampling.motion_noise": noise}
    section = config.load("smoke").override(changes).diffused
    torch.manual_seed(0)
    unet = build_unet(section, controlled).eval().requires_grad_(False)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    generator = Generator(Traced(unet), section, 1.0)
    other, name = engines.with_denoiser(generator, engines.ONNX)
    assert name == engines.ONNX
    identity = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    windows = 2 * section.conditions.audio_windows + 1
    audio = torch.zeros(1, 2, windows, section.audio_encoder.embedding)
    with torch.no_grad():
        frames, others = (list(one.talk(identity, audio, [0])) for one in (generator, other))
    torch.testing.assert_close(others, frames, rtol=1e-2, atol=1e-3)
    assert generator.unet is not other.unet


def test_an_unknown_engine_of_the_denoising_network_is_refused():
    with pytest.raises(ValueError, match="'onnxruntime-int8' is no engine of the denoising network"):
        engines.with_denoiser(None, engines.INT8)
