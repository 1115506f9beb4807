"""Folders on any file system that pyarrow knows: this machine's, S3 and what speaks its language, GCS, Azure, HDFS.

A location is a path of this machine or a URI such as `s3://bucket/folder`, with what the file system needs as its
query: `s3://bucket/folder?endpoint_override=localhost:9000&scheme=http`. Credentials come from where pyarrow looks for
them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import xxhash
from pyarrow import fs

from bae_ray.disk import TEMPORARY_SUFFIX, atomic_path, checksum
from bae_ray.errors import InvalidInputError, first_line
from bae_ray.locations import location_of, without_credentials
from bae_ray.system_errors import naming

OBJECT_STORES = ("s3", "gcs", "abfs")
"""Types of file systems whose files appear whole, when they are closed, and that have no real folders."""

WAITS_S = (1.0, 2.0, 4.0, 8.0, *[15.0] * 10)
"""Between tries of what an object store refuses for now: some three minutes in all, beside the library's own tries."""
PASSING = re.compile(
    r"HTTP status (429|5\d\d)|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT"
    r"|kUnavailable|kDeadlineExceeded|UNAVAILABLE|NETWORK_CONNECTION.*curlCode: (28|52|55|56)"
)
"""In the messages of file systems: the other side is there, and will answer later."""
UNREACHED = re.compile(r"NETWORK_CONNECTION|Couldn't connect|Could not connect|Connection refused")
"""Nobody answers: a wrong address, but where there was an answer before."""

T = TypeVar("T")


class FileRecord(NamedTuple):
    """What a file must be like: its size and the xxh3-128 checksum of its content."""

    size: int
    checksum: str

    @classmethod
    def of(cls, content: bytes) -> "FileRecord":
        """The record of this content."""
        return cls(len(content), xxhash.xxh3_128_hexdigest(content))


class Found(NamedTuple):
    """A file that is there."""

    size: int
    modified_s: int
    """When it was written by the clock of its file system, in whole seconds since the epoch: by what they are asked,
    some tell no more."""


class Folder:
    """A folder of a file system; names of files in it are relative, with slashes. May be sent to other processes.

    What a file system on the network refuses for now, or where it stops to answer, is tried again for three minutes.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, shown: str | None = None, location: str = "") -> None:
        """The folder at the path `root` of a file system of pyarrow; `shown`: what messages call it.

        `location`: from which `folder_at` makes it.
        """
        self._fs, self._root, self._shown = filesystem, root.rstrip("/"), shown or root
        self.location = location or str(self)
        """The path, or the URI without credentials, from which `folder_at` makes it."""
        self._answered = False

    def __str__(self) -> str:
        return self._shown

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system."""
        return self._fs

    @property
    def root(self) -> str:
        """The folder's path on it."""
        return self._root

    @property
    def path(self) -> Path | None:
        """The folder as a path, if it is on this machine's own file system."""
        return Path(self._root) if isinstance(self._fs, fs.LocalFileSystem) else None

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `FileNotFoundError` where there is none."""

        def content() -> bytes:
            with self._fs.open_input_stream(self._full(name)) as stream:
                return stream.read()

        with naming(f"{self}/{name}"):
            return self._asked(content)

    def read_text(self, name: str) -> str:
        """The content of a text file."""
        return self.read(name).decode()

    def write(self, name: str, content: bytes) -> FileRecord:
        """Write a file whole or not at all: whoever reads it meanwhile sees the old one or the new one."""
        self._asked(lambda: self._write(name, content))
        return FileRecord.of(content)

    def _write(self, name: str, content: bytes) -> None:
        if self.path is not None:
            with atomic_path(self.path / name) as temporary:
                temporary.write_bytes(content)
        elif self._fs.type_name in OBJECT_STORES:
            self._put(self._full(name), content)
        else:
            folder, _, last = self._full(name).rpartition("/")
            temporary = f"{folder}/.{last}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
            self._fs.create_dir(folder, recursive=True)
            self._put(temporary, content)
            self._fs.move(temporary, self._full(name))

    def write_text(self, name: str, text: str) -> FileRecord:
        """Write a text file whole or not at all."""
        return self.write(name, text.encode())

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self.sizes([name])[0] is not None

    def sizes(self, names: Iterable[str]) -> list[int | None]:
        """The bytes of each of these files; None for one that is not there."""
        full = [self._full(name) for name in names]
        found = self._asked(lambda: self._fs.get_file_info(full))
        return [info.size if info.type == fs.FileType.File else None for info in found]

    def files(self, under: str = "") -> dict[str, int]:
        """Every file of the folder, or of one in it, and its bytes."""
        return {name: found.size for name, found in self.found(under).items()}

    def found(self, under: str = "") -> dict[str, Found]:
        """The same, with when each was written."""
        selector = fs.FileSelector(self._full(under), recursive=True, allow_not_found=True)
        return {
            info.path.removeprefix(self._root).lstrip("/"): _found(info)
            for info in self._asked(lambda: self._fs.get_file_info(selector))
            if info.type == fs.FileType.File
        }

    def find(self, name: str) -> Found | None:
        """A file; None where there is none."""
        info = self._asked(lambda: self._fs.get_file_info(self._full(name)))
        return _found(info) if info.type == fs.FileType.File else None

    def remove(self, under: str = "") -> None:
        """Remove the folder, or one in it, with all that it holds, if it is there."""
        if self._asked(lambda: self._fs.get_file_info(self._full(under))).type != fs.FileType.NotFound:
            self._asked(lambda: self._fs.delete_dir(self._full(under)))

    def remove_file(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._asked(lambda: self._fs.delete_file(self._full(name)))

    def upload(self, file: Path, name: str) -> None:
        """Write a file with the content of one of this machine, whole or not at all."""
        with naming(file):
            # Mapped: it may be larger than the memory. An empty file cannot be.
            content = pa.memory_map(str(file)).read_buffer() if file.stat().st_size else b""
        self._asked(lambda: self._write(name, content))

    def download(self, name: str, file: Path) -> None:
        """Write a file's content into one of this machine. Raises `FileNotFoundError` where there is none."""

        def copy() -> None:
            with self._fs.open_input_stream(self._full(name)) as stream, open(file, "wb") as written:
                shutil.copyfileobj(stream, written, 1 << 22)

        self._asked(copy)

    def remove_temporary(self) -> None:
        """Remove the files of writes that were killed."""
        for name in self.files():
            if name.rpartition("/")[2].startswith(".") and name.endswith(TEMPORARY_SUFFIX):
                self._fs.delete_file(self._full(name))

    def problem(self, name: str, expected: FileRecord) -> str | None:
        """What is wrong with a file of which this was recorded; None if nothing is."""
        try:
            found = checksum(self.path / name) if self.path is not None else FileRecord.of(self.read(name)).checksum
        except FileNotFoundError:
            return f"{name} is missing"
        return None if found == expected.checksum else f"{name} has checksum {found}, expected {expected.checksum}"

    def free_bytes(self) -> int | None:
        """Free space where the folder is or will be; None where nobody knows."""
        if self.path is None:
            return None
        existing = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        with naming(existing):
            stats = os.statvfs(existing)
        return stats.f_bavail * stats.f_frsize

    def _asked(self, ask: Callable[[], T]) -> T:
        """What the file system answers; on the network it is waited for."""
        if self.path is not None:
            return ask()
        for wait_s in (*WAITS_S, None):
            try:
                answer = ask()
                self._answered = True
                return answer
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    self._answered = True
                told = str(error)
                passes = error.errno is None and (PASSING.search(told) or (self._answered and UNREACHED.search(told)))
                if wait_s is None or not passes:
                    raise
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _put(self, full: str, content: bytes) -> None:
        with naming(full), self._fs.open_output_stream(full) as stream:
            stream.write(content)  # at once: an upload that fails never becomes a file


def _found(info: fs.FileInfo) -> Found:
    return Found(info.size, (info.mtime_ns or 0) // 10**9)


Location = str | Path | Folder
"""A path, a URI that pyarrow knows such as s3://bucket/folder, or a folder of any of its file systems."""


def folder_at(location: Location) -> Folder:
    """The folder at a location. Of a path that stands for one elsewhere (bae_ray/locations.py) it is that one.

    Raises `InvalidInputError` for a URI that no file system of pyarrow takes.
    """
    if isinstance(location, Folder):
        return location
    location = location_of(Path(location)) or location if "://" not in str(location) else location
    if not (isinstance(location, str) and "://" in location):
        return Folder(fs.LocalFileSystem(), str(Path(location).expanduser().absolute()))
    parts = urlsplit(location)
    try:
        filesystem, root = fs.FileSystem.from_uri(location)
    except (OSError, ValueError, NotImplementedError) as error:
        reason = first_line(error).replace(location, without_credentials(location))
        raise InvalidInputError(
            f"a location that begins with {parts.scheme}:// cannot be used: {reason} Give a path, or a URI of a file "
            "system that pyarrow knows, such as s3://bucket/folder or gs://bucket/folder."
        ) from None  # pyarrow's message may hold the credentials
    if isinstance(filesystem, fs.LocalFileSystem):
        return Folder(filesystem, root)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without credentials and options
    return Folder(filesystem, root, shown, without_credentials(location))
