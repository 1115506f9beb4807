"""Who is at work in a folder: one at a time. A file in it that is written anew while its owner lives says so.

No file system on the network can be asked to write a file only where there is none, so each owner writes its own file
and then looks for others'. Who sees another one withdraws. Whether an owner elsewhere lives, its file tells: it changes
every few seconds. Clocks of different machines are not compared.
"""

import getpass
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from pydantic import ValidationError

from bae_ray.config import Record
from bae_ray.errors import ClaimedError, UnfinishedError
from bae_ray.progress import console
from bae_ray.storage import Folder

CLAIMS = ".claims"
"""Folder of these files, beside the results."""
BEAT_S = 10.0
EXPIRES_S = 150.0
"""So long a file that does not change counts: a bucket may take no writes for a minute or two."""
LONG_AGO_S = 3600.0
"""A file as old as this by this machine's clock is not waited for."""

_held: dict[str, int] = {}
"""Folders that this process holds, and how often."""


class Claim(Record):
    """Who is at work in a folder."""

    owner: str
    what: str
    user: str
    host: str
    machine: str
    """Tells whether processes of the same numbers are the same: the machine as it was started, and its namespace."""
    pid: int
    started: float
    """When the process was, by its machine's clock, in seconds since the epoch."""
    since: str

    @classmethod
    def of_this_process(cls, what: str) -> "Claim":
        """A claim of this process."""
        return cls(
            owner=uuid.uuid4().hex, what=what, user=_user(), host=socket.gethostname(), machine=_machine(),
            pid=os.getpid(), started=psutil.Process().create_time(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip

    @property
    def lives(self) -> bool | None:
        """Whether the owner's process is there; None for one of another machine."""
        if self.machine != _machine():
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def __str__(self) -> str:
        return f"{self.what} of {self.user} on {self.host} (process {self.pid}, since {self.since})"


@contextmanager
def claimed(folder: Folder, what: str) -> Iterator[bool]:
    """Hold a folder while the context is open; whether this process held it already.

    Raises `ClaimedError` where another process is at work in it. One that was killed on this machine is passed over at
    once; one of another machine once its file has not changed for `EXPIRES_S` seconds.
    """
    name = folder.location
    if held := _held.get(name, 0):
        _held[name] = held + 1
        try:
            yield True
        finally:
            _held[name] -= 1
        return
    mine = Claim.of_this_process(what)
    _take(folder, mine)
    _held[name] = 1
    try:
        with _Heart(folder, mine):
            yield False
    finally:
        del _held[name]
        with suppress(OSError):
            _withdraw(folder, mine)


def _take(folder: Folder, mine: Claim) -> None:
    while True:
        _wait_for_others(folder)
        _write(folder, mine)
        if not any(claim.owner != mine.owner for claim in _read(folder)):
            return
        _withdraw(folder, mine)
        time.sleep(int(mine.owner[:2], 16) / 100)  # both came at once: who comes back first has it


def _wait_for_others(folder: Folder) -> None:
    """Return once nobody else is at work here. Raises `ClaimedError` where somebody is: a file changes."""
    first: dict[str, float] = {}
    began, told = time.monotonic(), False
    while True:
        found = folder.found(CLAIMS)
        waiting: list[Claim] = []
        for claim in _read(folder, found):
            modified_s, lives = found[_name(claim)].modified_s, claim.lives
            if lives or (lives is None and first.setdefault(claim.owner, modified_s) != modified_s):
                raise _refusal(folder, claim)
            old = time.time() - modified_s > LONG_AGO_S or time.monotonic() - began > EXPIRES_S
            if lives is False or old:
                _withdraw(folder, claim)
            else:
                waiting.append(claim)
        if not waiting:
            return
        if not told:
            told = True
            console.print(f"{folder} was in use by {waiting[0]}: looking whether it still is.")
        time.sleep(1.0)


class _Heart:
    """Writes a claim anew while it is open; where another process has removed it, this one's work is interrupted."""

    def __init__(self, folder: Folder, claim: Claim) -> None:
        self._folder, self._claim = folder, claim
        self._stop, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._stop.set()
        if self._lost and kind is KeyboardInterrupt:
            raise UnfinishedError(
                f"{self._folder} was taken over by another process, since this one gave no sign of life for "
                f"{EXPIRES_S:.0f} s. What is finished is kept."
            )
        self._thread.join(timeout=BEAT_S)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            with suppress(OSError):  # a file system that fails says so where results are written
                if not self._folder.exists(_name(self._claim)):
                    self._lost = True
                    # As Ctrl-C would: also out of a wait.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
                if not self._stop.is_set():
                    _write(self._folder, self._claim)


def _refusal(folder: Folder, claim: Claim) -> ClaimedError:
    return ClaimedError(
        f"{folder} is in use by {claim}. Wait for it to end, stop it there, or give another folder. Once it is killed, "
        f"the folder is free again: at once for others on {claim.host}, elsewhere after {EXPIRES_S:.0f} s."
    )


def _name(claim: Claim) -> str:
    return f"{CLAIMS}/{claim.owner}.json"


def _write(folder: Folder, claim: Claim) -> None:
    folder.write_text(_name(claim), claim.to_json())


def _read(folder: Folder, found: Any = None) -> list[Claim]:
    claims: list[Claim] = []
    for name in found if found is not None else folder.found(CLAIMS):
        with suppress(FileNotFoundError, ValidationError):  # withdrawn meanwhile, or no claim
            claims.append(Claim.model_validate_json(folder.read(name)))
    return claims


def _withdraw(folder: Folder, claim: Claim) -> None:
    folder.remove_file(_name(claim))
    if folder.path is not None:
        with suppress(OSError):  # another one's is there
            (folder.path / CLAIMS).rmdir()


def _machine() -> str:
    """This machine since its start, in as far as processes see one another."""
    start = namespace = ""
    with suppress(OSError):
        start, namespace = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {start} {namespace}".strip()


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return str(os.getuid())
