"""The losses of sections 3.2 and 3.3: pure functions, one equation each.

x is a real frame and x_hat = x̂ a generated one, (B, 3, H, W); r are D's scores (B,). Equations (9) and (10)
of fine-tuning have the same terms with D' in place of D, without L_MCH.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def content_loss(
    x_hat: Tensor, x: Tensor, extractors: Sequence, real_features: Sequence[Sequence[Tensor]] | None = None
) -> Tensor:
    """L_CNT of equation (3): weighted L1 between features of x̂ and x, summed over layers and networks.

    ``real_features`` are the features of x, one list for every extractor, where they are computed already.
    """
    total = x_hat.new_zeros(())
    for k, extractor in enumerate(extractors):
        real = extractor(x) if real_features is None else real_features[k]
        for gain, a, b in zip(extractor.gains, extractor(x_hat), real, strict=True):
            total = total + extractor.weight * gain * F.l1_loss(a.float(), b.detach().float())
    return total


def realism_loss(r_fake: Tensor) -> Tensor:
    """The first term of equation (4): -D(x̂, y, i)."""
    return -r_fake.mean()


def feature_matching_loss(fake: Sequence[Tensor], real: Sequence[Tensor], reduce: str = "mean") -> Tensor:
    """L_FM of equation (4): L1 between D's activations on x̂ and x, mean or sum over the residual blocks."""
    terms = [F.l1_loss(a.float(), b.detach().float()) for a, b in zip(fake, real, strict=True)]
    return sum(terms) / (len(terms) if reduce == "mean" else 1)


def match_loss(e: Tensor, w: Tensor) -> Tensor:
    """L_MCH of equation (3): L1 between embeddings ê and columns W_i, both (B, N), a mean over components."""
    return F.l1_loss(e.float(), w.float())


def discriminator_loss(r_fake: Tensor, r_real: Tensor) -> Tensor:
    """L_DSC, equations (6) and (10): the hinge loss."""
    return F.relu(1 + r_fake).mean() + F.relu(1 - r_real).mean()
