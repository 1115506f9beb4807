"""Local copies of a remote store's files for memory-mapping; the least recently used are removed first."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bae_ray.disk import atomic_path, cache_folder, checksum
from bae_ray.errors import CorruptShardError, InvalidInputError
from bae_ray.storage import FileRecord, Folder

DEFAULT_LIMIT_GB = 50.0


class FileCache:
    """Copies named by their checksums, so that a copy is never out of date."""

    def __init__(self, limit_gb: float, folder: Path | None = None) -> None:
        self._limit = int(limit_gb * 1e9)
        self._folder = folder or cache_folder() / "stores"
        self._intact: set[Path] = set()

    @contextmanager
    def copies(self, remote: Folder, wanted: dict[str, FileRecord]) -> Iterator[list[Path]]:
        """Paths of copies of these files, downloaded if necessary; they stay while the context is open.

        Meanwhile no other process of this machine can use the cache: open the files, then leave the context. Memory
        maps stay valid when the copies are removed.

        Raises `CorruptShardError` for a file that differs from its record, and `InvalidInputError` if the files
        together are larger than the cache.
        """
        needed = sum(record.size for record in wanted.values())
        if needed > self._limit:
            raise InvalidInputError(
                f"{needed / 1e9:.2f} GB of {remote} are needed at once, but the local cache is limited to "
                f"{self._limit / 1e9:.2f} GB. Open the store with a larger cache_gb."
            )
        with self._locked():
            yield self._fetch(remote, wanted)

    def _fetch(self, remote: Folder, wanted: dict[str, FileRecord]) -> list[Path]:
        paths = {name: self._folder / record.checksum[:2] / record.checksum for name, record in wanted.items()}
        missing = [name for name, path in paths.items() if not self._holds(path, wanted[name])]
        self._make_room(sum(wanted[name].size for name in missing), set(paths.values()))
        problems: list[str] = []
        for name in missing:
            try:
                content = remote.read(name)
            except FileNotFoundError:
                problems.append(f"{name} is missing")
                continue
            found = FileRecord.of(content)
            if found == wanted[name]:
                with atomic_path(paths[name]) as temporary:
                    temporary.write_bytes(content)
            else:
                problems.append(f"{name} has checksum {found.checksum}, expected {wanted[name].checksum}")
        if problems:
            raise CorruptShardError("\n  ".join(problems))
        return list(paths.values())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process in at a time: it may remove what another has just found or is about to write."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _holds(self, path: Path, expected: FileRecord) -> bool:
        """Whether an intact copy is here, which then counts as used just now; each is checked once."""
        try:
            os.utime(path)
            if path not in self._intact and checksum(path) != expected.checksum:
                path.unlink(missing_ok=True)
                return False
        except FileNotFoundError:
            return False
        self._intact.add(path)
        return True

    def _make_room(self, needed: int, keep: set[Path]) -> None:
        """Remove copies, and parts left by killed processes, until `needed` more bytes are within the limit."""
        copies = [(path, path.stat()) for path in self._folder.glob("*/*") if path.is_file()]
        total = sum(stats.st_size for _, stats in copies)
        for path, stats in sorted(copies, key=lambda copy: copy[1].st_mtime_ns):
            if total + needed <= self._limit:
                return
            if path not in keep:
                path.unlink(missing_ok=True)
                total -= stats.st_size
