"""Kinds of codes whose marginal entropy is known, drawn at random: what intervals are tried on."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def entropy(p: Tensor) -> float:
    """Sum of Bernoulli entropies of rates [F] in bits, by the formula."""
    q = p[(p > 0) & (p < 1)].double().numpy()
    return float(-(q * np.log2(q) + (1 - q) * np.log2(1 - q)).sum())


class Code(NamedTuple):
    """A kind of code."""

    rates: Tensor
    """Of its latents, [F]."""
    draw: Callable[[int, torch.Generator], Tensor]
    """Codes of n samples, [n, F], booleans."""
    independent: bool = False
    """Whether each latent goes its own way."""

    @property
    def bits(self) -> float:
        """Its marginal entropy."""
        return entropy(self.rates)


def independent(rates: Tensor) -> Code:
    """Each latent by itself."""
    return Code(rates, lambda n, generator: torch.rand(n, len(rates), generator=generator) < rates, independent=True)


def with_factor(rates: Tensor, correlation: float) -> Code:
    """Each latent fires where a normal variable is small; all of them correlate."""
    threshold = torch.special.ndtri(rates.double())

    def draw(n: int, generator: torch.Generator) -> Tensor:
        shared = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        own = torch.randn(n, len(rates), generator=generator, dtype=torch.float64)
        return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own < threshold

    return Code(rates, draw)


def copies(of: Code, times: int) -> Code:
    """Each latent so many times."""
    rates = of.rates.repeat_interleave(times)
    return Code(rates, lambda n, generator: of.draw(n, generator).repeat_interleave(times, 1))


def noisy(of: Code, times: int, noise: float) -> Code:
    """Copies of fair latents, each of which is wrong at times."""

    def draw(n: int, generator: torch.Generator) -> Tensor:
        right = of.draw(n, generator).repeat_interleave(times, 1)
        return right ^ (torch.rand(right.shape, generator=generator) < noise)

    return Code(of.rates.repeat_interleave(times), draw)


def states(size: int) -> tuple[Code, float]:
    """Codes of so many states, of shares 1, 1/2, 1/3, ...; and their joint entropy in bits."""
    of_state = torch.rand(size, 24, generator=torch.Generator().manual_seed(9)) < 0.3
    shares = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    shares /= shares.sum()

    def draw(n: int, generator: torch.Generator) -> Tensor:
        return of_state[torch.multinomial(shares, n, replacement=True, generator=generator)]

    rates = (shares[:, None] * of_state).sum(0)
    return Code(rates, draw), float(-(shares * shares.log2()).sum())


def conditional_entropy(code: Tensor, parent: list[int]) -> float:
    """Entropy of each latent given its parent (-1: none), summed, at the frequencies of many codes [N, F]."""
    x, bits = code.double().numpy(), 0.0
    for latent, above in enumerate(parent):
        given = np.ones((1, len(x))) if above < 0 else np.stack([1 - x[:, above], x[:, above]])
        for weights in given:
            rate = weights @ x[:, latent] / max(weights.sum(), 1)
            bits += weights.mean() * entropy(torch.tensor([rate]))
    return bits


def spaced(low: float, high: float, n: int) -> Tensor:
    """Rates at equal ratios."""
    return torch.linspace(math.log(low), math.log(high), n).exp()


CODES = {
    "fair": independent(torch.full((64,), 0.5)),
    "skewed": independent(torch.linspace(0.02, 0.3, 200)),
    "mixed": independent(torch.cat([torch.zeros(300), spaced(1e-4, 0.5, 600)])),
    "correlated .3": with_factor(torch.linspace(0.02, 0.5, 200), 0.3),
    "noisy copies": noisy(independent(torch.full((10,), 0.5)), 4, 0.05),
    "copies of 8 fair": copies(independent(torch.full((8,), 0.5)), 50),
    "rare": independent(spaced(2e-4, 5e-3, 1152)),
    "rare, even": independent(torch.linspace(2e-4, 5e-3, 1152)),
    "rare, correlated .1": with_factor(spaced(2e-4, 5e-3, 1152), 0.1),
    "rare, half dead": independent(torch.cat([torch.zeros(576), spaced(2e-4, 5e-3, 576)])),
}
