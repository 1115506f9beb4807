"""Time limits for calls that may never return, such as reads of a network folder that is gone.

Nothing can end a call that the operating system holds. Its thread is abandoned, and the next call gets a new one.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakValueDictionary

LEAST_S = 0.1
THREAD = "time limit"
"""The name of the threads."""
T = TypeVar("T")


class SlowError(OSError):
    """A call has not returned in time."""

    def __init__(self, message: str, is_new: bool) -> None:
        super().__init__(message)
        self.is_new = is_new
        """Whether this is the first time that the call was too slow."""


class TimeLimit:
    """Calls functions one after the other, each with a time limit. Not thread-safe."""

    def __init__(self, limit_s: float, together_s: float | None = None) -> None:
        """`limit_s`: for one call.

        `together_s`: for all slow calls since `begin`; once it is used up, each has `LEAST_S`.
        """
        self._limit_s = limit_s
        self._together_s = self._left_s = together_s
        self._worker: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] | None = None
        self._stuck: dict[Hashable, Future[Any]] = {}

    def __del__(self) -> None:
        if self._worker is not None:
            self._worker.put(None)

    def begin(self) -> None:
        """Give slow calls their common time again."""
        self._left_s = self._together_s

    def call(self, key: Hashable, function: Callable[[], T]) -> T:
        """The function's result or exception. Raises `SlowError` if it takes too long.

        While a call of a key has not returned, no other one of this key is made; its late result is given to the next.
        """
        if (before := self._stuck.get(key)) is not None:
            if not before.done():
                raise _still_slow(self._limit_s)
            return self._stuck.pop(key).result()
        future: Future[T] = Future()
        if self._worker is None:
            self._worker = SimpleQueue()
            threading.Thread(target=_work, args=(self._worker,), name=THREAD, daemon=True).start()
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
        self._worker.put(None)  # the thread ends if the call ever comes back
        self._worker = None
        raise _slow(limit_s)


class AwaitedCalls:
    """Blocking calls that a coroutine awaits for a limited time. Calls of one key run one after the other."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._stuck: set[Hashable] = set()

    async def call(self, key: Hashable, function: Callable[[], T]) -> T:
        """The function's result or exception. Raises `SlowError` if it takes too long.

        While a slow call of a key has not returned, all others of this key raise `SlowError` at once: a key holds one
        thread at most.
        """
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            if key in self._stuck:
                raise _still_slow(self._limit_s)
            future: Future[T] = Future()
            future.set_running_or_notify_cancel()
            threading.Thread(target=_run, args=(future, function), name=THREAD, daemon=True).start()
            awaited = asyncio.wrap_future(future)
            # So that an error for which nobody waits any more is no warning.
            awaited.add_done_callback(lambda given: given.cancelled() or given.exception())
            try:
                await asyncio.wait([awaited], timeout=self._limit_s)
            finally:
                if not future.done():
                    self._stuck.add(key)
                    future.add_done_callback(lambda _: self._stuck.discard(key))
        if not future.done():
            raise _slow(self._limit_s)
        return future.result()


def _slow(limit_s: float) -> SlowError:
    return SlowError(f"reading it takes more than {limit_s:g} s", is_new=True)


def _still_slow(limit_s: float) -> SlowError:
    return SlowError(f"reading it has not ended after {limit_s:g} s", is_new=False)


def _work(calls: "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    while (given := calls.get()) is not None:
        _run(*given)


def _run(future: "Future[T]", function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
