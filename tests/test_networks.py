"""E, G with P, V and D: sizes, shapes, and the mistakes that other reproductions made in them."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parametrize

from talking_heads import profiles
from talking_heads.meta_learning import build
from talking_heads.networks.blocks import EPS, AdaptiveInstanceNorm, InstanceNorm, ResidualBlock, SelfAttention, double, fold, halve, sum_pool
from talking_heads.networks.discriminator import FineTunedDiscriminator


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "gpu"])
def test_paper_size_has_exactly_the_papers_parameters(name):
    done = subprocess.run([sys.executable, "-m", "talking_heads", "sizes", "--profile", name, "--json"], capture_output=True, text=True, check=True)
    sizes = json.loads(done.stdout)
    assert (sizes["embedder"], sizes["discriminator_convnet"], sizes["generator"]) == (14_907_265, 19_626_881, 38_073_925)
    assert sizes["person_parameters"] == 13_056
    assert (sizes["pix2pixhd_generator"], sizes["pix2pixhd_discriminator"]) == (182_443_267, 5_535_618)
    assert (sizes["x2face_embedding"], sizes["x2face_driving"]) == (39_157_760, 25_614_080)


def test_self_attention_starts_as_identity_and_matches_its_definition():
    block = SelfAttention(256, spectral=False)
    assert count(block) == 82_241
    x = torch.randn(2, 256, 4, 4)
    assert torch.equal(block(x), x)
    torch.nn.init.constant_(block.gamma, 0.7)
    q, k, v = (f(x).flatten(2) for f in (block.query, block.key, block.value))
    by_hand = x + 0.7 * (v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)).reshape(x.shape)
    torch.testing.assert_close(block(x), by_hand, rtol=1e-4, atol=1e-4)


def reference_block(block, x, psi):
    """The pre-activation block written out again, with the skip at full resolution as the paper's sources have it."""
    def adain(h, norm):
        mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), unbiased=False, keepdim=True)
        scale, shift = psi[:, norm.offset:norm.offset + norm.channels], psi[:, norm.offset + norm.channels:norm.offset + 2 * norm.channels]
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
    g = build(profile, 1).generator.eval()
    y, psi = torch.rand(1, 3, 32, 32), g.projection.bias.detach()[None]
    brighter = psi.clone()
    brighter[:, g.norm.offset + g.norm.channels:] += 2.0  # the last shift
    assert (g.synthesise(y, psi) - g.synthesise(y, brighter)).abs().mean() > 1e-3


def test_the_output_is_not_normalised(profile):
    """With the last scales at zero the picture is what the last shifts make of it alone; normalised, it would not depend on them."""
    g = build(profile, 1).generator.eval()
    y, psi, flat = torch.rand(1, 3, 32, 32), g.projection.bias.detach()[None].clone(), []
    last = slice(g.norm.offset, g.norm.offset + g.norm.channels)
    for shift in (0.5, 2.0):
        psi[:, last], psi[:, last.stop:last.stop + g.norm.channels] = 0.0, shift
        with torch.no_grad():
            flat.append(g.synthesise(y, psi)[..., 4:-4, 4:-4])
    assert all(f.std((2, 3)).max() < 1e-4 for f in flat) and (flat[0] - flat[1]).abs().max() > 1e-2


@pytest.mark.parametrize("ours, theirs", [(double, lambda x: F.interpolate(x, scale_factor=2)), (halve, lambda x: F.avg_pool2d(x, 2))])
def test_resampling_and_its_gradient_are_pytorchs(ours, theirs):
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    weight = torch.randn_like(theirs(x))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(torch.autograd.grad((ours(x) * weight).sum(), x), torch.autograd.grad((theirs(x) * weight).sum(), x))


def test_flat_input_gives_finite_gradients(profile):
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    InstanceNorm(3)(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    g = build(profile, 1).generator
    g(torch.full((1, 3, 32, 32), -1.0), torch.zeros(1, profile.embedding)).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in g.parameters() if p.grad is not None)


def test_discriminator_is_not_squashed(profile, few):
    d = build(profile, 3).discriminator
    with torch.no_grad():
        d.b.fill_(7.0)
    r, activations = d(few.x, few.y, torch.zeros(4, dtype=torch.long))
    assert (r > 3).all(), "a sigmoid or tanh at the end would keep scores within one"
    assert len(activations) == len(profile.discriminator_channels) + 1


def test_projection_score_is_equation_5(profile, few):
    d = build(profile, 3).discriminator.eval()
    i = torch.tensor([0, 1, 2, 1])
    v, _ = d.convnet(few.x, few.y)
    by_hand = torch.stack([v[n] @ (d.table.weight[i[n]] + d.w0) + d.b[0] for n in range(4)])
    torch.testing.assert_close(d(few.x, few.y, i)[0], by_hand)


def test_fine_tuned_discriminator_starts_as_v_times_w0_plus_e(profile, few):
    d = build(profile, 3).discriminator.eval()
    e = torch.randn(profile.embedding)
    tuned = FineTunedDiscriminator(d, e).eval()
    with torch.no_grad():
        v, _ = d.convnet(few.x, few.y)
        torch.testing.assert_close(tuned(few.x, few.y)[0], v @ (d.w0 + e) + d.b)
    assert not any("parametrizations" in n for n, _ in tuned.named_parameters() if n.startswith("w")), "spectral norm would make w' a unit vector"


def test_pool_orders_differ_as_named():
    h = torch.tensor([[[[1.0, -3.0]]]])
    assert sum_pool(h, "sum_relu").item() == 0 and sum_pool(h, "relu_sum").item() == 1


@pytest.mark.parametrize("name", profiles.names())
def test_bottleneck_is_16_square_from_64_on(name):
    p = profiles.load(name)
    assert p.image_size / 2 ** len(p.generator_down) == (16 if p.image_size >= 64 else 8)
    assert len(p.generator_down) == len(p.generator_up)


def test_embedding_is_the_mean_over_frames(profile, few):
    e = build(profile, 1).embedder.eval()
    with torch.no_grad():
        torch.testing.assert_close(e.embed(few.x[None], few.y[None])[0], e(few.x, few.y).mean(0))
    assert np.isfinite(e(few.x, few.y).detach().numpy()).all()


def test_folded_weights_give_the_same_frames(profile):
    g = build(dataclasses.replace(profile, spectral_norm_generator=True), 1).generator.eval()
    y, psi = torch.rand(1, 3, 32, 32), g.projection.bias.detach()[None]
    with torch.no_grad():
        wanted = g.synthesise(y, psi)
        torch.testing.assert_close(fold(g).synthesise(y, psi), wanted)
    assert not any(parametrize.is_parametrized(m) for m in g.modules())
