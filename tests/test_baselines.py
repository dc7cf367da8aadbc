"""Pix2pixHD and X2Face: shapes, the details that their papers fix, and exact resumption."""

import pytest
import torch
from talking_heads import config
from talking_heads.few_shot.baselines import pix2pixhd, training
from talking_heads.few_shot.baselines.x2face import X2Face, sample


@pytest.fixture
def smoke():
    return config.load("smoke")


def test_patches_are_seventy_pixels_wide():
    """The receptive field of one score, seen in its gradient."""
    torch.manual_seed(0)
    d = pix2pixhd.PatchDiscriminator(width=8)
    for m in d.modules():  # an instance norm would tie a score to the whole picture
        if isinstance(m, torch.nn.Sequential):
            for k, layer in enumerate(m):
                if isinstance(layer, torch.nn.InstanceNorm2d):
                    m[k] = torch.nn.Identity()
    xy = torch.randn(1, 6, 160, 160, requires_grad=True)
    score = d(xy)[-1]
    score[0, 0, score.shape[2] // 2, score.shape[3] // 2].backward()
    seen = xy.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_scales_see_other_sizes_and_have_other_weights(smoke):
    _, d = training.build_pix2pixhd(smoke)
    full, half = d(torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32))
    assert full[0].shape[-1] > half[0].shape[-1] and len(full) == smoke.pix2pixhd_halvings + 2
    assert not torch.equal(d.scales[0].stages[0][0].weight, d.scales[1].stages[0][0].weight)


def test_perceptual_loss_brings_the_layers_of_an_embedded_network_to_one_size():
    from talking_heads.nn.perceptual import embedded_extractor

    extractor, (a, b) = embedded_extractor("attributes", 0.25), torch.rand(2, 2, 3, 64, 64) * 2 - 1
    by_hand = sum(
        g / 4 * (f - r).abs().mean()
        for g, f, r in zip(extractor.gains, extractor(a), extractor(b), strict=True)
    )
    torch.testing.assert_close(training.perceptual_loss(a, b, extractor), by_hand)
    assert min(extractor.gains) > 2


def test_feature_matching_weight():
    one, zero = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    loss = pix2pixhd.feature_matching([[one] * 4 + [one]] * 2, [[zero] * 4 + [one * 9]] * 2, halvings=3)
    assert loss.item() == pytest.approx(4 / 4 / 2 * 8)  # two scales of four layers; scores do not count


def test_generator_has_no_affine_norms_and_reflects_its_border():
    g = pix2pixhd.GlobalGenerator([4, 8], blocks=1)
    assert all(not m.affine for m in g.modules() if isinstance(m, torch.nn.InstanceNorm2d))
    assert all(
        m.padding == (0, 0) for m in g.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (1, 1)
    )


def test_sampling_counts_in_corners():
    """align_corners=True: a flow of 2 / (S - 1) is one pixel, and none is the picture itself."""
    x = torch.rand(1, 3, 9, 9)
    flow = torch.zeros(1, 2, 9, 9)
    torch.testing.assert_close(sample(x, flow), x)
    flow[:, 0] = 2 / 8
    torch.testing.assert_close(sample(x, flow)[..., :-1], x[..., 1:])


def test_confidence_decides_between_sources():
    model = X2Face([4, 4, 4], embedding=4, driving=4).eval()
    sources = torch.rand(1, 2, 3, 16, 16)
    alone = [model.embed(sources[:, i : i + 1]) for i in range(2)]
    both = model.embed(sources)
    low, high = torch.minimum(*alone), torch.maximum(*alone)
    assert (both >= low - 1e-5).all() and (both <= high + 1e-5).all() and not torch.allclose(both, alone[0])


def test_no_batch_norm_on_first_bottleneck_and_output_and_no_biases():
    model = X2Face([4, 8, 8], embedding=4, driving=4)
    for warper in (model.embedding, model.driving):
        assert len(warper.down) - len(warper.down_norms) == 2 and len(warper.up) - len(warper.up_norms) == 1
        assert all(c.bias is None for c in [*warper.down, *warper.up])


@pytest.mark.parametrize("variant", ["pix2pixhd", "x2face"])
def test_a_baseline_resumes_exactly(smoke, videos, variant):
    from talking_heads.nn.perceptual import make_extractors

    extractors = make_extractors(smoke)

    def learner():
        return training.BaselineLearner(smoke, variant, videos, extractors)

    straight, first = learner(), learner()
    rows = [straight.train_step() for _ in range(4)]
    for _ in range(2):
        first.train_step()
    second = learner()
    second.restore(first.state())
    again = [second.train_step() for _ in range(2)]
    assert again == rows[2:]


@pytest.mark.parametrize("variant", ["pix2pixhd", "x2face"])
def test_a_baselines_checkpoint_of_other_people_is_refused(smoke, videos, variant):
    from talking_heads.data.episodes import Subset

    state = training.BaselineLearner(smoke, variant, videos, []).state()
    with pytest.raises(ValueError, match="trained on 4 videos, these are 3"):
        training.BaselineLearner(smoke, variant, Subset(videos, [0, 1, 2]), []).restore(state)


def test_least_squares_are_summed_over_scales():
    score = lambda *values: [torch.zeros(1), torch.tensor(values)]
    assert pix2pixhd.least_squares([score(0.0, 2.0), score(3.0)], 1.0).item() == pytest.approx(1 + 4)


def test_convolutions_begin_as_normal_draws(smoke):
    for net in training.build_pix2pixhd(config.load("laptop")):
        convolutions = [
            m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
        ]
        weights = torch.cat([m.weight.flatten() for m in convolutions])
        assert weights.std().item() == pytest.approx(0.02, rel=0.01) and abs(weights.mean().item()) < 1e-4
        assert all((m.bias == 0).all() for m in convolutions)


def test_vgg_layers_weigh_more_the_deeper_they_are():
    class Layers:
        embedded, scale = False, 2.0  # pictures in [-1, 1]

        def __call__(self, x):
            return [x * k for k in range(1, 6)]

    weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    one, zero = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    assert training.perceptual_loss(one, zero, Layers()).item() == pytest.approx(
        sum(k * w for k, w in enumerate(weights, start=1))
    )


@pytest.mark.parametrize("term", ["feature_matching", "perceptual_loss"])
def test_features_and_perception_weigh_ten_times_the_adversary(monkeypatch, term):
    """The step of a generator whose frames are one number, on one term alone."""

    class Grey(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.zeros(()))

        def forward(self, y):
            return y * 0 + self.level

    g, d = Grey(), pix2pixhd.MultiscaleDiscriminator(width=4, halvings=1)
    level = lambda on: lambda *_: g.level * 1.0 if on else g.level * 0.0
    monkeypatch.setattr(
        pix2pixhd, "least_squares", lambda scales, target: sum(s[-1].mean() for s in scales) * 0
    )
    monkeypatch.setattr(pix2pixhd, "feature_matching", level(term == "feature_matching"))
    monkeypatch.setattr(training, "perceptual_loss", level(term == "perceptual_loss"))
    frames = torch.rand(2, 3, 16, 16)
    optimisers = tuple(torch.optim.SGD(n.parameters(), lr=1.0) for n in (g, d))
    training.pix2pixhd_step(frames, frames, g, d, None, optimisers, torch.autocast("cpu", enabled=False))
    assert g.level.item() == pytest.approx(-10)


def test_rates_and_momenta_of_the_baselines(smoke, videos):
    paper = config.load("voxceleb1")
    assert (paper.pix2pixhd_rate, paper.pix2pixhd_tune_rate) == (2e-4, 2e-4)
    learners = {v: training.BaselineLearner(smoke, v, videos, []) for v in ("pix2pixhd", "x2face")}
    assert {o.defaults["betas"] for o in learners["pix2pixhd"].optimisers} == {(0.5, 0.999)} and learners[
        "x2face"
    ].optimisers[0].defaults["betas"] == (0.9, 0.999)


def test_identity_joins_x2face_in_its_second_half(smoke, videos):
    from talking_heads.nn.perceptual import make_extractors

    learner = training.BaselineLearner(smoke, "x2face", videos, make_extractors(smoke))
    assert set(learner.train_step()) >= {"l1"} and "cnt" not in learner.train_step()
    learner.step = learner.total // 2
    assert learner.train_step()["cnt"] > 0
