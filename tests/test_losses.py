"""The losses, equation by equation, and the feature extractors of the content loss."""

import numpy as np
import pytest
import torch
from talking_heads.config import load
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.few_shot import losses
from talking_heads.nn.perceptual import (
    CAFFE,
    EYES,
    TAPS,
    Extractor,
    embedded_extractor,
    make_extractors,
    vgg_extractor,
    vgg_layers,
)
from torch.nn import functional as F

DEPTHS = {"vgg19": (2, 2, 4, 4, 4), "vggface": (2, 2, 3, 3, 3)}  # convolutions of each block
WIDTHS = (64, 128, 256, 512, 512)


def test_hinge_is_equation_6():
    r_fake, r_real = torch.tensor([-2.0, 0.5]), torch.tensor([3.0, 0.25])
    assert losses.discriminator_loss(r_fake, r_real).item() == pytest.approx((0 + 1.5) / 2 + (0 + 0.75) / 2)


def test_realism_match_and_feature_matching():
    assert losses.realism_loss(torch.tensor([1.0, 3.0])).item() == -2
    assert losses.match_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 1.5
    fake, real = [torch.ones(2, 3), torch.zeros(4)], [torch.zeros(2, 3), torch.full((4,), 3.0)]
    assert losses.feature_matching_loss(fake, real, "mean").item() == 2
    assert losses.feature_matching_loss(fake, real, "sum").item() == 4


def test_content_loss_sums_layers_and_gives_the_real_frame_no_gradient(extractors):
    x, x_hat = (torch.rand(1, 3, 8, 8, requires_grad=True) for _ in range(2))
    loss = losses.content_loss(x_hat, x, extractors)
    expected = (x - x_hat).abs().mean() + F.avg_pool2d(x - x_hat, 4).abs().mean()
    torch.testing.assert_close(loss, expected)
    real_features = [extractor(x) for extractor in extractors]
    torch.testing.assert_close(losses.content_loss(x_hat, x, extractors, real_features), loss)
    loss.backward()
    assert x.grad is None and x_hat.grad.abs().sum() > 0


class ScaledPixels:
    """An extractor whose three layers are multiples of the pixels."""

    weight, gains = 0.25, (1.0, 10.0, 100.0)

    def __call__(self, x):
        return [x, 2 * x, 3 * x]


def test_every_layer_of_the_content_loss_has_the_weight_of_its_network_times_its_gain():
    black, grey = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    loss = losses.content_loss(grey, black, [ScaledPixels(), ScaledPixels()])
    assert loss.item() == pytest.approx(2 * 0.25 * 0.5 * (1 + 20 + 300))


@pytest.mark.parametrize("name", ["attributes", "people", "attributes@eyes"])
def test_frames_of_two_identities_differ_by_about_one_in_each_layer(name):
    """What the gains are for; without them the deepest layer would outweigh the others."""
    clips = [
        make_clip(ClipSettings(11, identity, 0, 4, 2.5, 64), sound=False).frames for identity in range(8)
    ]
    x = torch.tensor(np.stack(clips)).movedim(-1, 2).float() / 127.5 - 1  # (8, 4, 3, 64, 64)
    extractor = embedded_extractor(name, 1.0)
    pairs = zip(extractor(x[:4].flatten(0, 1)), extractor(x[4:].flatten(0, 1)), strict=True)
    differences = [(a - b).abs().mean().item() * g for g, (a, b) in zip(extractor.gains, pairs, strict=True)]
    assert differences == pytest.approx([1.0] * 4, rel=0.5)


@pytest.mark.parametrize("name", ["vgg19", "vggface"])
def test_caffe_preprocessing(name):
    """Pixels 0-255 minus the means of ImageNet or VGGFace, in BGR or RGB; height stays height."""
    extractor = Extractor(vgg_layers(name), TAPS[name], 1.0, CAFFE[name])
    red = torch.full((1, 3, 4, 6), -1.0)
    red[:, 0] = 1.0
    prepared = extractor.prepare(red)
    assert prepared.shape == red.shape
    in_bgr, in_rgb = [-103.939, -116.779, 255 - 123.68], [255 - 129.186, -104.762, -93.594]
    expected = in_bgr if name == "vgg19" else in_rgb
    assert prepared[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.fixture
def vgg_state():
    """Random weights by the names of torchvision's or Caffe's published files."""

    def make(name: str, style: str) -> dict[str, torch.Tensor]:
        state, previous, position = {}, 3, 0
        for block, (depth, width) in enumerate(zip(DEPTHS[name], WIDTHS, strict=True), start=1):
            for n in range(1, depth + 1):
                prefix = f"features.{position}" if style == "torchvision" else f"conv{block}_{n}"
                state[f"{prefix}.weight"] = torch.randn(width, previous, 3, 3) * (2 / previous / 9) ** 0.5
                state[f"{prefix}.bias"] = torch.zeros(width)
                previous, position = width, position + 2  # a convolution and its ReLU
            position += 1  # pooling
        return state | {"fc6.weight": torch.zeros(2, 2)}

    torch.manual_seed(0)
    return make


@pytest.mark.parametrize("name, style", [("vgg19", "torchvision"), ("vggface", "caffe")])
def test_vgg_files_of_the_published_layout(tmp_path, vgg_state, name, style):
    """Taps are the ReLUs after the first convolution of each block."""
    state = vgg_state(name, style)
    torch.save(state, tmp_path / "file.pth")
    extractor = vgg_extractor(name, tmp_path / "file.pth", 0.01)
    features = extractor(torch.rand(1, 3, 32, 32) * 2 - 1)
    sides = (32, 16, 8, 4, 2)
    assert [f.shape[1:] for f in features] == [(w, s, s) for w, s in zip(WIDTHS, sides, strict=True)]
    assert all((f >= 0).all() and (f == 0).any() for f in features)
    first, bias = state[next(iter(state))], torch.zeros(64)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = F.relu(F.conv2d(extractor.prepare(x), first, bias, padding=1))
    torch.testing.assert_close(extractor(x)[0], expected)
    del state[next(iter(state))]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"conv1_1\.weight"):
        vgg_extractor(name, tmp_path / "file.pth", 0.01)


@pytest.mark.parametrize("name", ["attributes", "people", "attributes@eyes"])
def test_embedded_extractors_are_frozen_and_take_any_size(name):
    extractor = embedded_extractor(name, 1.0)
    assert not any(p.requires_grad for p in extractor.parameters())
    assert [len(extractor(torch.zeros(1, 3, size, size))) for size in (32, 64, 128)] == [4, 4, 4]


@pytest.mark.parametrize("size", [32, 64, 128])
def test_an_extractor_for_the_eyes_takes_their_window_alone(size):
    extractor = embedded_extractor("attributes@eyes", 1.0)
    x = torch.zeros(1, 3, size, size)
    top, bottom, left, right = (v * size // 64 for v in EYES)
    x[:, :, top:bottom, left:right] = 1.0
    prepared = extractor.prepare(x)
    assert prepared.shape[2:] == (40, 88) and torch.allclose(prepared, torch.ones(())), "still in [-1, 1]"


def test_the_window_of_the_eyes_contains_them():
    clips = [make_clip(ClipSettings(9, identity, 0, 6, 2.5, 64), sound=False) for identity in range(8)]
    x, y = np.concatenate([clip.landmarks for clip in clips])[:, 36:48].transpose(2, 0, 1)
    top, bottom, left, right = EYES
    inside = (y >= top) & (y <= bottom) & (x >= left) & (x <= right)
    assert inside.mean() > 0.97


def test_missing_vgg_names_file_licence_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"vgg19-d01eb7cb\.pth .*licence.*weights fetch vgg19"):
        make_extractors(load("voxceleb1"))


def test_random_extractors_need_no_fetched_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    extractors = make_extractors(load("voxceleb1"), random=True)
    assert [extractor.taps for extractor in extractors] == [TAPS["vgg19"], TAPS["vggface"]]
