"""A worker of an extraction: rows in, the activations of a shard out."""

import os
import threading
from contextlib import suppress
from typing import Literal, NamedTuple

import pyarrow as pa

from bae_ray.activations.compute import ShardComputer, Work, check_finite, load
from bae_ray.activations.layout import Probe, ShardRows
from bae_ray.activations.probe import probe_loaded
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import ExtractionError, InvalidInputError
from bae_ray.work.attempts import LITTLE_MEMORY, Attempts, patiently
from bae_ray.work.devices import is_lost
from bae_ray.work.receipts import traceback_of

MEASURE = "measure"
"""Key under which attempts to measure the speed are counted."""
ONCE = 1
"""Attempts to measure the speed: if a worker dies of it, no other worker tries."""


class ShardTask(NamedTuple):
    """A task for a worker."""

    shard: int
    rows: ShardRows
    measure: bool = False
    """Only measure the speed on its texts."""


class ShardOutcome(NamedTuple):
    """The result of a task."""

    outcome: Literal["finished", "failed", "refused", "unwritable"] = "finished"
    problem: str = ""
    tokens_per_s: float = 0.0
    traceback: str = ""
    """Traceback of an unexpected error; else empty."""


class ShardExtractor:
    """One worker: a copy of the model that turns rows files into activation shards.

    It checks the model first, and computes nothing if the model cannot be used. Two threads may call it at a time: it
    computes for one while the other one's shard is written.
    """

    def __init__(self, device: str, work: Work, attempts: int, workers: int, writer: StoreWriter) -> None:
        """Load and check the model. Raises `ExtractionError` if too many workers died of that."""
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
        self._tries, self._writer = attempts, writer
        self._computing = threading.Lock()
        self._probe: Probe | str
        try:
            with self._attempts.starting():
                model = load(work, device)
                self._probe = probe_loaded(model, work, device)
                self._computer = ShardComputer(work, model, device)
        except InvalidInputError as error:
            self._probe = str(error)
        with suppress(OSError):
            self._attempts.end_starts(starts)

    def __call__(self, task: ShardTask | None) -> ShardOutcome | Probe:
        """Compute one shard and report the result; no shard stops the others. Without one, report on the model."""
        if isinstance(self._probe, str):
            return ShardOutcome("refused", self._probe)
        if task is None:
            return self._probe
        try:
            if task.measure:
                return ShardOutcome(tokens_per_s=self._measure(task))
            with self._attempts.under_way(_name(task.shard)):
                return self._extract(task)
        except Exception as error:
            problem = described(error)
            if is_lost(error):
                self._die(task.shard, problem)
            return ShardOutcome("failed", problem, traceback=traceback_of(error))

    def _die(self, shard: int, problem: str) -> None:
        """End this process, which can no longer use its GPU, so that Ray starts another one for its shards."""
        with suppress(OSError):
            self._attempts.explain(_name(shard), problem)
        os._exit(1)

    def _measure(self, task: ShardTask) -> float:
        """Tokens per second. Raises `ExtractionError` where a worker has died of measuring them: once is enough."""
        with self._computing:
            if Attempts(self._writer.folder, ONCE).begin(MEASURE):
                raise ExtractionError("a worker died while it measured how long they take")
            return self._computer.measure(self._rows(task))

    def _extract(self, task: ShardTask) -> ShardOutcome:
        # Ray asks again where the node with the first answer is gone.
        if patiently(lambda: self._writer.receipt(task.shard, task.rows), self._tries) is not None:
            return ShardOutcome()
        # Before the lock: the measurement, which takes it at once, goes first.
        rows = patiently(lambda: self._rows(task), self._tries)
        with self._computing:
            try:
                given_up = patiently(lambda: self._attempts.begin(_name(task.shard)), self._tries)
            except OSError as error:
                return ShardOutcome("unwritable", described(error))
            if given_up:
                return ShardOutcome("failed", given_up)
            vectors, predictions = self._computer.compute(rows)
        check_finite(vectors, rows)  # while the other thread computes
        written = (task.shard, task.rows, vectors, predictions, self._computer.made_with)
        try:
            patiently(lambda: self._writer.write_shard(*written), self._tries)
        except OSError as error:
            return ShardOutcome("unwritable", described(error))
        return ShardOutcome()

    def _rows(self, task: ShardTask) -> pa.Table:
        return self._writer.read_rows(task.shard, task.rows.file)


def _name(shard: int) -> str:
    """What attempts at it are counted under."""
    return f"{shard:05d}"


def described(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {error}"
