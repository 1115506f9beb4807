"""Units on a pool of Ray Data actors, each with a worker; and what executors on Ray share."""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from bae_ray.cluster import check_fits, configure_data, connect, only_machine, total
from bae_ray.errors import BaeRayError, UnfinishedError, first_line
from bae_ray.work.devices import Share, take, taken
from bae_ray.work.executor import DiedJob, Executor, WorkOrder

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
        units = [unit for job in order.jobs for unit in job]
        workers = min(order.workers or self.fitting(order.share), len(units))
        calls: dict[str, Any] = {"max_concurrent_calls_per_actor": 2, "enable_true_multi_threading": True}
        configure_data(keep_order=False)
        numbers = [{"unit": number} for number in range(len(units))]
        answers = ray.data.from_items(numbers, override_num_blocks=len(units)).map_batches(
            _Actor,
            fn_constructor_args=(ray.put((order.worker, units)), order.share),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, **(calls if order.overlap else {})),
            num_cpus=order.share.cpus,
            num_gpus=order.share.gpus,
        )
        try:
            for batch in answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for number, answer in zip(batch["unit"].tolist(), batch["answer"].tolist(), strict=True):
                    order.told(units[number], pickle.loads(answer))  # noqa: S301 - our own worker's
        except RayError as error:
            raise UnfinishedError(str(error)) from error
        return []


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, given: Any, share: Share) -> None:
        worker, self._units = ray.get(given)
        self._worker = worker(take(share))

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        number = int(batch["unit"][0])
        return {"unit": [number], "answer": [pickle.dumps(self._worker(self._units[number]))]}


def _call(function: Callable[[str], T], share: Share) -> T:
    with taken(share) as device:
        return function(device)
