"""A worker that is asked to end, by SIGTERM or because its machine goes: it saves what it is at, and ends in time.

Whoever can stop at a good place calls `stop_if_asked` there. `watch` has the process end whatever it is at: at
`GRACE_S` a worker whose main thread does the work has that stopped wherever it is, and soon after the process is gone.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE_S = 14.0
"""From being asked until the main thread is stopped: by default Slurm and Kubernetes kill after 30 s."""
LAST_S = 3.0
"""From there until the process ends."""
ANSWERED_S = 1.0
"""After the end of a call its answer is on its way."""
LOOK_S = 0.5
LOOKS_BETWEEN_QUESTIONS = 4
"""Asking Ray costs a message to its head."""
TERMINATED = "it got SIGTERM"


class Preempted(BaseException):
    """This process was asked to end, and stopped what it was at. No `Exception`: nobody records it as a failure."""


class _Asked:
    """What this process was asked."""

    def __init__(self) -> None:
        self.reason = ""
        self.since = 0.0
        self.watched = self.insisted = False
        self.undone: set[Callable[[], None]] = set()


_asked = _Asked()


def asked() -> str:
    """Why this process is asked to end; empty where it is not."""
    return _asked.reason


def ask(reason: str) -> None:
    """Ask this process to end."""
    if not _asked.reason:
        _asked.since = time.monotonic()
        _asked.reason = reason


def stop_if_asked() -> None:
    """Raise `Preempted` where this process is asked to end: nothing new is begun."""
    if _asked.reason:
        raise Preempted(_asked.reason)


@contextmanager
def if_cut_short(action: Callable[[], None]) -> Iterator[None]:
    """Around what `watch` may cut short by ending the process: it then calls the action first."""
    _asked.undone.add(action)
    try:
        yield
    finally:
        _asked.undone.discard(action)


def undo() -> None:
    """Call what `if_cut_short` was given where it is not over."""
    for action in [*_asked.undone]:
        with suppress(Exception):  # the process ends all the same
            action()


def watch(is_leaving: Callable[[], str], calls: "Calls | None" = None) -> None:
    """From here on this process ends in time once it is asked to: by SIGTERM, or where `is_leaving` says why.

    Where there are `calls`, as soon as none is under way, and at `GRACE_S`. Else the main thread does the work: it is
    to stop by itself, and is stopped at `GRACE_S`. SIGTERM is taken where the main thread calls this. Once a process.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _taken)
    if not _asked.watched:
        _asked.watched = True
        threading.Thread(target=_watch, args=(is_leaving, calls), name="preemption", daemon=True).start()


class Calls:
    """Calls of a worker that cannot stop in between. Once the process is asked to end, no new one begins."""

    def __init__(self) -> None:
        self._under_way, self._ended, self._lock = 0, 0.0, threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call; in a process that is asked to end this waits for the end, and the call is made elsewhere."""
        with self._lock:
            refused = bool(_asked.reason)
            self._under_way += not refused
        while refused:
            time.sleep(LOOK_S)
        try:
            yield
        finally:
            with self._lock:
                self._under_way, self._ended = self._under_way - 1, time.monotonic()

    def are_over(self) -> bool:
        """Whether all have ended, and been answered."""
        return not self._under_way and time.monotonic() - self._ended > ANSWERED_S


def _taken(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what Python gives
    if _asked.insisted:
        raise Preempted(_asked.reason)
    ask(TERMINATED)


def _watch(is_leaving: Callable[[], str], calls: Calls | None) -> None:
    looks = 0
    while True:
        time.sleep(LOOK_S)
        if not _asked.reason:
            if looks % LOOKS_BETWEEN_QUESTIONS == 0 and (reason := is_leaving()):
                ask(reason)
            looks += 1
            continue
        late = time.monotonic() - _asked.since - GRACE_S
        if late > LAST_S or (calls is not None and (late > 0 or calls.are_over())):
            break
        if late > 0 and not _asked.insisted and signal.getsignal(signal.SIGTERM) is _taken:
            _asked.insisted = True
            os.kill(os.getpid(), signal.SIGTERM)
    undo()
    os._exit(1)
