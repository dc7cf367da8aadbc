"""Heads and denoising steps as files for other programs, and engines that compute heads."""

import json
import re
import sys

import cv2
import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import engines, export
from talking_heads.animation.head_files import keep_head, load_head
from talking_heads.commands import animation
from talking_heads.data import video
from talking_heads.data.frames import Frames, to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.talking import live_clips
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.diffusion import cosine_schedule
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.diffused.training import model_key
from talking_heads.experiments.diffused import clips
from talking_heads.experiments.diffused.clips import training_windows
from talking_heads.experiments.diffused.weights import load_model, runs_folder
from talking_heads.experiments.few_shot.weights import load_networks
from talking_heads.few_shot.head import FixedHead, Head
from talking_heads.nn import onnx_files
from talking_heads.nn.onnx_files import OnnxNetwork, OpenVinoNetwork, metadata_of
from talking_heads.nn.tracing import Traced
from talking_heads.nn.weight_files import save_weights

CARD = {"person": "Ada", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}


@pytest.fixture(scope="module", autouse=True)
def written_once():
    """A network is traced once, which takes seconds; what would write the same file again copies it."""
    files: dict[str, bytes] = {}

    def write(path, net, inputs, output, metadata):
        onnx_files.import_optional("onnx")
        weights = {name: value.numpy().tobytes().hex() for name, value in net.state_dict().items()}
        key = config.digest(type(net).__name__, weights, metadata)
        if key not in files:
            files[key] = onnx_files.write_onnx(path, net, inputs, output, metadata).read_bytes()
        path.write_bytes(files[key])
        return path

    with pytest.MonkeyPatch.context() as patch:
        for module in (export, engines):
            patch.setattr(module, "write_onnx", write)
        yield


@pytest.fixture(scope="module")
def head_file(profile, few, untrained_head, tmp_path_factory):
    """A kept head, which was not trained."""
    return keep_head(tmp_path_factory.mktemp("heads") / "ada.head", untrained_head, few, profile, CARD)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results with weights of the smoke profile's denoising network, which was not trained."""
    folder, profile = tmp_path_factory.mktemp("results"), config.load("smoke")
    torch.manual_seed(0)
    unet = build_unet(profile.diffused)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    encoder = load_reader(profile.diffused.audio_encoder).encoder
    metadata = {"step": 1, "of": 1, "model": model_key(profile.diffused, encoder)}
    path = runs_folder(profile, folder) / "diffusion" / "weights.safetensors"
    path.parent.mkdir(parents=True)
    save_weights(path, unet.state_dict(), metadata)
    return folder


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


@pytest.fixture(scope="module")
def trained_file(tmp_path_factory):
    """A head of the reference, without fine-tuning."""
    profile, folder = config.load("laptop"), tmp_path_factory.mktemp("trained")
    nets, _ = load_networks(profile, "ft", "reference", folder)
    clip = make_clip(ClipSettings(0, 940_000, 0, 8, 2.5, 64), sound=False)
    y = to_tensor(draw_all(clip.landmarks, 64, profile.few_shot.landmark_images.line_width))
    few = Frames(clip.frames, clip.landmarks, to_tensor(clip.frames), y)
    with torch.no_grad():
        head = Head(nets.generator, nets.embedder.eval().embed(few.x[None], few.y[None])).eval()
    return keep_head(folder / "a.head", head, few, profile, CARD | {"T": 8})


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_int8_of_a_trained_head_is_small_and_close(trained_file, tmp_path, capsys, target):
    pytest.importorskip("onnxruntime")
    pytest.importorskip(target)
    out = tmp_path / f"a{export.FORMATS[target]}"
    assert main(["export", "--head", str(trained_file), "--to", target, "--int8", "--out", str(out)]) == 0
    assert re.search(r"SSIM (0\.99|1).*maximum error in levels \d", capsys.readouterr().out)
    weights = out if target == "onnx" else out.with_suffix(".bin")
    assert weights.stat().st_size < 1.5e6
    assert metadata_of(out)["card"]["T"] == 8 if target == "onnx" else "Ada" in out.read_text("utf-8")


def test_openvino_compiles_a_network_for_every_batch_size(exported, head_file):
    """Of which it keeps the latest."""
    pytest.importorskip("openvino")
    network = OpenVinoNetwork(exported)
    for count in (1, 3, 2, 3):
        assert difference(network, head_file, count) < 0.1
    assert [shape for ((shape, *_),) in network.requests] == [3, 2]
    y = torch.zeros(2, 3, 32, 32)
    first = network(y)
    kept = first.clone()
    network(y + 0.5)
    assert torch.equal(first, kept), "an output does not change with the next call"


def test_openvino_computes_a_head_in_int8(trained_file, monkeypatch):
    """Also frames of another batch; it is refused where they differ too much."""
    pytest.importorskip("openvino")
    head = load_head(trained_file)
    computed, _ = engines.with_engine(head, engines.OPENVINO_INT8)
    for count in (1, 5):
        frames, others = (one.drive(head.points[:count]).astype(int) for one in (head, computed))
        assert 0 < np.abs(frames - others).mean() < 4
    monkeypatch.setattr(export, "LEAST_SSIM", 1.01)
    with pytest.raises(ValueError, match="int8 differs too much from fp32"):
        engines.with_engine(head, engines.OPENVINO_INT8)


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


@pytest.mark.parametrize("target, names", [("onnx", ["ada.onnx"]), ("openvino", ["ada.bin", "ada.xml"])])
def test_an_export_lies_beside_the_head_by_default(head_file, tmp_path, target, names, capsys):
    """Where that replaces nothing."""
    pytest.importorskip(target)
    source = tmp_path / "ada.head"
    source.write_bytes(head_file.read_bytes())
    command = ["export", "--head", str(source), "--to", target]
    assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["ada.head", *names])
    (tmp_path / names[-1]).unlink()
    (tmp_path / names[0]).write_text("something else")
    assert main(command) == 2
    assert f"{names[0]}: exists; name the file to write with --out" in capsys.readouterr().err
    assert (tmp_path / names[0]).read_text() == "something else"


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
def test_the_command_line_has_the_engines_of_the_library():
    assert set(animation.ENGINES) == {engines.AUTO, *engines.ENGINES}
    assert set(animation.DENOISERS) == set(engines.DENOISERS)


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
        if name.endswith("int8"):
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
def test_a_denoising_step_with_its_schedule(tmp_path):
    """Of a network with grey motion frames; that of the command below has them in colour."""
    pytest.importorskip("onnxruntime")
    section = config.load("smoke").override({"diffused.conditions.motion_grey": True}).diffused
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


def export_step(results, out, *words):
    """The status of the command that exports a step."""
    places = ["--results", str(results), "--data", str(out.parent)]
    command = ["export", "--diffusion", "--profile", "smoke", "--weights", "scratch", "--out", str(out)]
    return main([*places, *command, *words])


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_command_writes_a_step_for_other_programs(results, target, tmp_path, capsys):
    pytest.importorskip("openvino" if target == "openvino" else "onnxruntime")
    out = tmp_path / f"step{export.FORMATS[target]}"
    assert export_step(results, out, "--to", target) == 0
    assert re.search(rf"written: {out}; relative error \S+, maximum error \S+", capsys.readouterr().out)
    assert "alpha_bar" in (
        out.read_text(encoding="utf-8") if target == "openvino" else json.dumps(metadata_of(out))
    )
    network = (OpenVinoNetwork if target == "openvino" else OnnxNetwork)(out)
    model = load_model(config.load("smoke"), "scratch", results)
    inputs = export.step_inputs(model.generator, batch=3)
    with torch.no_grad():
        true = export.DenoisingStep(model.generator)(*inputs.values())
        assert export.check_output(true, network(*inputs.values())).passed


def test_int8_of_a_step_is_measured_on_training_windows_and_refused(results, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "CALIBRATION", 2)
    out, cause = tmp_path / "step.onnx", "int8 differs too much from fp32, nothing is written: relative error"
    for largest, status in ((10.0, 0), (1e-4, 2)):
        out.unlink(missing_ok=True)
        monkeypatch.setattr(export, "LARGEST_ERROR", largest)
        assert export_step(results, out, "--to", "onnx", "--int8") == status
        printed = capsys.readouterr()
        if status:
            assert re.search(cause + r" 0\.\d+, maximum error \d", printed.err) and not out.exists()
        else:
            assert b"QuantizeLinear" in out.read_bytes() and metadata_of(out)["alpha_bar"]


def test_windows_of_aligned_videos_are_those_of_the_profiles_own(monkeypatch, tmp_path):
    """Rendered clips have no such alignment, and must not be asked for."""
    profile = config.load("crema")
    own = live_clips(config.load("smoke").diffused, "cpu")
    monkeypatch.setattr(clips, "_own_clips", lambda *_: [own])
    (windows,) = clips.training_windows(profile, tmp_path, 1, 2)
    size, pixels = 2 * profile.diffused.conditions.audio_windows + 1, own.read(0, [0])[0].shape[1]
    assert windows.x_0.shape == (2, 3, pixels, pixels) and windows.sound.shape[:2] == (2, size)


def test_inputs_of_windows_are_those_of_the_sampling(results):
    """Noisy frames at its time steps, motion frames with its noise, and embedded sound."""
    profile = config.load("smoke", {"diffused.sampling.motion_noise": 0.5})
    model = load_model(profile, "scratch", results)
    (windows,) = training_windows(profile, results, 1, 8)
    inputs = export.window_inputs(model.generator, model.encoder, windows, 0)
    assert inputs.keys() == export.step_inputs(model.generator).keys()
    schedule = cosine_schedule(1000, profile.diffused.sampling.steps)
    assert set(inputs["t"].tolist()) <= set(schedule.timesteps.tolist())
    noise = (inputs["motion"] - windows.motion) / inputs["level"][:, None, None, None, None]
    assert float(noise.std()) == pytest.approx(1, abs=0.05) and (inputs["level"] == 0.5).all()
    least = inputs["t"].argmin()
    signal = schedule.alpha_bar[list(schedule.timesteps).index(inputs["t"][least])].sqrt()
    rest = inputs["x_t"][least] - signal * windows.x_0[least]
    assert float(rest.std()) == pytest.approx(float((1 - signal**2).sqrt()), rel=0.1)


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


def test_the_fastest_engine_of_the_denoising_network_that_passes_is_chosen(results, monkeypatch, capsys):
    generator = load_model(config.load("smoke"), "scratch", results).generator
    fast = torch.nn.Identity()

    def make_denoiser(generator, inputs, name):
        if name == engines.OPENVINO:
            raise ValueError("openvino differs too much from fp32: relative error 0.5")
        return fast

    monkeypatch.setattr(engines, "make_denoiser", make_denoiser)
    monkeypatch.setattr(engines, "least_seconds", lambda net, *_: 1.0 if net is fast else 2.0)
    other, name = engines.with_denoiser(generator, engines.AUTO)
    assert other.unet is fast and name == engines.ONNX
    printed = capsys.readouterr().out
    assert "openvino: left out, openvino differs" in printed and "engine: onnxruntime" in printed


def test_speak_computes_with_an_engine(results, tmp_path, capsys):
    """Frames are those of PyTorch; OpenVINO's network passes the check in bf16, too."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    clip, frames = make_clip(ClipSettings(0, 5, 0, 6, 25.0, 96)), {}
    cv2.imwrite(str(tmp_path / "ada.png"), clip.frames[0][..., ::-1])
    np.savez(tmp_path / "ada.npz", landmarks=clip.landmarks[:1])
    video.write(tmp_path / "voice.mkv", clip.frames, clip.fps, clip.sound)
    inputs = ["--photo", str(tmp_path / "ada.png"), "--sound", str(tmp_path / "voice.mkv"), "--steps", "2"]
    for engine in (engines.PYTORCH, engines.ONNX, engines.OPENVINO):
        out = tmp_path / f"{engine}.mp4"
        words = [*inputs, "--profile", "smoke", "--weights", "scratch", "--engine", engine, "--out", str(out)]
        assert main(["--results", str(results), "speak", *words, "--device", "cpu"]) == 0
        frames[engine] = np.stack(video.read(out).frames).astype(int)
    printed = capsys.readouterr().out
    for engine in (engines.ONNX, engines.OPENVINO):
        assert f"engine: {engine}" in printed
        assert np.abs(frames[engine] - frames[engines.PYTORCH]).mean() < 4 and frames[engine].std() > 8


def test_an_unknown_engine_of_the_denoising_network_is_refused():
    with pytest.raises(ValueError, match="'onnxruntime-int8' is no engine of the denoising network"):
        engines.with_denoiser(None, engines.INT8)
