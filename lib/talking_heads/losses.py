"""The losses of sections 3.2 and 3.3: pure functions, one equation each.

x is a real frame, x_hat = x̂ a generated one; scores r are what D returns, (B,). Equations (9) and (10)
of fine-tuning are the same terms with D' in the place of D and without L_MCH.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def content_loss(x_hat: Tensor, x: Tensor, extractors: Sequence, known: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
    """L_CNT: weighted L1 distances between features of generated and real frames, summed over layers and networks.

    ``known`` are the features of x, one list for every extractor, where they have been computed already.
    """
    total = x_hat.new_zeros(())
    for k, extractor in enumerate(extractors):
        real = extractor(x) if known is None else known[k]
        for gain, a, b in zip(extractor.gains, extractor(x_hat), real, strict=True):
            total = total + extractor.weight * gain * F.l1_loss(a.float(), b.detach().float())
    return total


def realism_loss(r_fake: Tensor) -> Tensor:
    """The first term of equation (4): -D(x̂, y, i)."""
    return -r_fake.mean()


def feature_matching_loss(fake: Sequence[Tensor], real: Sequence[Tensor], reduce: str = "mean") -> Tensor:
    """L_FM of equation (4): L1 between D's activations on x̂ and x, mean or sum over the residual blocks."""
    terms = [F.l1_loss(a.float(), b.detach().float()) for a, b in zip(fake, real)]
    return sum(terms) / (len(terms) if reduce == "mean" else 1)


def match_loss(e: Tensor, w: Tensor) -> Tensor:
    """L_MCH of equation (3): L1 between embeddings ê and columns W_i, both (B, N), a mean over components."""
    return F.l1_loss(e.float(), w.float())


def discriminator_loss(r_fake: Tensor, r_real: Tensor) -> Tensor:
    """L_DSC, equations (6) and (10): the hinge."""
    return F.relu(1 + r_fake).mean() + F.relu(1 - r_real).mean()
