"""A tree over latents as integers, the same on every machine: what writer and reader of scheme `tree` know of each.

The typical code is found from the roots down: of each latent the likelier bit, given that its parent has its typical
one. So a latent is atypical at a rate of at most one half while its parent is typical; where that is atypical, at any.

Shapes: F d_latent.
"""

from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import xxhash

from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.autoencoders.rooted import NONE, depths
from bae_ray.compression.prior import LEVELS, TYPICAL
from bae_ray.errors import CorruptContainerError, InvalidInputError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
BYTES_PER_LATENT = 6


class TreeTable:
    """Of each latent: parent, typical bit, and how likely it is atypical while its parent is typical, and is not.

    In a container: the parents [F], uint32, little-endian, 2^32 - 1 for none; then [F, 2] bytes. Bit 7 of the first is
    the latent's typical bit, bit 7 of the second whether it is rather atypical where its parent is. Bits 0 to 6 are the
    levels of the two rates q of what is less likely: floor(2 log2(1 / q)) - 1, at most 63.
    """

    def __init__(self, entries: Bytes) -> None:
        """The table of bytes [6 F]. Raises `CorruptContainerError`."""
        size, rest = divmod(len(entries), BYTES_PER_LATENT)
        if rest:
            raise CorruptContainerError(f"the table of a tree has {len(entries)} bytes, which 6 does not divide.")
        self.entries = entries
        parents = np.frombuffer(entries[: 4 * size].tobytes(), dtype="<u4").astype(np.int64)
        self.parent = np.where(parents == (1 << 32) - 1, NONE, parents)
        told = entries[4 * size :].reshape(size, 2)
        self.typical, self.follows = (np.ascontiguousarray(told[:, i] >= TYPICAL).view(np.uint8) for i in (0, 1))
        self.levels = np.ascontiguousarray(told.T & (TYPICAL - 1))
        """[2, F]: while the parent is typical, and while it is not."""
        try:
            self.depth = depths(torch.from_numpy(self.parent)).numpy()
        except InvalidInputError as error:
            raise CorruptContainerError(f"the container's tree is none: {error}. Compress anew.") from error
        if size and int(self.levels.max()) >= LEVELS:
            raise CorruptContainerError(
                f"a tree's table has level {int(self.levels.max())}, expected levels below {LEVELS}. Compress anew."
            )

    @classmethod
    def of(cls, tree: ChowLiuTree) -> Self:
        """The table of a tree; integers alone decide."""
        size = len(tree.parent)
        parent, fired, seen = tree.parent.tolist(), tree.fired.tolist(), tree.seen.tolist()
        typical, told = [0] * size, np.zeros((size, 2), dtype=np.uint8)
        for latent in np.argsort(tree.depth.numpy(), kind="stable").tolist():
            above = parent[latent]
            usual = typical[above] if above != NONE else 0
            ones, all_ = 2 * fired[latent][usual] + 1, 2 * seen[latent][usual] + 2  # the rate, as a fraction
            bit = typical[latent] = int(2 * ones > all_)
            told[latent, 0] = bit * TYPICAL | _level(all_ - ones if bit else ones, all_)
            if above != NONE:
                ones, all_ = 2 * fired[latent][1 - usual] + 1, 2 * seen[latent][1 - usual] + 2
                atypical = all_ - ones if bit else ones
                follows = int(2 * atypical > all_)
                told[latent, 1] = follows * TYPICAL | _level(all_ - atypical if follows else atypical, all_)
        parents = np.array([above % (1 << 32) for above in parent], dtype="<u4")
        return cls(np.concatenate([parents.view(np.uint8), told.reshape(-1)]))

    @cached_property
    def hash(self) -> str:
        """Identifies the table."""
        return xxhash.xxh3_128_hexdigest(self.entries.tobytes())


def _level(part: int, whole: int) -> int:
    """floor(2 log2(whole / part)) - 1 of a rate of at most one half, exactly."""
    return min((whole * whole // (part * part)).bit_length() - 2, LEVELS - 1)
