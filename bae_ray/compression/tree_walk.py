"""Down a tree over latents: which bits of a block are exceptions, and where the flips of each run lie.

A run is all usual bits of one level, or all exceptions of one (tree_coder.py). A bit's place in its run follows the
depth of its latent, then its latent by level and number, then the row.

Shapes: R rows of a block, F d_latent, M atypical bits, E exceptions, S segments: the latents of one depth and level.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bae_ray.compression.entropy import Positions
from bae_ray.compression.prior import LEVELS
from bae_ray.compression.tree_table import TreeTable
from bae_ray.errors import CorruptContainerError

SHIFT = 40
"""A flip's key is its run, then in so many bits its place there."""


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
        self._table, self.d_latent = table, len(usual)
        self.order = np.lexsort((usual, table.depth))
        """Latents by depth, level and number, [F]."""
        depth = table.depth[self.order]
        self.bounds = np.searchsorted(depth, np.arange(int(depth[-1]) + 2))
        """Where each depth begins in that order, and where the last ends."""
        self._rank = np.empty(self.d_latent, dtype=np.int64)
        self._rank[self.order] = np.arange(self.d_latent)
        keys = depth * LEVELS + usual[self.order]
        firsts = np.flatnonzero(np.diff(keys, prepend=-1))
        self._segments = np.append(firsts, self.d_latent)
        self._level, self._depths = keys[firsts] % LEVELS, np.searchsorted(firsts, self.bounds)
        self._by_level = np.argsort(self._level, kind="stable")
        self._children = np.argsort(table.parent, kind="stable")
        self._begins = np.searchsorted(table.parent[self._children], np.arange(self.d_latent + 1))

    def split(self, flips: Positions, rows: int) -> tuple[Runs, Runs]:
        """Usual bits and exceptions of a block whose atypical bits are `flips` [M], each as row * F + latent."""
        row, latent = np.divmod(flips, self.d_latent)
        of_row, child = self._exceptions(row, latent)
        atypical = np.zeros(rows * self.d_latent, dtype=bool)
        atypical[flips] = True
        place = of_row * self.d_latent + child
        order = np.argsort(excluded := self._rank[child] * rows + of_row)
        excluded, child, is_so = excluded[order], child[order], atypical[place[order]]
        atypical[place] = False
        usual = atypical[flips]
        keys = np.sort(self._rank[latent[usual]] * rows + row[usual])
        return self._usual(keys, excluded, rows), self._exceptional(child, is_so)

    def _usual(self, keys: Positions, excluded: Positions, rows: int) -> Runs:
        bounds = self._segments * rows
        begins = bounds - np.searchsorted(excluded, bounds)
        sizes = np.diff(begins)
        by_level = sizes[self._by_level]
        totals = np.bincount(self._level, weights=sizes, minlength=LEVELS).astype(np.int64)
        offsets = np.empty_like(sizes)
        offsets[self._by_level] = (
            np.cumsum(by_level) - by_level - (np.cumsum(totals) - totals)[self._level[self._by_level]]
        )
        segment = np.searchsorted(bounds, keys, side="right") - 1
        place = keys - np.searchsorted(excluded, keys) - begins[segment] + offsets[segment]
        return Runs(np.sort(self._level[segment] << SHIFT | place), totals)

    def _exceptional(self, child: Positions, is_so: np.ndarray) -> Runs:
        level = self._table.levels[1][child]
        order = np.argsort(level, kind="stable")
        sizes = np.bincount(level, minlength=LEVELS)
        flipped = np.flatnonzero((is_so ^ self._table.follows[child].view(bool))[order])
        level = level[order][flipped].astype(np.int64)
        return Runs(level << SHIFT | (flipped - (np.cumsum(sizes) - sizes)[level]), sizes)

    def join(self, usual: Positions, exceptional: Positions, rows: int) -> Iterator[Positions]:
        """The atypical bits of a block from its flips' keys, a depth at a time. Raises `CorruptContainerError`."""
        table, done = self._table, [np.zeros(LEVELS, dtype=np.int64) for _ in range(2)]
        row = child = np.empty(0, dtype=np.int64)
        taken = 0
        for depth, first in enumerate(self.bounds[:-1].tolist()):
            order = np.argsort(excluded := (self._rank[child] - first) * rows + row)
            excluded, row, child = excluded[order], row[order], child[order]
            some = slice(self._depths[depth], self._depths[depth + 1] + 1)
            bounds = (self._segments[some] - first) * rows
            begins = bounds - np.searchsorted(excluded, bounds)
            level, sizes = self._level[some.start : some.stop - 1], np.diff(begins)
            segment, place = _taken(usual, level, done[0], sizes)
            place += begins[segment]
            place += np.searchsorted(excluded - np.arange(len(excluded)), place, side="right")
            taken += len(place)
            latents, rows_here = self.order[first + place // rows], place % rows
            if len(child):
                level = table.levels[1][child]
                order = np.argsort(level, kind="stable")
                sizes = np.bincount(level, minlength=LEVELS)
                levels = np.flatnonzero(sizes)
                number, place = _taken(exceptional, levels, done[1], sizes[levels])
                place += (np.cumsum(sizes) - sizes)[levels[number]]
                taken += len(place)
                is_so = table.follows[child].astype(bool)
                is_so[order[place]] ^= True
                latents, rows_here = np.concatenate([latents, child[is_so]]), np.concatenate([rows_here, row[is_so]])
            yield rows_here * self.d_latent + latents
            row, child = self._exceptions(rows_here, latents)
        if taken != len(usual) + len(exceptional):
            raise CorruptContainerError("a block's code leaves the block. Compress anew.")

    def _exceptions(self, row: Positions, latent: Positions) -> tuple[Positions, Positions]:
        """Row and latent of the bits below atypical ones: all children of each of these."""
        sizes = self._begins[latent + 1] - self._begins[latent]
        child = self._children[_ranges(self._begins[latent], sizes)]
        return np.repeat(row, sizes), child


def _taken(keys: Positions, runs: Positions, done: Positions, sizes: Positions) -> tuple[Positions, Positions]:
    """The flips among the next `sizes` bits of some runs: the number of the run among these, and the place there."""
    begins = (runs << SHIFT) + done[runs]
    first, last = np.searchsorted(keys, begins), np.searchsorted(keys, begins + sizes)
    done[runs] += sizes
    number = np.repeat(np.arange(len(runs)), last - first)
    return number, keys[_ranges(first, last - first)] - begins[number]


def _ranges(begins: Positions, sizes: Positions) -> Positions:
    """begins[0], begins[0] + 1, ..., `sizes[0]` of them; then those of the next."""
    return np.arange(sizes.sum()) + np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
