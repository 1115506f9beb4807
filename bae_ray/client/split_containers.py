"""Split containers of codes into smaller ones: the same blocks under new headers (docs/formats.md).

This file splits version 1; split_compact.py splits version 2.
"""

import json
import struct
from typing import Any

import numpy as np
import xxhash

from bae_ray.client.block_groups import groups
from bae_ray.client.split_compact import MAGIC, split_compact
from bae_ray.errors import BaeRayError


def split_container(data: bytes, max_rows: int, max_bytes: int) -> list[bytes]:
    """Containers of at most so many rows and bytes, or of one block; together they hold what `data` does.

    Returns `data` itself if it is small enough, or no container: the service then says what is wrong with it.
    """
    split = split_compact if data[: len(MAGIC)] == MAGIC else _split
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


def _split(data: bytes, max_rows: int, max_bytes: int) -> list[bytes]:
    """Split a container of version 1. Anything else raises some error."""
    header, parts, blocks = _read(data)
    offsets = np.frombuffer(parts["offsets"], "<u8").astype(np.int64)
    rows, block_rows = int(header["__metadata__"]["rows"]), int(header["__metadata__"]["block_rows"])
    if (rows <= max_rows and len(data) <= max_bytes) or blocks < 2:
        return [data]
    fixed = len(data) - len(parts["payload"]) - 16 * blocks
    return [
        _part(data, header, parts, offsets, first, last, min(last * block_rows, rows) - first * block_rows)
        for first, last in groups(offsets, max(1, max_rows // block_rows), max_bytes - fixed)
    ]


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, memoryview], int]:
    """A container's header, its parts by name, and its number of blocks."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8:start]), memoryview(data)[start:]
    ranges = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    parts = {name: body[begin:end] for name, (begin, end) in ranges.items()}
    return header, parts, len(parts["checksums"]) // 8


def _part(
    data: bytes,
    header: dict[str, Any],
    parts: dict[str, memoryview],
    offsets: np.ndarray,
    first: int,
    last: int,
    rows: int,
) -> bytes:
    contents = {
        "payload": parts["payload"][offsets[first] : offsets[last]],
        "offsets": (offsets[first : last + 1] - offsets[first]).astype("<u8").tobytes(),
        "checksums": parts["checksums"][8 * first : 8 * last],
        "prior": parts["prior"],
    }
    fields: dict[str, Any] = {"__metadata__": {**header["__metadata__"], "rows": str(rows)}}
    place = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        size = len(contents.get(name, parts[name]))
        shape = [size // (8 if entry["dtype"] == "U64" else 1)]
        fields[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [place, place + size]}
        place += size
    length = struct.unpack("<Q", data[:8])[0]
    head = data[:8] + json.dumps(fields, separators=(",", ":")).encode().ljust(length)
    tables = b"".join((contents["offsets"], contents["checksums"], contents["prior"]))
    return b"".join((head, contents["payload"], tables, xxhash.xxh3_128_digest(head + tables)))
