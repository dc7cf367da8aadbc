"""X2Face (Wiles et al. 2018): a person as a picture that is warped twice.

The embedding network warps each source frame to an embedded face; the driving network sees the frame to imitate and says
how the embedded face is to be sampled. It sees the true frame, where all other methods see only its landmarks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Warper(nn.Module):
    """Encoder and decoder from frames (B, 3, S, S) to ``outputs`` maps of the same size.

    ``channels`` are the widths on the way down, one 4×4 convolution of stride 2 each; a last one leads to ``bottleneck``
    channels at 1². The way up mirrors it; with ``skips`` it sees the way down again.
    """

    def __init__(self, channels: Sequence[int], bottleneck: int, outputs: int, skips: bool):
        super().__init__()
        c, self.skips = list(channels), skips
        widths = [3, *c, bottleneck]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in zip(widths, widths[1:]))
        self.down_norms = nn.ModuleList(nn.BatchNorm2d(b) for b in c[1:])
        widths = [bottleneck, *c[::-1]]
        wider = [0, *c[::-1]] if skips else [0] * (len(c) + 1)
        self.up = nn.ModuleList(nn.Conv2d(a + extra, b, 3, 1, 1, bias=False)
                                for a, extra, b in zip(widths, wider, [*c[::-1], outputs]))
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(b) for b in c[::-1])

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for i, conv in enumerate(self.down):
            x = conv(x if i == 0 else F.leaky_relu(x, 0.2))
            if 0 < i < len(self.down) - 1:
                x = self.down_norms[i - 1](x)
            seen.append(x)
        for i, conv in enumerate(self.up):
            if i and self.skips:
                x = torch.cat([x, seen[-1 - i]], 1)
            x = conv(F.interpolate(F.relu(x), scale_factor=2, mode="bilinear", align_corners=False))
            if i < len(self.up_norms):
                x = self.up_norms[i](x)
        return x


def sample(image: Tensor, flow: Tensor) -> Tensor:
    """The image (B, C, S, S) where the identity grid plus ``flow`` (B, 2, S, S), in units of half a side, points."""
    theta = torch.eye(2, 3, device=image.device, dtype=torch.float32).repeat(len(image), 1, 1)
    grid = F.affine_grid(theta, [len(image), 1, *image.shape[2:]], align_corners=True)
    return F.grid_sample(image.float(), grid + flow.float().permute(0, 2, 3, 1), padding_mode="border", align_corners=True)


class X2Face(nn.Module):
    """Embedding and driving network; ``channels`` and bottlenecks of the paper by default."""

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512, 512, 512, 512), embedding: int = 512, driving: int = 128):
        super().__init__()
        self.embedding = Warper(channels, embedding, 3, skips=True)  # flow and confidence
        self.driving = Warper(channels, driving, 2, skips=False)

    def embed(self, sources: Tensor) -> Tensor:
        """Source frames (B, T, 3, S, S) to embedded faces (B, 3, S, S): warped, then averaged by confidence."""
        b, t = sources.shape[:2]
        flat = sources.flatten(0, 1)
        flow, confidence = self.embedding(flat).float().split([2, 1], 1)
        warped = sample(flat, flow.tanh()).unflatten(0, (b, t))
        return (warped * confidence.unflatten(0, (b, t)).softmax(1)).sum(1)

    def drive(self, embedded: Tensor, driver: Tensor) -> Tensor:
        """The embedded face (B, 3, S, S) in the pose of true frames (B, 3, S, S): (B, 3, S, S) in [-1, 1]."""
        return sample(embedded, self.driving(driver).tanh())

    def forward(self, sources: Tensor, driver: Tensor) -> Tensor:
        return self.drive(self.embed(sources), driver)
