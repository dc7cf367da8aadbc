"""Feature extractors of the content loss: VGG19 and VGGFace for the paper's profiles, the embedded judges for ours.

The paper's layers "Conv1, 6, 11, 20, 29" (VGG19) and "Conv1, 6, 11, 18, 25" (VGGFace) are positions in
the list of layers below: each is the ReLU after the first convolution of a block.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .judges.networks import SIDE, WEIGHTS, AttributeNet, PersonNet, at_size
from .tensors import load_weights, sha256
from .weights import find

VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_DEPTHS = {"vgg19": (2, 2, 4, 4, 4), "vggface": (2, 2, 3, 3, 3)}
TAPS = {"vgg19": (1, 6, 11, 20, 29), "vggface": (1, 6, 11, 18, 25)}
# where the eyes are in 98 % of all frames: rows and columns of the crop, in sixty-fourths of its side
EYES, ZOOM = (21, 41, 10, 54), 2
# Caffe's preprocessing: pixels 0-255, means subtracted, in the channel order of the file
CAFFE = {
    "vgg19": {"order": (2, 1, 0), "mean": (103.939, 116.779, 123.68)},  # BGR
    "vggface": {"order": (0, 1, 2), "mean": (129.186, 104.762, 93.594)},  # RGB
}


class Extractor(nn.Module):
    """Activations at ``taps`` of a frozen network; call with images (B, 3, H, W) in [-1, 1], RGB.

    Images are multiplied by ``scale`` after moving to [0, 1], their channels put into ``order`` and ``mean``
    subtracted. Every layer counts ``weight`` in L_CNT, times a gain of its own (1 for the paper's networks). With
    ``embedded`` they are first brought to the side of the embedded judges; with ``window`` (top, bottom, left, right) it sees
    that part of them alone, ``ZOOM`` times as large.
    """

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...], weight: float, order: tuple[int, ...] = (0, 1, 2),
                 scale: float = 255.0, mean: tuple[float, ...] = (0.0, 0.0, 0.0), embedded: bool = False,
                 window: tuple[int, ...] = (), gains: Sequence[float] | None = None):
        super().__init__()
        self.layers = layers[:max(taps) + 1].requires_grad_(False).eval()
        self.weight, self.order, self.scale, self.embedded, self.window = weight, list(order), scale, embedded, window
        self.taps, self.gains = taps, gains or [1.0] * len(taps)
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None], persistent=False)

    def prepare(self, x: Tensor) -> Tensor:
        """What the network itself sees."""
        if self.window:
            top, bottom, left, right = self.window
            part = x[:, :, top * x.shape[2] // SIDE:bottom * x.shape[2] // SIDE, left * x.shape[3] // SIDE:right * x.shape[3] // SIDE]
            x = at_size(part, ZOOM * (bottom - top), ZOOM * (right - left))
        elif self.embedded:
            x = at_size(x)
        return (x[:, self.order] + 1) / 2 * self.scale - self.mean

    def forward(self, x: Tensor) -> list[Tensor]:
        h, out = self.prepare(x), []
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i in self.taps:
                out.append(h)
        return out


def vgg_layers(name: str) -> nn.Sequential:
    """The convolutional part of VGG19 or VGG16 (Simonyan & Zisserman 2015), untrained."""
    layers: list[nn.Module] = []
    before = 3
    for width, depth in zip(VGG_WIDTHS, VGG_DEPTHS[name]):
        for _ in range(depth):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def vgg_extractor(name: str, path: Path, weight: float) -> Extractor:
    """VGG19 or VGGFace from its Caffe weights, a state dict of tensors.

    Keys may be torchvision's (``features.0.weight``) or Caffe's (``conv1_1.weight``); fully connected layers
    are ignored. Raises ValueError where a convolution is missing or of another shape.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    layers = vgg_layers(name)
    convs = [i for i, m in enumerate(layers) if isinstance(m, nn.Conv2d)]
    caffe = [f"conv{b}_{c}" for b, depth in enumerate(VGG_DEPTHS[name], 1) for c in range(1, depth + 1)]
    wanted = {}
    for i, other in zip(convs, caffe):
        for part in ("weight", "bias"):
            value = state.get(f"features.{i}.{part}", state.get(f"{other}.{part}"))
            if value is None or value.shape != getattr(layers[i], part).shape:
                raise ValueError(f"{path}: no {other}.{part} (or features.{i}.{part}) of shape {tuple(getattr(layers[i], part).shape)}")
            wanted[f"{i}.{part}"] = value
    layers.load_state_dict(wanted)
    return Extractor(layers, TAPS[name], weight, **CAFFE[name])


def random_extractors(profile) -> list[Extractor]:
    """Untrained extractors of a profile's layout: enough to time a step, useless for a loss."""
    return [Extractor(vgg_layers(n), TAPS[n], w, **CAFFE[n]) if n in TAPS else embedded_extractor(n, w)
            for n, w in zip(profile.extractors, profile.content_weights, strict=True)]


def embedded_digest(name: str) -> str:
    """Which weights an extractor has: sixteen digits of an embedded one's file, "fetched" for the others (see weights.py)."""
    path = WEIGHTS / f"{name.split('@')[0]}.safetensors"
    return sha256(path)[:16] if path.exists() else "fetched"


def embedded_extractor(name: str, weight: float) -> Extractor:
    """One of the two embedded feature networks: "attributes" for VGG19, "people" for VGGFace; "…@eyes" sees the eyes alone.

    Its layers have gains with which frames of two people differ by 1 in each: without that the deepest layer drowns the others.
    """
    network, _, part = name.partition("@")
    state, about = load_weights(WEIGHTS / f"{network}.safetensors")
    net = {"attributes": AttributeNet, "people": PersonNet}[network](len(state["head.3.bias"]))
    net.load_state_dict(state)
    return Extractor(net.features, tuple(net.taps), weight, scale=2.0, mean=(1.0, 1.0, 1.0), embedded=True,
                     window={"": (), "eyes": EYES}[part], gains=about["gains"])


def make_extractors(profile) -> list[Extractor]:
    """The extractors that a profile's content loss names. Raises FileNotFoundError where fetched weights are missing."""
    out = []
    for name, weight in zip(profile.extractors, profile.content_weights, strict=True):
        out.append(vgg_extractor(name, find(name), weight) if name in TAPS else embedded_extractor(name, weight))
    return out
