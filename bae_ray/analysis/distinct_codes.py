"""How many different codes there are, and how often each recurs.

Shapes: N samples, F d_latent, K distinct codes, B replicates.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

SAMPLES_PER_CODE = 20
"""Samples to a distinct code from which on the joint entropy is told: its bias is then at most .04 bits."""
MOST_ALONE = 0.01
"""Largest share of samples whose code no other has. It estimates the probability of all codes not seen (Good, 1953)."""


class JointEntropy(NamedTuple):
    """Of the frequencies of whole codes, in bits."""

    plug_in: float
    bias: float
    """By how much that is too low on average (Miller and Madow): (K - 1) / (2 N ln 2)."""
    replicates: Tensor
    """Its value in each replicate, [B]."""


class DistinctCodes:
    """Counts whole codes over any number of batches, each by a hash of 128 bits."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._of: list[np.ndarray] = []
        """Number of the code of each sample."""

    def add(self, fires: Tensor) -> None:
        """Add codes [N, F], booleans."""
        packed = np.packbits(fires.cpu().numpy(), axis=1)
        numbers = self._numbers
        found = [numbers.setdefault(xxhash.xxh3_128_digest(row.data), len(numbers)) for row in packed]
        self._of.append(np.array(found, dtype=np.int64))

    @property
    def distinct(self) -> int:
        """Number of distinct codes."""
        return len(self._numbers)

    @property
    def counts(self) -> np.ndarray:
        """How often each occurs, [K]."""
        return np.bincount(np.concatenate(self._of), minlength=self.distinct)

    @property
    def recur(self) -> bool:
        """Whether codes recur so often that their frequencies tell the joint entropy."""
        counts = self.counts
        n = int(counts.sum())
        return n >= SAMPLES_PER_CODE * len(counts) and int((counts == 1).sum()) <= MOST_ALONE * n

    def joint_entropy(self, times: Iterable[Tensor]) -> JointEntropy:
        """The joint entropy; `times` are how often samples are drawn in each replicate, [n, B] of some at a time."""
        numbers, start = torch.from_numpy(np.concatenate(self._of)), 0
        drawn = None
        for some in times:
            if drawn is None:
                drawn = torch.zeros(self.distinct, some.shape[1], dtype=torch.float64)
            drawn.index_add_(0, numbers[start : start + len(some)], some.double())
            start += len(some)
        assert drawn is not None
        counts = torch.from_numpy(self.counts).double()[:, None]
        bias = (self.distinct - 1) / (2 * len(numbers) * np.log(2))
        return JointEntropy(float(_entropy(counts)), bias, _entropy(drawn))


def _entropy(counts: Tensor) -> Tensor:
    shares = counts / counts.sum(0).clamp_min(1)
    return -torch.special.xlogy(shares, shares).sum(0) / np.log(2)
