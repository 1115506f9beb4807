"""Threads that compute batches.

Two threads on a matrix product of a few hundred rows wait for each other at every step of it, spinning, and all the
longer where other processes have the cores. So a batch is cut into chunks of rows with a thread for each; only one that
is too small to be cut takes all threads that are free.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import OutOfMemoryError
from bae_ray.serving.operations import Operation, compute, joined, rows_at_once

ROWS_PER_THREAD = 64
"""Rows that are worth a thread of their own: with fewer it would mostly read weights."""
T = TypeVar("T")


class Threads:
    """A pool of threads. Where they run out of memory, they raise `OutOfMemoryError`."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._running = count, 0
        self._pool = ThreadPoolExecutor(count, name)

    async def compute(
        self, autoencoder: Autoencoder, operation: Operation, parts: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Arrays with a row for each row of all parts: see `operations.compute`. In chunks, of bounded memory."""
        rows = sum(map(len, parts))
        share = -(-rows // min(self._count, max(1, rows // ROWS_PER_THREAD)))
        found = list(chunks(parts, min(share, rows_at_once(autoencoder))))
        each = max(1, (self._count - self._running) // len(found))
        made = await asyncio.gather(
            *(self.run(compute, autoencoder, operation, chunk, threads=each) for chunk in found)
        )
        return {name: joined([arrays[name] for arrays in made]) for name in made[0]}

    async def run(self, function: Callable[..., T], *arguments: Any, threads: int = 1) -> T:
        """A call in one of the threads, in which torch may take so many."""
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _run, threads, function, *arguments)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError("the device has too little memory for this batch") from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # what torch says of a CPU's memory
                raise
            raise OutOfMemoryError("the machine has too little memory for this batch") from error
        finally:
            self._running -= 1


def chunks(parts: Sequence[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """The rows of all parts in their order, at most so many at a time: small parts together, large ones cut."""
    chunk: list[np.ndarray] = []
    for part in parts:
        for start in range(0, len(part), most):
            piece = part[start : start + most]
            if sum(map(len, chunk)) + len(piece) > most:
                yield chunk
                chunk = []
            chunk.append(piece)
    if chunk:
        yield chunk


def _run(threads: int, function: Callable[..., T], *arguments: Any) -> T:
    torch.set_num_threads(threads)  # of this thread: each has its own number
    return function(*arguments)
