"""Split containers of version 2, which refer to their table of rates, into smaller ones (docs/formats.md)."""

import numpy as np
import xxhash

from bae_ray.client.block_groups import groups
from bae_ray.varint import read_varints, write_varints

MAGIC = b"BAE\x02"
DIGEST_SIZE = 8
TABLE_DIGEST_SIZE = 8


def split_compact(data: bytes, max_rows: int, max_bytes: int) -> list[bytes]:
    """Containers of at most so many rows and bytes, or of one block. Data that is no container raises some error."""
    (length,), taken = read_varints(data[:-10:-1], 1)
    end = len(data) - taken - DIGEST_SIZE
    fields = data[end - length : end]
    name = 16 if fields[1] == 1 else max(fields[1] - 1, 0)
    start = 2 + name + TABLE_DIGEST_SIZE
    (rows, d_latent), place = read_varints(fields, 2, start)
    if place == len(fields) or (rows <= max_rows and len(data) <= max_bytes):
        return [data]
    (block_rows,), place = read_varints(fields, 1, place)
    sizes, place = read_varints(fields, -(-rows // block_rows), place)
    checksums = np.frombuffer(fields[place:], "<u8")
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    fixed = len(MAGIC) + start + DIGEST_SIZE + 40  # the numbers at most
    parts = []
    for first, last in groups(offsets, max(1, max_rows // block_rows), max_bytes - fixed):
        held = min(last * block_rows, rows) - first * block_rows
        told = fields[:start] + write_varints([held, d_latent])
        sums = checksums[first:last].tobytes()
        if last - first > 1:
            told += write_varints([block_rows, *sizes[first:last]]) + sums
        digest = xxhash.xxh3_64_digest(MAGIC + sums + told)
        blocks = data[len(MAGIC) + int(offsets[first]) : len(MAGIC) + int(offsets[last])]
        parts.append(MAGIC + blocks + told + digest + write_varints([len(told)])[::-1])
    return parts
