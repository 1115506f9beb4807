"""Bearer keys: who may call, which encoders they may use, and how much they may ask for.

A key file is read again when it changes.
"""

import hashlib
import hmac
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from bae_ray.errors import InvalidInputError
from bae_ray.files import read_text
from bae_ray.serving.time_limits import SlowError, TimeLimit

VARIABLE = "BAE_RAY_API_KEYS"
SHORTEST = 16
MAX_BYTES = 1 << 20
OPTIONS = {"name", "encoders", "inflight", "per_minute"}
LOOK_AGAIN_S = 1.0
TIMEOUT_S = 5.0

log = logging.getLogger("ray.serve")


class Caller(NamedTuple):
    """The owner of a key."""

    name: str
    encoders: tuple[str, ...] = ("*",)
    """Shell patterns of the ids of encoders that it may use."""
    inflight: int | None = None
    """Requests that it may have under way; None: any number."""
    per_minute: int | None = None
    """Requests that it may send in a minute; None: any number."""

    def may_use(self, encoder_id: str) -> bool:
        """Whether the key allows this encoder."""
        return any(fnmatchcase(encoder_id, pattern) for pattern in self.encoders)


ANYONE = Caller("anonymous")


class Keys:
    """All keys, as SHA-256 digests."""

    def __init__(self, callers: dict[bytes, Caller]) -> None:
        self._callers = callers

    def __bool__(self) -> bool:
        return bool(self._callers)

    def find(self, key: str) -> Caller | None:
        """The caller with this key. Compares all keys, each in constant time."""
        digest = _digest(key)
        found = None
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def read_keys(file: Path | None) -> Keys:
    """The keys in a file, or by default in the environment.

    Raises `InvalidInputError` if the file cannot be read or holds no key, and for an invalid line. Messages never
    contain a key.
    """
    if file is None:
        source, lines = f"the variable {VARIABLE}", os.environ.get(VARIABLE, "").replace(";", "\n").splitlines()
    else:
        try:
            source, lines = str(file), read_text(file, MAX_BYTES).splitlines()
        except (OSError, UnicodeDecodeError, InvalidInputError) as error:
            raise InvalidInputError(f"--keys-file {file} cannot be read: {str(error).rstrip('.')}.") from error
    callers: dict[bytes, Caller] = {}
    for number, line in enumerate(lines, 1):
        if not (words := line.split()) or words[0].startswith("#"):
            continue
        key = words[0]
        options = {name: value for name, _, value in (word.partition("=") for word in words[1:])}
        numbers = [options[name] for name in ("inflight", "per_minute") if name in options]
        if (
            not (len(key) >= SHORTEST and key.isascii() and options.keys() <= OPTIONS)
            or any(not re.fullmatch("[1-9][0-9]{0,8}", value) for value in numbers)
        ):  # fmt: skip
            raise InvalidInputError(
                f"line {number} of {source} is not KEY [name=NAME] [encoders=GLOB,GLOB] [inflight=N] [per_minute=N] "
                f"with a key of {SHORTEST} or more ASCII characters. `openssl rand -hex 24` makes one."
            )
        patterns = tuple(options["encoders"].split(",")) if "encoders" in options else ("*",)
        limits = {name: int(options[name]) for name in ("inflight", "per_minute") if name in options}
        callers[_digest(key)] = Caller(options.get("name", f"key-{number}"), patterns, **limits)
    if file is not None and not callers:
        raise InvalidInputError(f"{file} holds no key. `openssl rand -hex 24 > {file}` puts one there.")
    return Keys(callers)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


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
