"""Split containers of codes into smaller ones: the same blocks under new headers (docs/formats.md)."""

import json
import struct
from collections.abc import Iterator

import numpy as np
import xxhash

from bae_ray.errors import BaeRayError
from bae_ray.varint import read_varints, write_varints

MAGIC = b"BAE\x02"
"""Begins containers of version 2."""
DIGEST_SIZE = 8
TABLE_DIGEST_SIZE = 8


def split_container(data: bytes, max_rows: int, max_bytes: int) -> list[bytes]:
    """Containers within these limits of rows and bytes, or of one block each. Together they hold the content of `data`.

    Returns `data` itself if it is small enough, or not a container: then the service reports what is wrong.
    """
    split = _split_compact if data[: len(MAGIC)] == MAGIC else _split_safetensors
    try:
        return split(data, max_rows, max_bytes)
    except (
        BaeRayError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        struct.error,
    ):
        return [data]


def type_of(data: bytes) -> str:
    """The media type of a container."""
    return "application/octet-stream" if data[: len(MAGIC)] == MAGIC else "application/x-safetensors"


def _split_safetensors(data: bytes, max_rows: int, max_bytes: int) -> list[bytes]:
    """Split a container of version 1, a safetensors file. Anything else raises some error."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    entries, body = json.loads(data[8:start]), memoryview(data)[start:]
    about = entries.pop("__metadata__")
    parts = {name: body[slice(*entry["data_offsets"])] for name, entry in entries.items()}
    offsets, blocks = np.frombuffer(parts["offsets"], "<u8").astype(np.int64), len(parts["checksums"]) // 8
    rows, block_rows = int(about["rows"]), int(about["block_rows"])
    if (rows <= max_rows and len(data) <= max_bytes) or blocks < 2:
        return [data]
    fixed = len(data) - len(parts["payload"]) - 16 * blocks
    made = []
    for first, last in _groups(offsets, max(1, max_rows // block_rows), max_bytes - fixed):
        held = {
            **parts,
            "payload": parts["payload"][offsets[first] : offsets[last]],
            "offsets": (offsets[first : last + 1] - offsets[first]).astype("<u8").tobytes(),
            "checksums": parts["checksums"][8 * first : 8 * last],
        }
        told = {"__metadata__": {**about, "rows": str(min(last * block_rows, rows) - first * block_rows)}}
        place = 0
        for name, entry in entries.items():
            shape, ends = [len(held[name]) // (8 if entry["dtype"] == "U64" else 1)], [place, place + len(held[name])]
            told[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": ends}
            place = ends[1]
        head = data[:8] + json.dumps(told, separators=(",", ":")).encode().ljust(start - 8)
        tables = b"".join((held["offsets"], held["checksums"], held["prior"]))
        made.append(b"".join((head, held["payload"], tables, xxhash.xxh3_128_digest(head + tables))))
    return made


def _split_compact(data: bytes, max_rows: int, max_bytes: int) -> list[bytes]:
    """Split a container of version 2, which refers to its table of rates. Anything else raises some error."""
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
    for first, last in _groups(offsets, max(1, max_rows // block_rows), max_bytes - fixed):
        held = min(last * block_rows, rows) - first * block_rows
        told = fields[:start] + write_varints([held, d_latent])
        sums = checksums[first:last].tobytes()
        if last - first > 1:
            told += write_varints([block_rows, *sizes[first:last]]) + sums
        digest = xxhash.xxh3_64_digest(MAGIC + sums + told)
        blocks = data[len(MAGIC) + int(offsets[first]) : len(MAGIC) + int(offsets[last])]
        parts.append(MAGIC + blocks + told + digest + write_varints([len(told)])[::-1])
    return parts


def _groups(offsets: np.ndarray, most_blocks: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Groups of blocks: the first, and the one after the last. Each block takes 16 bytes of the tables besides."""
    first, blocks = 0, len(offsets) - 1
    while first < blocks:
        sizes = offsets[first + 1 :] - offsets[first] + 16 * np.arange(1, blocks - first + 1)
        last = first + max(1, min(most_blocks, int(np.searchsorted(sizes, most_bytes, side="right"))))
        yield first, min(last, blocks)
        first = last
