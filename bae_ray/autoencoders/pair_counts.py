"""How often latents fire together, counted a batch at a time.

Shapes: N samples, F d_latent, V latents that vary.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bae_ray.errors import InvalidInputError

MOST_VARYING = 1 << 15
"""Largest V: its counts take 4 GiB."""
BLOCK = 512
"""Latents whose row of products is computed at a time."""
ROWS_AT_ONCE = 4096
MOST_SAMPLES = (1 << 31) - 1
BYTE = 255
"""Largest number of a byte."""


def fired_counts(code: Tensor) -> Tensor:
    """How often each latent fires, [F] int64, of codes [N, F] of 0 and 1, or booleans.

    On a CPU some 255 rows at a time are added up in bytes, which is fifty times as fast.
    """
    if code.device.type != "cpu" or code.dtype not in (torch.bool, torch.uint8):
        return code.sum(0, dtype=torch.int64)
    whole = len(code) // BYTE * BYTE
    blocks = code[:whole].numpy().view(np.uint8).reshape(-1, BYTE, code.shape[1])
    counted = torch.from_numpy(np.add.reduce(blocks, axis=1, dtype=np.uint8).sum(0, dtype=np.int64))
    return counted + code[whole:].sum(0, dtype=torch.int64)


class PairCounts:
    """Exact counts over any number of batches: of each latent, and of each pair of those that vary.

    Memory: 4 V^2 bytes, whatever N; half of all products are computed, since counts are symmetric. Latents that never
    or always fire need no pairs: do not list them in `varying`.
    """

    def __init__(self, d_latent: int, varying: Tensor | None = None, device: torch.device | str = "cpu") -> None:
        """`varying` [V]: ascending numbers of the latents whose pairs are counted; left out, all.

        Raises `InvalidInputError` for more than `MOST_VARYING` of them.
        """
        self.varying = (torch.arange(d_latent) if varying is None else varying).to(device)
        size = len(self.varying)
        if size > MOST_VARYING:
            raise InvalidInputError(
                f"{size} latents vary; their pairs take {4 * size * size >> 30} GiB, and at most {MOST_VARYING} can be "
                "counted. Take a smaller d_latent, or fewer of the latents."
            )
        self.n = 0
        self.fired = torch.zeros(d_latent, dtype=torch.int64, device=device)
        """How often each latent fired, [F]."""
        self._together = torch.zeros(size, size, dtype=torch.int32, device=device)

    def add(self, fires: Tensor) -> None:
        """Add codes [N, F] of 0 and 1, or booleans."""
        if self.n + len(fires) > MOST_SAMPLES:
            raise InvalidInputError(f"more than {MOST_SAMPLES} codes cannot be counted. Give a sample of them.")
        for part in fires.to(self.fired.device).split(ROWS_AT_ONCE):
            self.n += len(part)
            self.fired += fired_counts(part)
            x = (part if len(self.varying) == len(self.fired) else part[:, self.varying]).float()
            for start in self._blocks():
                # Sums of a part are whole numbers that float32 holds exactly, TF32 products of 0 and 1 too.
                product = x[:, start : start + BLOCK].T @ x[:, start:]
                self._together[start : start + BLOCK, start:] += product.to(torch.int32)

    def together(self) -> Tensor:
        """How often each pair of the varying latents fired in the same sample, [V, V], int32; not a copy."""
        for start in self._blocks():
            stop = min(start + BLOCK, len(self.varying))
            self._together[stop:, start:stop] = self._together[start:stop, stop:].T
        return self._together

    def _blocks(self) -> Iterator[int]:
        return iter(range(0, len(self.varying), BLOCK))
