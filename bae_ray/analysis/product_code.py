"""Index entropy of product quantisers (Jegou et al., 2011), with faiss (the extra `compression`).

Shapes: N samples, D d_in, M groups of dimensions.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from bae_ray.activations.rows import Rows
from bae_ray.analysis.reached import NONE, Reached, first_at
from bae_ray.analysis.spectrum import ROUNDING, Spectrum
from bae_ray.seeds import stream

BITS = 4
"""Bits of an index: 16 centroids per group. More would need more samples than a cell may have."""
ITERATIONS = 10
"""Iterations of k-means: with faiss's 25 the FVU is hardly lower."""
MOST_ROWS = 10_000
"""Largest number of rows of each part."""

Matrix = np.ndarray[Any, np.dtype[np.float32]]


class ProductCodes:
    """The product quantisers of a cell with 0, 1, ... D groups, divisors of D. Each is fitted on demand."""

    def __init__(self, found: Spectrum, train: Rows, heldout: Rows, seed: int) -> None:
        self._fitted: dict[int, Reached] = {}
        self._seed = seed
        self._possible = find_spec("faiss") is not None and len(train) >= 1 << BITS
        if self._possible:
            self._train, self._heldout = (_some(found, part, seed) for part in (train, heldout))

    def at(self, fvu: float) -> Reached:
        """The quantiser with the fewest groups that has this held-out FVU or less, else the nearest one.

        Found by bisection, which assumes that more groups leave less unexplained. None without faiss, or with fewer
        than 16 training samples.
        """
        if not self._possible:
            return NONE
        d = self._train.shape[1]
        sizes = [0, *(size for size in range(1, d + 1) if d % size == 0)]
        low, high, tried = 0, len(sizes) - 1, set[int]()
        while low < high:
            tried.add(middle := (low + high) // 2)
            if self._code(sizes[middle]).fvu <= fvu:
                high = middle
            else:
                low = middle + 1
        return first_at([self._code(sizes[number]) for number in sorted({*tried, low})], fvu)

    def _code(self, size: int) -> Reached:
        if size not in self._fitted:
            self._fitted[size] = _product_code(self._train, self._heldout, size, self._seed)
        return self._fitted[size]


def _product_code(train: Matrix, heldout: Matrix, size: int, seed: int) -> Reached:
    """Entropies of the indices over all samples, summed over the groups, and the FVU on the held-out ones."""
    exact = heldout.astype(np.float64)
    variance = float(np.square(exact - exact.mean(0)).sum())
    if variance <= ROUNDING * float(np.square(exact).sum()):
        return NONE
    x_hat, bits = np.broadcast_to(train.mean(0), heldout.shape), 0.0
    if size:
        faiss: Any = import_module("faiss")  # its types are those of what it wraps
        quantizer = faiss.ProductQuantizer(train.shape[1], size, BITS)
        quantizer.cp.seed = seed
        quantizer.cp.niter = ITERATIONS
        quantizer.cp.min_points_per_centroid = 1  # it would warn
        quantizer.train(train)
        codes = quantizer.compute_codes(heldout)
        x_hat = quantizer.decode(codes)
        both = np.concatenate([quantizer.compute_codes(train), codes])
        indices = faiss.unpack_bitstrings(both, size, BITS)
        shares = np.stack([(indices == index).mean(0) for index in range(1 << BITS)])
        bits = float(-(shares * np.log2(np.where(shares > 0, shares, 1))).sum())
    return Reached(bits, float(np.square(exact - x_hat).sum()) / variance)


def _some(found: Spectrum, x: Rows, seed: int) -> Matrix:
    """At most MOST_ROWS of the samples, at random, at unit RMS."""
    chosen = torch.randperm(len(x), generator=stream(seed, "product quantiser"))[:MOST_ROWS].sort().values
    return found.normalized(x.take(chosen)).float().cpu().numpy()
