"""Directions along which activations vary independently of each other: FastICA (Hyvärinen, 1999).

Shapes: N samples, D width, K components.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SEARCHES = ((0.0, 60), (0.3, 20))
"""Weights of y^2 beside tanh y in the contrast's derivative, one search after the other, and iterations at most. With
the first weight alone bits of rates near .2 cannot be told apart, whose kurtosis is a Gaussian's. With the second alone
some 100 fair bits are not found among 100 samples for each: they have no skewness, and all that y^2 sees of them is
noise. A sum of 128 bits takes 39 and 2 iterations; a language model's activations, which are no such sum, never settle,
and their trainings end no better after 100 and 100 than after 40 and 20."""
TOLERANCE = 1e-5
"""A search ends when all directions change by less than this (1 - cosine)."""
SAMPLES_PER_COMPONENT = 20
"""Smallest number of samples per component. With fewer, FastICA finds noise: directions in which a single sample is an
outlier. With few samples, only the principal components of largest variance are kept."""
NEGLIGIBLE = 1e-6
"""A principal component with at most this share of the largest one's variance is dropped as rounding."""

SMALLEST = 1e-30
"""Variance below which activations do not differ at all."""


class Components(NamedTuple):
    """(x - mean) @ directions has K uncorrelated columns of variance 1, as independent as possible."""

    mean: Tensor
    """[D]."""
    directions: Tensor
    """[D, K], most explained variance first."""


def independent_components(x: Tensor, most: int, generator: torch.Generator) -> Components:
    """At most `most` components of samples x [N, D]; the search starts from a rotation drawn from the generator.

    If x is a sum of independent bits, the components are these bits, up to sign; their number need not be known.
    Symmetric fixed-point iteration on x after whitening, with the contrast log cosh y, and from where that ends with
    log cosh y + y^3 / 10; work per iteration is two products of N x K x K, memory 5 N x K numbers.
    """
    mean = x.mean(0)
    centred = x - mean
    variances, axes = torch.linalg.eigh((centred.T @ centred).double() / len(x))
    kept = int((variances > NEGLIGIBLE * variances[-1]).sum())
    kept = max(1, min(kept, most, len(x) // SAMPLES_PER_COMPONENT))
    whitening = (axes[:, -kept:] / variances[-kept:].clamp_min(SMALLEST).sqrt()).to(x.dtype)
    white = centred @ whitening
    rotation = torch.linalg.qr(torch.randn(kept, kept, generator=generator, dtype=x.dtype)).Q.to(x.device)
    for skewness, iterations in SEARCHES:
        rotation = _search(white, rotation, skewness, iterations)
    explained = (variances[-kept:, None] * rotation.double().square()).sum(0)
    return Components(mean, (whitening @ rotation)[:, explained.argsort(descending=True)])


def _search(white: Tensor, rotation: Tensor, skewness: float, iterations: int) -> Tensor:
    """Go on from a rotation [K, K] of whitened samples [N, K] until it stays, or has been improved so many times."""
    for _ in range(iterations):
        found = white @ rotation
        squashed = found.tanh()
        slope = 1 - squashed.square().mean(0)  # that of found^2 is 0 on average
        value = squashed + skewness * found.square()
        left, _, right = torch.linalg.svd(white.T @ value / len(white) - rotation * slope)
        previous, rotation = rotation, left @ right
        if bool(((rotation * previous).sum(0).abs() > 1 - TOLERANCE).all()):
            break
    return rotation
