"""Copies of tensors from a GPU to main memory, while the GPU continues to compute."""

from typing import NamedTuple

import torch
from torch import Tensor


class Copies(NamedTuple):
    """Tensors on their way to main memory."""

    tensors: tuple[Tensor, Tensor | None]
    arrived: torch.cuda.Event | None
    source: tuple[Tensor, Tensor | None]
    """Held until then."""

    def wait(self) -> tuple[Tensor, Tensor | None]:
        """The copies, once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensors


class Downloads:
    """Copies a device's results into pinned memory, on a separate stream. On a CPU nothing is copied."""

    def __init__(self, device: str) -> None:
        self._stream = torch.cuda.Stream() if device == "cuda" else None

    def start(self, first: Tensor, second: Tensor | None) -> Copies:
        """Begin to copy one or two tensors that the current stream computes."""
        if self._stream is None:
            return Copies((first, second), None, (first, second))
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Not to wait also means: into pinned memory.
            copies = (
                first.to("cpu", non_blocking=True),
                second if second is None else second.to("cpu", non_blocking=True),
            )
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return Copies(copies, arrived, (first, second))
