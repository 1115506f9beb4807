"""Lists of different lengths in one NumPy array, one after another, as Arrow stores them."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

Ints = np.ndarray[Any, np.dtype[np.integer]]


class Ragged(NamedTuple):
    """Lists of whole numbers."""

    values: Ints
    """All of them, one list after another."""
    ends: Ints
    """Where each list ends."""

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Ragged":
        """The lists of an Arrow column."""
        lists = column.combine_chunks()
        return cls(lists.flatten().to_numpy(), np.cumsum(lists.value_lengths().to_numpy(), dtype=np.int64))

    @property
    def lengths(self) -> Ints:
        """The length of each list."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def list(self, i: int) -> Ints:
        """List number i."""
        return self.values[self.ends[i - 1] if i else 0 : self.ends[i]]
