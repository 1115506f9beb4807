"""Local copies of a remote store's files, so that they can be memory-mapped; the least recently used go first."""

import os
from pathlib import Path

from bae_ray.activations.bundled import cache_folder
from bae_ray.errors import CorruptShardError, InvalidInputError
from bae_ray.files import atomic_path
from bae_ray.storage import FileRecord, Folder

DEFAULT_LIMIT_GB = 50.0


class FileCache:
    """Copies by content: a file's name here is its checksum, so a copy is never out of date."""

    def __init__(self, limit_gb: float, folder: Path | None = None) -> None:
        self._limit = int(limit_gb * 1e9)
        self._folder = folder or cache_folder() / "stores"

    def fetch(self, remote: Folder, wanted: dict[str, FileRecord]) -> list[Path]:
        """Paths of copies of these files, downloaded where they are missing.

        Raises `CorruptShardError` where a file is not what was recorded, and `InvalidInputError` where together they
        are larger than the cache may be.
        """
        needed = sum(record.size for record in wanted.values())
        if needed > self._limit:
            raise InvalidInputError(
                f"{needed / 1e9:.2f} GB of {remote} are wanted at once, but the local cache is limited to "
                f"{self._limit / 1e9:.2f} GB. Open the store with a larger cache_gb."
            )
        paths = {name: self._folder / record.checksum[:2] / record.checksum for name, record in wanted.items()}
        for path in paths.values():
            if path.exists():
                os.utime(path)  # used just now
        missing = [name for name, path in paths.items() if not path.exists()]
        self._make_room(sum(wanted[name].size for name in missing), set(paths.values()))
        problems: list[str] = []
        for name in missing:
            try:
                content = remote.read(name)
            except FileNotFoundError:
                problems.append(f"{name} is missing")
                continue
            found = FileRecord.of(content)
            if found != wanted[name]:
                problems.append(f"{name} has checksum {found.checksum}, expected {wanted[name].checksum}")
                continue
            with atomic_path(paths[name]) as temporary:
                temporary.write_bytes(content)
        if problems:
            raise CorruptShardError("\n  ".join(problems))
        return list(paths.values())

    def _make_room(self, needed: int, keep: set[Path]) -> None:
        """Drop copies until `needed` bytes more are within the limit. What is mapped somewhere lives on there."""
        copies = [(path, path.stat()) for path in self._folder.glob("*/*") if path.is_file()]
        total = sum(stats.st_size for _, stats in copies)
        for path, stats in sorted(copies, key=lambda copy: copy[1].st_mtime_ns):
            if total + needed <= self._limit:
                return
            if path not in keep:
                path.unlink(missing_ok=True)
                total -= stats.st_size
