"""Units that are made while earlier ones are done, as rows of a data set of Ray Data that grows."""

import asyncio
import pickle
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any

import ray
import ray.data
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

from bae_ray.errors import UnfinishedError, first_line

STARTS = 3
"""How often the actor's process is started that does not come up."""
GIVEN_UP_S = 60.0
"""How long the end waits for the unit that is just being made."""


def unit_row(number: int, unit: Any) -> dict[str, Any]:
    """A unit as a row."""
    return {"unit": number, "given": pickle.dumps(unit)}


class Feed:
    """The jobs of a generator, made in a thread of this process, and handed on by an actor beside it.

    The actor keeps all rows, so that a reader whose machine is lost reads them again.
    """

    def __init__(self, jobs: Generator[Sequence[Any], None, None]) -> None:
        self.units: list[Any] = []
        """Those made so far."""
        self._jobs, self._stopped, self._error = jobs, threading.Event(), None
        self._rows = _started()
        self._thread = threading.Thread(target=self._make, name="units", daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop the thread, and raise what it has raised if nothing else was."""
        self._stopped.set()
        self._thread.join(GIVEN_UP_S)
        ray.kill(self._rows)
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what the generator has raised."""
        if self._error is not None:
            raise self._error

    def dataset(self) -> ray.data.Dataset:
        """The rows, each a block of its own, as they come."""
        one = ray.data.from_items([{"feed": 0}], override_num_blocks=1)
        # It takes no CPU, since it waits most of the time; and so Ray never joins it to the workers' operator.
        return one.map_batches(
            partial(_read, rows=self._rows), batch_size=None, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=1)
        )

    def _make(self) -> None:
        try:
            with closing(self._jobs) as jobs:
                for unit in (unit for job in jobs for unit in job):
                    self.units.append(unit)
                    ray.get(self._rows.add.remote(unit_row(len(self.units) - 1, unit)))
                    if self._stopped.is_set():
                        return
        except BaseException as error:  # told by the thread that waits
            self._error = error
        finally:
            self._rows.end.remote()


def _started() -> Any:
    """The actor, once its process runs: on a busy machine one may not come up. Raises `UnfinishedError`."""
    here: Any = OnNode(ray.get_runtime_context().get_node_id(), soft=False)
    for attempt in range(1, STARTS + 1):
        rows: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Rows).remote()
        try:
            ray.get(rows.ready.remote())
        except RayActorError as error:
            if attempt == STARTS:
                raise UnfinishedError(
                    f"a process of Ray's did not start {STARTS} times: {first_line(error)}"
                ) from error
        else:
            return rows
    raise AssertionError("there is a first attempt")


class _Rows:
    """An actor: rows that come, and that readers wait for."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._over, self._changed = False, asyncio.Condition()

    async def ready(self) -> None:
        """Answers once the process runs."""

    async def add(self, row: dict[str, Any]) -> None:
        async with self._changed:
            self._rows.append(row)
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self._over = True
            self._changed.notify_all()

    async def after(self, number: int) -> list[dict[str, Any]]:
        """The rows from this number on, as soon as there is one; none at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._over or len(self._rows) > number)
            return self._rows[number:]


def _read(_: object, rows: Any) -> Iterator[dict[str, list[Any]]]:
    number = 0
    while found := ray.get(rows.after.remote(number)):
        number += len(found)
        for row in found:
            yield {name: [value] for name, value in row.items()}
