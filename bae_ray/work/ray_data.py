"""Units on a pool of Ray Data actors, each with a worker; and what executors on Ray share."""

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, TypeVar, cast

import numpy as np
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from bae_ray.cluster import check_fits, configure_data, connect, only_machine, total
from bae_ray.errors import BaeRayError, UnfinishedError, first_line
from bae_ray.meters import Busy
from bae_ray.ray_meters import report_to_ray
from bae_ray.work.devices import Share, take, taken
from bae_ray.work.executor import DiedJob, Executor, WorkOrder
from bae_ray.work.preemption import Calls, watch
from bae_ray.work.ray_feed import Feed, unit_row
from bae_ray.work.ray_leaving import leaving

T = TypeVar("T")


class RayData(Executor):
    """Any idle worker takes the next unit, whatever its job. Ray replaces a worker that dies, without end."""

    @override
    def begin(self, what: str, share: Share) -> None:
        connect()
        check_fits(what, share.cpus, share.gpus)

    @override
    def total(self, resource: str) -> float:
        return total(resource)

    @override
    def once(self, function: Callable[[str], T], share: Share, attempts: int = 1, here: bool = False) -> T:
        if here and not share.gpus and only_machine() is not None:  # a new process imports its libraries for seconds
            return _call(function, share)
        task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_calls=1, max_retries=attempts - 1)(_call)
        try:
            return ray.get(task.remote(function, share))
        except RayTaskError as error:
            if isinstance(error.cause, BaeRayError):
                raise error.cause from None
            raise
        except RayError as error:
            raise UnfinishedError(first_line(error)) from error

    @override
    def run(self, order: WorkOrder[Any, Any]) -> list[DiedJob]:
        workers = order.workers or self.fitting(order.share)
        configure_data(keep_order=False, block_bytes=1)  # each unit and each answer is a block, and waits for no other
        if isinstance(order.jobs, Sequence):
            units = [unit for job in order.jobs for unit in job]
            rows = [unit_row(number, unit) for number, unit in enumerate(units)]
            there = ray.data.from_items(rows, override_num_blocks=len(rows))
            for number, answer in _answers(there, order, min(workers, len(rows))):
                order.told(units[number], answer)
        else:
            with Feed(order.jobs) as feed:
                for number, answer in _answers(feed.dataset(), order, workers):
                    feed.check()
                    order.told(feed.units[number], answer)
        return []


def _answers(rows: ray.data.Dataset, order: WorkOrder[Any, Any], workers: int) -> Iterator[tuple[int, Any]]:
    """The number and the answer of each unit, as they come. Raises `UnfinishedError`."""
    calls: dict[str, Any] = {"max_concurrent_calls_per_actor": 2, "enable_true_multi_threading": True}
    answers = rows.map_batches(
        _Actor,
        fn_constructor_args=(ray.put(order.worker), order.share),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, **(calls if order.overlap else {})),
        num_cpus=order.share.cpus,
        num_gpus=order.share.gpus,
    )
    batches = cast(
        Generator[dict[str, np.ndarray[Any, Any]], None, None],
        iter(answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)),
    )
    try:
        with closing(batches):
            for batch in batches:
                for number, answer in zip(batch["unit"].tolist(), batch["answer"].tolist(), strict=True):
                    yield number, pickle.loads(answer)  # noqa: S301 - our own worker's
    except RayError as error:
        raise UnfinishedError(str(error)) from error


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, given: Any, share: Share) -> None:
        report_to_ray()
        self._calls = Calls()
        watch(leaving, self._calls)
        worker: Any = ray.get(given)
        device = take(share)
        self._worker, self._busy = worker(device), Busy(device)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        unit = pickle.loads(batch["given"][0])  # noqa: S301 - our own
        with self._calls.one(), self._busy.unit():
            return {"unit": [int(batch["unit"][0])], "answer": [pickle.dumps(self._worker(unit))]}


def _call(function: Callable[[str], T], share: Share) -> T:
    with taken(share) as device:
        return function(device)
