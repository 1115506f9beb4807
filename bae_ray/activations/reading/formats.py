"""File formats of corpora, known by the names of files, and how files are opened."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

FORMATS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""Format of each ending."""
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
"""Endings that may follow those of text formats."""
READ = ".txt, .json, .jsonl (or .ndjson), .csv, .tsv, each also with .gz, .zst, .bz2 or .xz after it; and .parquet"
"""What is read, for messages."""
FAILURES = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError)
"""Errors of libraries for a damaged file, or one of another format."""
_OTHER_CONTENT = {
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz",
    b"PAR1": ".parquet",
    b"PK\x03\x04": ".zip",
}


class Kind(NamedTuple):
    """How a file is read."""

    format: str
    """One of the values of `FORMATS`."""
    compression: str | None
    """One of `COMPRESSIONS`."""


def kind_of(path: Path) -> Kind | None:
    """The format that a file's name says; None for an unknown one."""
    endings = [ending.lower() for ending in path.suffixes]
    compression = endings.pop() if endings and endings[-1] in COMPRESSIONS else None
    found = FORMATS.get(endings[-1]) if endings else None
    if found is None or (compression and found == "parquet"):
        return None
    return Kind(found, compression)


def ending(path: Path) -> str:
    """The part of a file's name that says how it is read, such as `.jsonl.gz`."""
    kind = kind_of(path)
    return "".join(path.suffixes[-2 if kind and kind.compression else -1 :])


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, decompressed as they are read."""
    kind = kind_of(path)
    compression = kind.compression if kind else None
    if compression == ".zst":
        return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(compression or "", open)
    return cast(BinaryIO, opener(path, "rb"))


def other_content(path: Path) -> str | None:
    """The ending that fits the first bytes of a file, where these are not text."""
    with open_bytes(path) as file:
        head = file.read(8)
    return next((name for mark, name in _OTHER_CONTENT.items() if head.startswith(mark)), None)
