"""How many different codes there are, and how often each occurs.

Shapes: N samples, F d_latent, K distinct codes.
"""

import numpy as np
import torch
import xxhash
from torch import Tensor

SAMPLES_PER_CODE = 20
"""Samples per distinct code from which on the joint entropy is reported: its bias is then at most .04 bits."""
MOST_ALONE = 0.01
"""Largest share of samples with a code of their own. It estimates the probability of all unseen codes (Good, 1953)."""


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
        """Whether codes recur often enough that their frequencies give the joint entropy."""
        counts = self.counts
        n = int(counts.sum())
        return n >= SAMPLES_PER_CODE * len(counts) and int((counts == 1).sum()) <= MOST_ALONE * n

    def surprisals(self) -> Tensor:
        """-log2 of the frequency of each sample's code, [N]: their mean is the entropy of the frequencies, in bits."""
        numbers, counts = np.concatenate(self._of), self.counts
        return torch.from_numpy(-np.log2(counts / counts.sum()))[numbers]
