"""What a worker gets, and how many such workers fit: in whole numbers, as Ray counts."""

from typing import NamedTuple

PER_DEVICE = 10_000
"""Ray counts a CPU or GPU in so many parts, and cuts off what is left of one."""


class Share(NamedTuple):
    """What each worker gets of a machine."""

    cpus: float
    """Its threads too."""
    gpus: float

    def fitting(self, cpus: float, gpus: float) -> int:
        """How many workers fit on so many devices, at least one; with a GPU share the GPUs decide."""
        return max(1, fitting(gpus, self.gpus, whole=True) if self.gpus else fitting(cpus, self.cpus))


def fitting(total: float, share: float, whole: bool = False) -> int:
    """How many shares fit into a total; `whole`: no share below one lies on two devices, as with GPUs."""
    part = max(1, int(share * PER_DEVICE))
    if whole and part < PER_DEVICE:
        return int(total) * (PER_DEVICE // part)
    return int(total * PER_DEVICE) // part
