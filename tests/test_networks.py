"""E, G with P, V and D: sizes, shapes, precision, and parity with independent implementations."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.few_shot import losses
from talking_heads.few_shot.baselines.training import build_pix2pixhd, build_x2face
from talking_heads.few_shot.networks.blocks import AdaptiveInstanceNorm, InstanceNorm, ResidualBlock, sum_pool
from talking_heads.few_shot.networks.build import build_networks, grow
from talking_heads.few_shot.networks.discriminator import FineTunedDiscriminator
from talking_heads.nn.attention import SelfAttention
from talking_heads.nn.perceptual import embedded_extractor
from talking_heads.nn.resampling import halve, upsample
from talking_heads.nn.spectral_norm import EPS, fold
from torch.nn import functional as F
from torch.nn.utils import parametrize


def count_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_paper_size_has_exactly_the_papers_parameters():
    command = [sys.executable, "-m", "talking_heads", "sizes", "--profile", "voxceleb1", "--json"]
    sizes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert sizes == {
        "embedder": 14_907_265,
        "discriminator_convnet": 19_626_881,
        "generator": 38_073_925,
        "person_parameters": 13_056,
        "pix2pixhd_generator": 182_443_267,
        "pix2pixhd_discriminator": 5_535_618,
        "x2face_embedding": 39_157_760,
        "x2face_driving": 25_614_080,
        "diffused_unet": 203_929_094,
        "audio_encoder": 1_491_408,
        "sda_generator": 25_284_233,
        "landmark_predictor": 1_384_328,
    }


@pytest.mark.parametrize("name", ["voxceleb2", "voxceleb2-ft", "voxceleb2-ff", "gpu"])
@pytest.mark.parametrize("section", ["networks", "pix2pixhd", "x2face"])
def test_profiles_of_the_papers_size_have_the_same_networks(name, section):
    expected = getattr(config.load("voxceleb1").few_shot, section)
    assert getattr(config.load(name).few_shot, section) == expected


def test_self_attention_starts_as_identity_and_matches_its_definition():
    block = SelfAttention(256, spectral=False)
    assert count_parameters(block) == 82_241
    x = torch.randn(2, 256, 4, 4)
    assert torch.equal(block(x), x)
    torch.nn.init.constant_(block.gamma, 0.7)
    q, k, v = (layer(x).flatten(2) for layer in (block.query, block.key, block.value))
    weights = (q.transpose(1, 2) @ k).softmax(-1)
    expected = x + 0.7 * (v @ weights.transpose(1, 2)).reshape(x.shape)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def reference_block(block, x, psi):
    """An independent pre-activation block, with the skip at full resolution."""

    def adain(h, norm):
        mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), unbiased=False, keepdim=True)
        scale, shift = psi[:, norm.offset : norm.offset + 2 * norm.channels].split(norm.channels, 1)
        return (h - mean) / (var + EPS).sqrt() * scale[..., None, None] + shift[..., None, None]

    h = F.relu(adain(x, block.norm1))
    h, x = F.interpolate(h, scale_factor=2, mode="nearest"), F.interpolate(x, scale_factor=2, mode="nearest")
    h = F.conv2d(h, block.conv1.weight, padding=1)
    h = F.relu(adain(h, block.norm2))  # statistics of its own input, not of the first norm's
    return F.conv2d(h, block.conv2.weight, padding=1) + F.conv2d(x, block.skip.weight, block.skip.bias)


def test_adaptive_up_block_against_an_independent_one():
    block = ResidualBlock(6, 4, AdaptiveInstanceNorm, "up", spectral=False)
    block.norm1.offset, block.norm2.offset = 0, 12
    x, psi = torch.randn(2, 6, 8, 8) * 3 + 1, torch.randn(2, 20)
    torch.testing.assert_close(block(x, psi), reference_block(block, x, psi), rtol=1e-4, atol=1e-5)


def test_no_normalisation_follows_the_adaptive_one(profile):
    """ψ̂ must reach the output: an instance norm behind it would erase it."""
    g = build_networks(profile.few_shot.networks, 1).generator.eval()
    y, psi = torch.rand(1, 3, 32, 32), g.projection.bias.detach()[None]
    brighter = psi.clone()
    brighter[:, g.norm.offset + g.norm.channels :] += 2.0  # the last shift
    assert (g.synthesise(y, psi) - g.synthesise(y, brighter)).abs().mean() > 1e-3


def test_the_output_is_not_normalised(profile):
    """With scales of 0 in the last norm the frame depends on the shifts alone; normalised, on nothing."""
    g = build_networks(profile.few_shot.networks, 1).generator.eval()
    y, psi, flat = torch.rand(1, 3, 32, 32), g.projection.bias.detach()[None].clone(), []
    last = slice(g.norm.offset, g.norm.offset + g.norm.channels)
    for shift in (0.5, 2.0):
        psi[:, last], psi[:, last.stop : last.stop + g.norm.channels] = 0.0, shift
        with torch.no_grad():
            flat.append(g.synthesise(y, psi)[..., 4:-4, 4:-4])
    assert all(f.std((2, 3)).max() < 1e-4 for f in flat) and (flat[0] - flat[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "ours, theirs",
    [(upsample, partial(F.interpolate, scale_factor=2)), (halve, partial(F.avg_pool2d, kernel_size=2))],
)
def test_resampling_and_its_gradient_are_pytorchs(ours, theirs):
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    weight = torch.randn_like(theirs(x))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(
        torch.autograd.grad((ours(x) * weight).sum(), x), torch.autograd.grad((theirs(x) * weight).sum(), x)
    )


def test_flat_input_gives_finite_gradients(profile):
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    InstanceNorm(3)(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    g = build_networks(profile.few_shot.networks, 1).generator
    g(torch.full((1, 3, 32, 32), -1.0), torch.zeros(1, profile.few_shot.networks.embedding)).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in g.parameters() if p.grad is not None)


def test_discriminator_is_not_squashed(profile, few):
    d = build_networks(profile.few_shot.networks, 3).discriminator
    with torch.no_grad():
        d.b.fill_(7.0)
    r, activations = d(few.x, few.y, torch.zeros(4, dtype=torch.long))
    assert (r > 3).all(), "a sigmoid or tanh at the end would keep scores within one"
    assert len(activations) == len(profile.few_shot.networks.discriminator_channels) + 1


def test_projection_score_is_equation_5(profile, few):
    d = build_networks(profile.few_shot.networks, 3).discriminator.eval()
    i = torch.tensor([0, 1, 2, 1])
    v, _ = d.convnet(few.x, few.y)
    expected = torch.stack([v[n] @ (d.table.weight[i[n]] + d.w0) + d.b[0] for n in range(4)])
    torch.testing.assert_close(d(few.x, few.y, i)[0], expected)


def test_fine_tuned_discriminator_starts_as_v_times_w0_plus_e(profile, few):
    d = build_networks(profile.few_shot.networks, 3).discriminator.eval()
    e = torch.randn(profile.few_shot.networks.embedding)
    tuned = FineTunedDiscriminator(d, e).eval()
    with torch.no_grad():
        v, _ = d.convnet(few.x, few.y)
        torch.testing.assert_close(tuned(few.x, few.y)[0], v @ (d.w0 + e) + d.b)
    names = [name for name, _ in tuned.named_parameters() if name.startswith("w")]
    assert names == ["w"], "spectral norm would make w' a unit vector"


def test_pool_orders_differ_as_named():
    h = torch.tensor([[[[1.0, -3.0]]]])
    assert sum_pool(h, "sum_relu").item() == 0 and sum_pool(h, "relu_sum").item() == 1


@pytest.mark.parametrize("name", config.names())
def test_bottleneck_is_16_square_from_64_on(name):
    loaded = config.load(name)
    size, networks = loaded.data.image_size, loaded.few_shot.networks
    assert size / 2 ** len(networks.generator_down) == (16 if size >= 64 else 8)
    assert len(networks.generator_down) == len(networks.generator_up)


def test_embedding_is_the_mean_over_frames(profile, few):
    e = build_networks(profile.few_shot.networks, 1).embedder.eval()
    with torch.no_grad():
        torch.testing.assert_close(e.embed(few.x[None], few.y[None])[0], e(few.x, few.y).mean(0))
    assert np.isfinite(e(few.x, few.y).detach().numpy()).all()


def test_folded_weights_give_the_same_frames(profile):
    spectral = profile.override({"few_shot.networks.spectral_norm": True})
    g = build_networks(spectral.few_shot.networks, 1).generator.eval()
    y, psi = torch.rand(1, 3, 32, 32), g.projection.bias.detach()[None]
    with torch.no_grad():
        expected = g.synthesise(y, psi)
        torch.testing.assert_close(fold(g).synthesise(y, psi), expected)
    assert not any(parametrize.is_parametrized(m) for m in g.modules())


DEEPER = {
    "embedder_channels": [8, 8, 16, 16],
    "embedder_attention": 4,
    "discriminator_channels": [8, 8, 16, 16],
    "discriminator_attention": 4,
    "generator_down": [8, 8, 16],
    "generator_up": [16, 8, 8],
    "generator_attention_down": 3,
}


def test_grown_networks_begin_with_the_smaller_ones_inside():
    section = config.load("smoke").few_shot.networks
    smaller, large = build_networks(section, 2), build_networks(section.model_copy(update=DEEPER), 2)
    outer = large.generator.up[2].conv1.weight.clone()
    grow(large, smaller)
    a, b, e = smaller.generator, large.generator, torch.randn(3, section.embedding)
    h = torch.randn(3, 16, 8, 8)
    for block, same in [*zip(a.middle, b.middle, strict=True), *zip(a.up, b.up, strict=False)]:
        expected = block(h, a.project(e))
        torch.testing.assert_close(same(h, b.project(e)), expected)
        h = expected
    x = torch.randn(3, 16, 8, 8)
    for network in (lambda nets: nets.embedder, lambda nets: nets.discriminator.convnet):
        old, new = network(smaller).stack, network(large).stack
        torch.testing.assert_close(new.blocks[-1](x), old.blocks[-1](x))
        torch.testing.assert_close(new.attention(x), old.attention(x))
    assert torch.equal(b.up[2].conv1.weight, outer), "outer levels are not touched"
    assert torch.equal(large.discriminator.w0, smaller.discriminator.w0)


# -- precision --------------------------------------------------------------------------------------
@pytest.fixture
def bf16_networks(profile, bf16):
    """Networks that compute in bf16."""
    torch.manual_seed(0)
    section = profile.override({"few_shot.networks.precision": "auto"}).few_shot.networks
    return build_networks(section, 3)


@pytest.fixture(params=["by itself", "in autocast"])
def context(request):
    """Networks are called by themselves, or by a caller that computes in bf16."""
    return torch.autocast("cpu", torch.bfloat16, enabled=request.param == "in autocast")


@torch.no_grad()
def test_networks_that_compute_in_bf16_return_fp32(bf16_networks, few, context):
    e, g, d = bf16_networks.embedder, bf16_networks.generator, bf16_networks.discriminator
    with context:
        e_hat = e.embed(few.x[None], few.y[None])
        r, activations = d(few.x, few.y, torch.zeros(4, dtype=torch.long))
        tuned, _ = FineTunedDiscriminator(d, e_hat)(few.x, few.y)
        values = {"ê": e_hat, "ψ̂": g.project(e_hat), "x̂": g(few.y, e_hat), "D": r, "D'": tuned}
    assert activations[0].dtype == torch.bfloat16, "this run does not compute in bf16"
    assert {name: value.dtype for name, value in values.items()} == dict.fromkeys(values, torch.float32)


@torch.no_grad()
def test_psi_is_the_projection_in_fp32_exactly(bf16_networks, context):
    g, e_hat = bf16_networks.generator.eval(), torch.randn(2, bf16_networks.generator.projection.in_features)
    expected = F.linear(e_hat, g.projection.weight, g.projection.bias)
    with context:
        assert torch.equal(g.project(e_hat), expected)


@torch.no_grad()
def test_networks_in_fp32_stay_in_fp32_whoever_calls_them(profile, few, context):
    nets = build_networks(profile.few_shot.networks, 3)
    e_hat = torch.randn(1, profile.few_shot.networks.embedding)
    expected = nets.generator.eval()(few.y, e_hat)
    with context:
        assert torch.equal(nets.generator(few.y, e_hat), expected)


@torch.no_grad()
def test_baselines_that_compute_in_bf16_return_fp32(profile, bf16):
    profile = profile.override({"few_shot.networks.precision": "auto"})
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    generator, _ = build_pix2pixhd(profile)
    model = build_x2face(profile)
    assert generator(x).dtype == model(x[:, None], x).dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("name", ["attributes", "people"])
def test_a_generated_picture_has_no_content_loss_against_itself(bf16_networks, few, name, context):
    """In bf16 the rounding of x̂ alone is a noticeable share of the loss between two pictures."""
    extractor = embedded_extractor(name, 1.0, precision="auto")
    with context:
        e_hat = bf16_networks.embedder.embed(few.x[None], few.y[None])
        x_hat = bf16_networks.generator.eval()(few.y, e_hat)
        assert losses.content_loss(x_hat, x_hat.float(), [extractor]).item() == 0
        assert losses.content_loss(x_hat, few.x, [extractor]).item() > 0


@pytest.mark.cuda
@torch.no_grad()
def test_networks_return_fp32_on_a_gpu(profile, few):
    section = profile.override({"few_shot.networks.precision": "auto"}).few_shot.networks
    nets, x, y = build_networks(section, 3).to("cuda"), few.x.cuda(), few.y.cuda()
    e_hat = nets.embedder.embed(x[None], y[None])
    r, _ = nets.discriminator(x, y, torch.zeros(4, dtype=torch.long, device="cuda"))
    assert {v.dtype for v in (e_hat, nets.generator(y, e_hat), r)} == {torch.float32}
