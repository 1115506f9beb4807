"""The shards of a store that are missing, given to an executor: how they come along, and which of them fail."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extractor import MEASURE, ShardExtractor, ShardOutcome, ShardTask
from bae_ray.activations.layout import Failure, Probe, RowsIndex
from bae_ray.activations.probe import probe
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import CorruptShardError, ExtractionError, InvalidInputError, UnfinishedError
from bae_ray.progress import console, track
from bae_ray.work.attempts import Attempts
from bae_ray.work.devices import Share
from bae_ray.work.executor import Executor, WorkOrder
from bae_ray.work.receipts import write_failures


@contextmanager
def writing(writer: StoreWriter) -> Iterator[None]:
    """Say what cannot be written: raise `ExtractionError` in place of the system's error."""
    try:
        yield
    except OSError as error:
        raise ExtractionError(_unwritable(writer, f"{type(error).__name__}: {error}")) from error


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
            failures.append(_failure(writer, index, ended))
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


def _failure(writer: StoreWriter, index: RowsIndex, ended: ShardOutcome) -> Failure:
    shard, rows = ended.shard, index.shards[ended.shard]
    first = last = None
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
