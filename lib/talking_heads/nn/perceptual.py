"""Feature extractors of the content loss.

The paper's profiles use VGG19 and VGGFace, the others embedded networks.

The paper's layers "Conv1, 6, 11, 20, 29" (VGG19) and "Conv1, 6, 11, 18, 25" (VGGFace) are positions in
the list of layers below: each is the ReLU after the first convolution of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from talking_heads.config import Profile
from talking_heads.files import sha256
from talking_heads.nn.feature_networks import SIDE, WEIGHTS, AttributeNet, PersonNet, at_size
from talking_heads.nn.precision import mixed_precision
from talking_heads.nn.pretrained import find
from talking_heads.nn.weight_files import load_weights

VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_DEPTHS = {"vgg19": (2, 2, 4, 4, 4), "vggface": (2, 2, 3, 3, 3)}
TAPS = {"vgg19": (1, 6, 11, 20, 29), "vggface": (1, 6, 11, 18, 25)}
# where the eyes are in 98 % of all frames: rows and columns of the crop, in sixty-fourths of its side
EYES, ZOOM = (21, 41, 10, 54), 2
# what an embedded network sees in place of the frame at 64²: crops in sixty-fourths, enlarged by ZOOM
REGIONS: dict[str, tuple[int, ...]] = {"": (), "eyes": EYES, "twice": (0, SIDE, 0, SIDE)}


@dataclass(frozen=True)
class Preprocessing:
    """The input of a network from images in [-1, 1], RGB.

    They are mapped to [0, 1] and multiplied by ``scale``, their channels are put into ``order`` and ``mean``
    is subtracted, all in fp32. With ``embedded`` they are first resized to the side of the embedded networks;
    with ``window`` (top, bottom, left, right) they are cropped to it and enlarged by ``ZOOM``.
    """

    scale: float
    mean: tuple[float, ...]
    order: tuple[int, ...] = (0, 1, 2)
    embedded: bool = False
    window: tuple[int, ...] = ()


# of the Caffe weights: pixels 0-255, in BGR for VGG19
CAFFE = {
    "vgg19": Preprocessing(255.0, (103.939, 116.779, 123.68), order=(2, 1, 0)),
    "vggface": Preprocessing(255.0, (129.186, 104.762, 93.594)),
}


class Extractor(nn.Module):
    """Activations at ``taps`` of a frozen network; call with images (B, 3, H, W) in [-1, 1], RGB.

    In L_CNT every layer has the weight ``weight``, times its gain (1 for the paper's networks).
    """

    def __init__(
        self,
        layers: nn.Sequential,
        taps: tuple[int, ...],
        weight: float,
        preprocessing: Preprocessing,
        gains: Sequence[float] | None = None,
        precision: str = "fp32",
    ):
        super().__init__()
        self.layers = layers[: max(taps) + 1].requires_grad_(False).eval()
        self.weight, self.precision = weight, precision
        self.order, self.scale = list(preprocessing.order), preprocessing.scale
        self.embedded, self.window = preprocessing.embedded, preprocessing.window
        self.taps, self.gains = taps, gains or [1.0] * len(taps)
        mean = torch.tensor(preprocessing.mean)[None, :, None, None]
        self.register_buffer("mean", mean, persistent=False)

    def prepare(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to the network's input."""
        x = x.float()
        if self.window:
            top, bottom, left, right = self.window
            rows = slice(top * x.shape[2] // SIDE, bottom * x.shape[2] // SIDE)
            columns = slice(left * x.shape[3] // SIDE, right * x.shape[3] // SIDE)
            x = at_size(x[:, :, rows, columns], ZOOM * (bottom - top), ZOOM * (right - left))
        elif self.embedded:
            x = at_size(x)
        return (x[:, self.order] + 1) / 2 * self.scale - self.mean

    @mixed_precision
    def forward(self, x: Tensor) -> list[Tensor]:
        """One activation (B, C, h, w) for each tap."""
        h, activations = self.prepare(x), []
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i in self.taps:
                activations.append(h)
        return activations


def vgg_layers(name: str) -> nn.Sequential:
    """The convolutional layers of VGG19 or VGG16 (Simonyan & Zisserman 2015), untrained."""
    layers: list[nn.Module] = []
    previous = 3
    for width, depth in zip(VGG_WIDTHS, VGG_DEPTHS[name], strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
            previous = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def vgg_extractor(name: str, path: Path, weight: float, precision: str = "fp32") -> Extractor:
    """VGG19 or VGGFace from its Caffe weights, a state dict of tensors.

    Keys may be torchvision's (``features.0.weight``) or Caffe's (``conv1_1.weight``); fully connected layers
    are ignored. Raises ValueError where a convolution is missing or of another shape.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    layers = vgg_layers(name)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    caffe_names = [f"conv{b}_{c}" for b, depth in enumerate(VGG_DEPTHS[name], 1) for c in range(1, depth + 1)]
    loaded = {}
    for i, caffe_name in zip(convolutions, caffe_names, strict=True):
        for kind in ("weight", "bias"):
            value = state.get(f"features.{i}.{kind}", state.get(f"{caffe_name}.{kind}"))
            shape = tuple(getattr(layers[i], kind).shape)
            if value is None or tuple(value.shape) != shape:
                raise ValueError(f"{path}: no {caffe_name}.{kind} (or features.{i}.{kind}) of shape {shape}")
            loaded[f"{i}.{kind}"] = value
    layers.load_state_dict(loaded)
    return Extractor(layers, TAPS[name], weight, CAFFE[name], precision=precision)


def embedded_extractor(name: str, weight: float, precision: str = "fp32") -> Extractor:
    """An embedded feature network: "attributes" in place of VGG19, "people" in place of VGGFace.

    "attributes@eyes" sees the eyes alone, "attributes@twice" the frame at 128², with its detail. Gains make
    frames of two identities differ by 1 in each layer: without them the deepest layer would count more than
    all others together.
    """
    network, _, region = name.partition("@")
    state, metadata = load_weights(WEIGHTS / f"{network}.safetensors")
    net = {"attributes": AttributeNet, "people": PersonNet}[network](len(state["head.3.bias"]))
    net.load_state_dict(state)
    preprocessing = Preprocessing(2.0, (1.0, 1.0, 1.0), embedded=True, window=REGIONS[region])
    return Extractor(net.features, tuple(net.taps), weight, preprocessing, metadata["gains"], precision)


def embedded_digest(name: str) -> str:
    """Sixteen hex digits of an embedded network's weights; "fetched" for a pretrained network."""
    path = WEIGHTS / f"{name.split('@')[0]}.safetensors"
    return sha256(path)[:16] if path.exists() else "fetched"


def make_extractors(profile: Profile, random: bool = False) -> list[Extractor]:
    """The extractors of a profile's content loss.

    With ``random`` VGG19 and VGGFace are untrained, which is enough to time a step. Raises FileNotFoundError
    where the weights of VGG19 or VGGFace have not been fetched.
    """
    section, precision = profile.few_shot.losses, profile.few_shot.networks.precision
    extractors = []
    for name, weight in zip(section.extractors, section.content_weights, strict=True):
        if name not in TAPS:
            extractors.append(embedded_extractor(name, weight, precision))
        elif random:
            layers = vgg_layers(name)
            extractors.append(Extractor(layers, TAPS[name], weight, CAFFE[name], precision=precision))
        else:
            extractors.append(vgg_extractor(name, find(name), weight, precision))
    return extractors
