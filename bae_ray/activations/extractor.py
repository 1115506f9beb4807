"""The shards of a store that are missing, given to the workers of an executor: how they come along, and which fail."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Literal, NamedTuple

import pyarrow as pa

from bae_ray.activations.compute import ShardComputer, Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.layout import Failure, Probe, RowsIndex
from bae_ray.activations.probe import probe
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import CorruptShardError, ExtractionError, InvalidInputError, UnfinishedError
from bae_ray.progress import console, track
from bae_ray.work.attempts import LITTLE_MEMORY, Attempts, patiently
from bae_ray.work.devices import Share, is_lost
from bae_ray.work.executor import Executor, WorkOrder
from bae_ray.work.receipts import traceback_of, write_failures

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
                return ShardOutcome(tokens_per_s=self._measure(task.like))
            return self._extract(shard)
        except Exception as error:
            problem = _described(error)
            if is_lost(error):
                self._die(shard, problem)
            return ShardOutcome("failed", problem, traceback=traceback_of(error))

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
            return ShardOutcome()
        # Before the lock: the measurement, which takes it at once, goes first.
        rows = patiently(lambda: self._rows(shard), self._tries)
        with self._computing:
            try:
                given_up = patiently(lambda: self._attempts.begin(_name(shard)), self._tries)
            except OSError as error:
                return ShardOutcome("unwritable", _described(error))
            if given_up:
                return ShardOutcome("failed", given_up)
            vectors, predictions = self._computer.compute(rows)
        rows_file, made_with = self._index.shards[shard], self._computer.made_with
        try:
            patiently(lambda: self._writer.write_shard(shard, rows_file, vectors, predictions, made_with), self._tries)
        except OSError as error:
            return ShardOutcome("unwritable", _described(error))
        return ShardOutcome()

    def _rows(self, shard: int) -> pa.Table:
        return self._writer.read_rows(shard, self._index.shards[shard].file)


def _name(shard: int) -> str:
    """What attempts at it are counted under."""
    return "measure" if shard == MEASURE else f"{shard:05d}"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def writing(writer: StoreWriter) -> Iterator[None]:
    """Say what cannot be written: raise `ExtractionError` in place of the system's error."""
    try:
        yield
    except OSError as error:
        raise ExtractionError(_unwritable(writer, _described(error))) from error


def _unwritable(writer: StoreWriter, problem: str) -> str:
    return (
        f"{writer.folder} cannot be written to any more: {problem}. Finished shards are kept; make room or restore "
        "access, and the same command goes on."
    )


def share_of(config: ExtractConfig, executor: Executor) -> Share:
    """What each worker gets. Raises `InvalidInputError` where that can never fit."""
    return executor.share("a worker", config.cpus_per_worker, config.gpus_per_worker)


def run_probe(
    config: ExtractConfig,
    work: Work,
    executor: Executor,
    texts: Sequence[Sequence[int]] | None = None,
    cut: int | None = None,
) -> Probe:
    """`probe` where a worker would run. Raises `InvalidInputError` where the model cannot be used or a process dies."""
    try:
        return executor.once(
            partial(probe, work, texts=texts, cut=cut), share_of(config, executor), config.attempts, here=True
        )
    except UnfinishedError as error:
        raise InvalidInputError(
            f"a process that loaded model '{work.model.name}' died: {error} Too little memory is the usual reason: "
            "give a smaller --dtype, or machines with more memory."
        ) from error


def run_shards(
    config: ExtractConfig, work: Work, writer: StoreWriter, index: RowsIndex, executor: Executor
) -> list[Failure]:
    """Compute the shards that have no receipt yet; those that could not be, which failures.json in the store names too.

    Raises `ExtractionError` where the run cannot go on.
    """
    missing = [shard for shard in range(len(index.shards)) if writer.receipt(shard) is None]
    if not missing:
        return []
    share = share_of(config, executor)
    workers = min(config.workers or executor.fitting(share), len(missing))
    # The first worker measures first; the others are still loading their models then.
    tasks = [ShardTask(MEASURE, missing[0]), *(ShardTask(shard, shard) for shard in missing)]
    attempts = Attempts(writer.folder, config.attempts)
    with writing(writer):
        attempts.forget()
    failures: list[Failure] = []
    worker = partial(ShardExtractor, work=work, attempts=config.attempts, workers=workers, writer=writer, index=index)
    started, done, left = time.monotonic(), 0, sum(index.shards[shard].tokens for shard in missing)

    def told(task: ShardTask, ended: ShardOutcome) -> None:
        """Raise `ExtractionError` as soon as a shard cannot be written: no other could."""
        nonlocal done
        if task.shard == MEASURE:
            took = f"{left} tokens; how long they take is not known: {ended.problem}"
            if rate := ended.tokens_per_s:
                about, of = _duration(left / (rate * workers)), f"measured on one of {workers} workers"
                took = f"about {about} for {left} tokens, at {rate:.0f} tokens/s {of}"
            console.print(f"Plan: {took}.")
            return
        if ended.outcome == "unwritable":
            raise ExtractionError(_unwritable(writer, ended.problem))
        if ended.outcome == "failed":
            failures.append(_failure(writer, index, task.shard, ended))
        rows = index.shards[task.shard]
        done += rows.tokens
        tracker.advance(rows.texts, f"{done / (time.monotonic() - started):.0f} tokens/s")

    try:
        with track("Extracting", index.texts) as tracker:
            tracker.advance(index.texts - sum(index.shards[shard].texts for shard in missing))
            executor.run(WorkOrder([[task] for task in tasks], worker, told, share, workers, overlap=True))
    except ExtractionError:
        raise
    except UnfinishedError as error:
        raise ExtractionError(
            f"extraction stopped: {error}. Finished shards are kept in {writer.folder}; the same command goes on."
        ) from error
    finally:
        failures.sort(key=lambda failure: failure.shard)
        with suppress(OSError):
            write_failures(writer.folder, failures)
    with writing(writer):
        attempts.forget()
    return failures


def _failure(writer: StoreWriter, index: RowsIndex, shard: int, ended: ShardOutcome) -> Failure:
    first, last, rows = None, None, index.shards[shard]
    with suppress(CorruptShardError, OSError):
        ids = writer.read_rows(shard, rows.file)["text_id"]
        first, last = ids[0].as_py(), ids[-1].as_py()
    return Failure(
        shard=shard, texts=rows.texts, first_text_id=first, last_text_id=last, reason=ended.problem,
        traceback=ended.traceback,
    )  # fmt: skip


def _duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
