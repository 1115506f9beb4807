"""The keys in force: those of a file are read again when it changes."""

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
    """The keys of a file, if there is one; where it becomes unreadable, those that it had before."""

    def __init__(self, keys: Keys, file: Path | None) -> None:
        """`keys`: those that the service was started with."""
        self._keys, self._file = keys, file
        self._version: tuple[int, ...] | None = None
        self._is_current = True
        self._time_limit = TimeLimit(TIMEOUT_S)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, key: str) -> Caller | None:
        """Whose key this is now."""
        return self._keys.find(key)

    def watch(self, tell: Callable[[bool], None]) -> None:
        """Look at the file, and then again every second in a thread; `tell` hears whether the keys are those of now."""
        if self._file is None:
            return
        tell(self.look())
        threading.Thread(target=self._watch, args=(tell,), name="keys", daemon=True).start()

    def look(self) -> bool:
        """Read the file where it has changed; whether the keys are those in it."""
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
        if version == self._version:
            return
        is_first, self._version = self._version is None, version
        try:
            self._keys = read_keys(self._file)
            self._is_current = True
        except InvalidInputError as error:
            self._is_current = False
            log.error(f"{error} The keys that were there before stay in force.")
            return
        if not is_first:
            log.warning(f"{self._file} has changed; its keys are in force.")

    def _watch(self, tell: Callable[[bool], None]) -> None:
        while True:
            time.sleep(LOOK_AGAIN_S)
            tell(self.look())


def _version_of(file: Path) -> tuple[int, ...]:
    """What tells the file from another one in its place; nothing where there is none."""
    try:
        stat = file.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
