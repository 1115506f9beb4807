"""The keys in force: a key file is read again when it changes."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bae_ray.errors import InvalidInputError
from bae_ray.serving.http.keys import Caller, Keys, read_keys
from bae_ray.serving.time_limits import SlowError, TimeLimit

LOOK_AGAIN_S = 1.0
TIMEOUT_S = 5.0

log = logging.getLogger("ray.serve")


class KeyFile:
    """The keys of a file, if there is one. If it becomes unreadable, the earlier keys stay."""

    def __init__(self, keys: Keys, file: Path | None) -> None:
        """`keys`: the keys at the start."""
        self._keys, self._file = keys, file
        self._version: tuple[int, ...] | None = None
        """The version that was read last."""
        self._refused: tuple[tuple[int, ...], str] | None = None
        """The version that could not be read, and the error."""
        self._is_current = True
        self._time_limit = TimeLimit(TIMEOUT_S)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, key: str) -> Caller | None:
        """The caller with this key, or None."""
        return self._keys.find(key)

    def watch(self, tell: Callable[[bool], None]) -> None:
        """Check the file now, then every second in a thread. `tell` gets whether the keys are up to date."""
        if self._file is None:
            return
        tell(self.look())
        threading.Thread(target=self._watch, args=(tell,), name="keys", daemon=True).start()

    def look(self) -> bool:
        """Read the file if it has changed. Returns whether the keys are up to date."""
        assert self._file is not None
        try:
            self._time_limit.call(None, self._read)
        except SlowError as error:
            if error.is_new:
                log.error(f"{self._file}: {error}. The keys that were there before stay in force.")
            return False
        return self._is_current

    def _read(self) -> None:
        assert self._file is not None
        version = _version_of(self._file)
        if version == self._version and self._refused is None:
            return
        try:
            self._keys = read_keys(self._file)
        except InvalidInputError as error:  # it is read again with every look: the same file may be readable then
            self._is_current = False
            if (refused := (version, str(error))) != self._refused:
                self._refused = refused
                log.error(f"{error} The keys that were there before stay in force.")
            return
        if self._version is not None or self._refused is not None:
            log.warning(f"{self._file} has changed; its keys are in force.")
        self._version, self._refused, self._is_current = version, None, True

    def _watch(self, tell: Callable[[bool], None]) -> None:
        while True:
            time.sleep(LOOK_AGAIN_S)
            tell(self.look())


def _version_of(file: Path) -> tuple[int, ...]:
    """Changes when the file does; empty if there is none."""
    try:
        stat = file.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
