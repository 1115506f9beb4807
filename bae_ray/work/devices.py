"""What a worker gets: its share of CPUs and GPUs, how many such shares fit, its threads and its device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

PER_DEVICE = 10_000
"""Ray counts a CPU or GPU in so many parts, and cuts off what is left of one."""
CUDA_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation: the only error of a GPU that leaves the process able to use it."""


class Share(NamedTuple):
    """What each worker gets of a machine."""

    cpus: float
    """Its threads too."""
    gpus: float

    def fitting(self, cpus: float, gpus: float) -> int:
        """How many workers fit on so many devices, at least one; with a GPU share the GPUs decide."""
        return max(1, fitting(gpus, self.gpus, whole=True) if self.gpus else fitting(cpus, self.cpus))


def parts(amount: float) -> int:
    """An amount of CPUs or GPUs in Ray's parts of one, in which it is exact: five fifths are one."""
    return int(amount * PER_DEVICE)


def fitting(total: float, share: float, whole: bool = False) -> int:
    """How many shares fit into a total; `whole`: no share below one lies on two devices, as with GPUs."""
    part = max(1, parts(share))
    if whole and part < PER_DEVICE:
        return int(total) * (PER_DEVICE // part)
    return parts(total) // part


def take(share: Share) -> str:
    """Set this process's threads to its share of CPUs; the device that it computes on."""
    torch.set_num_threads(max(1, int(share.cpus)))
    # Ray leaves GPUs visible to a worker that asked for none: what was asked for decides.
    return "cuda" if share.gpus and torch.cuda.is_available() else "cpu"


@contextmanager
def taken(share: Share) -> Iterator[str]:
    """The same inside, where the process is not a worker's own: its threads are set back at the end."""
    threads = torch.get_num_threads()
    try:
        yield take(share)
    finally:
        torch.set_num_threads(threads)


def is_lost(error: Exception) -> bool:
    """Whether a GPU failed so that this process can never use it again."""
    return isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) != CUDA_OUT_OF_MEMORY
