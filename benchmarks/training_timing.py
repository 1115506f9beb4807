"""Seconds per step and peak memory of one side of benchmarks/training.py, in the process that runs it.

Needs torch and nothing of bae_ray's, because it also runs inside the environments of other packages.
"""

import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

MIB = 1 << 20
CUDA_STEPS_AT_ONCE = 10
"""Steps between two looks at a GPU's clock: waiting for it after every step would be part of what is measured."""
MIN_STEPS = 3


@dataclass(frozen=True)
class Spec:
    """What to measure."""

    side: str
    d: int = 576
    expansion: int = 4
    batch_size: int = 512
    varying: float = 1.0
    """Share of the latents that vary in the batch; the others are held constant by their biases."""
    members: int = 1
    """Autoencoders trained as one."""
    architecture: str = "bae"
    constrained: bool = False
    """Ours with a unit dictionary and clipped gradients, as other packages always have them."""
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    steps: int = 20
    budget_s: float = 4.0
    """No more steps are begun after so many seconds of them, but for the first three."""
    trained: str | None = None
    """Folder of a trained autoencoder and its activations, in place of new weights and random activations."""
    store: str | None = None
    """train: where the activations come from."""

    def tiny(self) -> "Spec":
        """The same at a size that costs nothing."""
        return replace(self, d=16, batch_size=32, trained=None, varying=1.0)


class Side(NamedTuple):
    """Something to be timed."""

    step: Callable[[], Any]
    facts: Callable[[], dict[str, Any]] = dict
    """What is to be reported besides; called after the timing."""


def measure(build: Callable[[Spec], Side], spec: Spec) -> dict[str, Any]:
    """Median seconds of a step, warmed up, and the most memory that building and stepping took.

    On a CPU the memory is the growth of the process's largest resident size over what it was after the imports and
    one tiny step, so it holds for the first measurement of a process only. On a GPU it is what torch had allocated.
    """
    cuda = spec.device == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = spec.precision == "tf32"
    build(spec.tiny()).step()
    before = _memory(cuda, reset=True)
    side = build(spec)
    at_once = CUDA_STEPS_AT_ONCE if cuda else 1
    first = _seconds(side.step, at_once, cuda)
    if first * at_once < spec.budget_s / 4:
        _seconds(side.step, 2 * at_once, cuda)
    seconds: list[float] = []
    started = time.monotonic()
    while len(seconds) < MIN_STEPS or (len(seconds) < spec.steps and time.monotonic() - started < spec.budget_s):
        seconds.append(_seconds(side.step, at_once, cuda))
    peak = (_memory(cuda) - before) / MIB
    return {"s": statistics.median(seconds), "timed": len(seconds), "peak_mib": peak, **side.facts()}


def random_batch(spec: Spec) -> Tensor:
    """Activations [N, D] of unit RMS; the same numbers in every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(spec.batch_size, spec.d, generator=generator).to(spec.device)


def autocast(spec: Spec) -> contextlib.AbstractContextManager[Any]:
    """Where the precision is bf16, torch's autocast to it."""
    return torch.autocast(spec.device, torch.bfloat16) if spec.precision == "bf16" else contextlib.nullcontext()


def answer(measurements: Callable[[Spec], dict[str, Any]]) -> None:
    """Measure every spec of the list of them in the first argument, and print the answers as the last line."""
    specs = [Spec(**spec) for spec in json.loads(sys.argv[1])]
    answers = []
    for spec in specs:
        torch.set_num_threads(spec.threads)
        answers.append({**asdict(spec), **measurements(spec)})
    print(json.dumps(answers), flush=True)


def _seconds(step: Callable[[], Any], times: int, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        step()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def _memory(cuda: bool, reset: bool = False) -> int:
    if not cuda:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
