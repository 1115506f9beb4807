"""Folders on any file system that pyarrow knows: this machine's, S3 and what speaks its language, GCS, Azure, HDFS.

A location is a path of this machine or a URI such as `s3://bucket/folder`, with what the file system needs as its
query: `s3://bucket/folder?endpoint_override=localhost:9000&scheme=http`. Credentials come from where pyarrow looks for
them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import xxhash
from pyarrow import fs

from bae_ray.errors import InvalidInputError, first_line
from bae_ray.files import TEMPORARY_SUFFIX, atomic_path, checksum
from bae_ray.system_errors import naming

OBJECT_STORES = ("s3", "gcs", "abfs")
"""Types of file systems whose files appear whole, when they are closed, and that have no real folders."""

SHOWN_OPTIONS = (
    "allow_bucket_creation", "allow_bucket_deletion", "blob_storage_authority", "blob_storage_scheme",
    "dfs_storage_authority", "dfs_storage_scheme", "enable_tls", "endpoint_override", "force_virtual_addressing",
    "project_id", "region", "replication", "retry_limit_seconds", "scheme", "tls_ca_dir_path", "tls_ca_file_path",
    "tls_verify_certificates",
)  # fmt: skip
"""Options in a URI's query that tell where and how, and no secret."""


class FileRecord(NamedTuple):
    """What a file must be like: its size and the xxh3-128 checksum of its content."""

    size: int
    checksum: str

    @classmethod
    def of(cls, content: bytes) -> "FileRecord":
        """The record of this content."""
        return cls(len(content), xxhash.xxh3_128_hexdigest(content))


class Folder:
    """A folder of a file system; names of files in it are relative, with slashes. May be sent to other processes."""

    def __init__(self, filesystem: fs.FileSystem, root: str, shown: str | None = None) -> None:
        """The folder at the path `root` of a file system of pyarrow; `shown`: what messages call it."""
        self._fs, self._root, self._shown = filesystem, root.rstrip("/"), shown or root

    def __str__(self) -> str:
        return self._shown

    @property
    def path(self) -> Path | None:
        """The folder as a path, if it is on this machine's own file system."""
        return Path(self._root) if isinstance(self._fs, fs.LocalFileSystem) else None

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `FileNotFoundError` where there is none."""
        with naming(f"{self}/{name}"), self._fs.open_input_stream(self._full(name)) as stream:
            return stream.read()

    def read_text(self, name: str) -> str:
        """The content of a text file."""
        return self.read(name).decode()

    def write(self, name: str, content: bytes) -> FileRecord:
        """Write a file whole or not at all: whoever reads it meanwhile sees the old one or the new one."""
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
        return FileRecord.of(content)

    def write_text(self, name: str, text: str) -> FileRecord:
        """Write a text file whole or not at all."""
        return self.write(name, text.encode())

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self.sizes([name])[0] is not None

    def sizes(self, names: Iterable[str]) -> list[int | None]:
        """The bytes of each of these files; None for one that is not there."""
        found = self._fs.get_file_info([self._full(name) for name in names])
        return [info.size if info.type == fs.FileType.File else None for info in found]

    def files(self, under: str = "") -> dict[str, int]:
        """Every file of the folder, or of one in it, and its bytes."""
        selector = fs.FileSelector(self._full(under), recursive=True, allow_not_found=True)
        return {
            info.path.removeprefix(self._root).lstrip("/"): info.size
            for info in self._fs.get_file_info(selector)
            if info.type == fs.FileType.File
        }

    def remove(self, under: str = "") -> None:
        """Remove the folder, or one in it, with all that it holds, if it is there."""
        if self._fs.get_file_info(self._full(under)).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._full(under))

    def remove_file(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.delete_file(self._full(name))

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

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _put(self, full: str, content: bytes) -> None:
        with naming(full), self._fs.open_output_stream(full) as stream:
            stream.write(content)  # at once: an upload that fails never becomes a file


Location = str | Path | Folder
"""A path, a URI that pyarrow knows such as s3://bucket/folder, or a folder of any of its file systems."""


def without_credentials(location: str) -> str:
    """A location as it may be shown and written down.

    A URI loses its user and password, and of its options all that are not known to hold no secret.
    """
    if "://" not in location:
        return location
    parts = urlsplit(location)
    options = [(name, value) for name, value in parse_qsl(parts.query) if name in SHOWN_OPTIONS]
    query = urlencode(options, safe=":/")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment="").geturl()


def folder_at(location: Location) -> Folder:
    """The folder at a location. Raises `InvalidInputError` for a URI that no file system of pyarrow takes."""
    if isinstance(location, Folder):
        return location
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
    return Folder(filesystem, root, shown)
