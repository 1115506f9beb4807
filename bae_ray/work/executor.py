"""Running units of work: the interface of executors, and the one without Ray."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from typing_extensions import override

from bae_ray.errors import InvalidInputError
from bae_ray.work.devices import Share, taken

T = TypeVar("T")
U = TypeVar("U")
A = TypeVar("A")


@dataclass(frozen=True)
class WorkOrder(Generic[U, A]):
    """Units of work, and who does them. Units, answers and what makes a worker may go to other machines."""

    jobs: Sequence[Sequence[U]] | Generator[Sequence[U], None, None]
    """Each job is units that one worker does one after another. A generator makes jobs while earlier ones are done: it
    runs in a thread of its own where there are workers."""
    worker: Callable[[str], Callable[[U], A]]
    """Makes a worker for a device; a worker does a unit and answers what came of it."""
    told: Callable[[U, A], None]
    """Is told each unit with its answer, in this process."""
    share: Share
    """What each worker gets."""
    workers: int | None = None
    """So many at most; None: as many as fit."""
    overlap: bool = False
    """Whether two threads at a time call a worker."""


class DiedJob(NamedTuple):
    """A job whose worker died more often than it is begun again."""

    job: Sequence[Any]
    over: int
    """How many of its units were over: the next one was under way."""
    reason: str


class Executor(ABC):
    """Has units of work done."""

    parallel = True
    """Whether several workers may run at once."""

    @abstractmethod
    def begin(self, what: str, share: Share) -> None:
        """Get ready. Raises `InvalidInputError` where a worker (`what` messages call it) can never fit."""

    @abstractmethod
    def total(self, resource: str) -> float:
        """How much there is of a resource ("CPU", "GPU")."""

    @abstractmethod
    def once(self, function: Callable[[str], T], share: Share, attempts: int = 1, here: bool = False) -> T:
        """Call a function, which is told its device, with a worker's share; in a process of its own if there are any.

        `here`: in this process where a worker would run on this machine's CPUs. Raises `UnfinishedError` where its
        process died so many times, and errors of bae_ray as they are.
        """

    @abstractmethod
    def run(self, order: WorkOrder[Any, Any]) -> list[DiedJob]:
        """Have every unit done; the jobs whose workers died. Raises `UnfinishedError` where the work cannot go on."""

    def share(self, what: str, cpus: float, gpus: float | None) -> Share:
        """A worker's share, and `begin`; where `gpus` is None it is a whole one if there are any."""
        self.begin(what, Share(cpus, gpus or 0))
        return Share(cpus, gpus if gpus is not None else float(self.total("GPU") > 0))

    def fitting(self, share: Share) -> int:
        """How many workers fit."""
        return share.fitting(self.total("CPU"), self.total("GPU")) if self.parallel else 1


class Inline(Executor):
    """Does everything in this process, one unit after another, without Ray. What a worker raises is raised."""

    parallel = False

    @override
    def begin(self, what: str, share: Share) -> None:
        if share.gpus > self.total("GPU"):
            raise InvalidInputError(f"{what} needs {share.gpus:g} GPUs; this process has {self.total('GPU'):g}.")

    @override
    def total(self, resource: str) -> float:
        import torch

        return float(torch.cuda.device_count() if resource == "GPU" else os.cpu_count() or 1)

    @override
    def once(self, function: Callable[[str], T], share: Share, attempts: int = 1, here: bool = False) -> T:
        with taken(share) as device:
            return function(device)

    @override
    def run(self, order: WorkOrder[Any, Any]) -> list[DiedJob]:
        with taken(order.share) as device:
            worker = order.worker(device)
            for unit in (unit for job in order.jobs for unit in job):
                order.told(unit, worker(unit))
        return []
