"""How to group the blocks of a container into smaller containers."""

from collections.abc import Iterator

import numpy as np


def groups(offsets: np.ndarray, most_blocks: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Groups of blocks: the first, and the one after the last. Each block takes 16 bytes of the tables besides."""
    first, blocks = 0, len(offsets) - 1
    while first < blocks:
        sizes = offsets[first + 1 :] - offsets[first] + 16 * np.arange(1, blocks - first + 1)
        last = first + max(1, min(most_blocks, int(np.searchsorted(sizes, most_bytes, side="right"))))
        yield first, min(last, blocks)
        first = last
