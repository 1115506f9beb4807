"""The registry: a folder of encoders, checked again for changes.

An id is only looked up among the names of the folder's entries, never joined to a path. The files of an encoder are
read once per version. Everything here may block, so call it in a thread; slow reads are abandoned after a while, and
delay no other encoder.
"""

import logging
import os
import re
import threading
import time
from functools import partial
from pathlib import Path

from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.locations import location_of, shown
from bae_ray.serving.config import MAX_WEIGHTS_BYTES, ServiceConfig
from bae_ray.serving.registry.entry import Entry, broken_entry, is_of_encoder, links_out, read_entry, version_of
from bae_ray.serving.time_limits import SlowError, TimeLimit
from bae_ray.working_copies import reading, refresh

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LOOK_AGAIN_S = 1.0
COPY_AGAIN_S = 10.0
"""How often a folder elsewhere is asked for changes."""
ENTRY_TIMEOUT_S = 5.0
"""Time limit for the files of one encoder, and for the list of all."""
LOOK_TIMEOUT_S = 10.0
"""Time limit for all slow encoders together, each time the folder is checked."""
SLOW = "slow"
"""The version of an encoder that was never read."""

log = logging.getLogger("ray.serve")


class Registry:
    """The encoders of a folder. Thread-safe."""

    def __init__(self, folder: Path, follow_links: bool = False, most: int = MAX_WEIGHTS_BYTES) -> None:
        """`follow_links`: also those that lead out of the folder. `most`: bytes of an encoder's weights.

        Raises `InvalidInputError` if the folder does not exist or cannot be reached.
        """
        self._time_limit = TimeLimit(ENTRY_TIMEOUT_S, LOOK_TIMEOUT_S)
        self._copied = float("-inf")
        try:
            reading(folder, is_of_encoder)  # as long as it takes: there is nothing to serve before
            is_folder = self._time_limit.call(None, folder.is_dir)
            self._root = None if follow_links else self._time_limit.call(None, folder.resolve)
        except SlowError as error:
            raise InvalidInputError(
                f"the registry {shown(folder)} cannot be reached: {error}. Check its disk."
            ) from error
        if not is_folder:
            raise InvalidInputError(f"the registry {shown(folder)} is not a folder. Make it, or give another.")
        self._folder, self._most = folder, most
        self._entries: dict[str, Entry] = {}
        self._passed_over: set[str] = set()
        self._looked = float("-inf")
        self._lock = threading.Lock()

    @classmethod
    def of(cls, config: ServiceConfig) -> "Registry":
        """The registry of a service. Raises what the constructor does."""
        return cls(config.registry, config.follow_links, config.encoders.max_weights_bytes)

    @property
    def known(self) -> dict[str, Entry]:
        """The encoders by id at the last check, broken ones included."""
        return self._entries

    @property
    def is_stale(self) -> bool:
        """Whether it is time to check again."""
        return time.monotonic() - self._looked >= LOOK_AGAIN_S

    def look(self) -> dict[str, Entry]:
        """Check the folder. Returns the encoders by id."""
        with self._lock:
            self._time_limit.begin()
            if (folders := self._folders()) is not None:
                self._entries = {entry.id: entry for folder in folders if (entry := self._entry(folder))}
            self._looked = time.monotonic()
            return self._entries

    def find(self, encoder_id: str) -> Entry | None:
        """Check one encoder; no other one is read."""
        with self._lock:
            self._time_limit.begin()
            folder = next((folder for folder in self._folders() or () if folder.name == encoder_id), None)
            entry = self._entry(folder) if folder else None
            if entry is not None:
                self._entries = {**self._entries, entry.id: entry}
            return entry

    def refuse(self, entry: Entry, reason: str) -> str:
        """Mark an encoder as broken until its files change. Returns the reason without paths of this machine.

        Takes no lock: if the folder is checked at the same time, the mark is lost, and set again with the next load.
        """
        broken = broken_entry(entry.id, entry.folder, entry.version, reason)
        if (known := self._entries.get(entry.id)) and known.version == entry.version and known.config is not None:
            self._entries = {**self._entries, entry.id: broken}
        return broken.reason

    def _folders(self) -> list[Path] | None:
        try:
            if location_of(self._folder) is not None and time.monotonic() - self._copied >= COPY_AGAIN_S:
                self._copied = time.monotonic()
                self._time_limit.call("copies", partial(refresh, self._folder, large=is_of_encoder))
        except OSError as error:
            log.error(f"registry {shown(self._folder)} cannot be copied: {error}; what was copied before is served on.")
        try:
            return sorted(map(self._folder.joinpath, self._time_limit.call(None, partial(os.listdir, self._folder))))
        except OSError as error:
            log.error(f"registry {self._folder} cannot be listed: {error}; the encoders known before are served on.")
            return None

    def _entry(self, folder: Path) -> Entry | None:
        """The encoder in a folder; the known one if its files are the same."""
        known = self._entries.get(folder.name)
        try:
            return self._time_limit.call(folder.name, partial(self._read, folder, known))
        except SlowError as error:
            if not ID.fullmatch(folder.name):
                return None
            if known is None or known.version == SLOW:
                return known or broken_entry(folder.name, folder, SLOW, str(error))
            if error.is_new:
                log.error(f"encoder {known.id} is served as it was: {error}. Check the disk of {folder}.")
            return known

    def _read(self, folder: Path, known: Entry | None) -> Entry | None:
        if (version := version_of(folder)) is None:
            return None
        if not ID.fullmatch(folder.name):
            self._pass_over(folder)
            return None
        if outside := [] if self._root is None else links_out(folder, self._root):
            version = content_hash([version, outside])
        if known and known.version == version:
            return known
        if outside:
            reason = f"{', '.join(outside)} is a link that leads out of the registry, and --follow-links is not given"
            return broken_entry(folder.name, folder, version, reason)
        return read_entry(folder.name, folder, version, self._most)

    def _pass_over(self, folder: Path) -> None:
        """Log once that a folder's name is no id. Hidden folders are ignored silently."""
        if folder.name.startswith(".") or folder.name in self._passed_over:
            return
        self._passed_over.add(folder.name)
        log.error(
            f"{folder.name!r} in the registry is not served: an id is 1 to 128 letters, digits, dots, dashes and "
            "underscores, the first a letter or a digit. Rename the folder."
        )
