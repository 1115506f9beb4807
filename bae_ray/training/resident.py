"""Training steps whose every input is on the device: each is one launch of a CUDA graph, and none waits.

The order of the samples, the number of the step, learning rates and weights of the terms are on the device, and the
step leaves its objective and terms there. So the same graph is every step, until a term's warm-up ends and the step
becomes another. The graph is captured after some steps without one, which compile kernels and make Adam's moments.

Shapes: S steps in an epoch, N samples in a batch.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import repeat

import torch
from torch import Tensor

from bae_ray.autoencoders.covariance import has_kernels
from bae_ray.training.config import TrainingConfig
from bae_ray.training.samples import Batch, Batches
from bae_ray.training.side_by_side import SideBySide
from bae_ray.training.stack import Stack

STEPS_BEFORE = 3
"""Steps that are taken before a capture."""


class ResidentSteps:
    """The steps of all stacks on the same batches; what they measured goes to `records`, [S, 1 + terms, M] each."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        data: Batches | SideBySide,
        batch_size: int,
        records: Sequence[Tensor],
        capture: bool,
    ) -> None:
        self._stacks, self._data, self._records, self._capture = stacks, data, records, capture
        self._device, n_steps = records[0].device, len(records[0])
        self._order = torch.zeros(n_steps, batch_size, dtype=torch.int64, device=self._device)
        self._number = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._weights = [torch.zeros(len(stack.names), len(stack.members), device=self._device) for stack in stacks]
        self._rates = [torch.zeros(n_steps, len(stack.rates), device=self._device) for stack in stacks]
        self._active: list[frozenset[str]] = []
        self._batch: Batch | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._without = 0
        self._side = _side_stream(self._device, threading.get_ident()) if capture else None

    def run(
        self, order: Tensor, first: int, done: int, weights: Sequence[Tensor], active: list[frozenset[str]]
    ) -> Iterator[None]:
        """Take the steps of an epoch from number `first` on; `done` steps were before the epoch."""
        n_steps, batch_size = self._order.shape
        self._put(self._order, order[: n_steps * batch_size].view(n_steps, batch_size))
        self._number.fill_(first)
        for i, stack in enumerate(self._stacks):
            stack.refresh()  # between two epochs latents may be revived or merged
            self._weights[i].copy_(weights[i])
            self._put(self._rates[i], torch.tensor([stack.rates_at(done + number) for number in range(n_steps)]))
        if active != self._active:
            self._active, self._graph, self._without = active, None, 0
        resident = self._data.resident is not None
        for batch in repeat(None, n_steps - first) if resident else self._data.batches(order, batch_size, first):
            if batch is not None:
                self._hold(batch)
            self._step()
            yield

    def _step(self) -> None:
        if self._capture and self._graph is None and self._without >= STEPS_BEFORE:
            self._graph = self._captured()
        if self._graph is not None:
            self._graph.replay()
            return
        self._without += 1
        if self._side is None:
            self._advance()
            return
        here = torch.cuda.current_stream(self._device)
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            self._advance()
        here.wait_stream(self._side)

    def _advance(self) -> None:
        batch = self._batch or self._gathered()
        for i, stack in enumerate(self._stacks):
            stack.rates.copy_(self._rates[i].index_select(0, self._number)[0])
            measured = stack.advance(batch, self._weights[i], self._active[i])
            self._records[i].index_copy_(0, self._number, measured.unsqueeze(0))
        self._number.add_(1)

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(self._device)
        try:
            # Other threads may read data meanwhile. A capture that fails leaves its stream as the current one.
            with torch.cuda.stream(here), torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
                self._advance()
        except RuntimeError as error:
            self._capture = False
            state_uncaptured(str(error).splitlines()[0])
            return None
        return graph

    def _gathered(self) -> Batch:
        assert self._data.resident is not None
        x, target = self._data.resident
        rows = self._order.index_select(0, self._number)[0]
        taken = x.index_select(-2, rows)
        return Batch(taken, taken if target is x else target.index_select(-2, rows))

    def _hold(self, batch: Batch) -> None:
        """Put a batch where the graph reads it."""
        if self._batch is None:
            x = torch.empty_like(batch.x)
            self._batch = Batch(x, x if batch.target is batch.x else torch.empty_like(batch.target))
        for here, there in zip(self._batch, batch, strict=True):
            here.copy_(there)

    def _put(self, where: Tensor, values: Tensor) -> None:
        where.copy_(values.pin_memory() if where.is_cuda else values, non_blocking=True)


@cache
def _side_stream(device: torch.device, thread: int) -> torch.cuda.Stream:  # noqa: ARG001
    """A thread's stream for capturing, one for all trainings: cuBLAS keeps memory for each stream it was used on."""
    return torch.cuda.Stream(device)


def may_capture(stacks: Sequence[Stack], training: TrainingConfig) -> bool:
    """Whether the steps of these stacks can be a CUDA graph; if one is wanted and they cannot, the reason is told."""
    if training.graph == "off" or stacks[0].device.type != "cuda":
        return False
    if training.compile:
        state_uncaptured("training.compile is on")
    elif not has_kernels() and any("covariance" in stack.names for stack in stacks):
        state_uncaptured("Triton is not installed, without which the covariance penalty waits for the GPU")
    else:
        return True
    return False


def state_uncaptured(reason: str) -> None:
    """Tell why the steps are not captured, on the standard error."""
    print(f"note: training steps are not captured as a CUDA graph, which is faster: {reason}", file=sys.stderr)
