"""Requests are computed together, and none has to pay for what becomes of another."""

import asyncio
import contextvars
from collections.abc import Sequence

import numpy as np
import pytest

from bae_ray.serving.compute.batching import Batcher, LostBatchError

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def rows(value: float, n: int = 1) -> np.ndarray:
    return np.full((n, 2), value)


class Replica:
    """Computes when it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.contexts: list[str] = []
        self.go = asyncio.Event()
        self.error: BaseException | None = None

    async def run(self, key: str, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append((key, len(parts)))
        self.contexts.append(who.get())
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return {"twice": 2 * np.concatenate(parts)}


async def asked(batcher: Batcher[str], name: str, values: Sequence[float], key: str = "k") -> list[asyncio.Task]:
    """Requests that wait, each in a context of its own."""
    tasks = []
    for value in values:
        context = contextvars.copy_context()
        context.run(who.set, name)
        tasks.append(asyncio.get_running_loop().create_task(batcher.submit(key, rows(value)), context=context))
    await asyncio.sleep(0)
    return tasks


def test_what_waits_is_computed_together_and_each_gets_its_own_rows():
    async def run() -> None:
        replica = Replica()
        batcher: Batcher[str] = Batcher(replica.run, 100, 1)
        tasks = await asked(batcher, "a", [1, 2, 3]) + await asked(batcher, "a", [4], "other")
        replica.go.set()
        found = await asyncio.gather(*tasks)
        assert [made["twice"].tolist() for made in found] == [[[2 * v, 2 * v]] for v in (1, 2, 3, 4)]
        assert replica.batches == [("k", 1), ("k", 2), ("other", 1)]

    asyncio.run(run())


def test_no_batch_runs_in_the_context_of_a_request():
    """Ray ends what runs in the context of a request when its client goes away."""

    async def run() -> None:
        replica = Replica()
        batcher: Batcher[str] = Batcher(replica.run, 100, 1)
        tasks = await asked(batcher, "first", [1]) + await asked(batcher, "second", [2, 3])
        replica.go.set()
        await asyncio.gather(*tasks)
        assert replica.contexts == ["nobody", "nobody"]

    asyncio.run(run())


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("no"), SystemExit()])
def test_nobody_waits_for_a_batch_that_has_ended(error: BaseException):
    async def run() -> None:
        replica = Replica()
        replica.error = error
        batcher: Batcher[str] = Batcher(replica.run, 100, 1)
        tasks = await asked(batcher, "a", [1]) + await asked(batcher, "b", [2, 3])
        replica.go.set()
        async with asyncio.timeout(5):
            found = await asyncio.gather(*tasks, return_exceptions=True)
        expected = ValueError if isinstance(error, ValueError) else LostBatchError
        assert [type(one) for one in found] == [expected] * 3

    if isinstance(error, SystemExit):
        with pytest.raises(SystemExit):
            asyncio.run(run())
    else:
        asyncio.run(run())


def test_rows_of_clients_that_have_gone_are_not_kept():
    async def run() -> None:
        replica = Replica()
        batcher: Batcher[str] = Batcher(replica.run, 100, 1)
        (first,) = await asked(batcher, "a", [1])
        waiting = await asked(batcher, "b", range(50)) + await asked(batcher, "b", range(50), "other")
        for task in waiting[:-1]:
            task.cancel()
        await asyncio.gather(*waiting[:-1], return_exceptions=True)
        assert sum(map(len, batcher._queues.values())) == 1
        replica.go.set()
        await asyncio.gather(first, waiting[-1])
        assert replica.batches == [("k", 1), ("other", 1)]

    asyncio.run(run())
