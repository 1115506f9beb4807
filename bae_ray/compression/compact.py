"""Version 2 of a container: without the table of rates, which it refers to by a digest (docs/formats.md).

    MAGIC | blocks | fields | digest | length of the fields

Made for few vectors: one of 76 bits takes about 55 bytes. All but the blocks is at the end, since its length depends on
numbers that are known only then.
"""

import re
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, get_args

import numpy as np
import xxhash

from bae_ray.compression.header import Header, Scheme, damaged
from bae_ray.errors import InvalidInputError
from bae_ray.varint import read_varints, write_varints

MAGIC = b"BAE\x02"
DIGEST_SIZE = 8
TABLE_DIGEST_SIZE = 8
RATES, TREE = 0, 1
"""Kinds of the probabilities of bits: a rate for each latent, or a tree. The upper four bits of the first field."""
SCHEMES = get_args(Scheme)
UNNAMED, HASHED = 0, 1
"""Values of the second field: no autoencoder is named, or by 16 bytes; n > 1: by a text of n - 1 bytes."""
LONGEST_LENGTH = 9


class Fields(NamedTuple):
    """The fields after the blocks."""

    header: Header
    sizes: Sequence[int]
    """Bytes of each block."""
    checksums: Sequence[int]
    """xxh3-64 of each block."""
    digest: bytes
    """Digest of the whole container."""


def write_fields(header: Header, sizes: Sequence[int], checksums: Sequence[int]) -> bytes:
    """The bytes after the blocks, up to the end of the container."""
    name = header.model_hash
    hashed = re.fullmatch(r"[0-9a-f]{32}", name)
    fields = bytes(
        [
            _kind(header.scheme) << 4 | SCHEMES.index(header.scheme),
            HASHED if hashed else len(name) + 1 if name else UNNAMED,
        ]
    )
    fields += bytes.fromhex(name) if hashed else name.encode()
    fields += bytes.fromhex(header.prior_hash)[:TABLE_DIGEST_SIZE]
    fields += write_varints([header.rows, header.d_latent])
    sums = np.array(checksums, dtype="<u8").tobytes()
    if len(sizes) > 1:  # of one block the size is what is left, and the digest is its checksum
        fields += write_varints([header.block_rows, *sizes]) + sums
    return fields + _digest(sums, fields) + write_varints([len(fields)])[::-1]


def read_fields(file: BinaryIO, size: int) -> Fields:
    """The fields after the blocks of a container of `size` bytes. Raises `CorruptContainerError`.

    Takes memory only for what the file really holds.
    """
    file.seek(max(0, size - LONGEST_LENGTH))
    (length,), taken = read_varints(file.read(LONGEST_LENGTH)[::-1], 1)
    end = size - taken - DIGEST_SIZE
    start = end - length
    if start < len(MAGIC):
        raise damaged("it has fewer bytes than it says")
    file.seek(start)
    fields, digest = file.read(length), file.read(DIGEST_SIZE)
    header, sizes, sums = _parse(fields, start - len(MAGIC))
    if sum(sizes) != start - len(MAGIC):
        raise damaged("its blocks are not as long as it says")
    checksums = np.frombuffer(sums, "<u8").tolist()
    if len(sizes) == 1:
        file.seek(len(MAGIC))
        checksums = [xxhash.xxh3_64_intdigest(file.read(sizes[0]))]
        sums = np.array(checksums, "<u8").tobytes()
    # There is only one way to write it: any other is as invalid as a wrong digest.
    file.seek(start)
    if _digest(sums, fields) != digest or write_fields(header, sizes, checksums) != file.read():
        raise damaged("its bytes are not those that were written")
    return Fields(header, sizes, checksums, digest)


def _parse(fields: bytes, payload: int) -> tuple[Header, list[int], bytes]:
    """The header, the blocks' sizes, and their checksums where there are several."""
    try:
        kind, scheme, named = fields[0] >> 4, fields[0] & 15, fields[1]
        if scheme >= len(SCHEMES) or kind != _kind(SCHEMES[scheme]):
            raise damaged(f"it is of kind {kind}, scheme {scheme}, which this bae_ray does not know")
        place = 2 + (16 if named == HASHED else max(named - 1, 0))
        name = fields[2:place].hex() if named == HASHED else fields[2:place].decode("ascii")
        table = fields[place : place + TABLE_DIGEST_SIZE].hex()
        (rows, d_latent), place = read_varints(fields, 2, place + TABLE_DIGEST_SIZE)
        left = len(fields) - place
        if not left:
            header = Header(rows, d_latent, SCHEMES[scheme], max(rows, 1), name, table, "reference")
            header.check()
            return header, [payload] if rows else [], b""
        (block_rows,), place = read_varints(fields, 1, place)
        header = Header(rows, d_latent, SCHEMES[scheme], block_rows, name, table, "reference")
        header.check()
        if not 2 <= header.blocks <= left // 9:  # a block takes a byte and its checksum at least
            raise damaged(f"it says that it has {header.blocks} blocks")
        sizes, place = read_varints(fields, header.blocks, place)
    except (IndexError, UnicodeDecodeError, InvalidInputError) as error:
        raise damaged(str(error)) from error
    sums = fields[place:]
    if len(sums) != 8 * len(sizes):
        raise damaged("it has not as many checksums as blocks")
    return header, sizes, sums


def _kind(scheme: Scheme) -> int:
    return TREE if scheme == "tree" else RATES


def _digest(sums: bytes, fields: bytes) -> bytes:
    return xxhash.xxh3_64_digest(MAGIC + sums + fields)
