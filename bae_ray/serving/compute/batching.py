"""Dynamic batching: requests that wait while the encoders are busy are computed together next.

`serve.batch` fixes a batch before anything is free to compute it, so that a full queue is cut into small batches. Here
a batch takes everything that waits when it starts, and a free encoder starts at once.
"""

import asyncio
import contextvars
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Generic, TypeVar

import numpy as np

from bae_ray.errors import BaeRayError, InvalidInputError

Key = TypeVar("Key", bound=Hashable)
Result = dict[str, np.ndarray]


@dataclass(eq=False)
class _Waiting:
    rows: np.ndarray
    result: "asyncio.Future[Result]"


class LostBatchError(BaeRayError):
    """A batch was cancelled from outside; computing it again may work."""


class Batcher(Generic[Key]):
    """Joins the rows of requests with equal keys, and gives each request its rows of the result."""

    def __init__(
        self, run: Callable[[Key, Sequence[np.ndarray]], Awaitable[Result]], max_rows: int, concurrent: int
    ) -> None:
        """`run` computes a batch and returns arrays with a row for each row given. `concurrent`: batches at a time."""
        self._run, self._max_rows, self._concurrent = run, max_rows, concurrent
        self._queues: OrderedDict[Key, deque[_Waiting]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        """The context of batches. In the context of the request that happens to start one, Ray would cancel it with
        that request."""

    async def submit(self, key: Key, rows: np.ndarray) -> Result:
        """The result's rows for these rows [N, ...]. Raises what `run` raised for their batch.

        After `InvalidInputError`, which is about the rows of one request, each request is computed alone. If the caller
        goes away before its batch has started, its rows are dropped.
        """
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future())
        self._queues.setdefault(key, deque()).append(waiting)
        self._start()
        try:
            return await waiting.result
        except asyncio.CancelledError:
            self._forget(key, waiting)
            raise

    def waiting(self) -> Iterator[Key]:
        """The key of each request that waits for its batch to start."""
        for key, queue in self._queues.items():
            yield from repeat(key, len(queue))

    def _start(self) -> None:
        while self._queues and len(self._tasks) < self._concurrent:
            key, batch = self._take()
            if batch:
                context = self._context.copy()
                task = asyncio.get_running_loop().create_task(self._compute(key, batch), context=context)
                self._tasks.add(task)
                task.add_done_callback(self._finished, context=context)

    def _take(self) -> tuple[Key, list[_Waiting]]:
        """The requests of the key that waits longest, up to `max_rows`; the rest goes to the end of the queue."""
        key, queue = self._queues.popitem(last=False)
        batch, n = [], 0
        while queue and (not batch or n + len(queue[0].rows) <= self._max_rows):
            waiting = queue.popleft()
            if not waiting.result.done():  # else its client has gone
                batch.append(waiting)
                n += len(waiting.rows)
        if queue:
            self._queues[key] = queue
        return key, batch

    def _forget(self, key: Key, waiting: _Waiting) -> None:
        queue = self._queues.get(key)
        if queue and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._queues[key]

    async def _compute(self, key: Key, batch: list[_Waiting]) -> None:
        try:
            made = await self._run(key, [waiting.rows for waiting in batch])
        except InvalidInputError as error:
            if len(batch) > 1:
                await asyncio.gather(*(self._compute(key, [waiting]) for waiting in batch))
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        except BaseException as error:  # each request answers for itself; none may be left waiting
            failure = error if isinstance(error, Exception) else LostBatchError(f"the batch ended: {error!r}")
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(failure)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            return
        start = 0
        for waiting in batch:
            end = start + len(waiting.rows)
            if not waiting.result.done():
                waiting.result.set_result({name: array[start:end] for name, array in made.items()})
            start = end

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._start()
