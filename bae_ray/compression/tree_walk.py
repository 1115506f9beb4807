"""Down a tree over latents: which bits of a block are exceptions, and where the flips of each run lie.

A run is all usual bits of one level, or all exceptions of one (tree_coder.py). A bit's place in its run follows the
rank of its latent, by depth, level and number, then the row.

Shapes: R rows of a block, F d_latent, M atypical bits, E exceptions, S segments: the latents of one depth and level.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bae_ray.compression.entropy import Positions
from bae_ray.compression.prior import LEVELS
from bae_ray.compression.tree_table import TreeTable
from bae_ray.errors import CorruptContainerError

SHIFT = 40
"""A flip's key is its run, then in so many bits its place there."""
EXCEPTIONS_AT_ONCE = 1 << 22
"""A decoder takes some 50 bytes for each."""


class Runs(NamedTuple):
    """The flips of all runs of one kind, usual bits or exceptions."""

    keys: Positions
    """Ascending: run << SHIFT | place."""
    sizes: Positions
    """How many bits each run has."""

    def flips(self, run: int) -> Positions:
        """Places of the flips of one run."""
        first, last = np.searchsorted(self.keys, [run << SHIFT, (run + 1) << SHIFT])
        return self.keys[first:last] - (run << SHIFT)


class TreeWalk:
    """Goes down the tree of a table."""

    def __init__(self, table: TreeTable) -> None:
        usual = table.levels[0].astype(np.int64)
        self.d_latent = len(usual)
        self.order = np.lexsort((usual, table.depth))
        """Latents by their rank, [F]: by depth, level and number."""
        depth = table.depth[self.order]
        self.bounds = np.searchsorted(depth, np.arange(int(depth[-1]) + 2))
        """Where each depth begins in that order, and where the last ends."""
        self._rank = np.empty(self.d_latent, dtype=np.int64)
        self._rank[self.order] = np.arange(self.d_latent)
        self._usual, self._other = usual[self.order], table.levels[1][self.order]
        self._follows = table.follows[self.order].view(bool)
        parent = table.parent[self.order]
        self._has_parent, self._parent = parent >= 0, self._rank[np.maximum(parent, 0)]

    def split(self, flips: Positions, rows: int) -> tuple[Runs, Runs]:
        """Usual bits and exceptions of a block whose atypical bits are `flips` [M], each as row * F + latent."""
        row, latent = np.divmod(flips, self.d_latent)
        keys = np.sort(self._rank[latent] * rows + row)
        ranks, row = np.divmod(keys, rows)
        above = _Atypical.of(row, np.bincount(ranks, minlength=self.d_latent))
        sizes = np.where(self._has_parent, above.sizes[self._parent], 0)
        excluded = above.below(self._parent, sizes, rows)
        before = excluded.searchsorted(keys)
        is_exception = np.append(excluded, -1)[before] == keys
        flipped = self._follows.repeat(sizes)
        flipped[before[is_exception]] ^= True
        is_usual = ~is_exception
        return (
            self._runs_of_usual(keys[is_usual], before[is_usual], np.append(0, sizes.cumsum()), rows),
            _runs_of_exceptions(self._other.repeat(sizes), flipped),
        )

    def _runs_of_usual(self, keys: Positions, before: Positions, excluded: Positions, rows: int) -> Runs:
        """Of flips [M]; how many exceptions come before each of them, and before each latent [F + 1]."""
        segments = np.unique(np.append(self.bounds, _firsts(self._usual)))
        begins = segments * rows - excluded[segments]
        level, sizes = self._usual[segments[:-1]], begins[1:] - begins[:-1]
        by_level = np.argsort(level, kind="stable")
        totals = np.bincount(level, weights=sizes, minlength=LEVELS).astype(np.int64)
        offsets = np.empty_like(sizes)
        offsets[by_level] = sizes[by_level].cumsum() - sizes[by_level] - (totals.cumsum() - totals)[level[by_level]]
        segment = np.searchsorted(segments * rows, keys, side="right") - 1
        place = keys - before - begins[segment] + offsets[segment]
        return Runs(np.sort(level[segment] << SHIFT | place), totals)

    def join(self, usual: Positions, exceptional: Positions, rows: int) -> Iterator[Positions]:
        """The atypical bits of a block from its flips' keys, some at a time. Raises `CorruptContainerError`."""
        left = _Left(usual), _Left(exceptional)
        above, before = None, 0
        for first, last in pairwise(self.bounds.tolist()):
            parent = self._parent[first:last] - before
            sizes = np.zeros(last - first, dtype=np.int64) if above is None else above.sizes[parent]
            found, numbers = [], []
            for start, stop in _parts(sizes):
                here, some = slice(first + start, first + stop), sizes[start:stop]
                excluded = np.empty(0, dtype=np.int64) if above is None else above.below(parent[start:stop], some, rows)
                keys = self._flips_of_usual(here, left[0], excluded, np.append(0, some.cumsum()), rows)
                if len(excluded):
                    atypical = _flips_of_exceptions(self._other[here].repeat(some), left[1])
                    atypical ^= self._follows[here].repeat(some)
                    keys = np.sort(np.concatenate([keys, excluded[atypical]]))
                latent, row = np.divmod(keys, rows)
                yield row * self.d_latent + self.order[first + start + latent]
                found.append(row.astype(np.int32))
                numbers.append(np.bincount(latent, minlength=stop - start))
            above, before = _Atypical.of(np.concatenate(found), np.concatenate(numbers)), first
        if any(one.taken != len(one.keys) for one in left):
            raise CorruptContainerError("a block's code leaves the block. Compress anew.")

    def _flips_of_usual(
        self, here: slice, left: "_Left", excluded: Positions, before: Positions, rows: int
    ) -> Positions:
        """Keys of the flips among the usual bits of some latents; `before`: exceptions before each of these."""
        level = self._usual[here]
        segments = np.append(_firsts(level), len(level))
        begins = segments * rows - before[segments]
        segment, place = left.take(level[segments[:-1]], begins[1:] - begins[:-1])
        place += begins[segment]
        return place + (excluded - np.arange(len(excluded))).searchsorted(place, side="right")


class _Atypical(NamedTuple):
    """Atypical bits of some latents, one latent after the other."""

    row: np.ndarray
    """Their rows [M]."""
    begins: Positions
    sizes: Positions
    """Where those of each latent begin, and how many there are."""

    @classmethod
    def of(cls, row: np.ndarray, sizes: Positions) -> "_Atypical":
        """With so many rows of each latent."""
        return cls(row, sizes.cumsum() - sizes, sizes)

    def below(self, parent: Positions, sizes: Positions, rows: int) -> Positions:
        """Ascending keys of the exceptions, latent * R + row, of latents with these parents, and so many of each."""
        return np.arange(len(parent)).repeat(sizes) * rows + self.row[_ranges(self.begins[parent], sizes)]


class _Left:
    """Flips of all runs of one kind that no bit has been given yet."""

    def __init__(self, keys: Positions) -> None:
        self.keys, self.taken, self._done = keys, 0, np.zeros(LEVELS, dtype=np.int64)

    def take(self, runs: Positions, sizes: Positions) -> tuple[Positions, Positions]:
        """The flips among the next `sizes` bits of some runs: the number of the run among these, the place there."""
        begins = (runs << SHIFT) + self._done[runs]
        first = self.keys.searchsorted(begins)
        found = self.keys.searchsorted(begins + sizes) - first
        self._done[runs] += sizes
        place = self.keys[_ranges(first, found)] - begins.repeat(found)
        self.taken += len(place)
        return np.arange(len(runs)).repeat(found), place


def _runs_of_exceptions(level: np.ndarray, flipped: np.ndarray) -> Runs:
    """From the level of each exception, and whether it flips."""
    order = np.argsort(level, kind="stable")
    sizes = np.bincount(level, minlength=LEVELS)
    place = np.flatnonzero(flipped[order])
    level = level[order][place].astype(np.int64)
    return Runs(level << SHIFT | (place - (sizes.cumsum() - sizes)[level]), sizes)


def _flips_of_exceptions(level: np.ndarray, left: _Left) -> np.ndarray:
    """Which of the next exceptions flip; the inverse."""
    order = level.argsort(kind="stable")
    sizes = np.bincount(level, minlength=LEVELS)
    number, place = left.take(np.arange(LEVELS), sizes)
    flipped = np.zeros(len(level), dtype=bool)
    flipped[order[place + (sizes.cumsum() - sizes)[number]]] = True
    return flipped


def _parts(sizes: Positions) -> Iterator[tuple[int, int]]:
    """Ranges of latents that together have about as many exceptions as are gone through at once."""
    total = sizes.cumsum()
    if total[-1] <= EXCEPTIONS_AT_ONCE:
        return iter([(0, len(sizes))])
    cuts = total.searchsorted(np.arange(EXCEPTIONS_AT_ONCE, total[-1], EXCEPTIONS_AT_ONCE))
    return pairwise(np.unique([0, *cuts.tolist(), len(sizes)]).tolist())


def _firsts(level: Positions) -> Positions:
    """Where another level begins."""
    return np.append(0, np.flatnonzero(level[1:] != level[:-1]) + 1)


def _ranges(begins: Positions, sizes: Positions) -> Positions:
    """begins[0], begins[0] + 1, ..., `sizes[0]` of them; then those of the next."""
    ends = sizes.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) + (begins - ends + sizes).repeat(sizes)
