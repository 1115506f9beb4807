"""Confidence interval of a sum of entropies, from its values without one group of samples each.

Leaving out a group changes all rates at once, so dependence between latents counts. A bootstrap would count it too, but
its repeated samples make latents look rarer than they are. Groups consist of whole texts if samples of a text were
drawn together.

Shapes: N samples, G groups, F d_latent.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.seeds import stream

GROUPS = 32
COVERAGE = 0.95


def groups(n: int, seed: int, texts: Tensor | None = None) -> Tensor:
    """The group of each of n samples, [N]: up to GROUPS random groups of similar size, of whole texts (numbers [N])."""
    units = torch.arange(n) if texts is None else torch.unique(texts, return_inverse=True)[1]
    number = int(units.max()) + 1
    place = torch.randperm(number, generator=stream(seed, "groups"))
    return (place % min(GROUPS, number))[units]


class Interval(NamedTuple):
    """Ends of the interval of an estimate."""

    low: float
    high: float


def interval(estimates: Tensor, sizes: Tensor, second_order: float, most: float) -> Interval:
    """The 95 % interval of the first of `estimates` [1 + G]; each other estimate leaves out one group, of `sizes` [G].

    The variance is that of the delete-a-group jackknife (Busing, Meijer and van der Leeden, 1999) plus that of the
    second-order term. Without the latter, fair latents that copy each other would look certain, since their entropy is
    at its maximum in every sample. With one group nothing is known: the interval is 0 to `most`.
    """
    n, count = float(sizes.sum()), len(sizes)
    whole = float(estimates[0])
    if count < 2:
        return Interval(0.0, most)
    if whole <= 0:
        return Interval(0.0, 0.0)
    without = n / sizes.double()
    pseudo = without * whole - (without - 1) * estimates[1:]
    off = (pseudo - pseudo.mean()) / (without - 1).sqrt()
    low, high = around(whole, math.sqrt(float(off.square().mean()) + second_order), off)
    return Interval(low, min(high, most))


def around(bits: float, error: float, off: Tensor) -> Interval:
    """The 95 % interval of bits > 0 with this standard error, which was estimated from deviations [G] from a mean.

    Student's t on the logarithmic scale: an entropy of few firings is wrong by a factor, and never below 0.
    """
    reach = quantile(bits, off) * error / bits
    return Interval(bits * math.exp(-reach), bits * math.exp(min(reach, 500.0)))


def quantile(bits: float, off: Tensor) -> float:
    """Half-width, in standard errors, of an interval of bits > 0 whose error was estimated from deviations [G].

    Student's t. The degrees of freedom are at most G - 1, and fewer if a few deviations dominate the error: 2 G /
    (kurtosis - 1), after Satterthwaite (1946).
    """
    from scipy import stats

    count, largest = len(off), float(off.abs().max())
    squares = (off / largest).square() if largest > 1e-9 * bits else torch.ones(count)  # no deviations but of rounding
    kurtosis = count * float(squares.square().sum() / squares.sum() ** 2)
    freedom = min(count - 1, 2 * count / max(kurtosis - 1, 1e-9))
    return float(stats.t.ppf((1 + COVERAGE) / 2, max(freedom, 1)))


def second_order(fired: Tensor, sizes: Tensor) -> tuple[float, float]:
    """Variance (bits^2) and mean (bits) of the second-order term of a marginal entropy.

    `fired` [G, F]: firings in each group. The term is the sum of (rate - p)^2 / (2 ln 2 p (1 - p)) over the latents;
    for independent samples its mean is 1 / (2 n ln 2) per latent. Both are estimated from products of the groups'
    deviations, because dependent latents deviate together.
    """
    n, count = float(sizes.sum()), len(sizes)
    if count < 2:
        return 0.0, 0.0
    rate = fired.sum(0) / n
    varies = (rate > 0) & (rate < 1)
    deviation = (fired / sizes[:, None] - rate)[:, varies]
    scaled = deviation / (2 * math.log(2) * rate * (1 - rate))[varies]
    products = scaled @ deviation.T / count
    own = products.diagonal()
    others = (products.square().sum() - own.square().sum()) / (count * (count - 1))
    return 2 * float(others), float(own.mean()) * count / (count - 1)
