"""Scheme `tree`: which bits are atypical, range-coded at the rates that a tree over the latents says (tree_table.py).

A bit is usual where its parent is typical, and an exception where it is not. Usual bits of one level are a run, and so
are the exceptions of one level (tree_walk.py). In a run bits flip at about one rate, and the gaps between its flips are
coded as in scheme `entropy`. So a decoder first reads all gaps, then goes down the tree: the bits of a depth tell which
of the next are exceptions, and so where its flips lie. The cost goes with atypical bits, not with all.

A block of few bytes is coded bit by bit, depth by depth, at the rates of the levels: that needs no numbers of flips.

Shapes: R rows of a block, F d_latent, M atypical bits.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bae_ray.compression.entropy import (
    CHUNK,
    COUNTED,
    MAX_LOW_BITS,
    OCTAVE,
    RATED,
    RATES,
    TOTAL,
    Positions,
    bits_at,
    decode_gaps,
    encode_gaps,
    range_decoder,
    range_encoder,
    rate_of,
)
from bae_ray.compression.prior import LEVELS
from bae_ray.compression.tree_table import TreeTable
from bae_ray.compression.tree_walk import SHIFT, TreeWalk
from bae_ray.errors import CorruptContainerError
from bae_ray.varint import read_varints, write_varints

MOST_RATED_BITS = 1 << 21
"""Largest block in bits that may be coded bit by bit."""
MOST_RATED_BYTES = 2048
"""Nothing longer is tried bit by bit: there the numbers of flips hardly matter."""
MEASURED = 64
"""From so many flips on, a run's own rate is told, in two bytes; below, its level's is taken."""
MOST_FLIPS_PER_BYTE = 1024
"""More than any code holds: a flip takes at least log2(128 / 127) bits."""


class _Run(NamedTuple):
    """What is told of the bits of one level."""

    level: int
    flips: int
    rate: int
    bits: int
    """Low bits of the gaps."""


class TreeCoder:
    """Codes blocks of atypical bits against a tree. The first byte says how, as in `RatedCoder`."""

    def __init__(self, table: TreeTable) -> None:
        self._table, self._walk = table, TreeWalk(table)
        self._runs = [np.unique(table.levels[0]).tolist(), np.unique(table.levels[1][table.parent >= 0]).tolist()]

    def encode(self, flips: Positions, rows: int) -> bytes:
        """The shorter code of atypical bits [M] of a block of R rows, each as row * F + latent."""
        counts, encoder = [], range_encoder()
        for levels, runs in zip(self._runs, self._walk.split(flips, rows), strict=True):
            for level in levels:
                places = runs.flips(level)
                counts.append(len(places))
                if len(places) >= MEASURED:
                    rate, bits = rate_of(len(places), int(runs.sizes[level]))
                    counts += [rate, bits]
                else:
                    rate, bits = _usual_rate(level)
                gaps = np.diff(places, prepend=-1) - 1
                for start in range(0, len(gaps), CHUNK):
                    encode_gaps(encoder, gaps[start : start + CHUNK], rate, bits)
        told = write_varints(counts)
        counted = (
            bytes([COUNTED]) + write_varints([len(told)]) + told + encoder.get_compressed().astype("<u4").tobytes()
        )
        if rows * self._walk.d_latent > MOST_RATED_BITS or len(counted) > MOST_RATED_BYTES:
            return counted
        return min(counted, bytes([RATED]) + self._bit_by_bit(flips, rows), key=len)

    def decode(self, content: bytes, rows: int) -> Iterator[Positions]:
        """The atypical bits of a block, some at a time. Raises `CorruptContainerError`."""
        if content[:1] == bytes([COUNTED]):
            yield from self._decode_counted(content, rows)
        elif content[:1] == bytes([RATED]) and rows * self._walk.d_latent <= MOST_RATED_BITS:
            yield self._decode_bits(content, rows)
        else:
            raise CorruptContainerError("a block's code is of no known kind. Compress anew.")

    def _decode_counted(self, content: bytes, rows: int) -> Iterator[Positions]:
        (length,), start = read_varints(content, 1, 1, "length of the numbers of flips")
        if start + length > len(content):
            raise CorruptContainerError("a block ends before its numbers of flips do. Compress anew.")
        most = rows * self._walk.d_latent
        # A bit is in one run: of all runs together no more flip than there are.
        runs = self._told(content[start : start + length], min(most, MOST_FLIPS_PER_BYTE * (len(content) + 8)))
        decoder = range_decoder(content, start + length)
        usual, exceptional = (_decode_runs(decoder, of_kind, most) for of_kind in runs)
        yield from self._walk.join(usual, exceptional, rows)

    def _told(self, content: bytes, most: int) -> list[list[_Run]]:
        """The runs of usual bits, and those of exceptions; `most` flips together. Raises `CorruptContainerError`."""
        place, left, found = 0, most, []
        for levels in self._runs:
            found.append([])
            for level in levels:
                (count,), place = read_varints(content, 1, place, "numbers of flips")
                left -= count
                if left < 0:
                    raise CorruptContainerError(
                        f"a block claims {most - left} flips, where there can be {most}. Compress anew."
                    )
                rate, bits = _usual_rate(level)
                if count >= MEASURED:
                    (rate, bits), place = read_varints(content, 2, place, "rates")
                    if not (0 < rate < RATES and bits <= MAX_LOW_BITS):
                        raise CorruptContainerError(f"a block says the rate {rate} with {bits} bits. Compress anew.")
                found[-1].append(_Run(level, count, rate, bits))
        if place != len(content):
            raise CorruptContainerError("a block's numbers of flips are not as many as it says. Compress anew.")
        return found

    def _bit_by_bit(self, flips: Positions, rows: int) -> bytes:
        atypical = np.zeros((rows, self._walk.d_latent), dtype=bool)
        atypical.reshape(-1)[flips] = True
        encoder = range_encoder()
        for latents, order, kinds, expected in self._depths(atypical):
            flipped = (atypical[:, latents].T ^ expected).reshape(-1)[order].astype(np.int32)
            first = 0
            for level, size in kinds:
                encoder.encode(flipped[first : first + size], bits_at(level))
                first += size
        return encoder.get_compressed().astype("<u4").tobytes()

    def _decode_bits(self, content: bytes, rows: int) -> Positions:
        atypical = np.zeros((rows, self._walk.d_latent), dtype=bool)
        decoder = range_decoder(content, 1)
        for latents, order, kinds, expected in self._depths(atypical):
            try:
                parts = [decoder.decode(bits_at(level), size) for level, size in kinds]
            except AssertionError as error:  # how constriction says that no encoder wrote this
                raise CorruptContainerError("a block's code cannot be decoded. Compress anew.") from error
            flipped = np.empty(expected.size, dtype=bool)
            flipped[order] = np.concatenate(parts) != 0
            atypical[:, latents] = (flipped.reshape(expected.shape) ^ expected).T
        return np.flatnonzero(atypical).astype(np.int64)

    def _depths(self, atypical: np.ndarray) -> Iterator[tuple[Positions, Positions, list[tuple[int, int]], np.ndarray]]:
        """Of each depth, once the bits above are known: its latents, and how its bits [latents, R] are coded.

        That is their order, of which levels how many follow, and which bits are expected to be atypical.
        """
        table, walk = self._table, self._walk
        for first, last in zip(walk.bounds[:-1].tolist(), walk.bounds[1:].tolist(), strict=True):
            latents = walk.order[first:last]
            above = table.parent[latents][:, None]
            exception = atypical[:, np.maximum(above[:, 0], 0)].T & (above >= 0)
            kinds = np.where(exception, LEVELS + table.levels[1][latents][:, None], table.levels[0][latents][:, None])
            kinds = kinds.astype(np.uint8).reshape(-1)
            sizes = np.bincount(kinds)
            yield (
                latents,
                np.argsort(kinds, kind="stable"),
                [(kind % LEVELS, int(sizes[kind])) for kind in np.flatnonzero(sizes).tolist()],
                exception & table.follows[latents][:, None].view(bool),
            )


def _decode_runs(decoder: Any, runs: list[_Run], most: int) -> Positions:
    """The keys of the flips of runs of one kind, of less than `most` bits. Raises `CorruptContainerError`."""
    keys, done = np.empty(sum(run.flips for run in runs), dtype=np.int64), 0
    for run in runs:
        last = -1
        for start in range(0, run.flips, CHUNK):
            gaps = decode_gaps(decoder, min(CHUNK, run.flips - start), run.rate, run.bits, most)
            places = last + (gaps + 1).cumsum()
            last = int(places[-1])
            if last >= most:
                raise CorruptContainerError("a block's code leaves the block. Compress anew.")
            keys[done : done + len(places)] = run.level << SHIFT | places
            done += len(places)
    return keys


def _usual_rate(level: int) -> tuple[int, int]:
    """Rate and low bits of the gaps at a level's own rate: 2^-(0.75 + l/2), in integers."""
    return rate_of(max(1, OCTAVE[level % 2] >> (level // 2)), TOTAL)
