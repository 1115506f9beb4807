"""The uncertainty of an entropy: its bias and interval, and the entropy of fewer samples.

Shapes: N samples, G groups of them, F d_latent, S subsets.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.entropy_bias import entropy_bias
from bae_ray.analysis.group_jackknife import groups, interval, second_order
from bae_ray.analysis.joint_bits import EncodedRows
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.seeds import stream

SUBSETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the samples on which the entropy is measured."""


class EntropyEstimate(NamedTuple):
    """A marginal entropy in bits, with its uncertainty."""

    bits: float
    """Entropy of the firing rates over all samples, as in the paper. It is too low on average, by `bias`, because rates
    are estimated."""
    low: float
    """Ends of the 95 % interval of the entropy that infinitely many such samples would have under this trained
    autoencoder. Training samples are not like new ones; for new samples use the interval of the held-out samples. It
    lies around `bits` + `bias` (analysis/group_jackknife.py), so it reaches further above `bits` than below. It is
    extended to contain `bits`, and cut to 0 and one bit per latent."""
    high: float
    bias: float
    """By how much `bits` is too low on average: the loss from latents that fired on few samples or none, estimated from
    counts (analysis/entropy_bias.py), and, if texts have several samples, the loss from their dependence."""
    subset_n: tuple[int, ...]
    """Sizes of nested random subsets of the samples."""
    subset_bits: tuple[float, ...]
    """The entropy over each of them."""


def estimate_entropy(
    autoencoder: Autoencoder, x: Tensor | Rows, seed: int, texts: Tensor | None = None
) -> EntropyEstimate:
    """The marginal entropy of an autoencoder's latents over activations [N, D], read once, a batch at a time.

    `texts` [N]: the index of the text of each sample, if samples of a text were drawn together.
    """
    return code_entropy(EncodedRows(autoencoder, x), len(x), seed, texts)


def code_entropy(codes: Iterable[Tensor], n: int, seed: int, texts: Tensor | None = None) -> EntropyEstimate:
    """The marginal entropy of codes: batches [some, F] of booleans, n samples in total."""
    place = torch.randperm(n, generator=stream(seed, "subsets"))
    sizes = torch.tensor([max(1, round(share * n)) for share in SUBSETS])
    group = groups(n, seed, texts)
    count = int(group.max()) + 1
    fired, start = torch.zeros(0), 0
    for batch in codes:
        stop = start + len(batch)
        member = group[start:stop] == torch.arange(count)[:, None]
        within = place[start:stop] < sizes[:, None]
        # Sums of a batch are whole numbers that float32 holds exactly.
        sums = (torch.cat([member, within]).float().to(batch.device) @ batch.float()).double()
        fired = fired + sums if start else sums
        start = stop
    fired = fired.cpu()
    subsets = _entropy(fired[count:], sizes)
    in_group, group_sizes = fired[:count], torch.bincount(group, minlength=count)
    whole = in_group.sum(0, keepdim=True)
    apart = count > 1  # a single group leaves nothing when it is left out
    some = torch.cat([whole, whole - in_group]) if apart else whole
    left = torch.cat([torch.tensor([n]), n - group_sizes])[: len(some)].double()
    bias = entropy_bias(some, left)
    spread, expected = second_order(in_group, group_sizes)
    varying = int(((whole > 0) & (whole < n)).sum())
    beyond = 0.0 if texts is None else max(0.0, expected - varying / (2 * n * math.log(2)))
    bits = float(subsets[-1])
    low, high = interval(_entropy(some, left) + bias + beyond, group_sizes, spread, float(fired.shape[1]))
    return EntropyEstimate(
        bits=bits,
        low=min(low, bits),
        high=max(high, bits),
        bias=float(bias[0]) + beyond,
        subset_n=tuple(sizes.tolist()),
        subset_bits=tuple(subsets.tolist()),
    )


def _entropy(fired: Tensor, n: Tensor) -> Tensor:
    """Marginal entropy of each set of samples: firings [S, F] among `n` [S] samples."""
    return bernoulli_entropy((fired / n[:, None]).clamp(0, 1)).sum(1)
