"""The project's files, written whole or not at all. If a path stands for a file in a bucket, that one is written first.

After a process is killed, local copies are never newer than the bucket, except for appended lines.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from bae_ray import disk
from bae_ray.disk import MAX_JSON_BYTES, MIB, TEMPORARY_SUFFIX, check_regular, read_text
from bae_ray.locations import location_of, shown
from bae_ray.storage import Folder, Found, folder_at
from bae_ray.system_errors import FULL

__all__ = [
    "MAX_JSON_BYTES", "MIB", "TEMPORARY_SUFFIX", "append_text", "at_hand", "atomic_path", "check_regular", "checksum",
    "download", "elsewhere", "exists", "file_size", "is_same", "move", "publish", "publish_appended", "read_text",
    "remove", "remove_folder", "write_text",
]  # fmt: skip

_appended: set[Path] = set()
"""Copies with lines that are not in their bucket yet."""
_lock = threading.Lock()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on failure it is removed.

    Where `path` stands for a file elsewhere it is that one first, after all that this process has appended to others.
    """
    with _of_copies(path), disk.atomic_path(path) as temporary:
        yield temporary
        if (there := elsewhere(path)) is not None:
            publish_appended()
            _upload(temporary, there)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, its folder made if it is missing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add text to a file. Elsewhere it is there with the next file that this process writes whole."""
    with _of_copies(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)
    if location_of(path) is not None:
        with _lock:
            _appended.add(path)


def publish(folder: Path) -> None:
    """Write what other software has left in a folder where the folder belongs; nothing for one of this machine's."""
    if location_of(folder) is not None:
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            _upload(path, _there(path))


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if (there := elsewhere(path)) is not None:
        there[0].remove_file(there[1])
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that it holds, if it is there."""
    if (there := elsewhere(path)) is not None:
        there[0].remove(there[1])
    shutil.rmtree(path, ignore_errors=True)


def move(path: Path, to: Path) -> None:
    """Give a file another name; elsewhere, where that is no single step, it may for a moment have both."""
    if (there := elsewhere(to)) is None:
        path.replace(to)
    else:
        _upload(at_hand(path), there)
        path.replace(to)
        remove(path)


def at_hand(path: Path) -> Path:
    """The path itself, once the file that it stands for is copied here; where there is none, the copy is gone."""
    if (there := elsewhere(path)) is not None:
        folder, name = there
        if (found := folder.find(name)) is None:
            if path.is_file():
                path.unlink()
        elif not is_same(path, found):
            download(folder, name, path, found)
    return path


def checksum(path: Path) -> str:
    """The xxh3-128 checksum of a file."""
    return disk.checksum(at_hand(path))


def exists(path: Path) -> bool:
    """Whether there is such a file, here or elsewhere."""
    return file_size(path) is not None


def file_size(path: Path) -> int | None:
    """Bytes of a file, here or elsewhere; None where there is none."""
    if (there := elsewhere(path)) is not None:
        return there[0].sizes([there[1]])[0]
    return path.stat().st_size if path.exists() else None


def elsewhere(path: Path) -> tuple[Folder, str] | None:
    """The file system that a path stands for a file of, as a folder, and the file's name there."""
    if (location := location_of(path)) is None:
        return None
    uri, _, options = location.partition("?")
    scheme, _, place = uri.partition("://")
    host, _, name = place.partition("/")
    return _system(f"{scheme}://{host or '/'}" + (f"?{options}" if options else "")), name


def _there(path: Path) -> tuple[Folder, str]:
    there = elsewhere(path)
    assert there is not None
    return there


def is_same(copy: Path, found: Found) -> bool:
    """Whether a copy is that of a file as it was found."""
    try:
        stat = copy.stat()
    except FileNotFoundError:
        return False
    return (stat.st_size, int(stat.st_mtime)) == found


def download(folder: Folder, name: str, copy: Path, found: Found) -> None:
    """Copy a file to this machine, with the time at which it was written."""
    with _of_copies(copy), disk.atomic_path(copy) as temporary:
        folder.download(name, temporary)
        os.utime(temporary, (found.modified_s, found.modified_s))


def _upload(file: Path, there: tuple[Folder, str]) -> None:
    folder, name = there
    folder.upload(file, name)
    if (found := folder.find(name)) is not None:
        os.utime(file, (found.modified_s, found.modified_s))


def publish_appended() -> None:
    """Write all that this process has appended where it belongs; nothing for files of this machine's."""
    with _lock:
        appended = [*_appended]
    for path in appended:
        if path.exists() and (there := elsewhere(path)) is not None:
            _upload(path, there)
        with _lock:
            _appended.discard(path)


@cache
def _system(uri: str) -> Folder:
    return folder_at(uri)


@contextmanager
def _of_copies(path: Path) -> Iterator[None]:
    """Say of a full disk that it is this machine's, although the path stands for a file elsewhere."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and location_of(path) is not None and str(path) in str(error.filename):
            error.filename = f"{disk.cache_folder()}, for this machine's copy of {shown(path)}; BAE_RAY_CACHE names it"
        raise
