"""The packs of a sweep: those that it began with, and new ones, whose size is measured where the config leaves it open.

What is begun keeps its packs (packing.py), so that an interrupted sweep measures nothing again.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import BaeRayError, OutOfMemoryError, first_line
from bae_ray.training.config import RunConfig
from bae_ray.training.pack_size import UNMEASURED, PackSize, Tried, chosen, most_packed, next_size
from bae_ray.training.packing import Pack, pack, unfinished_packs
from bae_ray.training.resource_estimate import largest, measure_one
from bae_ray.training.sweep_config import ExecutionConfig
from bae_ray.work.devices import Share
from bae_ray.work.executor import Executor


class PackPlan(NamedTuple):
    """What is trained as one."""

    packs: list[Pack]
    new: PackSize | None
    """Size of those that were not begun before; None where there are none."""

    def __str__(self) -> str:
        if self.new is None:
            return "as they were begun"
        several = " of several cells" if any(pack.cells > 1 for pack in self.packs) else ""
        return f"at most {self.new.size} runs{several} in each: {self.new.why}"


def plan_packs(
    runs: Sequence[RunConfig],
    store: ActivationStore,
    out: Path,
    execution: ExecutionConfig,
    executor: Executor,
    record: bool = True,
) -> PackPlan:
    """Packs of all runs that are not finished in `out`; `record`: they are written down for the next call."""
    sizes: list[PackSize] = []
    across = cache(partial(packs_cells, execution, executor))

    def size(new: Sequence[RunConfig]) -> int:
        sizes.append(pack_size(new, store, execution, executor, across()))
        return sizes[0].size

    packs = unfinished_packs(runs, out, size, record, across)
    return PackPlan(packs, sizes[0] if sizes else None)


def packs_cells(execution: ExecutionConfig, executor: Executor) -> bool:
    """Whether packs may hold runs of several cells."""
    if execution.packed_cells is not None:
        return execution.packed_cells == "several"
    return executor.share("a training", execution.cpus_per_trial, execution.gpus_per_trial).gpus > 0


def pack_size(
    runs: Sequence[RunConfig],
    store: ActivationStore,
    execution: ExecutionConfig,
    executor: Executor,
    across: bool = False,
) -> PackSize:
    """How many of the runs to train as one; where `execution.packed` is auto, or left out on GPUs, that is measured."""
    if isinstance(execution.packed, int):
        return PackSize(execution.packed, "as the option packed says")
    share = executor.share("a training", execution.cpus_per_trial, execution.gpus_per_trial)
    if execution.packed is None and not share.gpus:
        return PackSize(UNMEASURED, "the default on a CPU, which the option packed changes")
    devices = int(executor.total("GPU")) if share.gpus else executor.fitting(share)
    most = most_packed([len(some.runs) for some in pack(runs, len(runs), across)], devices)
    if most == 1:
        return PackSize(1, "no two may go together, or each device would not have one")
    part = execution.gpus_per_trial or 1.0
    whole = Share(share.cpus, float(share.gpus > 0))
    try:
        tried = executor.once(partial(measure_sizes, runs, store, most=most, part=part, across=across), whole)
    except BaeRayError as error:  # its process died, say
        return PackSize(UNMEASURED, f"measuring failed: {first_line(error).rstrip('.')}")
    return chosen(tried, most, part)


def measure_sizes(
    runs: Sequence[RunConfig], store: ActivationStore, device: str, most: int, part: float, across: bool = False
) -> list[Tried]:
    """Measure packs of 1, 2, 4, ... of the runs, as long as a larger one may be better.

    `part` of the device is a training's. To be called in a worker.
    """
    tried: list[Tried] = []
    while (size := next_size(tried, most, part)) is not None:
        full = [some for some in pack(runs, size, across) if len(some.runs) == size]
        try:
            tried.append(Tried(size, measure_one(largest(full), store, device)))
        except OutOfMemoryError:
            tried.append(Tried(size, None))
        except BaeRayError as error:  # a damaged cell, say; the sweep trains the others of its pack without it
            tried.append(Tried(size, None, f"cannot be measured: {first_line(error).rstrip('.')}"))
    return tried
