"""The registry: a folder of encoders, looked at again when it changes.

An id is only ever looked up among the names of the folder's entries, never joined to a path. An encoder's files are
read once for each version of them. All of it may block, so that it belongs in a thread.
"""

import logging
import re
import threading
import time
from pathlib import Path

from bae_ray.errors import InvalidInputError
from bae_ray.serving.entries import Entry, broken_entry, read_entry, version_of

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LOOK_AGAIN_S = 1.0

log = logging.getLogger("ray.serve")


class Registry:
    """The encoders of a folder. Threads may share one."""

    def __init__(self, folder: Path) -> None:
        """Raises `InvalidInputError` where the folder does not exist."""
        if not folder.is_dir():
            raise InvalidInputError(f"the registry {folder} is not a folder. Make it, or give another.")
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        self._passed_over: set[str] = set()
        self._looked = float("-inf")
        self._lock = threading.Lock()

    @property
    def known(self) -> dict[str, Entry]:
        """The encoders by id as they were when the folder was last looked at, broken ones included."""
        return self._entries

    @property
    def is_stale(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._looked >= LOOK_AGAIN_S

    def look(self) -> dict[str, Entry]:
        """The encoders by id as they are now."""
        with self._lock:
            if (folders := self._folders()) is not None:
                self._entries = {entry.id: entry for folder in folders if (entry := self._entry(folder))}
            self._looked = time.monotonic()
            return self._entries

    def find(self, encoder_id: str) -> Entry | None:
        """The encoder of an id as it is now; nothing of others is read."""
        with self._lock:
            folder = next((folder for folder in self._folders() or () if folder.name == encoder_id), None)
            entry = self._entry(folder) if folder else None
            if entry is not None:
                self._entries = {**self._entries, entry.id: entry}
            return entry

    def refuse(self, entry: Entry, reason: str) -> str:
        """Mark an encoder as broken until its files change; the reason as others may hear it.

        Waits for nobody: where the folder is looked at meanwhile the mark is lost, and made again with the next load.
        """
        broken = broken_entry(entry.id, entry.folder, entry.version, reason)
        if (known := self._entries.get(entry.id)) and known.version == entry.version and known.config is not None:
            self._entries = {**self._entries, entry.id: broken}
        return broken.reason

    def _folders(self) -> list[Path] | None:
        try:
            return sorted(self._folder.iterdir())
        except OSError as error:
            log.error(f"registry {self._folder} cannot be listed: {error}; the encoders known before are served on.")
            return None

    def _entry(self, folder: Path) -> Entry | None:
        """The encoder in a folder: the one that is known, where the files are the same."""
        if (version := version_of(folder)) is None:
            return None
        if not ID.fullmatch(folder.name):
            self._pass_over(folder)
            return None
        known = self._entries.get(folder.name)
        return known if known and known.version == version else read_entry(folder.name, folder, version)

    def _pass_over(self, folder: Path) -> None:
        """Say once that a folder's name is no id; hidden ones are not meant to be served."""
        if folder.name.startswith(".") or folder.name in self._passed_over:
            return
        self._passed_over.add(folder.name)
        log.error(
            f"{folder.name!r} in the registry is not served: an id is 1 to 128 letters, digits, dots, dashes and "
            "underscores, the first a letter or a digit. Rename the folder."
        )
