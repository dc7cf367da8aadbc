"""Pix2pixHD and X2Face: shapes, the details that their papers fix, parity, and exact resumption."""

import copy
from types import SimpleNamespace

import pytest
import torch
from talking_heads import config
from talking_heads.data.episodes import Subset
from talking_heads.data.frames import to_image
from talking_heads.few_shot.baselines import pix2pixhd, training
from talking_heads.few_shot.baselines.trivial import mean_frame, nearest_frames
from talking_heads.few_shot.baselines.x2face import X2Face, sample
from talking_heads.nn.perceptual import embedded_extractor, make_extractors
from talking_heads.nn.weight_files import load_weights
from torch import nn
from torch.nn import functional as F


# -- Pix2pixHD --------------------------------------------------------------------------------------
def test_patches_are_seventy_pixels_wide():
    """The receptive field of one score, measured by its gradient."""
    torch.manual_seed(0)
    d = pix2pixhd.PatchDiscriminator(width=8)
    for stage in d.stages[1:-1]:  # an instance norm would make a score depend on the whole picture
        stage[1] = nn.Identity()
    xy = torch.randn(1, 6, 160, 160, requires_grad=True)
    score = d(xy)[-1]
    score[0, 0, score.shape[2] // 2, score.shape[3] // 2].backward()
    pixels = xy.grad[0].abs().sum(0).nonzero()
    assert (pixels.amax(0) - pixels.amin(0) + 1).tolist() == [70, 70]


def test_scales_have_other_resolutions_and_other_weights(profile):
    _, d = training.build_pix2pixhd(profile)
    full, half = d(torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32))
    assert full[0].shape[-1] > half[0].shape[-1] and len(full) == profile.few_shot.pix2pixhd.halvings + 2
    assert not torch.equal(d.scales[0].stages[0][0].weight, d.scales[1].stages[0][0].weight)


def test_the_generator_has_no_affine_norms_and_reflects_its_border():
    g = pix2pixhd.GlobalGenerator([4, 8], blocks=1)
    assert all(not m.affine for m in g.modules() if isinstance(m, nn.InstanceNorm2d))
    same_size = [m for m in g.modules() if isinstance(m, nn.Conv2d) and m.stride == (1, 1)]
    assert all(m.padding == (0, 0) for m in same_size)


def test_convolutions_are_initialised_with_normal_draws():
    for net in training.build_pix2pixhd(config.load("laptop")):
        convolutions = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        weights = torch.cat([m.weight.flatten() for m in convolutions])
        assert weights.std().item() == pytest.approx(0.02, rel=0.01) and abs(weights.mean().item()) < 1e-4
        assert all((m.bias == 0).all() for m in convolutions)


def test_feature_matching_weighs_every_layer_but_the_scores():
    one, zero = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    fake, real = [one] * 4 + [one], [zero] * 4 + [9 * one]
    loss = pix2pixhd.feature_matching([fake] * 2, [real] * 2, halvings=3)
    assert loss.item() == pytest.approx(4 / 4 / 2 * 8)  # two scales of four layers


def test_least_squares_are_summed_over_scales():
    scales = [[torch.zeros(1), torch.tensor([0.0, 2.0])], [torch.zeros(1), torch.tensor([3.0])]]
    assert pix2pixhd.least_squares(scales, 1.0).item() == pytest.approx(1 + 4)


class Multiples:
    """An extractor whose layers are multiples of the pixels, in [-1, 1]."""

    embedded, scale = False, 2.0

    def __call__(self, x):
        return [x * k for k in range(1, 6)]


def test_deeper_layers_of_vgg_weigh_more():
    one, zero = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    expected = 1 / 32 + 2 / 16 + 3 / 8 + 4 / 4 + 5
    assert training.perceptual_loss(one, zero, Multiples()).item() == pytest.approx(expected)


def test_all_layers_of_an_embedded_network_weigh_alike(monkeypatch):
    extractor = embedded_extractor("attributes", 0.25)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    loss = training.perceptual_loss(a, b, extractor)
    alone = []
    for layer in range(4):
        gains = [gain if n == layer else 0.0 for n, gain in enumerate(extractor.gains)]
        monkeypatch.setattr(extractor, "gains", gains)
        alone.append(training.perceptual_loss(a, b, extractor).item())
        monkeypatch.undo()
    assert sum(alone) == pytest.approx(loss.item())
    layers = zip(extractor.gains, extractor(a), extractor(b), strict=True)
    assert alone == pytest.approx([gain / 4 * F.l1_loss(x, y).item() for gain, x, y in layers])


def replay(learner, count):
    """The next episodes of a learner, which it will draw again."""
    episodes = [next(learner.episodes) for _ in range(count)]
    learner.episodes.seek(0)
    return episodes


def reference_pix2pixhd_step(nets, optimisers, x, y):
    """An update as in the authors' code: LSGAN, D's loss halved, weights of 10, VGG's layers as published."""
    (g, d), (g_optimiser, d_optimiser) = nets, optimisers
    mse, l1 = nn.MSELoss(), nn.L1Loss()
    x_hat = g(y)

    d_loss = 0
    for frames, label in ((x_hat.detach(), 0.0), (x, 1.0)):
        for activations in d(frames, y):
            d_loss = d_loss + 0.5 * mse(activations[-1], torch.full_like(activations[-1], label))
    d_optimiser.zero_grad()
    d_loss.backward()
    d_optimiser.step()

    fake, real = d(x_hat, y), d(x, y)
    g_loss = 0
    for fake_scale, real_scale in zip(fake, real, strict=True):
        g_loss = g_loss + mse(fake_scale[-1], torch.ones_like(fake_scale[-1]))
        for a, b in zip(fake_scale[:-1], real_scale[:-1], strict=True):
            g_loss = g_loss + 10 * 4 / (d.halvings + 1) / 2 * l1(a, b.detach())
    for k, weight in enumerate((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0), start=1):
        g_loss = g_loss + 10 * weight * l1(k * x_hat, k * x)
    g_optimiser.zero_grad()
    g_loss.backward()
    g_optimiser.step()


def test_steps_of_pix2pixhd_are_those_of_an_independent_implementation(profile, videos):
    profile = profile.override(
        {"few_shot.pix2pixhd.learning_rate": 2e-4, "few_shot.meta_learning.steps": 100}
    )
    learner = training.BaselineLearner(profile, "pix2pixhd", videos, [Multiples()])
    nets = [copy.deepcopy(net) for net in learner.nets]
    optimisers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in nets]
    for episode in replay(learner, 3):
        learner.train_step()
        x = torch.cat([episode.x_t.flatten(0, 1), episode.x_s.flatten(0, 1)])
        y = torch.cat([episode.y_t.flatten(0, 1), episode.y_s.flatten(0, 1)])
        reference_pix2pixhd_step(nets, optimisers, x, y)
    for net, expected in zip(learner.nets, nets, strict=True):
        for a, b in zip(net.parameters(), expected.parameters(), strict=True):
            if a.ndim > 1:  # the gradients of biases before a norm are rounding errors
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_fine_tuning_of_pix2pixhd_fits_the_frames_and_copies_the_networks(profile, few, extractors):
    torch.manual_seed(0)
    nets = training.build_pix2pixhd(profile)
    before = copy.deepcopy(nets[0].state_dict())
    longer = profile.override({"few_shot.fine_tuning.epochs": 30})
    generator = training.fine_tune_pix2pixhd(nets, few.x, few.y, longer, extractors, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in nets[0].state_dict().items())
    with torch.no_grad():
        tuned, start = (F.l1_loss(net(few.y), few.x).item() for net in (generator, nets[0]))
    assert tuned < 0.7 * start


# -- X2Face -----------------------------------------------------------------------------------------
def test_sampling_aligns_corners():
    """A flow of 2 / (S - 1) is one pixel, and a flow of 0 is the identity."""
    x = torch.rand(1, 3, 9, 9)
    flow = torch.zeros(1, 2, 9, 9)
    torch.testing.assert_close(sample(x, flow), x)
    flow[:, 0] = 2 / 8
    torch.testing.assert_close(sample(x, flow)[..., :-1], x[..., 1:])


def test_confidence_weighs_the_sources():
    model = X2Face([4, 4, 4], embedding=4, driving=4).eval()
    sources = torch.rand(1, 2, 3, 16, 16)
    single = [model.embed(sources[:, i : i + 1]) for i in range(2)]
    both = model.embed(sources)
    low, high = torch.minimum(*single), torch.maximum(*single)
    assert (both >= low - 1e-5).all() and (both <= high + 1e-5).all() and not torch.allclose(both, single[0])


def test_no_batch_norm_on_first_bottleneck_and_output_and_no_biases():
    model = X2Face([4, 8, 8], embedding=4, driving=4)
    for warper in (model.embedding, model.driving):
        assert len(warper.down) - len(warper.down_norms) == 2 and len(warper.up) - len(warper.up_norms) == 1
        assert all(c.bias is None for c in [*warper.down, *warper.up])


def test_steps_of_x2face_are_adam_on_l1(profile, videos):
    profile = profile.override({"few_shot.x2face.learning_rate": 1e-4, "few_shot.meta_learning.steps": 100})
    learner = training.BaselineLearner(profile, "x2face", videos, [])
    model = copy.deepcopy(learner.nets[0])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.999))
    for episode in replay(learner, 3):
        learner.train_step()
        count = episode.x_t.shape[1]
        driver = episode.x_t.flatten(0, 1)
        x_hat = model.drive(model.embed(episode.x_s).repeat_interleave(count, 0), driver)
        optimiser.zero_grad()
        (x_hat - driver).abs().mean().backward()
        optimiser.step()
    for a, b in zip(learner.nets[0].parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_content_loss_joins_x2face_in_its_second_half(profile, videos, extractors):
    learner = training.BaselineLearner(profile, "x2face", videos, extractors)
    assert "cnt" not in learner.train_step()
    learner.step = learner.total // 2
    assert learner.train_step()["cnt"] > 0


def test_reenactment_is_driven_by_the_ground_truth(profile, few):
    model = training.build_x2face(profile)
    frames = training.reenact(model, few, few)
    with torch.no_grad():
        expected = model(few.x[None].expand(4, -1, -1, -1, -1), few.x)
    assert frames.shape == few.images.shape and abs(frames.astype(int) - to_image(expected)).max() <= 1


# -- both -------------------------------------------------------------------------------------------
VARIANTS = pytest.mark.parametrize("variant", ["pix2pixhd", "x2face"])


@VARIANTS
def test_a_baseline_resumes_exactly(profile, videos, variant, tmp_path):
    extractors = make_extractors(profile)

    def begin():
        return training.BaselineLearner(profile, variant, videos, extractors)

    uninterrupted, first, second = begin(), begin(), begin()
    rows = [uninterrupted.train_step() for _ in range(4)]
    for _ in range(2):
        first.train_step()
    second.restore(first.state(tmp_path), tmp_path)
    assert [second.train_step() for _ in range(2)] == rows[2:]


@VARIANTS
def test_the_learning_rate_falls_to_zero_in_the_second_half(profile, videos, extractors, variant):
    learner = training.BaselineLearner(
        profile.override({"few_shot.meta_learning.steps": 8}), variant, videos, extractors
    )
    section = getattr(profile.few_shot, variant)
    rates = []
    for _ in range(8):
        learner.train_step()
        rates.append(learner.optimisers[0].param_groups[0]["lr"] / section.learning_rate)
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


@VARIANTS
def test_a_checkpoint_of_other_videos_is_refused(profile, videos, variant, tmp_path):
    state = training.BaselineLearner(profile, variant, videos, []).state(tmp_path)
    with pytest.raises(ValueError, match="trained on 4 videos, these are 3"):
        training.BaselineLearner(profile, variant, Subset(videos, [0, 1, 2]), []).restore(state, tmp_path)
    with pytest.raises(ValueError, match="trained on 4 videos of other names"):
        training.BaselineLearner(profile, variant, Subset(videos, [0, 2, 1, 3]), []).restore(state, tmp_path)


@VARIANTS
def test_exported_weights_give_the_same_networks(profile, videos, variant, tmp_path):
    learner = training.BaselineLearner(profile, variant, videos, [])
    learner.export(tmp_path / "w.safetensors", {"profile": "smoke"})
    state, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == {"profile": "smoke", "variant": variant, "step": 0}
    restored = training.restore_baseline(profile, variant, state)
    for a, b in zip(learner.nets, restored, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=2e-3, atol=1e-4)  # fp16
    wider = profile.override({f"few_shot.{variant}.channels": [4, 4, 4]})
    with pytest.raises(ValueError, match="do not fit profile smoke"):
        training.restore_baseline(wider, variant, state)


@pytest.mark.cuda
@VARIANTS
def test_a_step_on_a_gpu_is_that_on_a_cpu(profile, videos, extractors, variant):
    rows = [
        training.BaselineLearner(profile, variant, videos, extractors, device).train_step()
        for device in ("cpu", "cuda")
    ]
    assert rows[1] == pytest.approx(rows[0], rel=0.02, abs=1e-3)


# -- without learning -------------------------------------------------------------------------------
def test_trivial_baselines(few):
    moved = SimpleNamespace(images=few.images, points=few.points)
    assert (nearest_frames(moved, few.points[::-1] + 0.1) == few.images[::-1]).all()
    mean = mean_frame(moved, 3)
    assert mean.shape == (3, *few.images.shape[1:])
    assert abs(mean - few.images.mean(0)).max() <= 0.5
