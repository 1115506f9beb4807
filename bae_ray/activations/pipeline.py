"""The shards of a store that are missing, on a pool of Ray Data actors: how they come along, and which of them fail."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import ray
import ray.data
import torch
from ray.exceptions import RayError, RayTaskError

from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extractor import MEASURE, RESULT, ShardExtractor
from bae_ray.activations.layout import Failure, Probe, RowsIndex
from bae_ray.activations.probe import probe
from bae_ray.activations.writer import StoreWriter
from bae_ray.cluster import configure_data, only_machine, total
from bae_ray.errors import BaeRayError, CorruptShardError, ExtractionError, InvalidInputError, first_line
from bae_ray.progress import console, track


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


def gpus_of(config: ExtractConfig) -> float:
    """The GPU share of each worker."""
    return config.gpus_per_worker if config.gpus_per_worker is not None else float(total("GPU") > 0)


def run_probe(
    config: ExtractConfig, work: Work, texts: Sequence[Sequence[int]] | None = None, cut: int | None = None
) -> Probe:
    """`probe` where a worker would run: with a GPU or several machines in a process of its own, else here.

    Raises `InvalidInputError` where the model cannot be used, or its process died.
    """
    gpus = gpus_of(config)
    arguments = work, config.cpus_per_worker, gpus, texts, cut
    if not gpus and only_machine() is not None:  # no new process, which would import its libraries for seconds
        return _probe(*arguments)
    task = ray.remote(num_cpus=config.cpus_per_worker, num_gpus=gpus, max_calls=1, max_retries=config.attempts - 1)(
        _probe
    )
    try:
        return ray.get(task.remote(*arguments))
    except RayTaskError as error:
        if isinstance(error.cause, BaeRayError):
            raise error.cause from None
        raise
    except RayError as error:
        raise InvalidInputError(
            f"a process that loaded model '{work.model.name}' died: {first_line(error)} Too little memory is the usual "
            "reason: give a smaller --dtype, or machines with more memory."
        ) from error


def _probe(work: Work, cpus: float, gpus: float, texts: Sequence[Sequence[int]] | None, cut: int | None) -> Probe:
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cpus)))
    try:
        return probe(work, "cuda" if gpus and torch.cuda.is_available() else "cpu", texts, cut)
    finally:
        torch.set_num_threads(threads)
        gc.collect()  # the model and its hooks hold each other


def run_shards(config: ExtractConfig, work: Work, writer: StoreWriter, index: RowsIndex) -> list[Failure]:
    """Compute the shards that have no receipt yet; those that could not be, which failures.json in the store names too.

    Raises `ExtractionError` where the run cannot go on.
    """
    missing = [shard for shard in range(len(index.shards)) if writer.receipt(shard) is None]
    if not missing:
        return []
    gpus = gpus_of(config)
    fit = int(total("GPU") // gpus) if gpus else int(total("CPU") // config.cpus_per_worker)
    workers = min(config.workers or max(fit, 1), len(missing))
    # The first worker measures first; the others are still loading their models then.
    tasks = [{"shard": MEASURE, "like": missing[0]}, *({"shard": shard, "like": shard} for shard in missing)]
    with writing(writer):
        writer.forget_attempts()
    configure_data(keep_order=False)
    results = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        ShardExtractor,
        fn_constructor_args=(work, config.attempts, workers, config.cpus_per_worker, gpus, writer, index),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=workers,
            # Two calls at a time, of which one computes: meanwhile the other one writes.
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=config.cpus_per_worker,
        num_gpus=gpus,
    )
    failures: list[Failure] = []
    try:
        _follow(results, missing, writer, index, workers, failures)
    except RayError as error:
        raise ExtractionError(
            f"extraction stopped: {error}. Finished shards are kept in {writer.folder}; the same command goes on."
        ) from error
    finally:
        with suppress(OSError):
            writer.record_failures(failures)
    with writing(writer):
        writer.forget_attempts()
    return failures


def _follow(
    results: ray.data.Dataset,
    missing: list[int],
    writer: StoreWriter,
    index: RowsIndex,
    workers: int,
    failures: list[Failure],
) -> None:
    """Show how the shards come along, and add those that fail to `failures`.

    Raises `ExtractionError` as soon as one cannot be written: neither could the others.
    """
    started = time.monotonic()
    tokens, left = 0, sum(index.shards[shard].tokens for shard in missing)
    with track("Extracting", index.texts) as tracker:
        tracker.advance(index.texts - sum(index.shards[shard].texts for shard in missing))
        for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for shard, outcome, problem, rate in zip(*(batch[name].tolist() for name in RESULT), strict=True):
                if shard == MEASURE:
                    console.print(_told(left, rate, workers) if rate else _untold(left, problem))
                    continue
                if outcome == "unwritable":
                    raise ExtractionError(_unwritable(writer, problem))
                if outcome == "failed":
                    failures.append(_failure(writer, index, shard, problem))
                rows = index.shards[shard]
                tokens += rows.tokens
                tracker.advance(rows.texts, f"{tokens / (time.monotonic() - started):.0f} tokens/s")
    failures.sort(key=lambda failure: failure.shard)


def _told(tokens: int, rate: float, workers: int) -> str:
    return (
        f"Plan: about {_duration(tokens / (rate * workers))} for {tokens} tokens, at {rate:.0f} tokens/s measured on "
        f"one of {workers} workers."
    )


def _untold(tokens: int, problem: str) -> str:
    return f"Plan: {tokens} tokens; how long they take is not known: {problem}."


def _failure(writer: StoreWriter, index: RowsIndex, shard: int, reason: str) -> Failure:
    rows = index.shards[shard]
    first = last = None
    with suppress(CorruptShardError, OSError):
        ids = writer.read_rows(shard, rows.file)["text_id"]
        first, last = ids[0].as_py(), ids[-1].as_py()
    return Failure(shard=shard, texts=rows.texts, first_text_id=first, last_text_id=last, reason=reason)


def _duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
