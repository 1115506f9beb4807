"""Scheme `entropy`: the positions of flipped bits, range-coded at the cost of their entropy.

The latents of a block of rows are put in the order of their level (prior.py), those of one level side by side, column
by column. Within a level bits flip at about one rate, so the gaps between flips are geometric, whose entropy is that of
the bits themselves; and the cost goes with the flips, not with the bits. The level's rate in this block is told by its
number of flips, which is written first: a prior that fits badly, be it 0 or 1 for a bit that does flip, costs bits and
never correctness.

A gap is written as its high part, in a table of a geometric distribution, and its b low bits, which are as good as
uniform because 2^b is at most an eighth of the mean gap. Rates are multiples of 1/128 and everything that decides on a
code is integer arithmetic, or floating-point arithmetic without rounding: all machines read and write the same bytes.

Shapes: R rows of a block, F d_latent, M flips.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import constriction
import numpy as np

from bae_ray.compression.prior import LEVELS, PriorTable
from bae_ray.errors import CorruptContainerError
from bae_ray.varint import read_varints, write_varints

Positions = np.ndarray[Any, np.dtype[np.int64]]

RATES = 128
ESCAPE = 255
"""High part that stands for 255 or more; the rest follows."""
MAX_LOW_BITS = 20
HALF_BITS = 16
CHUNK = 1 << 16
"""Number of flips that are coded at a time, so that a decoder's memory is bounded."""

COUNTED, RATED = 0, 1
MOST_RATED_BITS = 1 << 20
"""Largest block in bits that is coded bit by bit: in a larger one the counts hardly matter."""
TOTAL = 1 << 24
OCTAVE = (9_975_792, 7_053_950)
"""2^-0.75 and 2^-1.25 of `TOTAL`."""

_models = constriction.stream.model  # pyright: ignore[reportAttributeAccessIssue]
_queue = constriction.stream.queue  # pyright: ignore[reportAttributeAccessIssue]


class EntropyCoder:
    """Codes blocks of flipped bits against a prior."""

    def __init__(self, table: PriorTable) -> None:
        order = np.argsort(table.levels, kind="stable")
        self._latents = order.astype(np.int64)
        self._rank = np.empty(len(order), dtype=np.int64)
        self._rank[order] = np.arange(len(order))
        sizes = np.bincount(table.levels, minlength=LEVELS)
        self._bounds = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int64)
        self._d_latent = len(order)

    def encode(self, flips: Positions, rows: int) -> bytes:
        """The code of flipped bits [M] of a block of R rows, each as row * F + latent."""
        row, latent = np.divmod(flips, self._d_latent)
        keys = np.sort(self._rank[latent] * rows + row)
        bounds = self._bounds * rows
        ends = np.searchsorted(keys, bounds)
        gaps = np.diff(keys, prepend=-1) - 1
        counts = np.diff(ends)
        encoder = range_encoder()
        for level in np.flatnonzero(counts):
            first, last = ends[level], ends[level + 1]
            gaps[first] = keys[first] - bounds[level]
            rate, bits = rate_of(int(counts[level]), int(bounds[level + 1] - bounds[level]))
            for start in range(first, last, CHUNK):
                encode_gaps(encoder, gaps[start : min(start + CHUNK, last)], rate, bits)
        return write_varints(counts.tolist()) + encoder.get_compressed().astype("<u4").tobytes()

    def decode(self, content: bytes, rows: int) -> Iterator[Positions]:
        """The flipped bits of a block, some at a time. Raises `CorruptContainerError`."""
        counts, start = read_varints(content, len(self._bounds) - 1, what="numbers of flips")
        decoder = range_decoder(content, start)
        for level, count in enumerate(counts):
            if not count:
                continue
            begin, end = int(self._bounds[level]) * rows, int(self._bounds[level + 1]) * rows
            if count > end - begin:
                raise CorruptContainerError(f"a block claims {count} flips among {end - begin} bits. Compress anew.")
            rate, bits = rate_of(count, end - begin)
            last = begin - 1
            for done in range(0, count, CHUNK):
                keys = last + np.cumsum(decode_gaps(decoder, min(CHUNK, count - done), rate, bits, end - begin) + 1)
                last = int(keys[-1])
                if last >= end:
                    raise CorruptContainerError("a block's code leaves the block. Compress anew.")
                yield keys % rows * self._d_latent + self._latents[keys // rows]


class RatedCoder:
    """Codes blocks of flipped bits as `EntropyCoder` does, or a small one bit by bit, at the rates of their levels.

    The first byte says which: 1 for the latter. That needs no numbers of flips, most of what one vector takes.
    """

    def __init__(self, table: PriorTable) -> None:
        self._counted = EntropyCoder(table)
        self._order = np.argsort(table.levels, kind="stable").astype(np.int64)
        levels, sizes = np.unique(table.levels, return_counts=True)
        self._runs = list(zip(levels.tolist(), sizes.tolist(), strict=True))

    def encode(self, flips: Positions, rows: int) -> bytes:
        """The shorter code of flipped bits [M] of a block of R rows, each as row * F + latent."""
        counted = bytes([COUNTED]) + self._counted.encode(flips, rows)
        if rows * len(self._order) > MOST_RATED_BITS:
            return counted
        block = np.zeros((rows, len(self._order)), dtype=np.int32)
        block.reshape(-1)[flips] = 1
        bits, encoder, first = block.T[self._order].reshape(-1), range_encoder(), 0
        for level, size in self._runs:
            encoder.encode(bits[first : first + size * rows], bits_at(level))
            first += size * rows
        rated = bytes([RATED]) + encoder.get_compressed().astype("<u4").tobytes()
        return min(counted, rated, key=len)

    def decode(self, content: bytes, rows: int) -> Iterator[Positions]:
        """The flipped bits of a block, some at a time. Raises `CorruptContainerError`."""
        if content[:1] == bytes([COUNTED]):
            yield from self._counted.decode(content[1:], rows)
            return
        if content[:1] != bytes([RATED]) or rows * len(self._order) > MOST_RATED_BITS:
            raise CorruptContainerError("a block's code is of no known kind. Compress anew.")
        decoder, first = range_decoder(content, 1), 0
        for level, size in self._runs:
            try:
                keys = np.flatnonzero(decoder.decode(bits_at(level), size * rows)).astype(np.int64)
            except AssertionError as error:  # how constriction says that no encoder wrote this
                raise CorruptContainerError("a block's code cannot be decoded. Compress anew.") from error
            yield keys % rows * len(self._order) + self._order[first + keys // rows]
            first += size


def range_decoder(content: bytes, start: int) -> Any:
    """A decoder of the words from byte `start` on."""
    if (len(content) - start) % 4:
        raise CorruptContainerError("a block's code is not a whole number of words. Compress anew.")
    return _queue.RangeDecoder(np.frombuffer(content, dtype="<u4", offset=start).astype(np.uint32))


@cache
def bits_at(level: int) -> Any:
    """The distribution of a bit that flips at a level's rate: 2^-(0.75 + l/2), in whole 2^-24, at least one."""
    # 2^-(0.75 + l/2) is 2^-(l // 2) times one of two numbers; in integers, so that all machines have the same.
    flips = max(1, OCTAVE[level % 2] >> (level // 2)) if level else 1
    return _models.Categorical(np.array([TOTAL - flips, flips], dtype=np.float64), perfect=False)


def range_encoder() -> Any:
    """An encoder of constriction, version 0.5: its words go with the format."""
    return _queue.RangeEncoder()


def rate_of(flips: int, bits: int) -> tuple[int, int]:
    """The rate of high parts, in 128ths, and the number of low bits, for so many flips among so many bits."""
    low = min(max((bits // (8 * flips)).bit_length() - 1, 0), MAX_LOW_BITS)
    return min(max((RATES * flips << low) // bits, 1), RATES - 1), low


@cache
def _high_parts(rate: int) -> Any:
    """The distribution of high parts at a rate of `rate` 128ths: 0 to 254, and all that is larger."""
    left, weights = 1 << 50, []
    for _ in range(ESCAPE):
        fires = left * rate >> 7
        weights.append(fires)
        left -= fires
    return _models.Categorical(np.array([*weights, left], dtype=np.float64), perfect=False)


@cache
def _low_bits(bits: int) -> Any:
    return _models.Uniform(1 << bits)


def encode_gaps(encoder: Any, gaps: Positions, rate: int, bits: int) -> None:
    """Encode gaps [M] at a rate of high parts, with so many low bits."""
    high = gaps >> bits
    encoder.encode(np.minimum(high, ESCAPE).astype(np.int32), _high_parts(rate))
    beyond = high[high >= ESCAPE] - ESCAPE
    if len(beyond):
        encoder.encode((beyond >> HALF_BITS).astype(np.int32), _low_bits(HALF_BITS))
        encoder.encode((beyond & ((1 << HALF_BITS) - 1)).astype(np.int32), _low_bits(HALF_BITS))
    if bits:
        encoder.encode((gaps & ((1 << bits) - 1)).astype(np.int32), _low_bits(bits))


def decode_gaps(decoder: Any, count: int, rate: int, bits: int, most: int) -> Positions:
    """The next `count` gaps. Raises `CorruptContainerError` where one is above `most`."""
    try:
        high = decoder.decode(_high_parts(rate), count).astype(np.int64)
        escaped = np.flatnonzero(high == ESCAPE)
        if len(escaped):
            upper = decoder.decode(_low_bits(HALF_BITS), len(escaped)).astype(np.int64)
            high[escaped] += (upper << HALF_BITS) + decoder.decode(_low_bits(HALF_BITS), len(escaped))
        gaps = high << bits
        if bits:
            gaps += decoder.decode(_low_bits(bits), count)
    except AssertionError as error:  # how constriction says that no encoder wrote this
        raise CorruptContainerError("a block's code cannot be decoded. Compress anew.") from error
    if int(gaps.max()) > most:
        raise CorruptContainerError("a block's code leaves the block. Compress anew.")
    return gaps
