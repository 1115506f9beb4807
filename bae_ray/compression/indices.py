"""Scheme `indices` (the paper's Appendix A.5): the indices of the flipped latents of each row, uncompressed.

Shapes: R rows of a block, F d_latent, M flips.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from bae_ray.compression.entropy import CHUNK, Positions
from bae_ray.errors import CorruptContainerError, InvalidInputError

LOWEST = -1.0
"""log2 0.5, below which kept bits would not be flips."""


class IndexCoder:
    """Codes a block as a count for each row and then its indices, of 16 bits each (32 for a large F)."""

    def __init__(self, d_latent: int) -> None:
        self._d_latent = d_latent
        self._dtype = np.dtype("<u2" if d_latent < 1 << 16 else "<u4")

    def encode(self, flips: Positions, rows: int) -> bytes:
        """The code of flipped bits [M] of a block of R rows, each as row * F + latent, ascending."""
        row, latent = np.divmod(flips, self._d_latent)
        counts = np.bincount(row, minlength=rows)
        return counts.astype(self._dtype).tobytes() + latent.astype(self._dtype).tobytes()

    def decode(self, content: bytes, rows: int) -> Iterator[Positions]:
        """The flipped bits of a block, some at a time. Raises `CorruptContainerError`."""
        size = self._dtype.itemsize
        if len(content) % size or len(content) < rows * size:
            raise CorruptContainerError(f"a block has {len(content)} bytes, too few or not whole. Compress anew.")
        numbers = np.frombuffer(content, dtype=self._dtype)
        ends, latents = np.cumsum(numbers[:rows], dtype=np.int64), numbers[rows:]
        if int(ends[-1]) != len(latents):
            raise CorruptContainerError(
                f"a block claims {int(ends[-1])} indices and has {len(latents)}. Compress anew."
            )
        last = -1
        for start in range(0, len(latents), CHUNK):
            part = latents[start : start + CHUNK].astype(np.int64)
            row = np.searchsorted(ends, np.arange(start, start + len(part)), side="right")
            flips = row * self._d_latent + part
            if int(part.max()) >= self._d_latent or int(flips[0]) <= last or (np.diff(flips) <= 0).any():
                raise CorruptContainerError("a block's indices are not ascending latents. Compress anew.")
            last = int(flips[-1])
            yield flips


def kept_latents(prior: Tensor, threshold: float) -> np.ndarray:
    """Which latents [F] are kept where they flip: those whose burstiness, log2 |code - prior|, is above the threshold.

    Raises `InvalidInputError` for a threshold outside [log2 0.5, 0].
    """
    if not LOWEST <= threshold <= 0:
        raise InvalidInputError(
            f"threshold is {threshold}; expected a burstiness in [log2 0.5, 0] = [-1, 0]: bits below it agree with the "
            "typical code, and above 0 there are none."
        )
    rates = prior.detach().cpu().double().numpy()
    return np.maximum(rates, 1 - rates) > 2.0**threshold
