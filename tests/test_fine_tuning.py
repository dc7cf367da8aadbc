"""Fine-tuning: initial values, what is updated, and the number of steps."""

import time

import numpy as np
import pytest
import torch
from scalar_reads import ScalarReads
from talking_heads import config
from talking_heads.few_shot.fine_tuning import Ablation, batches, fine_tune, set_up
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.nn.perceptual import make_extractors
from talking_heads.nn.precision import multiplies_bf16
from torch import nn


@pytest.fixture
def nets(profile):
    torch.manual_seed(0)
    return build_networks(profile.few_shot.networks, 3)


def copy_parameters(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def equal(before: list[torch.Tensor], *modules: nn.Module) -> bool:
    after = copy_parameters(*modules)
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("spectral", [False, True], ids=["laptop's layers", "the paper's spectral norm"])
def test_step_0_is_the_feed_forward_output_bit_for_bit(profile, few, spectral):
    torch.manual_seed(0)
    section = profile.override({"few_shot.networks.spectral_norm": spectral}).few_shot.networks
    nets = build_networks(section, 3)
    head = set_up(nets, few.x, few.y, profile, []).head.eval()
    with torch.no_grad():
        e_hat = nets.embedder.embed(few.x[None], few.y[None])
        assert torch.equal(head(few.y), nets.generator(few.y, e_hat))
        assert torch.equal(head.psi, nets.generator.projection(e_hat))


def test_step_0_is_the_feed_forward_output_in_bf16_too(profile, few, bf16):
    section = profile.override({"few_shot.networks.precision": "auto"}).few_shot.networks
    nets = build_networks(section, 3)
    head = set_up(nets, few.x, few.y, profile, []).head.eval()
    with torch.no_grad():
        e_hat = nets.embedder.embed(few.x[None], few.y[None])
        assert torch.equal(head(few.y), nets.generator(few.y, e_hat))
        projection = nets.generator.projection
        assert torch.equal(head.psi, nn.functional.linear(e_hat, projection.weight, projection.bias))


def test_step_0_of_the_discriminator(profile, nets, few):
    tuning = set_up(nets, few.x, few.y, profile, [])
    with torch.no_grad():
        e_hat = nets.embedder.embed(few.x[None], few.y[None])[0]
        v, _ = nets.discriminator.convnet.eval()(few.x, few.y)
        expected = v @ (nets.discriminator.w0 + e_hat) + nets.discriminator.b
        torch.testing.assert_close(tuning.discriminator.eval()(few.x, few.y)[0], expected)


def test_the_first_step_changes_g_psi_d_and_w_but_not_the_meta_learned_networks(
    profile, nets, few, extractors
):
    """Optimisers that were built before ψ' and w' would change neither."""
    meta_learned = copy_parameters(nets.generator, nets.discriminator)
    tuning = set_up(nets, few.x, few.y, profile, extractors)
    head, d = tuning.head, tuning.discriminator
    psi, w = head.psi.detach().clone(), d.w.detach().clone()
    generator, convnet = copy_parameters(head.generator), copy_parameters(d.convnet)
    tuning.step(torch.arange(4))
    assert not torch.equal(psi, head.psi) and not torch.equal(w, d.w)
    assert not equal(generator, head.generator) and not equal(convnet, d.convnet)
    assert equal(meta_learned, nets.generator, nets.discriminator)


def test_b_is_optimised_once_one_hinge_is_inactive(profile, nets, few, extractors):
    """With both hinges active the gradients of b, +1 and -1, cancel."""
    tuning = set_up(nets, few.x, few.y, profile, extractors)
    with torch.no_grad():
        tuning.discriminator.b.fill_(5.0)  # real frames score above +1: only the hinge of x̂ is active
    tuning.step(torch.arange(4))
    assert tuning.discriminator.b.item() < 5.0


def test_a_step_reads_its_row_at_once(profile, nets, few, extractors):
    """Reading a number waits for the device."""
    tuning = set_up(nets, few.x, few.y, profile, extractors)
    with ScalarReads() as reads:
        row = tuning.step(torch.arange(4))
    assert all(isinstance(value, float) for value in row.values()) and reads.count == 0


def test_without_the_adversarial_term_the_discriminator_is_not_updated(profile, nets, few, extractors):
    tuning = set_up(nets, few.x, few.y, profile, extractors, Ablation(adversarial=False))
    before = copy_parameters(tuning.discriminator)
    row = tuning.step(torch.arange(4))
    assert "dsc" not in row and "adv" not in row and equal(before, tuning.discriminator)


@pytest.mark.parametrize("t, steps", [(1, 40), (8, 40), (32, 160)])
def test_forty_epochs_are_the_papers_steps(t, steps):
    indices = list(batches(t, 8, 40, np.random.default_rng(0)))
    assert len(indices) == steps and all(len(index) == min(t, 8) for index in indices)
    assert sorted(np.concatenate(indices[: steps // 40])) == list(range(t))


def test_the_last_batch_of_an_epoch_is_filled_up(profile):
    (first, last) = batches(5, 4, 1, np.random.default_rng(0))
    assert len(last) == 4 and set(first) | set(last) == set(range(5))


def test_the_same_seed_gives_the_same_head(profile, nets, few, extractors):
    def psi(seed):
        in_pairs = profile.override({"few_shot.fine_tuning.batch": 2})
        return fine_tune(set_up(nets, few.x, few.y, in_pairs, extractors), seed, epochs=2).psi

    assert torch.equal(psi(1), psi(1)) and not torch.equal(psi(1), psi(2))


def test_watch_stops_the_run(profile, nets, few, extractors):
    steps = []

    def watch(step, tuning):
        steps.append(step)
        return step == 2

    fine_tune(set_up(nets, few.x, few.y, profile, extractors), epochs=9, watch=watch)
    assert steps == [0, 1, 2]


def test_fine_tuning_fits_its_frames(profile, nets, few, extractors):
    faster = profile.override({"few_shot.fine_tuning.learning_rate": 2e-3})
    tuning = set_up(nets, few.x, few.y, faster, extractors)
    fine_tune(tuning, epochs=30)
    assert tuning.rows[-1]["cnt"] < 0.8 * tuning.rows[0]["cnt"]


@pytest.mark.cuda
def test_fine_tuning_on_a_gpu_fits_its_frames_as_on_a_cpu(profile, nets, few, extractors):
    rows = {}
    for device in ("cpu", "cuda"):
        tuning = set_up(nets.to(device), few.x.to(device), few.y.to(device), profile, extractors)
        fine_tune(tuning, epochs=2)
        rows[device] = tuning.rows
    for cpu, cuda in zip(rows["cpu"], rows["cuda"], strict=True):
        assert cuda == pytest.approx(cpu, rel=0.02, abs=1e-3)


@pytest.mark.timing
@pytest.mark.skipif(not multiplies_bf16("cpu"), reason="measured with bf16, which this processor lacks")
def test_a_step_of_eight_frames_at_laptops_size_takes_a_quarter_of_a_second(slowness):
    profile, seconds = config.load("laptop"), []
    x = torch.rand(8, 3, 64, 64) * 2 - 1
    nets = build_networks(profile.few_shot.networks, 1)
    tuning = set_up(nets, x, x, profile, make_extractors(profile))
    for _ in range(20):
        start = time.perf_counter()
        tuning.step(torch.arange(8))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.25 * slowness
