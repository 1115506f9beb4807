"""Comparing next-token distributions of a changed language model with those of the unchanged one.

Shapes: M tokens whose next one is predicted, V vocabulary.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

MEASURES = ("ce_clean", "ce", "kl", "jsd", "top1_agreement")
"""What is measured of each token."""
IMPOSSIBLE = -1e30
"""Log-probability of a token with logit minus infinity. Times its probability, 0, it contributes nothing."""
ENDLESS = 1e9
"""More nats than finite logits give: a token with positive probability has probability 0 in the other distribution."""
AT_ONCE = 1 << 20
"""Numbers of a block that stays in the caches of a CPU."""
AT_ONCE_ON_GPU = 1 << 26


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities [M, V] of logits [M, V], in float32; at least `IMPOSSIBLE`."""
    return torch.log_softmax(logits.float(), dim=-1).clamp_min_(IMPOSSIBLE)


def compare(clean: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """The MEASURES of each token, [5, M] in float64.

    `clean` [M, V] are log-probabilities of the unchanged model, `logits` [M, V] those of the changed one. `targets` [M]
    are the tokens that follow; below 0 there is none, and the cross-entropies are NaN. Nats; `kl` is KL(clean ||
    changed), as in SAEBench.
    """
    return torch.cat(list(_blocks(clean, logits, targets)), 1)


def _blocks(clean: Tensor, logits: Tensor, targets: Tensor) -> Iterator[Tensor]:
    at_once = AT_ONCE_ON_GPU if clean.is_cuda else AT_ONCE
    rows = max(1, at_once // clean.shape[1])
    for p, other, target in zip(clean.split(rows), logits.split(rows), targets.split(rows), strict=True):
        q = log_probabilities(other)
        at = target.clamp_min(0)[:, None]
        ce = -torch.stack([p.gather(1, at)[:, 0], q.gather(1, at)[:, 0]])
        ce = ce.masked_fill(ce > ENDLESS, math.inf).masked_fill(target < 0, math.nan)
        agreement = p.argmax(1) == q.argmax(1)
        kl, jsd = divergences(p, q)
        yield torch.cat([ce.double(), kl[None].double(), jsd[None].double(), agreement[None].double()])


def divergences(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) [M] and the Jensen-Shannon divergence [M] of log-probabilities [M, V], in nats, none below 0."""
    of_p, of_q = p.exp(), q.exp()
    # Half of the smallest number above 0 is 0, whose logarithm is infinite.
    mixture = (of_p + of_q).mul_(0.5).clamp_min_(torch.finfo(p.dtype).tiny).log_()
    kl, jsd = _expected(of_p, p - q), (_expected(of_p, p - mixture) + _expected(of_q, q - mixture)) / 2
    return kl.masked_fill(kl > ENDLESS, math.inf).clamp_min(0), jsd.clamp_min(0)


def _expected(probabilities: Tensor, values: Tensor) -> Tensor:
    return torch.linalg.vecdot(probabilities, values)
