"""This machine's files: written so that a killed process never leaves half of one, read only where they are files."""

import math
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from bae_ray.errors import InvalidInputError
from bae_ray.system_errors import naming

TEMPORARY_SUFFIX = ".tmp"
MIB = 1 << 20
MAX_JSON_BYTES = 4 * MIB
"""Bytes of a config or a result at most, a thousand times what they have."""
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def cache_folder() -> Path:
    """What this machine keeps to be quick: `BAE_RAY_CACHE`, by default ~/.cache/bae_ray."""
    return Path(os.environ.get("BAE_RAY_CACHE") or Path.home() / ".cache" / "bae_ray").expanduser()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on failure it is removed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one that tells
            temporary.unlink(missing_ok=True)
        raise


def check_regular(path: Path, most: float = math.inf) -> None:
    """Raise `InvalidInputError` unless `path` is a regular file of at most `most` bytes; `OSError` if there is none.

    Only such a file is safe to open where others may write: opening a FIFO waits for whoever writes into it, and a
    device or a sparse file may have no end.
    """
    _check(path, path.stat(), most)


def read_text(path: Path, most: int = MAX_JSON_BYTES) -> str:
    """A text file's content. Raises what `check_regular` does, before anything is read."""
    check_regular(path, most)  # before it is opened: opening a device may already do something
    # What stands in its place meanwhile is not waited for, and checked too.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        _check(path, os.fstat(file.fileno()), most)
        content = file.read(most + 1)
    if len(content) > most:
        raise InvalidInputError(f"{path} grows beyond {most} bytes while it is read.")
    return content.decode("utf-8")


def _check(path: Path, found: os.stat_result, most: float) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise InvalidInputError(f"{path} is {KINDS.get(kind, 'no file')}; expected a regular file.")
    if found.st_size > most:
        raise InvalidInputError(f"{path} has {found.st_size} bytes; expected at most {most}.")


def checksum(path: Path) -> str:
    """The xxh3-128 checksum of a file, read in blocks of 4 MiB."""
    digest = xxhash.xxh3_128()
    with naming(path), open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
