"""Training of the embedded judges: ``python -m talking_heads judges``.

The weights of every judge are an fp16 safetensors file in the package, with their provenance in the header.
The content networks and the landmark, lids and gaze judges are trained on one pool of procedural speakers,
the identity judge on a second one. The judges are tested on a third pool. No identity is in two pools.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talking_heads.data.frames import to_tensor
from talking_heads.data.speakers.pool import Pool
from talking_heads.judges import use
from talking_heads.judges.eyelids import EYES, LidsJudge, detect_landmarks, refine_eyelids
from talking_heads.judges.gaze import GazeJudge, StripReader, eye_strip, eyes_open, relative
from talking_heads.judges.lip_reading import BLANK, LipReader, mouth_strip
from talking_heads.judges.networks import IdentityJudge, LandmarkJudge
from talking_heads.judges.pools import SEED, pool, trait_table
from talking_heads.judges.verification import (
    read_gaze,
    read_landmarks,
    read_utterances,
    utterances,
    verify,
)
from talking_heads.nn.feature_networks import WEIGHTS, AttributeNet, PersonNet
from talking_heads.nn.precision import autocast
from talking_heads.nn.weight_files import load_net, save_weights

# training time of the committed weights on two cores
MINUTES = {
    "attributes": 2.5,
    "people": 4.0,
    "identity": 8.0,
    "landmarks": 9.0,
    "lids": 4.0,
    "gaze": 3.0,
    "lips": 6.0,
}
LIPS_NOISE = 0.7  # standard deviation in pixels of the landmarks from which mouths are cut
Loss = Callable[[np.ndarray, np.random.Generator], Tensor]  # (numbers of frames, generator) -> scalar


@dataclass(frozen=True)
class Schedule:
    """The name and the length of a training, its batch size and its highest learning rate."""

    name: str
    seconds: float
    batch: int
    rate: float


def to_input(images: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
    """Images (B, S, S, 3) uint8 to a tensor (B, 3, S, S) in [-1, 1].

    With ``rng``, images are augmented: translated, scaled, tinted, blurred, and noise is added.
    """
    x = to_tensor(images)
    if rng is None:
        return x
    b = len(x)
    theta = torch.zeros(b, 2, 3)
    zoom = torch.from_numpy(rng.uniform(0.92, 1.06, b)).float()
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = torch.from_numpy(rng.uniform(-0.06, 0.06, (b, 2))).float()
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (b, 3, 1, 1))).float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    x = (x + 1) * gain - 1 + 0.03 * noise
    blur = torch.from_numpy(rng.random(b) < 0.3)[:, None, None, None]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.where(blur, blurred, x).clamp(-1, 1)


def _soften(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Halve the resolution of a quarter of the batches: generated frames are softer than rendered ones."""
    if rng.random() < 0.25:
        return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    return x


def arcface_logits(cosine: Tensor, label: Tensor, scale: float, margin: float) -> Tensor:
    """Logits with an additive angular margin (Deng et al. 2019, eq. 3): s cos(θ + m) for the true class."""
    target = cosine.gather(1, label[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    with_margin = torch.cos(torch.acos(target) + margin)
    return scale * cosine.scatter(1, label[:, None], with_margin)


def train(
    net: nn.Module, loss_of: Loss, count: int, schedule: Schedule, extra: tuple[nn.Parameter, ...] = ()
) -> dict:
    """Train a network with AdamW and a cosine learning rate on batches of ``count`` frames.

    ``loss_of`` returns the loss of a batch; ``extra`` are parameters of the loss. Returns steps, seconds and
    the mean loss of the last 50 steps.
    """
    parameters = [*net.parameters(), *extra]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=5e-4)
    rng = np.random.default_rng(SEED)
    net.train()
    losses: list[float] = []
    start, last_report = time.time(), 0.0
    while (elapsed := time.time() - start) < schedule.seconds:
        warm_up = min(1, (len(losses) + 1) / 50)
        decay = 0.5 * (1 + math.cos(math.pi * elapsed / schedule.seconds))
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * warm_up * decay + 1e-6
        loss = loss_of(rng.integers(count, size=schedule.batch), rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        losses.append(loss.item())
        if time.time() - last_report > 15:
            last_report = time.time()
            position = f"{elapsed:.0f}/{schedule.seconds:.0f} s, step {len(losses)}"
            print(f"  {schedule.name}: {position}, loss {np.mean(losses[-50:]):.4f}", flush=True)
    net.eval()
    return {
        "steps": len(losses),
        "seconds": round(time.time() - start),
        "loss": round(float(np.mean(losses[-50:])), 5),
    }


def train_judges(
    folder: Path, only: list[str] | None, minutes: float | None = None, times: float = 1.0
) -> None:
    """Train judges on pools below ``folder``, and write their weights.

    Trains the judges named in ``only``, by default all, for ``minutes`` each, by default ``times`` those of
    ``MINUTES``. As the budget is time, a faster machine gives better judges, and two runs give different
    weights.
    """
    trainings = {
        "attributes": _attributes,
        "people": _people,
        "identity": _identity,
        "landmarks": _landmarks,
        "lids": _lids,
        "gaze": _gaze,
        "lips": _lips,
    }
    for name in only or trainings:
        torch.manual_seed(SEED)
        print(f"{name}: preparing the training frames", flush=True)
        budget = minutes or times * MINUTES[name]
        net, result = trainings[name](folder, 60 * budget)
        if isinstance(net, AttributeNet | PersonNet):
            result["gains"] = layer_gains(net, folder)
        metadata = {
            "judge": name,
            "seed": SEED,
            "command": f"python -m talking_heads judges --only {name} --minutes {budget:g}",
            "trained_on": "procedural speakers",
            **result,
        }
        save_weights(WEIGHTS / f"{name}.safetensors", net.state_dict(), metadata, half=True)
        print(f"{name}: {json.dumps(result)}", flush=True)


@torch.no_grad()
def layer_gains(net: AttributeNet | PersonNet, folder: Path) -> list[float]:
    """For every tap, the reciprocal of the mean L1 distance between features of different identities."""
    h, gains = to_input(pool("features", folder).images[:128, 0, 0]), []
    for number, layer in enumerate(net.features):
        h = layer(h)
        if number in net.taps:
            gains.append(round(1 / (h - h.roll(1, 0)).abs().mean().item(), 3))
    return gains


def _flat_images(data: Pool) -> np.ndarray:
    """All frames of a pool, (n, S, S, 3), ordered by identity."""
    return data.images.reshape(-1, *data.images.shape[3:])


def _frames_per_identity(data: Pool) -> int:
    return data.images.shape[1] * data.images.shape[2]


def _channels_last(values: Any) -> Any:
    """A network or a batch in the memory format that is fastest for convolutions."""
    return values.to(memory_format=torch.channels_last)


def _attributes(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    images, each = _flat_images(data), _frames_per_identity(data)
    traits = torch.from_numpy(trait_table("features"))
    points = torch.from_numpy(data.points.reshape(len(images), -1) / 64 - 0.5)
    n_traits = traits.shape[1]
    net = _channels_last(AttributeNet(n_traits + points.shape[1]))

    def loss_of(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = _channels_last(to_input(images[frames]))
        with autocast("auto", "cpu"):
            y = net(x).float()
        trait_loss = F.mse_loss(y[:, :n_traits], traits[frames // each])
        return trait_loss + 8 * F.mse_loss(y[:, n_traits:], points[frames])

    return net, train(net, loss_of, len(images), Schedule("attributes", seconds, batch=64, rate=1e-3))


def _people(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    images, each = _flat_images(data), _frames_per_identity(data)
    net = _channels_last(PersonNet(len(data.images)))

    def loss_of(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = _channels_last(to_input(images[frames], rng))
        with autocast("auto", "cpu"):
            y = net(x)
        return F.cross_entropy(y.float(), torch.from_numpy(frames // each), label_smoothing=0.1)

    return net, train(net, loss_of, len(images), Schedule("people", seconds, batch=64, rate=1e-3))


def _identity(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("verification", folder)
    images, each = _flat_images(data), _frames_per_identity(data)
    net = _channels_last(IdentityJudge())
    centres = nn.Parameter(torch.randn(len(data.images), 128) * 0.05)
    start = time.time()

    def loss_of(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        label = torch.from_numpy(frames // each)
        x = _channels_last(to_input(images[frames], rng))
        with autocast("auto", "cpu"):
            e = net(x)
        cosine = e @ F.normalize(centres, dim=-1).T
        # the margin grows, because training does not converge with the full margin from the first step
        margin = 0.35 * min(1.0, (time.time() - start) / (0.4 * seconds))
        return F.cross_entropy(arcface_logits(cosine, label, 24.0, margin), label)

    schedule = Schedule("identity", seconds, batch=96, rate=3e-3)
    result = train(net, loss_of, len(images), schedule, extra=(centres,))
    return net, {**result, **verify(net, folder)}


def _landmarks(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    images = _flat_images(data)
    points = torch.from_numpy((data.points[..., :68, :].reshape(len(images), 68, 2) + 0.5) / 64)
    net = _channels_last(LandmarkJudge())
    weight = torch.ones(68, 1)
    weight[36:48], weight[60:68] = 4, 2  # eyes and inner lips, which move by few pixels

    def loss_of(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = _soften(_channels_last(to_input(images[frames])), rng)
        with autocast("auto", "cpu"):
            y = net(x)
        return 100 * (weight * (y - points[frames]).abs()).sum() / (weight.sum() * 2 * len(frames))

    result = train(net, loss_of, len(images), Schedule("landmarks", seconds, batch=64, rate=2e-3))
    return net, {**result, **read_landmarks(partial(detect_landmarks, judge=net), folder)}


@dataclass(frozen=True)
class EyeFrames:
    """Frames with which a :class:`StripReader` is trained, and the noise of their landmarks.

    Landmarks are perturbed because detected ones are never exact.
    """

    images: np.ndarray  # (n, S, S, 3) uint8
    points: np.ndarray  # (n, 68, 2)
    targets: np.ndarray  # (n, k, 2) points of the eyes in pixels
    shared_noise: float  # standard deviation in pixels, the same offset for all landmarks of a frame
    point_noise: float = 0.0  # standard deviation in pixels, of each landmark


def _lids(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    points = data.points.reshape(-1, 70, 2)
    frames = EyeFrames(_flat_images(data), points[:, :68], points[:, EYES], shared_noise=1.0, point_noise=0.5)
    lids = LidsJudge()
    result = _train_strips(lids, frames, np.arange(len(points)), "lids", seconds)
    landmark_judge: Any = load_net(LandmarkJudge(), WEIGHTS / "landmarks.safetensors")

    def find_landmarks(images: np.ndarray) -> np.ndarray:
        return refine_eyelids(images, detect_landmarks(images, landmark_judge), lids)

    return lids, {**result, **read_landmarks(find_landmarks, folder)}


def _gaze(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("features", folder)
    points = data.points.reshape(-1, 70, 2)
    frames = EyeFrames(_flat_images(data), points[:, :68], points[:, 68:], shared_noise=0.5)
    net = GazeJudge()
    result = _train_strips(net, frames, np.flatnonzero(eyes_open(points[:, :68])), "gaze", seconds)
    return net, {**result, **read_gaze(net, folder)}


def _lips(folder: Path, seconds: float) -> tuple[nn.Module, dict]:
    data = pool("lips", folder)
    images, points = data.images[:, 0], data.points[:, 0, :, :68]
    targets = [torch.tensor(visemes) for visemes in utterances("lips")]
    frames, net = images.shape[1], LipReader()

    def loss_of(clips: np.ndarray, rng: np.random.Generator) -> Tensor:
        x = to_tensor(images[clips].reshape(-1, *images.shape[2:]))
        offsets = rng.normal(0, LIPS_NOISE, (len(x), 68, 2))
        strips = _soften(mouth_strip(x, points[clips].reshape(-1, 68, 2) + offsets), rng)
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(clips), 1, 3, 1, 1))).float()
        with autocast("auto", "cpu"):
            logits = net((strips.unflatten(0, (len(clips), frames)) + 1) * gain - 1)
        spoken = [targets[number] for number in clips]
        input_lengths = torch.full((len(clips),), frames)
        target_lengths = torch.tensor([len(visemes) for visemes in spoken])
        log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_probabilities, torch.cat(spoken), input_lengths, target_lengths, BLANK)

    result = train(net, loss_of, len(images), Schedule("lips", seconds, batch=16, rate=2e-3))
    return net, {**result, **read_utterances(net, folder, use.find_landmarks)}


def _train_strips(
    net: StripReader, frames: EyeFrames, numbers: np.ndarray, name: str, seconds: float
) -> dict:
    """Train a reader of eye strips on the frames with these numbers."""

    def loss_of(batch: np.ndarray, rng: np.random.Generator) -> Tensor:
        batch = numbers[batch]
        x = _soften(to_tensor(frames.images[batch]), rng)
        shared = rng.normal(0, frames.shared_noise, (len(batch), 1, 2))
        separate = rng.normal(0, frames.point_noise, (len(batch), 68, 2))
        points = frames.points[batch] + shared + separate
        with autocast("auto", "cpu"):
            y = net(eye_strip(x, points))
        target = torch.from_numpy(relative(frames.targets[batch], points)).float()
        return 100 * (y - target).abs().mean()

    return train(net, loss_of, len(numbers), Schedule(name, seconds, batch=96, rate=2e-3))
