"""One worker of the extraction: a shard's number in, how it went out. Knows nothing of who calls it."""

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch

from bae_ray.activations.compute import ShardComputer, Work
from bae_ray.activations.layout import RowsIndex
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import ExtractionError

MEASURE = -1
"""In place of a shard's number: measure the speed."""
Outcome = Literal["finished", "failed", "unwritable"]
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of a store that trying again does not mend."""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0
CUDA_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation: the only error of a GPU that leaves the process able to use it."""

T = TypeVar("T")


class ShardExtractor:
    """One worker: a copy of the model that turns rows files into activation shards.

    Called by two threads at a time, it computes for one while the other one's shard is written.
    """

    def __init__(
        self, work: Work, attempts: int, workers: int, cpus: float, gpus: float, writer: StoreWriter, index: RowsIndex
    ) -> None:
        """Load the model. Raises `ExtractionError` where too many workers died of that."""
        torch.set_num_threads(max(1, int(cpus)))
        starts: list[str] = []
        with suppress(OSError):  # a store that takes nothing is reported with the first shard
            starts = writer.begin_start()
        # Ray restarts without end what dies here.
        if (died := len(starts) - 1) >= attempts * workers:
            raise ExtractionError(
                f"{died} workers died while they loaded the model; too little memory is the usual reason. Give fewer "
                "--workers, a smaller --dtype, or machines with more memory."
            )
        # Asked for no GPU, Ray leaves the machine's GPUs visible: what was asked for decides.
        self._computer = ShardComputer(work, "cuda" if gpus and torch.cuda.is_available() else "cpu")
        with suppress(OSError):
            writer.end_starts(starts)
        self._attempts, self._writer, self._index = attempts, writer, index
        self._computing = threading.Lock()

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Compute one shard (a batch is one row with its number) and say how it went; no shard stops the others."""
        shard, like = int(batch["shard"][0]), int(batch["like"][0])
        try:
            if shard == MEASURE:
                return _result(shard, tokens_per_s=self._measure(like))
            outcome, problem = self._extract(shard)
        except Exception as error:
            outcome, problem = "failed", f"{type(error).__name__}: {error}"
            if is_lost(error):
                self._die(shard, problem)
        return _result(shard, outcome, problem)

    def _die(self, shard: int, problem: str) -> None:
        """End this process, which can no longer use its GPU, so that Ray starts another one for its shards."""
        with suppress(OSError):
            self._writer.explain_attempt(_name(shard), problem)
        os._exit(1)

    def _measure(self, like: int) -> float:
        """Tokens per second. Raises `ExtractionError` where a worker has died of measuring them: once is enough."""
        with self._computing:
            if self._writer.begin_attempt(_name(MEASURE)) > 1:
                raise ExtractionError("a worker died while it measured how long they take")
            return self._computer.measure(self._rows(like))

    def _extract(self, shard: int) -> tuple[Outcome, str]:
        # Ray asks again where the node with the first answer is gone.
        if self._patiently(lambda: self._writer.receipt(shard)) is not None:
            return "finished", ""
        # Before the lock: the measurement, which takes it at once, goes first.
        rows = self._patiently(lambda: self._rows(shard))
        with self._computing:
            # Ray replaces a dead worker and retries its shard without end: one that kills its workers is given up here.
            try:
                attempt = self._patiently(lambda: self._writer.begin_attempt(_name(shard)))
            except OSError as error:
                return _unwritable(error)
            if attempt > self._attempts:
                why = self._writer.explanation(_name(shard)) or "too little memory is the usual reason"
                return "failed", f"its worker died {self._attempts} times; {why}"
            vectors, predictions = self._computer.compute(rows)
        try:
            rows_file, made_with = self._index.shards[shard], self._computer.made_with
            self._patiently(lambda: self._writer.write_shard(shard, rows_file, vectors, predictions, made_with))
        except OSError as error:
            return _unwritable(error)
        return "finished", ""

    def _rows(self, shard: int) -> pa.Table:
        return self._writer.read_rows(shard, self._index.shards[shard].file)

    def _patiently(self, action: Callable[[], T]) -> T:
        """The result of reading or writing, tried again where the store fails for the moment."""
        for attempt in range(1, self._attempts + 1):
            try:
                return action()
            except OSError as error:
                if error.errno in LASTING or attempt == self._attempts:
                    raise
                time.sleep(min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S))
        raise AssertionError("at least one attempt")


def is_lost(error: Exception) -> bool:
    """Whether a GPU failed so that this process can never use it again."""
    return isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) != CUDA_OUT_OF_MEMORY


def _name(shard: int) -> str:
    """What attempts at it are counted under."""
    return "measure" if shard == MEASURE else f"{shard:05d}"


def _unwritable(error: OSError) -> tuple[Outcome, str]:
    return "unwritable", f"{type(error).__name__}: {error}"


RESULT = ("shard", "outcome", "problem", "tokens_per_s")
"""What a worker says of a shard."""


def _result(
    shard: int, outcome: Outcome = "finished", problem: str = "", tokens_per_s: float = 0.0
) -> dict[str, list[Any]]:
    return {name: [value] for name, value in zip(RESULT, (shard, outcome, problem, tokens_per_s), strict=True)}
