"""One worker of the extraction: a shard in, how it went out. Knows nothing of who calls it."""

import os
import threading
from contextlib import suppress
from typing import Literal, NamedTuple

import pyarrow as pa

from bae_ray.activations.compute import ShardComputer, Work
from bae_ray.activations.layout import RowsIndex
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import ExtractionError
from bae_ray.work.attempts import LITTLE_MEMORY, Attempts, patiently
from bae_ray.work.devices import is_lost
from bae_ray.work.receipts import traceback_of

MEASURE = -1
"""In place of a shard's number: measure the speed."""
ONCE = 1
"""So often is the speed measured: a worker that died of it is not followed by another."""


class ShardTask(NamedTuple):
    """What a worker is asked to do."""

    shard: int
    like: int
    """The shard whose texts the speed is measured with."""


class ShardOutcome(NamedTuple):
    """What came of it."""

    shard: int
    outcome: Literal["finished", "failed", "unwritable"] = "finished"
    problem: str = ""
    tokens_per_s: float = 0.0
    traceback: str = ""
    """Where an unexpected error arose."""


class ShardExtractor:
    """One worker: a copy of the model that turns rows files into activation shards.

    Called by two threads at a time, it computes for one while the other one's shard is written.
    """

    def __init__(
        self, device: str, work: Work, attempts: int, workers: int, writer: StoreWriter, index: RowsIndex
    ) -> None:
        """Load the model. Raises `ExtractionError` where too many workers died of that."""
        self._attempts = Attempts(writer.folder, attempts)
        starts: list[str] = []
        with suppress(OSError):  # a store that takes nothing is reported with the first shard
            starts = self._attempts.begin_start()
        # Ray restarts without end what dies here.
        if (died := len(starts) - 1) >= attempts * workers:
            raise ExtractionError(
                f"{died} workers died while they loaded the model; {LITTLE_MEMORY}. Give fewer --workers, a smaller "
                "--dtype, or machines with more memory."
            )
        self._computer = ShardComputer(work, device)
        with suppress(OSError):
            self._attempts.end_starts(starts)
        self._tries, self._writer, self._index = attempts, writer, index
        self._computing = threading.Lock()

    def __call__(self, task: ShardTask) -> ShardOutcome:
        """Compute one shard and say how it went; no shard stops the others."""
        shard = task.shard
        try:
            if shard == MEASURE:
                return ShardOutcome(shard, tokens_per_s=self._measure(task.like))
            return self._extract(shard)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if is_lost(error):
                self._die(shard, problem)
            return ShardOutcome(shard, "failed", problem, traceback=traceback_of(error))

    def _die(self, shard: int, problem: str) -> None:
        """End this process, which can no longer use its GPU, so that Ray starts another one for its shards."""
        with suppress(OSError):
            self._attempts.explain(_name(shard), problem)
        os._exit(1)

    def _measure(self, like: int) -> float:
        """Tokens per second. Raises `ExtractionError` where a worker has died of measuring them: once is enough."""
        with self._computing:
            if Attempts(self._writer.folder, ONCE).begin(_name(MEASURE)):
                raise ExtractionError("a worker died while it measured how long they take")
            return self._computer.measure(self._rows(like))

    def _extract(self, shard: int) -> ShardOutcome:
        # Ray asks again where the node with the first answer is gone.
        if patiently(lambda: self._writer.receipt(shard), self._tries) is not None:
            return ShardOutcome(shard)
        # Before the lock: the measurement, which takes it at once, goes first.
        rows = patiently(lambda: self._rows(shard), self._tries)
        with self._computing:
            try:
                given_up = patiently(lambda: self._attempts.begin(_name(shard)), self._tries)
            except OSError as error:
                return _unwritable(shard, error)
            if given_up:
                return ShardOutcome(shard, "failed", given_up)
            vectors, predictions = self._computer.compute(rows)
        rows_file, made_with = self._index.shards[shard], self._computer.made_with
        try:
            patiently(lambda: self._writer.write_shard(shard, rows_file, vectors, predictions, made_with), self._tries)
        except OSError as error:
            return _unwritable(shard, error)
        return ShardOutcome(shard)

    def _rows(self, shard: int) -> pa.Table:
        return self._writer.read_rows(shard, self._index.shards[shard].file)


def _name(shard: int) -> str:
    """What attempts at it are counted under."""
    return "measure" if shard == MEASURE else f"{shard:05d}"


def _unwritable(shard: int, error: OSError) -> ShardOutcome:
    return ShardOutcome(shard, "unwritable", f"{type(error).__name__}: {error}")
