"""Threads that compute batches.

Two threads that share a matrix product of a few hundred rows wait for each other at every step, longer if other
processes use the cores. So a batch is cut into chunks of rows, with one thread for each. Only a batch that is too small
to be cut, while nothing else is computed, uses all cores.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import OutOfMemoryError
from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.compute.operations import compute, joined, rows_at_once

ROWS_PER_THREAD = 64
"""Rows that are worth a thread of their own; with fewer, a thread would mostly read weights."""
T = TypeVar("T")


class Threads:
    """A pool of threads with one core each, and one thread with all cores."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._running = count, 0
        self._pool = ThreadPoolExecutor(count, name, _settle, (1,))
        # Only one: a thread that has ever computed with several cores keeps as many threads of OpenMP's.
        self._wide = ThreadPoolExecutor(1, f"{name} together", _settle, (count,)) if count > 1 else self._pool

    async def compute(
        self, autoencoder: Autoencoder, operation: Operation, parts: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Arrays with a row for each row of all parts: see `operations.compute`. In chunks, of bounded memory.

        Raises `OutOfMemoryError`.
        """
        rows = sum(map(len, parts))
        share = -(-rows // min(self._count, max(1, rows // ROWS_PER_THREAD)))
        found = list(chunks(parts, min(share, rows_at_once(autoencoder))))
        pool = self._wide if len(found) == 1 and not self._running else self._pool
        made = await asyncio.gather(*(self._in(pool, compute, autoencoder, operation, chunk) for chunk in found))
        return {name: joined([arrays[name] for arrays in made]) for name in made[0]}

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in one of the threads. Also raises `OutOfMemoryError`."""
        return await self._in(self._pool, function, *arguments)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
        self._running += 1
        try:
            return await in_thread(pool, function, *arguments)
        finally:
            self._running -= 1


async def in_thread(pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a pool's thread. Raises `OutOfMemoryError` if torch has too little memory."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError("the device has too little memory for this batch") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch says of a CPU's memory
            raise
        raise OutOfMemoryError("the machine has too little memory for this batch") from error


def chunks(parts: Sequence[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """The rows of all parts in order, in chunks of at most `most` rows: small parts joined, large ones cut."""
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


def _settle(threads: int) -> None:
    """Set the number of torch's threads for the calling thread; the second call makes it final."""
    torch.set_num_threads(threads)
    torch.get_num_threads()
