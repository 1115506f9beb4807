"""Which devices a training step must not wait for.

Python runs ahead while a GPU works through its queue. Reading a number from the GPU, or a shape that depends on one,
makes Python wait, and such a step cannot become a CUDA graph. On a CPU there is nothing to wait for.
"""

import torch

RUNS_AHEAD = {"cuda"}
"""Device types that Python runs ahead of."""


def must_not_wait(device: torch.device) -> bool:
    """Whether what runs in a training step on this device has fixed shapes and reads no number."""
    return device.type in RUNS_AHEAD
