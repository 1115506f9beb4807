"""The uncertainty of an entropy: a bootstrap interval over the samples, and the entropy of fewer samples.

Shapes: N samples, F d_latent, B replicates, S subsets.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.seeds import stream

REPLICATES = 200
SUBSETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the samples over which the entropy is measured."""
COVERAGE = 0.95


class EntropyEstimate(NamedTuple):
    """A marginal entropy in bits, with its uncertainty."""

    bits: float
    """Entropy of the firing rates over all samples, as in the paper. Since rates are estimated, it is too low on
    average, by `bias`."""
    low: float
    """Ends of the 95 % interval of the entropy that infinitely many samples would have: a basic bootstrap over the
    samples, the trained autoencoder as it is. It takes the bias out, so it reaches further above `bits` than below.
    Where it would leave `bits` out, it ends there; no entropy is below 0 or above one bit per latent."""
    high: float
    bias: float
    """By how much `bits` is too low on average, to first order (Miller and Madow): 1 / (2 N ln 2) for each latent that
    fires on some samples and not on others."""
    subset_n: tuple[int, ...]
    """Sizes of nested random subsets of the samples."""
    subset_bits: tuple[float, ...]
    """The entropy over each of them."""


@torch.no_grad()
def estimate_entropy(autoencoder: Autoencoder, x: Tensor | Rows, seed: int) -> EntropyEstimate:
    """The marginal entropy of an autoencoder's latents over activations [N, D], read once, a batch at a time.

    The bootstrap draws each sample's count in each replicate from a Poisson distribution of mean 1 (Hanley and
    MacGibbon, 2006), so that no more than a batch has to be in memory.
    """
    device, n = autoencoder.mean.device, len(x)
    generator, place = stream(seed, "bootstrap"), torch.randperm(n, generator=stream(seed, "subsets"))
    sizes = torch.tensor([max(1, round(share * n)) for share in SUBSETS])
    fired = torch.zeros(REPLICATES + len(sizes), autoencoder.d_latent, dtype=torch.float64, device=device)
    totals = torch.zeros(REPLICATES + len(sizes), dtype=torch.float64)
    start = 0
    with evaluating(autoencoder):
        for rows in x.split(rows_at_once(autoencoder)):
            counts = torch.poisson(torch.ones(REPLICATES, len(rows)), generator=generator)
            within = place[start : start + len(rows)] < sizes[:, None]
            weights = torch.cat([counts, within.float()])
            # Sums of a batch are whole numbers that float32 holds exactly.
            fires = autoencoder.fires(rows.to(device)).float()
            fired += (weights.to(device) @ fires).double()
            totals += weights.sum(1, dtype=torch.float64)
            start += len(rows)
    rates = fired / totals.clamp_min(1).to(device)[:, None]
    entropies = bernoulli_entropy(rates.clamp(0, 1)).sum(1).cpu()
    replicates, subsets = entropies[:REPLICATES], entropies[REPLICATES:]
    bits = float(subsets[-1])
    tail = (1 - COVERAGE) / 2
    lower, upper = torch.quantile(replicates, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    uncertain = int(((rates[-1] > 0) & (rates[-1] < 1)).sum())
    return EntropyEstimate(
        bits=bits,
        low=min(max(2 * bits - upper, 0.0), bits),
        high=max(min(2 * bits - lower, float(autoencoder.d_latent)), bits),
        bias=uncertain / (2 * n * math.log(2)),
        subset_n=tuple(sizes.tolist()),
        subset_bits=tuple(subsets.tolist()),
    )
