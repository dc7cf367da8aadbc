"""USER-proxy: an observer that looks for the fake among three images of one person (section 4's user study, without people).

Two of the three are real and from other videos of the person, so a fake gives itself away by how it looks or by who it
shows. The observer never saw the method nor the people it is tested on. Chance is one third; lower is better for a method.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..corpus.episodes import to_tensor

CHANCE = 1 / 3
FOLDS = 3  # of people


class Observer(nn.Module):
    """Scores how likely each of three images (B, 3, 3, S, S) is the fake: (B, 3) logits."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 96)):
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((3, *widths), widths):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(8 * widths[-1], 96), nn.ReLU(), nn.Linear(96, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        others = (z.sum(1, keepdim=True) - z) / 2
        return self.head(torch.cat([z, (z - others).abs()], -1))[..., 0]


def draw_triplets(fakes: np.ndarray, reals: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """``count`` shuffled triplets of one person from fakes (n, S, S, 3) and reals, the frames (m, S, S, 3) of each other video.

    The two real pictures come from two videos, so that no two of the three share clothes and light, where there are two.
    Returns images (count, 3, 3, S, S) and the place of the fake (count,).
    """
    def real(number: int) -> np.ndarray:
        return reals[number][rng.integers(len(reals[number]))]

    images = np.stack([np.stack([fakes[rng.integers(len(fakes))], *map(real, rng.choice(len(reals), 2, replace=len(reals) < 2))]) for _ in range(count)])
    order = np.argsort(rng.random((count, 3)), axis=1)
    shuffled = np.take_along_axis(images, order[:, :, None, None, None], 1)
    return to_tensor(shuffled), torch.from_numpy((order == 0).argmax(1))


def train_observer(groups: Sequence[Sequence[dict[str, np.ndarray]]], reals: Mapping[str, Sequence[np.ndarray]], people: list[str], steps: int,
                   seed: int, batch: int = 24, device: str | torch.device = "cpu") -> Observer:
    """An observer that knows the given people and groups of methods (a dictionary person -> frames each), every group equally well."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    observer = Observer().to(device).train()
    optimiser = torch.optim.AdamW(observer.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        fakes = [group[rng.integers(len(group))] for group in (groups[rng.integers(len(groups))] for _ in range(batch))]
        drawn = [draw_triplets(fake[p], reals[p], 1, rng) for fake, p in zip(fakes, rng.choice(people, batch))]
        x, place = (torch.cat(parts).to(device) for parts in zip(*drawn))
        loss = F.cross_entropy(observer(x), place, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return observer.eval()


def observe(fakes: Mapping[str, dict[str, np.ndarray]], reals: Mapping[str, Sequence[np.ndarray]], groups: Mapping[str, str] | None = None,
            steps: int = 200, each: int = 32, seed: int = 0, real: Collection[str] = (), device: str | torch.device = "cpu") -> pd.DataFrame:
    """How often the observer finds each method's fakes: columns method, person, USER-proxy, and control, how often it finds those of
    methods that it has learned, in as many triplets of the same person. A control at chance says that it is no observer.

    ``fakes`` maps a method to its frames of every person, ``reals`` a person to the frames of each other video. Methods of the same
    group (the same one at another T, say) are left out together; groups in ``real`` show real pictures and are never learned
    from. Raises ValueError for fewer than two groups or people.
    """
    groups = {m: (groups or {}).get(m, m) for m in fakes}
    people = sorted(reals)
    folds = min(FOLDS, len(people))
    if len(set(groups.values()) - set(real)) < 2 or folds < 2:
        raise ValueError(f"cross-fitting needs two groups of methods and two people; there are {len(set(groups.values()))} and {len(people)}")
    rows = []

    def rate(observer: Observer, of: Sequence[Mapping[str, np.ndarray]], person: str) -> float:
        """How often it finds the fakes of some methods, in ``each`` triplets of all of them together."""
        drawn = [draw_triplets(made[person], reals[person], -(-each // len(of)), np.random.default_rng([seed, people.index(person), number])) for number, made in enumerate(of)]
        x, place = (torch.cat(parts) for parts in zip(*drawn))
        with torch.no_grad():
            return (observer(x.to(device)).argmax(1).cpu() == place).float().mean().item()

    for fold in range(folds):
        tested = people[fold::folds]
        for group in dict.fromkeys(groups.values()):
            known = [[fakes[m] for m in fakes if groups[m] == other] for other in dict.fromkeys(groups.values()) if other not in (group, *real)]
            observer = train_observer(known, reals, [p for p in people if p not in tested], steps, seed, device=device)
            learned = [made for of in known for made in of]
            for person in tested:
                control = rate(observer, learned, person)
                rows += [(method, person, rate(observer, [fakes[method]], person), control) for method in fakes if groups[method] == group]
    return pd.DataFrame(rows, columns=["method", "person", "USER-proxy", "control"])
