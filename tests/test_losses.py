"""The losses, equation by equation, and VGG's preprocessing."""

import numpy as np
import pytest
import torch

from talking_heads import losses
from talking_heads.corpus.speakers.clips import make_clip
from talking_heads.perceptual import CAFFE, EYES, TAPS, Extractor, embedded_extractor, make_extractors, vgg_extractor, vgg_layers
from talking_heads.profiles import load


def test_hinge_is_equation_6():
    r_fake, r_real = torch.tensor([-2.0, 0.5]), torch.tensor([3.0, 0.25])
    assert losses.discriminator_loss(r_fake, r_real).item() == pytest.approx((0 + 1.5) / 2 + (0 + 0.75) / 2)


def test_realism_match_and_feature_matching():
    assert losses.realism_loss(torch.tensor([1.0, 3.0])).item() == -2
    assert losses.match_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 1.5
    fake, real = [torch.ones(2, 3), torch.zeros(4)], [torch.zeros(2, 3), torch.full((4,), 3.0)]
    assert losses.feature_matching_loss(fake, real, "mean").item() == 2
    assert losses.feature_matching_loss(fake, real, "sum").item() == 4


def test_content_loss_sums_weighted_layers_and_leaves_the_real_side_alone(extractors):
    x, x_hat = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8, requires_grad=True)
    loss = losses.content_loss(x_hat, x, extractors)
    by_hand = (x - x_hat).abs().mean() + torch.nn.functional.avg_pool2d(x - x_hat, 4).abs().mean()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(losses.content_loss(x_hat, x, extractors, [e(x) for e in extractors]), loss)
    loss.backward()
    assert x.grad is None and x_hat.grad.abs().sum() > 0


@pytest.mark.parametrize("name, means", [("vgg19", [103.939, 116.779, 123.68]), ("vggface", [129.186, 104.762, 93.594])])
def test_caffe_preprocessing(name, means):
    """0-255, the file's own channel order, its means; height stays height."""
    extractor = Extractor(vgg_layers(name), TAPS[name], 1.0, **CAFFE[name])
    red = torch.full((1, 3, 4, 6), -1.0)
    red[:, 0] = 1.0
    seen = extractor.prepare(red)
    assert seen.shape == red.shape
    bgr = name == "vgg19"
    wanted = np.array([0, 0, 255] if bgr else [255, 0, 0]) - means
    assert seen[0, :, 0, 0].numpy() == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("name, style", [("vgg19", "torchvision"), ("vggface", "caffe")])
def test_vgg_files_of_the_published_layout(tmp_path, name, style):
    """Random weights under the keys of the published files; taps are the ReLUs after each block's first convolution."""
    torch.manual_seed(0)
    layers = vgg_layers(name)
    convs = [i for i, m in enumerate(layers) if isinstance(m, torch.nn.Conv2d)]
    depths = {"vgg19": (2, 2, 4, 4, 4), "vggface": (2, 2, 3, 3, 3)}[name]
    caffe = [f"conv{b}_{c}" for b, n in enumerate(depths, 1) for c in range(1, n + 1)]
    state = {f"{f'features.{i}' if style == 'torchvision' else other}.{part}": getattr(layers[i], part).detach().clone()
             for i, other in zip(convs, caffe) for part in ("weight", "bias")}
    state["fc6.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "file.pth")
    extractor = vgg_extractor(name, tmp_path / "file.pth", 0.01)
    features = extractor(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert [f.shape[1] for f in features] == [64, 128, 256, 512, 512]
    assert [f.shape[2] for f in features] == [32, 16, 8, 4, 2]
    assert all(isinstance(layers[t], torch.nn.ReLU) and t - 1 in convs and (t == 1 or isinstance(layers[t - 2], torch.nn.MaxPool2d)) for t in TAPS[name])
    del state[next(iter(state))]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="conv1_1.weight"):
        vgg_extractor(name, tmp_path / "file.pth", 0.01)


def test_embedded_extractors_are_frozen_and_take_any_size():
    for name in ("attributes", "people", "attributes@eyes"):
        extractor = embedded_extractor(name, 1.0)
        assert not any(p.requires_grad for p in extractor.parameters())
        assert [len(extractor(torch.zeros(1, 3, s, s))) for s in (32, 64, 128)] == [4, 4, 4]


def test_every_layer_of_the_content_loss_counts_its_networks_weight_times_its_gain():
    extractor, (a, b) = embedded_extractor("people", 0.25), torch.rand(2, 2, 3, 64, 64) * 2 - 1
    by_hand = sum(0.25 * g * (f - r).abs().mean() for g, f, r in zip(extractor.gains, extractor(a), extractor(b), strict=True))
    torch.testing.assert_close(losses.content_loss(a, b, [extractor]), by_hand)
    assert len(set(extractor.gains)) == 4


@pytest.mark.parametrize("size", [32, 64, 128])
def test_an_extractor_for_the_eyes_sees_all_of_them_and_nothing_else(size):
    extractor = embedded_extractor("attributes@eyes", 1.0)
    x = torch.zeros(1, 3, size, size)
    top, bottom, left, right = (v * size // 64 for v in EYES)
    x[:, :, top:bottom, left:right] = 1.0
    seen = extractor.prepare(x)
    assert seen.shape[2:] == (40, 88) and torch.allclose(seen, torch.ones(())), "of [-1, 1] it makes [-1, 1]"
    points = np.concatenate([make_clip(9, person, 0, 6, 2.5, 64, sound=False).landmarks for person in range(8)])[:, 36:48]
    assert np.mean([(points[..., 1] >= EYES[0]) & (points[..., 1] <= EYES[1]), (points[..., 0] >= EYES[2]) & (points[..., 0] <= EYES[3])]) > 0.97


def test_missing_vgg_names_file_licence_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"vgg19-d01eb7cb.pth .*licence.*weights fetch vgg19"):
        make_extractors(load("voxceleb1"))
