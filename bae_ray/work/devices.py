"""Threads and the device of a worker."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bae_ray.work.capacity import Share

CUDA_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation: the only error of a GPU that leaves the process able to use it."""


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
