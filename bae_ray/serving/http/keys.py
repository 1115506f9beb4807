"""Bearer keys: who may call, which encoders they may use, and how much they may ask for."""

import hashlib
import hmac
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from bae_ray.errors import InvalidInputError
from bae_ray.files import read_text

VARIABLE = "BAE_RAY_API_KEYS"
SHORTEST = 16
MAX_BYTES = 1 << 20
OPTIONS = {"name", "encoders", "inflight", "per_minute"}


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
