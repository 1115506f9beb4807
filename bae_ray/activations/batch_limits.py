"""How many texts and tokens go through the model together, and how many are worth it on a GPU."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from bae_ray.errors import is_out_of_memory

CPU_TEXTS, CPU_TOKENS = 32, 16_384
TRIED_TOKENS = tuple(1 << power for power in range(12, 19))
"""Tokens of a batch that are tried on a GPU: 4,096 to 262,144."""
WORTH = 1.05
"""A larger batch has to be faster by this factor: it takes more memory, and short texts wait for long ones."""


class BatchLimits(NamedTuple):
    """The most of a batch."""

    texts: int
    tokens: int
    """With padding; a single longer text is a batch by itself."""

    def of(self, longest: int) -> int:
        """How many texts of at most so many tokens are a batch."""
        return max(1, min(self.texts, self.tokens // longest))


def limits(texts: int | None, tokens: int | None, device: str) -> BatchLimits | None:
    """The requested limits; a CPU's defaults for missing ones. None if a GPU has to be measured."""
    if device == "cpu":
        return BatchLimits(texts or CPU_TEXTS, tokens or CPU_TOKENS)
    return None if tokens is None else BatchLimits(texts or tokens, tokens)


def measured(seconds_of: Callable[[int], float], tried: Iterable[int] = TRIED_TOKENS) -> int:
    """The tokens of a batch: the size at which twice as many are hardly faster per token, or do not fit.

    `seconds_of` takes a number of tokens and runs such a batch. Raises what it raises for the first one.
    """
    best, rate = 0, 0.0
    for tokens in tried:
        try:
            found = tokens / seconds_of(tokens)
        except Exception as error:
            if not best or not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            break
        if found < rate * WORTH:
            break
        best, rate = tokens, found
    return best


def timed(run: Callable[[], object]) -> float:
    """Seconds of a pass on the GPU, after one to warm up."""
    run()
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started
