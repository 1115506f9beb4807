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

Positions = np.ndarray[Any, np.dtype[np.int64]]

RATES = 128
ESCAPE = 255
"""High part that says: 255 or more, and the rest of it follows."""
MAX_LOW_BITS = 20
HALF_BITS = 16
CHUNK = 1 << 16
"""Flips that are coded at a time, so that a decoder's memory is bounded."""

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
        encoder = _queue.RangeEncoder()
        for level in np.flatnonzero(counts):
            first, last = ends[level], ends[level + 1]
            gaps[first] = keys[first] - bounds[level]
            rate, bits = _rate(int(counts[level]), int(bounds[level + 1] - bounds[level]))
            for start in range(first, last, CHUNK):
                _encode_gaps(encoder, gaps[start : min(start + CHUNK, last)], rate, bits)
        return _varints(counts) + encoder.get_compressed().astype("<u4").tobytes()

    def decode(self, content: bytes, rows: int) -> Iterator[Positions]:
        """The flipped bits of a block, some at a time. Raises `CorruptContainerError`."""
        counts, start = _read_varints(content, len(self._bounds) - 1)
        if (len(content) - start) % 4:
            raise CorruptContainerError("a block's code is not a whole number of words. Compress anew.")
        decoder = _queue.RangeDecoder(np.frombuffer(content, dtype="<u4", offset=start).astype(np.uint32))
        for level, count in enumerate(counts):
            if not count:
                continue
            begin, end = int(self._bounds[level]) * rows, int(self._bounds[level + 1]) * rows
            if count > end - begin:
                raise CorruptContainerError(f"a block claims {count} flips among {end - begin} bits. Compress anew.")
            rate, bits = _rate(count, end - begin)
            last = begin - 1
            for done in range(0, count, CHUNK):
                keys = last + np.cumsum(_decode_gaps(decoder, min(CHUNK, count - done), rate, bits, end - begin) + 1)
                last = int(keys[-1])
                if last >= end:
                    raise CorruptContainerError("a block's code leaves the block. Compress anew.")
                yield keys % rows * self._d_latent + self._latents[keys // rows]


def _rate(flips: int, bits: int) -> tuple[int, int]:
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


def _encode_gaps(encoder: Any, gaps: Positions, rate: int, bits: int) -> None:
    high = gaps >> bits
    encoder.encode(np.minimum(high, ESCAPE).astype(np.int32), _high_parts(rate))
    beyond = high[high >= ESCAPE] - ESCAPE
    if len(beyond):
        encoder.encode((beyond >> HALF_BITS).astype(np.int32), _low_bits(HALF_BITS))
        encoder.encode((beyond & ((1 << HALF_BITS) - 1)).astype(np.int32), _low_bits(HALF_BITS))
    if bits:
        encoder.encode((gaps & ((1 << bits) - 1)).astype(np.int32), _low_bits(bits))


def _decode_gaps(decoder: Any, count: int, rate: int, bits: int, most: int) -> Positions:
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


def _varints(numbers: np.ndarray[Any, Any]) -> bytes:
    """Numbers in seven bits a byte, the low ones first; the eighth bit says that more follow."""
    out = bytearray()
    for number in numbers.tolist():
        left = number
        while left >= 0x80:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)
    return bytes(out)


def _read_varints(content: bytes, count: int) -> tuple[list[int], int]:
    """The first `count` numbers, and where they end."""
    numbers, place = [], 0
    for _ in range(count):
        number = shift = 0
        while True:
            if place >= len(content) or shift > 28:
                raise CorruptContainerError("a block's numbers of flips cannot be read. Compress anew.")
            byte = content[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(number)
    return numbers, place
