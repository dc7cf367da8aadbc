"""Training of the embedded judges: ``python -m talking_heads judges``.

Every judge's weights go to a small fp16 safetensors file in the package with what made them in its
metadata. Data: two disjoint pools of procedural people; a third one, seen by no judge, is the test.
"""

import json
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..corpus.episodes import to_tensor
from ..corpus.speakers.clips import speaker
from ..corpus.speakers.pool import Pool, make_pool
from ..corpus.speakers.traits import NAMES, VOICE, unit_vector
from ..meta_learning import autocast
from ..tensors import load_net, save_weights
from .gaze import GazeJudge, StripReader, eye_strip, eyes_open, read_gaze, relative
from .lids import EYES, LidsJudge, look, look_twice
from .networks import WEIGHTS, AttributeNet, IdentityJudge, LandmarkJudge, PersonNet

SEED = 1
# pools of rendered people; they overlap neither with each other nor with any profile's corpus
POOLS = {
    "features": dict(first=1_000_000, people=1400, videos=2, frames=10),
    "verification": dict(first=2_000_000, people=2400, videos=4, frames=2),
    "verification_test": dict(first=3_000_000, people=100, videos=3, frames=8),
}
VISIBLE = [i for i, n in enumerate(NAMES) if n not in VOICE]


def pool(name: str, folder: Path) -> Pool:
    return make_pool(folder / name, seed=SEED, size=64, **POOLS[name])


def trait_table(name: str) -> np.ndarray:
    """Visible traits of a pool's people, scaled to [0, 1]: (people, traits)."""
    first, people = POOLS[name]["first"], POOLS[name]["people"]
    return np.stack([unit_vector(speaker(SEED, first + i))[VISIBLE] for i in range(people)])


def to_input(images: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) in [-1, 1]; with ``rng``, moved, scaled, tinted and blurred at random."""
    x = to_tensor(images)
    if rng is None:
        return x
    b = len(x)
    theta = torch.zeros(b, 2, 3)
    zoom = torch.from_numpy(rng.uniform(0.92, 1.06, b)).float()
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = torch.from_numpy(rng.uniform(-0.06, 0.06, (b, 2))).float()
    x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), padding_mode="border", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (b, 3, 1, 1))).float()
    x = (x + 1) * gain - 1 + 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    soft = torch.from_numpy(rng.random(b) < 0.3)[:, None, None, None]
    return torch.where(soft, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), x).clamp(-1, 1)


def arcface_logits(cosine: Tensor, label: Tensor, scale: float, margin: float) -> Tensor:
    """Additive angular margin (Deng et al. 2019, eq. 3): cos(θ + m) for the true class, all times ``scale``."""
    target = cosine.gather(1, label[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    moved = torch.cos(torch.acos(target) + margin)
    return scale * cosine.scatter(1, label[:, None], moved)


def train(net: nn.Module, loss_of, count: int, *, seconds: float, batch: int, rate: float, name: str, extra: list[nn.Parameter] = ()) -> dict:
    """Adam with a cosine for ``seconds``; ``loss_of(indices, rng)`` gives the loss of a batch."""
    parameters = [*net.parameters(), *extra]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=5e-4)
    rng = np.random.default_rng(SEED)
    net.train()
    start, step, losses, last = time.time(), 0, [], 0.0
    while (spent := time.time() - start) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * spent / seconds)) + 1e-6
        loss = loss_of(rng.integers(count, size=batch), rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        if time.time() - last > 15:
            last = time.time()
            print(f"  {name}: {spent:.0f}/{seconds:.0f} s, step {step}, loss {np.mean(losses[-50:]):.4f}", flush=True)
    net.eval()
    return {"steps": step, "seconds": round(time.time() - start), "loss": round(float(np.mean(losses[-50:])), 5)}


MINUTES = {"attributes": 2.5, "people": 4.0, "identity": 8.0, "landmarks": 9.0, "lids": 4.0, "gaze": 3.0}  # of the committed weights, on two cores


def train_judges(folder: Path, only: list[str] | None, minutes: float | None = None, times: float = 1.0) -> None:
    """Train the judges named in ``only`` (all by default) for ``minutes`` each (``times`` those of ``MINUTES`` by default), and write their weights.

    The budget is time, so a faster machine gives better judges, and never bit for bit the same.
    """
    makers = {"attributes": _attributes, "people": _people, "identity": _identity, "landmarks": _landmarks, "lids": _lids, "gaze": _gaze}
    for name in only or makers:
        torch.manual_seed(SEED)
        print(f"{name}: preparing its people", flush=True)
        budget = minutes or times * MINUTES[name]
        net, result = makers[name](folder, 60 * budget)
        if name in ("attributes", "people"):
            result["gains"] = layer_gains(net, folder)
        about = {"judge": name, "seed": SEED, "command": f"python -m talking_heads judges --only {name} --minutes {budget:g}",
                 "trained_on": "procedural speakers", **result}
        save_weights(WEIGHTS / f"{name}.safetensors", net.state_dict(), about, half=True)
        print(f"{name}: {json.dumps(result)}", flush=True)


@torch.no_grad()
def layer_gains(net: AttributeNet | PersonNet, folder: Path) -> list[float]:
    """For every tap one over the mean L1 distance between features of frames of different people."""
    x = to_input(pool("features", folder).images[:128, 0, 0])
    h, gains = x, []
    for i, layer in enumerate(net.features):
        h = layer(h)
        if i in net.taps:
            gains.append(round(1 / (h - h.roll(1, 0)).abs().mean().item(), 3))
    return gains


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, *images.shape[3:])


def _attributes(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    images, each = _flat(data.images), data.images.shape[1] * data.images.shape[2]
    traits = torch.from_numpy(trait_table("features"))
    points = torch.from_numpy(data.points.reshape(len(images), -1) / 64 - 0.5)
    net = AttributeNet(traits.shape[1] + points.shape[1]).to(memory_format=torch.channels_last)

    def loss_of(i: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = to_input(images[i]).to(memory_format=torch.channels_last)
        with autocast("auto", "cpu"):
            y = net(x).float()
        return F.mse_loss(y[:, :traits.shape[1]], traits[i // each]) + 8 * F.mse_loss(y[:, traits.shape[1]:], points[i])

    return net, train(net, loss_of, len(images), seconds=seconds, batch=64, rate=1e-3, name="attributes")


def _people(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    images, each = _flat(data.images), data.images.shape[1] * data.images.shape[2]
    net = PersonNet(len(data.images)).to(memory_format=torch.channels_last)

    def loss_of(i: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = to_input(images[i], rng).to(memory_format=torch.channels_last)
        with autocast("auto", "cpu"):
            y = net(x)
        return F.cross_entropy(y.float(), torch.from_numpy(i // each), label_smoothing=0.1)

    return net, train(net, loss_of, len(images), seconds=seconds, batch=64, rate=1e-3, name="people")


def _identity(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("verification", folder)
    images, each = _flat(data.images), data.images.shape[1] * data.images.shape[2]
    net = IdentityJudge().to(memory_format=torch.channels_last)
    centres = nn.Parameter(torch.randn(len(data.images), 128) * 0.05)
    start = time.time()

    def loss_of(i: np.ndarray, rng: np.random.Generator) -> Tensor:
        label = torch.from_numpy(i // each)
        x = to_input(images[i], rng).to(memory_format=torch.channels_last)
        with autocast("auto", "cpu"):
            e = net(x)
        cosine = e @ F.normalize(centres, dim=-1).T
        margin = 0.35 * min(1.0, (time.time() - start) / (0.4 * seconds))  # the margin grows: a full one at once does not start
        return F.cross_entropy(arcface_logits(cosine, label, 24.0, margin), label)

    result = train(net, loss_of, len(images), seconds=seconds, batch=96, rate=3e-3, name="identity", extra=[centres])
    from .verification import verify
    return net, {**result, **verify(net, folder)}


def _landmarks(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    images = _flat(data.images)
    points = torch.from_numpy((data.points[..., :68, :].reshape(len(images), 68, 2) + 0.5) / 64)
    net = LandmarkJudge().to(memory_format=torch.channels_last)
    weight = torch.ones(68, 1)
    weight[36:48], weight[60:68] = 4, 2  # eyes and inner lips: a lid moves by two pixels

    def loss_of(i: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = to_input(images[i]).to(memory_format=torch.channels_last)
        if rng.random() < 0.25:  # generated frames are softer than rendered ones
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        with autocast("auto", "cpu"):
            y = net(x)
        return 100 * (weight * (y - points[i]).abs()).sum() / (weight.sum() * 2 * len(i))

    result = train(net, loss_of, len(images), seconds=seconds, batch=64, rate=2e-3, name="landmarks")
    from .verification import read_landmarks
    return net, {**result, **read_landmarks(partial(look, judge=net), folder)}


def _lids(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    points = pool("features", folder).points.reshape(-1, 70, 2)
    net, result = _strips(LidsJudge(), "lids", points[:, EYES], np.arange(len(points)), folder, seconds, wide=1.0, trembling=0.5)
    from .verification import read_landmarks
    first = load_net(LandmarkJudge(), WEIGHTS / "landmarks.safetensors")
    return net, {**result, **read_landmarks(partial(look_twice, judge=first, lids=net), folder)}


def _gaze(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    points = pool("features", folder).points.reshape(-1, 70, 2)
    net, result = _strips(GazeJudge(), "gaze", points[:, 68:], np.flatnonzero(eyes_open(points[:, :68])), folder, seconds, wide=0.5)
    return net, {**result, **read_gaze(net, folder)}


def _strips(net: StripReader, name: str, eyes: np.ndarray, seen: np.ndarray, folder: Path, seconds: float, wide: float,
            trembling: float = 0.0) -> tuple[nn.Module, dict]:
    """Train a reader of ``eyes`` (n, k, 2) on the frames ``seen``, whose landmarks are off by ``wide`` pixels together and ``trembling`` each."""
    data = pool("features", folder)
    images, points = _flat(data.images), data.points.reshape(-1, 70, 2)[:, :68]

    def loss_of(i: np.ndarray, rng: np.random.Generator) -> Tensor:
        i = seen[i]
        x = to_tensor(images[i])
        if rng.random() < 0.25:  # generated frames are softer than rendered ones
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        moved = points[i] + rng.normal(0, wide, (len(i), 1, 2)) + rng.normal(0, trembling, (len(i), 68, 2))  # a head is never exactly where it should be
        with autocast("auto", "cpu"):
            y = net(eye_strip(x, moved))
        return 100 * (y - torch.from_numpy(relative(eyes[i], moved)).float()).abs().mean()

    return net, train(net, loss_of, len(seen), seconds=seconds, batch=96, rate=2e-3, name=name)
