r"""File formats of corpora, known by the names of files; how files are opened, and text is read as lines.

Text is UTF-8, or UTF-16 and UTF-32 with their mark; a line ends at \n or \r\n and nowhere else.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from bae_ray.errors import UnreadableFileError, first_line

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
SNIFFED = 4096
_MARKS = {  # the longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
BLOCK = 1 << 16


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


def unreadable(path: Path, reason: str) -> UnreadableFileError:
    """The error of a file that is not what its name says."""
    return UnreadableFileError(f"corpus file {path} cannot be read as {ending(path)}: {reason}")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""The lines of a text file with their numbers, from 1; each with its end, \n or \r\n, as it is.

    A byte order mark is left out. Raises `UnreadableFileError` for bytes that are no text, with their place.
    """
    head = b""
    with suppress(*FAILURES), open_bytes(path) as file:  # what fails here fails again below, with its line
        head = file.read(SNIFFED)
    mark, encoding = next(((mark, name) for mark, name in _MARKS.items() if head.startswith(mark)), (b"", "utf-8"))
    if not mark and (likely := _unmarked(head)):
        raise unreadable(path, f"bytes 0 to {len(head)} look like {likely} without its mark. {_convert(path, likely)}")
    with open_bytes(path) as file:
        file.read(len(mark))
        wide = encoding != "utf-8"
        stream = io.BufferedReader(_Recoded(file, encoding, len(mark), path), BLOCK) if wide else file
        offset, number = len(mark), 0
        while line := _next_line(stream, path, number):
            number += 1
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset, number, error) from error
            yield number, text
            offset += len(line)


def _next_line(stream: BinaryIO | io.BufferedReader, path: Path, number: int) -> bytes:
    try:
        return stream.readline()
    except FAILURES as error:
        raise unreadable(path, f"what comes after line {number} is damaged or cut off: {first_line(error)}") from error


class _Recoded(io.RawIOBase):
    """A stream of UTF-16 or UTF-32 as one of UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str, offset: int, path: Path) -> None:
        self._file, self._encoding, self._path = file, encoding, path
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._offset = offset
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._ready:
            block = self._file.read(BLOCK)
            start = self._offset - len(self._decoder.getstate()[0])
            try:
                self._ready = self._decoder.decode(block, final=not block).encode("utf-8")
            except UnicodeDecodeError as error:
                raise unreadable(
                    self._path,
                    f"byte {start + error.start} is no {self._encoding} ({error.reason}), which its mark calls for. Is "
                    "the file cut off?",
                ) from error
            self._offset += len(block)
            if not block:
                break
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _unmarked(head: bytes) -> str | None:
    """The encoding of UTF-16 without a mark, whose ASCII characters have 0 as every second byte; None for others."""
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        half = head[first::2]
        if half.count(0) > len(half) / 4 and head[1 - first :: 2].count(0) == 0:
            return name
    return None


def _not_utf8(path: Path, offset: int, number: int, error: UnicodeDecodeError) -> UnreadableFileError:
    place = f"byte {offset + error.start} (line {number})"
    if other := other_content(path):
        return unreadable(path, f"{place} is no text: the file looks like {other}. Let its name end in that.")
    last = ", or is the file cut off there?" if error.reason == "unexpected end of data" else "."
    value = error.object[error.start]
    return unreadable(path, f"{place} is 0x{value:02x}, which is no UTF-8. {_convert(path, 'WINDOWS-1252')}{last}")


def _convert(path: Path, encoding: str) -> str:
    return f"Convert it first: iconv -f {encoding} -t UTF-8 {path.name} > converted{ending(path)}"
