"""Which devices a training step must not wait for.

A GPU works through what it was given while Python runs ahead. To read a number from it, or to let a shape depend on
one, ends that, and no such step can be captured as a CUDA graph. A CPU has nothing to wait for.
"""

import torch

RUNS_AHEAD = {"cuda"}
"""Types of the devices that Python runs ahead of."""


def must_not_wait(device: torch.device) -> bool:
    """Whether what runs in a training step on this device has fixed shapes and reads no number."""
    return device.type in RUNS_AHEAD
