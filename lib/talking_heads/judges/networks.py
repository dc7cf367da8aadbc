"""The networks of the identity judge and the landmark judge, which are trained on procedural speakers.

``IdentityJudge`` measures CSIM-judge and FD-judge. Its architecture and its training identities differ from
those of the networks in the content loss (:mod:`nn.feature_networks`). ``LandmarkJudge`` finds the 68
landmarks. Both take images (B, 3, H, W) in [-1, 1], which they resize to 64².
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.nn.feature_networks import at_size


class Residual(nn.Module):
    """A residual block of two convolutions: (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(c_in),
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.PReLU(c_out),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.skip = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class IdentityJudge(nn.Module):
    """A residual network as in ArcFace (Deng et al. 2019): images to unit embeddings (B, 128)."""

    def __init__(self, dimensions: int = 128):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.PReLU(32))
        self.body = nn.Sequential(
            Residual(32, 48, 1),
            Residual(48, 96, 2),
            Residual(96, 96, 1),
            Residual(96, 160, 2),
            Residual(160, 160, 1),
            Residual(160, 192, 2),
        )
        self.neck = nn.Sequential(
            nn.BatchNorm2d(192),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(192 * 16, dimensions),
            nn.BatchNorm1d(dimensions),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.neck(self.body(self.stem(at_size(x)))).float(), dim=-1)


class LandmarkJudge(nn.Module):
    """Images to 68 landmarks (B, 68, 2) in units of the image's side, (0, 0) at the upper left corner.

    Every landmark is the centre of mass of a heat map of 16² cells, each moved by a regressed offset.
    """

    def __init__(self):
        super().__init__()

        def conv(a: int, b: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

        self.body = nn.Sequential(
            conv(3, 24, 2), conv(24, 48), conv(48, 64, 2), Residual(64, 96, 1), Residual(96, 96, 1)
        )
        self.context = nn.Sequential(conv(96, 96, 2), conv(96, 96, 2), nn.Flatten(), nn.Linear(96 * 16, 96))
        self.maps = nn.Sequential(conv(96, 96), nn.Conv2d(96, 68 * 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(at_size(x))
        h = h + self.context(h)[:, :, None, None]
        heat, offset = self.maps(h).float().split([68, 136], 1)
        b, p, side, _ = heat.shape
        weight = heat.flatten(2).softmax(-1)
        centre = (torch.arange(side, device=x.device, dtype=torch.float32) + 0.5) / side
        grid = torch.stack([centre.repeat(side), centre.repeat_interleave(side)], -1)  # (side², 2): x, y
        positions = grid + offset.reshape(b, p, 2, side * side).transpose(2, 3) / side
        return (weight[..., None] * positions).sum(2)
