"""The header of a container; that of version 1 is the header of a safetensors file (docs/formats.md).

Such a header is written in one way only and has a fixed size, so a reader compares it byte by byte with the one that
its fields give, and a writer fills it in when all the rest is written.
"""

import json
import re
import struct
from typing import Literal, NamedTuple, get_args

from bae_ray.errors import CorruptContainerError, InvalidInputError

Scheme = Literal["entropy", "indices", "tree"]
TableChoice = Literal["reference", "embedded"]
"""Where the table of rates is: with the autoencoder, named by a digest (version 2), or in the container (version 1)."""

FORMAT = "bae_ray.codes"
VERSION = 1
BLOCK_ROWS = 1024
"""Default number of rows per block."""
HEADER_SIZE = 896
"""Bytes before the payload: 8 with the length of the rest, and JSON filled up with spaces."""
MAX_ROWS = 1 << 48
MAX_LATENTS = 1 << 24
MAX_BLOCK_BITS = 1 << 28
"""Largest block in bits, of which each takes a byte once decoded."""
MAX_TREE_BLOCK_BITS, MAX_TREE_BLOCK_ROWS = 1 << 25, 1 << 20
"""Largest block of scheme `tree`, whose flips are all in memory at once, at up to 16 bytes each."""
TABLE_BYTES: dict[Scheme, int] = {"entropy": 1, "indices": 1, "tree": 6}
"""Bytes per latent of the table of rates: a rate each, or a tree."""
DIGEST_SIZE = 16
_HASH = re.compile(r"[0-9A-Za-z._:-]{0,128}")


class Header(NamedTuple):
    """The numbers and options of a container."""

    rows: int
    """Number of codes."""
    d_latent: int
    """Bits of each code."""
    scheme: Scheme
    """How the codes are compressed."""
    block_rows: int
    """Rows of each block but the last, which may have fewer; a block is decoded at once."""
    model_hash: str
    """`model_hash` of the autoencoder that made the codes; empty where it is unknown."""
    prior_hash: str
    """Hash of the quantised prior; its first 16 hex digits where the table is referred to."""
    table: TableChoice = "embedded"
    """Place of the table."""

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.rows // self.block_rows)

    def rows_of(self, block: int) -> int:
        """Number of rows of a block."""
        return min(self.block_rows, self.rows - block * self.block_rows)

    def check(self) -> None:
        """Raise `InvalidInputError` for invalid numbers or options."""
        ranges = {"rows": (0, MAX_ROWS), "d_latent": (1, MAX_LATENTS), "block_rows": (1, MAX_BLOCK_BITS)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; expected {least} to {most}.")
        if self.scheme not in get_args(Scheme):
            raise InvalidInputError(f"scheme is '{self.scheme}'; expected one of {', '.join(get_args(Scheme))}.")
        if self.block_rows > (most := most_block_rows(self.scheme, self.d_latent)):
            raise InvalidInputError(
                f"block_rows is {self.block_rows}; with d_latent {self.d_latent} and scheme {self.scheme} expected at "
                f"most {most}, so that a block does not take too much memory."
            )
        if not _HASH.fullmatch(self.model_hash):
            raise InvalidInputError(
                f"model_hash is {self.model_hash!r}; expected at most 128 letters, digits, and . _ : -"
            )


def most_block_rows(scheme: Scheme, d_latent: int) -> int:
    """Rows that a block may have."""
    return min(MAX_TREE_BLOCK_ROWS, MAX_TREE_BLOCK_BITS // d_latent) if scheme == "tree" else MAX_BLOCK_BITS // d_latent


class Layout(NamedTuple):
    """Where the parts of a container lie, as bytes from its beginning."""

    payload: tuple[int, int]
    offsets: tuple[int, int]
    checksums: tuple[int, int]
    prior: tuple[int, int]
    digest: tuple[int, int]

    @classmethod
    def of(cls, header: Header, payload_size: int) -> "Layout":
        """The layout of a container whose blocks take `payload_size` bytes."""
        place, parts = HEADER_SIZE, []
        sizes = (
            payload_size,
            8 * (header.blocks + 1),
            8 * header.blocks,
            TABLE_BYTES[header.scheme] * header.d_latent,
            DIGEST_SIZE,
        )
        for size in sizes:
            parts.append((place, place + size))
            place += size
        return cls(*parts)

    @property
    def size(self) -> int:
        """Bytes of the container."""
        return self.digest[1]


def write_header(header: Header, payload_size: int) -> bytes:
    """The first bytes of a container."""
    layout = Layout.of(header, payload_size)
    told = {name: str(value) for name, value in header._asdict().items() if name != "table"}
    metadata = {"format": FORMAT, "version": str(VERSION), **told}
    widths = {"payload": 1, "offsets": 8, "checksums": 8, "prior": 1, "digest": 1}
    entries = {
        name: {
            "dtype": "U64" if widths[name] == 8 else "U8",
            "shape": [(end - start) // widths[name]],
            "data_offsets": [start - HEADER_SIZE, end - HEADER_SIZE],
        }
        for name, (start, end) in layout._asdict().items()
    }
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    assert len(text) <= HEADER_SIZE - 8
    return struct.pack("<Q", HEADER_SIZE - 8) + text.ljust(HEADER_SIZE - 8)


def parse_header(content: bytes, size: int) -> tuple[Header, Layout]:
    """The header in the first `HEADER_SIZE` bytes of a container of `size` bytes. Raises `CorruptContainerError`."""
    try:
        if len(content) != HEADER_SIZE or struct.unpack("<Q", content[:8])[0] != HEADER_SIZE - 8:
            raise ValueError("it does not begin like one")
        fields = json.loads(content[8:])
        metadata = fields["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {str(metadata['format'])[:40]!r}, expected {FORMAT!r}")
        if metadata["version"] != str(VERSION):
            raise ValueError(f"its version is {str(metadata['version'])[:20]!r}, this bae_ray reads {VERSION}")
        header = Header(
            rows=_number(metadata["rows"]),
            d_latent=_number(metadata["d_latent"]),
            scheme=metadata["scheme"],
            block_rows=_number(metadata["block_rows"]),
            model_hash=metadata["model_hash"],
            prior_hash=metadata["prior_hash"],
        )
        header.check()
        payload_size = _number(str(fields["payload"]["shape"][0]))
        layout = Layout.of(header, payload_size)
        if layout.size != size:
            raise ValueError(f"it has {size} bytes and says {layout.size}")
        if write_header(header, payload_size) != content:
            raise ValueError("its header is not as it was written")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AssertionError, InvalidInputError) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, (KeyError, TypeError, IndexError)) else error
        raise damaged(str(reason)) from error
    return header, layout


def damaged(reason: str) -> CorruptContainerError:
    """The error for bytes that are no container of codes."""
    return CorruptContainerError(
        f"this is no container of codes, or a damaged one: {reason[:200]}. Compress anew, or give the file that "
        "'bae-ray compress' or bae_ray.compression wrote."
    )


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)
