"""Computing the missing shards of a store with the workers of an executor: progress and failures."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from bae_ray import meters
from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extractor import ShardExtractor, ShardOutcome, ShardTask, described
from bae_ray.activations.layout import Failure, Probe
from bae_ray.activations.probe import probe
from bae_ray.activations.shard_stream import ShardStream
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import CorruptShardError, ExtractionError, InvalidInputError, UnfinishedError
from bae_ray.progress import Tracker, console, duration, track
from bae_ray.structured_log import event
from bae_ray.work.attempts import Attempts
from bae_ray.work.devices import Share
from bae_ray.work.executor import Executor, WorkOrder
from bae_ray.work.receipts import write_failures


@contextmanager
def writing(writer: StoreWriter) -> Iterator[None]:
    """Raise `ExtractionError`, which names what cannot be written, in place of the system's error."""
    try:
        yield
    except OSError as error:
        raise ExtractionError(_unwritable(writer, described(error))) from error


def _unwritable(writer: StoreWriter, problem: str) -> str:
    return (
        f"{writer.folder} cannot be written to any more: {problem}. Finished shards are kept; make room or restore "
        "access, and the same command goes on."
    )


def share_of(config: ExtractConfig, executor: Executor) -> Share:
    """The resources of each worker. Raises `InvalidInputError` if they can never fit."""
    return executor.share("a worker", config.cpus_per_worker, config.gpus_per_worker)


def run_probe(
    work: Work, executor: Executor, share: Share, attempts: int, texts: Sequence[Sequence[int]], cut: int | None
) -> Probe:
    """`probe` where a worker would run. Raises `InvalidInputError` if the model cannot be used or a process dies."""
    try:
        return executor.once(partial(probe, work, texts=texts, cut=cut), share, attempts, here=True)
    except UnfinishedError as error:
        raise InvalidInputError(
            f"a process that loaded model '{work.model.name}' died: {error} Too little memory is the usual reason: "
            "give a smaller --dtype, or machines with more memory."
        ) from error


def free_cpus(executor: Executor, share: Share, workers: int) -> float:
    """The CPUs of a task that tokenises beside the workers: 0 if the workers hold all CPUs."""
    there = executor.total("CPU")
    return float(not there or there - workers * share.cpus >= 1)


class _Run:
    """An extraction under way: the tasks that are given out, and what is told of them."""

    def __init__(self, writer: StoreWriter, shards: ShardStream, workers: int, tracker: Tracker) -> None:
        self.failures: list[Failure] = []
        self.probe: Probe | None = None
        self._writer, self._shards, self._workers, self._tracker = writer, shards, workers, tracker
        self._started, self._done, self._found = time.monotonic(), 0, 0
        self._ended = 0

    def tasks(self) -> Generator[list[ShardTask | None], None, None]:
        """Say how the model did; measure the speed; then the shards that are not finished, as they come."""
        yield [None]
        measured = False
        for shard, rows in self._shards:
            if self._writer.receipt(shard, rows) is not None:
                self._found += rows.tokens
                self._ended += 1
                self._tracker.advance(rows.texts)
                continue
            # The first worker measures first; the others are still loading their models then.
            if not measured:
                yield [ShardTask(shard, rows, measure=True)]
                measured = True
            yield [ShardTask(shard, rows)]
        if self._shards.index is not None:
            self._tracker.expect(self._shards.index.texts)

    def told(self, task: ShardTask | None, ended: ShardOutcome | Probe) -> None:
        """Raise `ExtractionError` as soon as a shard cannot be written: no other could."""
        if isinstance(ended, Probe):
            self.probe = ended
            console.print(f"Plan: {ended}.")
            return
        if ended.outcome == "refused":
            raise InvalidInputError(ended.problem)
        if ended.outcome == "unwritable":
            raise ExtractionError(_unwritable(self._writer, ended.problem))
        assert task is not None
        if task.measure:
            console.print(f"Plan: {self._duration(ended)}.")
            return
        if ended.outcome == "failed":
            self.failures.append(_failure(self._writer, task, ended))
        self._tell(task, ended)
        self._done += task.rows.tokens
        rate = self._done / (time.monotonic() - self._started)
        tokenising = "" if self._shards.index else f", {sum(rows.texts for rows in self._shards.shards)} tokenised"
        self._tracker.advance(task.rows.texts, f"{rate:.0f} tokens/s{tokenising}")

    def _tell(self, task: ShardTask, ended: ShardOutcome) -> None:
        """Tell whoever watches that a shard has ended."""
        shard, store = task.shard, str(self._writer.folder)
        event("shard ended", shard=shard, outcome=ended.outcome, problem=ended.problem, store=store)
        self._ended += 1
        meters.add("bae_ray_shards", outcome=ended.outcome)
        meters.add("bae_ray_extracted_tokens", task.rows.tokens * (ended.outcome == "finished"))
        if self._shards.index is not None:
            meters.put("bae_ray_shards_left", len(self._shards.index.shards) - self._ended)

    def _duration(self, measured: ShardOutcome) -> str:
        index, rate = self._shards.index, measured.tokens_per_s
        left = None if index is None else index.tokens - self._found
        tokens = "texts are still tokenised" if left is None else f"{left} tokens"
        if not rate:
            return f"{tokens}; how long they take is not known: {measured.problem}"
        told = f"{rate:.0f} tokens/s measured on one of {self._workers} workers"
        if left is None:
            return f"{told}; {tokens}"
        return f"about {duration(left / (rate * self._workers))} for {tokens}, at {told}"


def run_shards(
    config: ExtractConfig,
    work: Work,
    writer: StoreWriter,
    shards: ShardStream,
    executor: Executor,
    share: Share,
    workers: int,
) -> tuple[list[Failure], Probe]:
    """Compute the shards that have no receipt yet, and try the model.

    Returns those that could not be computed, which failures.json in the store names too, and how the model did.
    Raises `InvalidInputError` where the model or the corpus cannot be used, and `ExtractionError` where the run cannot
    go on.
    """
    attempts = Attempts(writer.folder, config.attempts)
    with writing(writer):
        attempts.forget()
    worker = partial(ShardExtractor, work=work, attempts=config.attempts, workers=workers, writer=writer)
    failures: list[Failure] = []
    try:
        with track("Extracting", shards.index.texts if shards.index else config.max_texts) as tracker:
            run = _Run(writer, shards, workers, tracker)
            failures = run.failures
            executor.run(WorkOrder(run.tasks(), worker, run.told, share, workers, overlap=True))
    except (InvalidInputError, ExtractionError):
        raise
    except UnfinishedError as error:
        raise ExtractionError(
            f"extraction stopped: {error}. Finished shards are kept in {writer.folder}; the same command goes on."
        ) from error
    except OSError as error:  # rows that could not be written
        raise ExtractionError(_unwritable(writer, described(error))) from error
    finally:
        failures.sort(key=lambda failure: failure.shard)
        with suppress(OSError):
            write_failures(writer.folder, failures)
    with writing(writer):
        attempts.forget()
    assert run.probe is not None  # every run asks for it
    return failures, run.probe


def _failure(writer: StoreWriter, task: ShardTask, ended: ShardOutcome) -> Failure:
    first, last = None, None
    with suppress(CorruptShardError, OSError):
        ids = writer.read_rows(task.shard, task.rows.file)["text_id"]
        first, last = ids[0].as_py(), ids[-1].as_py()
    return Failure(
        shard=task.shard, texts=task.rows.texts, first_text_id=first, last_text_id=last, reason=ended.problem,
        traceback=ended.traceback,
    )  # fmt: skip
