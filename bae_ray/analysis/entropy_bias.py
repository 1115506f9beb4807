"""By how much the entropy of estimated firing rates is too low, also when most latents fire rarely or never.

A latent of rate p fires on k of n samples. The entropy h(k / n) is too low by b(p) = h(p) - E h(k / n) on average. If
np is large, b(p) is 1 / (2 n ln 2) (Miller, 1955; Madow); if np is small, it is nearly all of h(p): a latent that never
fired has no entropy. The sum over latents does not need the rate of each latent, only the distribution of rates over
latents. That distribution is estimated from how many latents fired on no, one, two, ... samples: by maximum likelihood
of the mixture of binomials (Kiefer and Wolfowitz, 1956), with EM on a grid of rates. Efron and Thisted (1976) and
Valiant and Valiant (2013) estimate unseen species in this way.

Why this estimator: in simulation (docs/results.md) the correction of Miller and Madow finds a quarter to two thirds of
the bias of latents of rate 2e-4 to 5e-3, and the first-order jackknife half of it at n = 128. The coverage estimator of
Chao and Shen (2003), with latents as species, comes close there, but finds almost none of the bias of common latents.

Shapes: S sets of samples, F d_latent, K counts of firing, P rates of the grid.
"""

import math

import torch
from torch import Tensor

from bae_ray.autoencoders.losses import bernoulli_entropy

MOST_COUNTED = 40
"""Latents that fire (or are silent) on more samples than this count as one kind: their bias hardly depends on p."""
RATES = 48
LOWEST = 0.02
"""Smallest nonzero rate of the grid, in firings per n samples: rarer latents cannot be distinguished from dead ones."""
STEPS = 100
"""Steps of EM, which begins with the same weight on each rate. With more steps the weights concentrate on few rates,
which would be more certain than so few samples allow."""


def entropy_bias(fired: Tensor, n: Tensor) -> Tensor:
    """By how much the marginal entropy [S] of sets of samples is too low on average, in bits.

    `fired` [S, F]: on how many of the set's `n` [S] samples each latent fires, float64. A set in which no latent varies
    has bias 0: it says nothing about latents rarer than 1 / n.
    """
    most = int(n.max())
    counted = min(MOST_COUNTED, most // 2)
    rates = _grid(most, counted, fired.device)
    counts = torch.arange(min(most, 4 * MOST_COUNTED + 60) + 1, dtype=torch.float64, device=fired.device)
    chances = _binomial(counts, n, rates)
    likelihood = _folded(chances, counts, n, counted)
    weights = _weights(_shares(fired, n, counted), likelihood)
    shown = bernoulli_entropy((counts / n[:, None]).clamp(0, 1))
    lost = bernoulli_entropy(rates) - torch.einsum("skp,sk->sp", chances, shown)
    common = 1 / (2 * n * math.log(2))
    total = fired.shape[1] * (weights * torch.cat([lost, common[:, None]], 1)).sum(1)
    varies = ((fired > 0) & (fired < n[:, None])).any(1)
    return torch.where(varies, total.clamp_min(0), 0.0)


def _grid(n: int, counted: int, device: torch.device) -> Tensor:
    """Rates [P]: 0, and from a small part of 1 / n on at equal ratios to where nearly all counts are large."""
    top = min(0.5, (max(counted, 1) + 4 * math.sqrt(max(counted, 1))) / n)
    ends = (math.log(min(LOWEST / n, top)), math.log(top))
    return torch.cat([torch.zeros(1, dtype=torch.float64), torch.linspace(*ends, RATES, dtype=torch.float64).exp()]).to(
        device
    )


def _binomial(counts: Tensor, n: Tensor, rates: Tensor) -> Tensor:
    """Probability of each count at each rate, [S, K, P]."""
    n = n[:, None, None]
    k, p = counts[None, :, None], rates[None, None]
    rest = (n - k).clamp_min(0)
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(rest + 1)
    return torch.where(k <= n, (ways + torch.special.xlogy(k, p) + torch.special.xlogy(rest, 1 - p)).exp(), 0.0)


def _kind(fired: Tensor, n: Tensor, counted: int) -> Tensor:
    """On how many samples it fires or is silent, whichever are fewer; `counted` + 1 for all larger numbers."""
    return torch.minimum(fired, n[:, None] - fired).clamp(0, counted + 1).long()


def _shares(fired: Tensor, n: Tensor, counted: int) -> Tensor:
    """Share of the latents of each kind, [S, kinds]."""
    kind = _kind(fired, n, counted)
    shares = torch.zeros(len(n), counted + 2, dtype=torch.float64, device=fired.device)
    return shares.scatter_add_(1, kind, torch.full_like(fired, 1 / fired.shape[1]))


def _folded(chances: Tensor, counts: Tensor, n: Tensor, counted: int) -> Tensor:
    """Probability of each kind at each rate of the grid, and last at any rate above it, [S, kinds, P + 1]."""
    kind = _kind(counts.expand(len(n), -1), n, counted)[:, :, None].expand_as(chances)
    found = torch.zeros(len(n), counted + 2, chances.shape[2] + 1, dtype=torch.float64, device=chances.device)
    found[:, :, :-1].scatter_add_(1, kind, chances)
    found[:, -1] = (1 - found[:, :-1].sum(1)).clamp_min(0)
    return found


def _weights(shares: Tensor, likelihood: Tensor) -> Tensor:
    """How rates are spread over the latents, [S, P + 1]."""
    weights = torch.full_like(likelihood[:, 0], 1 / likelihood.shape[2])
    for _ in range(STEPS):
        expected = torch.einsum("skp,sp->sk", likelihood, weights).clamp_min(1e-300)
        weights = weights * torch.einsum("skp,sk->sp", likelihood, shares / expected)
    return weights
