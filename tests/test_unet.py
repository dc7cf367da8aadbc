"""The denoising network: parameters, conditioning, its input, and the audio encoders."""

import json
import math

import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data.windows import LENGTH
from talking_heads.diffused.audio_encoder import CONVOLUTIONS, LogMelEncoder, WaveformEncoder, mel_filters
from talking_heads.diffused.model import Conditions, build_unet, grey, network_input
from talking_heads.diffused.unet import ResidualBlock, sinusoids


@pytest.fixture(scope="module")
def small():
    """The smoke profile's section and its network."""
    torch.manual_seed(0)
    section = config.load("smoke").diffused
    return section, build_unet(section)


def network(profile):
    """A profile's network without values."""
    with torch.device("meta"):
        return build_unet(config.load(profile).diffused)


@pytest.mark.parametrize(("profile", "count"), [("crema", 203_929_094), ("lrw", 203_919_878)])
def test_parameters_of_the_papers_network(profile, count, capsys):
    """With motion frames in colour and in grey; the audio encoder is not part of it."""
    assert sum(parameter.numel() for parameter in network(profile).parameters()) == count
    main(["sizes", "--profile", profile, "--json"])
    assert json.loads(capsys.readouterr().out)["diffused_unet"] == count


def test_the_network_for_one_gpu_is_a_quarter_of_the_papers():
    profile = config.load("gpu").diffused
    count = sum(p.numel() for p in network("gpu").parameters())
    assert count == 51_253_784 and 3.9 < 203_929_094 / count < 4.1
    assert profile.clips.image_size == 128 and profile.training.micro_batch == profile.training.batch


def test_parameters_of_the_authors_public_configuration():
    """It attends at 32², too."""
    section = config.load("crema").override({"diffused.network.attention": [2]}).diffused
    with torch.device("meta"):
        unet = build_unet(section)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 215_748_614


def test_a_network_attends_at_the_named_resolutions():
    section = config.load("laptop").override({"diffused.network.attention": [1]}).diffused
    with torch.device("meta"):
        unet = build_unet(section)
    down, up = [[hasattr(block.attention, "heads") for block in blocks] for blocks in (unet.down, unet.up[1])]
    assert down == [False] * 3 + [True] * 2 + [False] * 3 and all(up)
    assert not any(
        hasattr(block.attention, "heads") for blocks in (unet.up[0], unet.up[2]) for block in blocks
    )
    with pytest.raises(ValueError, match="attention names resolution 3"):
        config.load("laptop").override({"diffused.network.attention": [3]})


def test_channels_and_heads_of_the_papers_network():
    unet = network("crema")
    assert unet.stem.in_channels == 12 and unet.out.out_channels == 6
    assert [block.conv2.out_channels for block in unet.down] == [256] * 3 + [512] * 3 + [768] * 2
    assert unet.middle[0].attention.heads == 12 and unet.middle[0].attention.qkv.in_channels == 768
    assert unet.audio_mlp[0].in_features == 5 * 256
    assert network("lrw").stem.in_channels == 8


def test_frequencies_of_time_span_four_decades():
    """From 1 to about 1e-4 a step, not to a tenth."""
    t = torch.tensor([1.0])
    phases = torch.acos(sinusoids(t, 256)[0, :128].double().clamp(-1, 1))
    assert phases[0].item() == pytest.approx(1.0, abs=1e-6)
    sines = sinusoids(t, 256)[0, 128:]
    assert sines[-1].item() == pytest.approx(1e-4, rel=0.1)
    ratios = (sines[2:] / sines[1:-1])[64:]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 10_000 ** (-1 / 128)), rtol=1e-3, atol=0)


def test_embeddings_of_all_time_steps_differ():
    embeddings = sinusoids(torch.arange(1000), 32)
    assert torch.cdist(embeddings, embeddings).fill_diagonal_(1).min() > 0.01


def test_before_training_the_output_is_zero(small):
    section, unet = small
    size = section.clips.image_size
    out = unet(torch.randn(2, 12, size, size), torch.tensor([0, 999]), torch.randn(2, 5 * 64), torch.zeros(2))
    assert out.shape == (2, 6, size, size) and not out.any()


def test_equation_17_scales_and_shifts_twice():
    """y_s (t_s GN(h) + t_b) + y_b in the place of GN(h), with scales around 1."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 4, dropout=0.0).eval()
    torch.nn.init.normal_(block.conv2.weight)
    x, t, y = torch.randn(2, 8, 6, 6), torch.randn(2, 4), torch.randn(2, 4)
    silu = torch.nn.functional.silu
    h = torch.nn.functional.group_norm(block.conv1(silu(block.norm1(x))), 8)
    t_s, t_b = (t @ block.time.weight.T + block.time.bias)[..., None, None].split(8, 1)
    y_s, y_b = (y @ block.audio.weight.T + block.audio.bias)[..., None, None].split(8, 1)
    expected = x + block.conv2(silu((1 + y_s) * ((1 + t_s) * h + t_b) + y_b))
    torch.testing.assert_close(block(x, t, y), expected)


@pytest.mark.parametrize("condition", ["time", "sound", "level"])
def test_every_condition_reaches_the_output(small, condition):
    section, unet = small
    torch.manual_seed(1)
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.2)
    size = section.clips.image_size
    x, t, y, level = torch.randn(1, 12, size, size), torch.tensor([300]), torch.randn(1, 320), torch.zeros(1)
    changed = {
        "time": (t + 1, y, level),
        "sound": (t, y + 0.1, level),
        "level": (t, y, level + 0.1),
    }[condition]
    assert not torch.allclose(unet(x, t, y, level), unet(x, *changed), atol=1e-4)


def test_the_input_is_target_motion_identity():
    """Equation (16); motion frames oldest first, and in grey one channel each."""
    x_t, identity = torch.full((1, 3, 4, 4), 9.0), torch.full((1, 3, 4, 4), 7.0)
    motion = torch.stack([torch.full((1, 3, 4, 4), value) for value in (1.0, 2.0)], 1)
    conditions = Conditions(identity, motion, torch.zeros(1, 5, 64), torch.zeros(1))
    colour = network_input(x_t, conditions, motion_grey=False)
    assert colour[0, :, 0, 0].tolist() == [9, 9, 9, 1, 1, 1, 2, 2, 2, 7, 7, 7]
    in_grey = network_input(x_t, conditions, motion_grey=True)
    torch.testing.assert_close(in_grey[0, :, 0, 0], torch.tensor([9.0, 9, 9, 1, 2, 7, 7, 7]))


def test_grey_is_luma():
    torch.testing.assert_close(
        grey(torch.eye(3)[..., None, None]).flatten(), torch.tensor([0.299, 0.587, 0.114])
    )


# -- audio encoders -------------------------------------------------------------------------------
def test_the_papers_encoder():
    """About 1.5 million parameters; the convolutions turn a window of 0.2 s into one vector."""
    encoder = WaveformEncoder(256).eval()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == pytest.approx(1.5e6, rel=0.02)
    assert CONVOLUTIONS == ((80, 16), (4, 2), (4, 2), (4, 2), (10, 5), (5, 5))
    sound = torch.randn(2, 5, LENGTH)
    assert encoder.convolutions(sound.flatten(0, 1)[:, None]).shape == (10, 256, 1)
    assert encoder(sound).shape == (2, 5, 256)


def test_the_small_encoder_sees_each_window_alone():
    torch.manual_seed(0)
    encoder, sound = LogMelEncoder(64).eval(), torch.randn(2, 5, LENGTH)
    together = encoder(sound)
    torch.testing.assert_close(encoder(sound[:, 2:3]), together[:, 2:3])
    assert together.shape == (2, 5, 64)


def test_mel_filters_find_a_tone():
    """A tone excites the filter whose centre on the mel scale is nearest to it."""
    encoder = LogMelEncoder(8)
    for hertz in (300.0, 1000.0, 4000.0):
        wave = torch.sin(2 * math.pi * hertz * torch.arange(LENGTH) / 16_000)
        loudest = encoder.log_mel(wave[None])[0, :, 10].argmax().item()
        mels = torch.linspace(2595 * math.log10(1 + 60 / 700), 2595 * math.log10(1 + 8000 / 700), 42)[1:-1]
        assert loudest == (mels - 2595 * math.log10(1 + hertz / 700)).abs().argmin().item()
    assert (mel_filters() >= 0).all() and (mel_filters().sum(1) > 0).all()
