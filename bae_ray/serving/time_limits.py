"""Calls that may never come back, such as of a network folder that is gone: each has a while, in a thread of its own.

Nothing ends a call that the operating system holds. Its thread is left to itself, and the next call has another one.
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

LEAST_S = 0.1
T = TypeVar("T")


class SlowError(OSError):
    """A call has not come back in time."""

    def __init__(self, message: str, is_new: bool) -> None:
        super().__init__(message)
        self.is_new = is_new
        """Whether it is the first time that one has waited for this call."""


class TimeLimit:
    """Makes one call after the other, and waits for each no longer than it may. For one thread at a time."""

    def __init__(self, limit_s: float, together_s: float | None = None) -> None:
        """`limit_s`: for one call.

        `together_s`: for all that are slow since `begin`, where they share one time; then each has `LEAST_S`.
        """
        self._limit_s = limit_s
        self._together_s = self._left_s = together_s
        self._worker: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] | None = None
        self._stuck: dict[Hashable, Future[Any]] = {}

    def __del__(self) -> None:
        if self._worker is not None:
            self._worker.put(None)

    def begin(self) -> None:
        """From here on slow calls have all the time again that they may take together."""
        self._left_s = self._together_s

    def call(self, key: Hashable, function: Callable[[], T]) -> T:
        """What the function gives or raises. Raises `SlowError` where it takes too long.

        While a call of the same key has not come back, no other one is begun; what it then gave is given next.
        """
        if (before := self._stuck.get(key)) is not None:
            if not before.done():
                raise SlowError(f"reading it has not ended after {self._limit_s:g} s", is_new=False)
            return self._stuck.pop(key).result()
        future: Future[T] = Future()
        if self._worker is None:
            self._worker = SimpleQueue()
            threading.Thread(target=_work, args=(self._worker,), name="patience", daemon=True).start()
        self._worker.put((future, function))
        limit_s = self._limit_s if self._left_s is None else max(LEAST_S, min(self._limit_s, self._left_s))
        try:
            return future.result(limit_s)
        except TimeoutError:
            if future.done():  # the function's own
                raise
        if self._left_s is not None:
            self._left_s -= limit_s
        self._stuck[key] = future
        self._worker.put(None)  # which it takes where it ever comes back
        self._worker = None
        raise SlowError(f"reading it takes more than {limit_s:g} s", is_new=True)


def _work(calls: "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    while (given := calls.get()) is not None:
        future, function = given
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
