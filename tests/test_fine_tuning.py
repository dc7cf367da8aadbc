"""Fine-tuning: where it starts, what moves, and for how long."""

import os
import time

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.few_shot.fine_tuning import batches, fine_tune, set_up
from talking_heads.few_shot.networks.build import build
from talking_heads.nn.perceptual import make_extractors
from talking_heads.nn.precision import autocast


@pytest.fixture
def nets(profile):
    torch.manual_seed(0)
    return build(profile, 3)


@pytest.mark.parametrize("spectral", [False, True], ids=["laptop's layers", "the paper's spectral norm"])
def test_step_0_is_the_meta_learned_output_bit_for_bit(profile, few, spectral):
    torch.manual_seed(0)
    nets = build(profile.override({"few_shot.networks.spectral_norm": spectral}), 3)
    head = set_up(nets, few.x, few.y, profile, []).head.eval()
    with torch.no_grad():
        e = nets.embedder.embed(few.x[None], few.y[None])
        assert torch.equal(head(few.y), nets.generator(few.y, e))
        assert torch.equal(head.psi, nets.generator.projection(e))


def test_step_0_of_the_discriminator(profile, nets, few):
    tuning = set_up(nets, few.x, few.y, profile, [])
    with torch.no_grad():
        e = nets.embedder.embed(few.x[None], few.y[None])[0]
        v, _ = nets.discriminator.convnet.eval()(few.x, few.y)
        torch.testing.assert_close(
            tuning.discriminator.eval()(few.x, few.y)[0],
            v @ (nets.discriminator.w0 + e) + nets.discriminator.b,
        )


def test_everything_moves_in_the_first_step_and_the_start_stays(profile, nets, few, extractors):
    """Optimisers that were built before ψ' and w' exist would leave both where they are."""
    meta = [p.detach().clone() for n in (nets.generator, nets.discriminator) for p in n.parameters()]
    tuning = set_up(nets, few.x, few.y, profile, extractors)
    head, d = tuning.head, tuning.discriminator
    psi, w, theta, conv = (
        v.detach().clone()
        for v in (head.psi, d.w, next(d.convnet.parameters()), next(head.generator.parameters()))
    )
    tuning.step(torch.arange(4))
    assert not torch.equal(psi, head.psi) and not torch.equal(w, d.w)
    assert not torch.equal(theta, next(d.convnet.parameters())) and not torch.equal(
        conv, next(head.generator.parameters())
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(meta, (p for n in (nets.generator, nets.discriminator) for p in n.parameters()))
    )


def test_b_is_optimised_and_moves_once_one_hinge_is_inactive(profile, nets, few, extractors):
    """With both hinges active the gradients of b, +1 and -1, cancel."""
    tuning = set_up(nets, few.x, few.y, profile, extractors)
    assert any(
        p is tuning.discriminator.b for g in tuning.discriminator_optimiser.param_groups for p in g["params"]
    )
    with torch.no_grad():
        tuning.discriminator.b.fill_(5.0)  # real frames score above +1: only the fakes' hinge is left
    tuning.step(torch.arange(4))
    assert tuning.discriminator.b.item() < 5.0


def test_without_the_adversarial_term_the_discriminator_stands_still(profile, nets, few, extractors):
    tuning = set_up(nets, few.x, few.y, profile, extractors, adversarial=False)
    w = tuning.discriminator.w.detach().clone()
    row = tuning.step(torch.arange(4))
    assert "dsc" not in row and "adv" not in row and torch.equal(w, tuning.discriminator.w)


@pytest.mark.parametrize("t, steps", [(1, 40), (8, 40), (32, 160)])
def test_forty_epochs_are_the_papers_steps(t, steps):
    drawn = list(batches(t, 8, 40, np.random.default_rng(0)))
    assert len(drawn) == steps and all(len(b) == min(t, 8) for b in drawn)
    assert sorted(np.concatenate(drawn[: -(-t // 8)])) == list(range(t))


def test_same_seed_same_head_and_watch_can_stop(profile, nets, few, extractors):
    def run(seed):
        return fine_tune(
            set_up(nets, few.x, few.y, profile.override({"few_shot.fine_tuning.batch": 2}), extractors),
            seed,
            epochs=2,
        ).psi

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    seen = []
    fine_tune(
        set_up(nets, few.x, few.y, profile, extractors),
        epochs=9,
        watch=lambda step, _: seen.append(step) or step == 2,
    )
    assert seen == [0, 1, 2]


def test_fine_tuning_fits_its_frames(profile, nets, few, extractors):
    tuning = set_up(
        nets, few.x, few.y, profile.override({"few_shot.fine_tuning.learning_rate": 2e-3}), extractors
    )
    fine_tune(tuning, epochs=30)
    assert tuning.rows[-1]["cnt"] < 0.8 * tuning.rows[0]["cnt"]


def test_scores_are_not_rounded_to_bf16(profile, nets, few):
    """A score near 1 has steps of 0.008 in bf16, as large as what D' has to tell apart."""
    d = set_up(nets, few.x, few.y, profile, []).discriminator
    with torch.autocast("cpu", torch.bfloat16):
        assert d(few.x, few.y)[0].dtype == torch.float32


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="measured on two cores; this machine has one")
def test_speed_of_a_step(slowness):
    """A step of batch 8 costs 0.25 s at most at laptop's size, when nothing else runs: the best of some is that step."""
    profile = config.load("laptop")
    with autocast(profile.few_shot.networks.precision, "cpu"):
        if not torch.is_autocast_enabled("cpu"):
            pytest.skip("measured with bf16, which this processor does not multiply")
    x = torch.rand(8, 3, 64, 64) * 2 - 1
    tuning, times = set_up(build(profile, 1), x, x, profile, make_extractors(profile)), []
    for _ in range(20):
        start = time.time()
        tuning.step(torch.arange(8))
        times.append(time.time() - start)
    assert min(times) <= 0.25 * slowness
