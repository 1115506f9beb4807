"""The extraction pipeline: one forward pass per text, on a pool of Ray Data actors, into an activation store.

The unit of work is a shard of texts. An actor reads its rows, runs the model, writes the vectors of every cell and
then a receipt; a rerun looks for receipts and computes only the shards that have none. The manifest comes last.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray.data
from ray.exceptions import RayError

from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.ingest import write_rows
from bae_ray.activations.inputs import ICLInput
from bae_ray.activations.layout import MANIFEST, Manifest, Request, RowsIndex, rows_file
from bae_ray.activations.model import (
    TORCH_DTYPES,
    ModelSource,
    check_request,
    find_model,
    load_tokenizer,
    model_identity,
)
from bae_ray.activations.selection import Lengths, lengths
from bae_ray.activations.sources import Source, find_source
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.worker import MEASURE, RESULT, ShardExtractor
from bae_ray.activations.writer import StoreWriter
from bae_ray.cluster import check_fits, configure_data, connect, total
from bae_ray.errors import ExtractionError, InvalidInputError, NotEnoughDiskError
from bae_ray.progress import console, track
from bae_ray.storage import Location, folder_at

MAX_PROBLEMS_SHOWN = 10


def extract(config: ExtractConfig, out: Location) -> ActivationStore:
    """Extract activations into the store `out`, or finish the one that an earlier call has begun there.

    `out` is a path, or a URI of any file system that pyarrow knows. Raises an `InvalidInputError` or
    `ForeignStoreError` before any long work starts, and `ExtractionError` where shards failed; what is finished by then
    is kept.
    """
    writer = StoreWriter(folder_at(out))
    model = find_model(config.model, config.revision)
    layers = tuple(sorted(config.layers)) if config.layers is not None else _all_layers(model, config.sites)
    positions = config.all_positions
    check_request(model, layers, config.sites, positions, config.max_tokens)
    asked = isinstance(config.input, ICLInput)
    wanted = lengths(positions, config.max_tokens or model.max_positions, whole=asked)
    source = find_source(config, model, wanted.read)
    request = _request(config, model, source, layers, wanted)
    try:
        finished = writer.folder.exists(MANIFEST)
        new = writer.claim(request)
    except OSError as error:
        raise InvalidInputError(
            f"{writer.folder} cannot be written to: {error}. Give a folder that can be made and written."
        ) from error
    if finished:
        store = ActivationStore.open(writer.folder)
        console.print(f"{writer.folder} is complete: {store.manifest.n} vectors x {len(store.cells)} cells.")
        return store
    try:
        index = _ingest(config, model, source, request, wanted, writer)
    except InvalidInputError:  # what cannot be used leaves the folder free for another try
        if new:
            writer.give_up()
        raise
    work = Work(
        model=model,
        layers=layers,
        sites=config.sites,
        positions=positions,
        dtype=config.dtype,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        compile=config.compile,
        label_tokens=source.label_tokens,
    )
    _run_shards(config, work, writer, index)
    receipts = [writer.receipt(shard) for shard in range(len(index.shards))]
    if gone := [shard for shard, receipt in enumerate(receipts) if receipt is None]:
        raise ExtractionError(
            f"files of {len(gone)} shards in {writer.folder}, such as shard {gone[0]}, are gone or cut short since "
            "they were written. Run the same command again: it computes them anew."
        )
    manifest = Manifest(
        request=request,
        d=model.hidden_size,
        n=index.n,
        texts=index.texts,
        tokens=index.tokens,
        texts_read=index.texts_read,
        texts_too_short=index.texts_too_short,
        texts_too_long=index.texts_too_long,
        shards=tuple(receipt for receipt in receipts if receipt is not None),
    )
    with _writing(writer):
        writer.finish(manifest)
    return ActivationStore(writer.folder, manifest)


@contextmanager
def _writing(writer: StoreWriter) -> Iterator[None]:
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


def _all_layers(model: ModelSource, sites: tuple[str, ...]) -> tuple[int, ...]:
    """Every layer that has all of the sites: the last one, after the final norm, has no MLP."""
    return tuple(range(model.n_layers + (sites == ("residual",))))


def _request(
    config: ExtractConfig, model: ModelSource, source: Source, layers: tuple[int, ...], wanted: Lengths
) -> Request:
    return Request(
        model=model_identity(model),
        tokenizer={"add_special_tokens": True, "cut": wanted.cut, "most": wanted.most},
        input=source.identity,
        layers=layers,
        sites=config.sites,
        positions=config.all_positions,
        tokens=config.tokens.model_dump(mode="json") if "all" in config.all_positions else None,
        dtype=config.dtype,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        shard_size=config.shard_size,
        shard_mb=config.shard_mb,
    )


def _ingest(
    config: ExtractConfig,
    model: ModelSource,
    source: Source,
    request: Request,
    wanted: Lengths,
    writer: StoreWriter,
) -> RowsIndex:
    """Check that there is room, write the rows or find them written, and say what is to be done."""
    cells = len(request.cells)
    bytes_per_vector = model.hidden_size * TORCH_DTYPES[config.dtype].itemsize * cells
    console.print(f"Plan: {cells} cells x {model.hidden_size} numbers in {config.dtype} for each vector.")
    most = config.tokens.max_vectors if "all" in request.positions else config.max_texts
    if most is not None:
        _check_disk(writer, f"at most {most}", most * bytes_per_vector)
    connect()
    check_fits("a worker", config.cpus_per_worker, _gpus(config))
    index = writer.index()
    if index is None:
        special = frozenset(load_tokenizer(model).all_special_ids)
        with _writing(writer):
            index = write_rows(writer, source.tables(), config, wanted, special, bytes_per_vector)
    console.print(
        f"Plan: {index.texts} texts with {index.tokens} tokens; {index.texts_too_short} of {index.texts_read} were too "
        f"short and {index.texts_too_long} too long, and left out."
    )
    _check_disk(writer, f"{index.n}", index.n * bytes_per_vector)
    return index


def _check_disk(writer: StoreWriter, vectors: str, needed: int) -> None:
    """Print the store's size; raise `NotEnoughDiskError` where what is still to be written does not fit."""
    free, there = writer.folder.free_bytes(), writer.bytes_written()
    known = f", {free / 1e9:.1f} GB free" if free is not None else ""
    console.print(
        f"Plan: {vectors} vectors for each cell, {needed / 1e9:.2f} GB in {writer.folder} ({there / 1e9:.2f} GB of it "
        f"there already{known})."
    )
    if free is not None and needed - there > free:
        raise NotEnoughDiskError(
            f"the store needs {(needed - there) / 1e9:.2f} GB more, but {writer.folder} has {free / 1e9:.2f} GB free. "
            "Use fewer texts, layers or positions, a smaller dtype, or another folder."
        )


def _gpus(config: ExtractConfig) -> float:
    return config.gpus_per_worker if config.gpus_per_worker is not None else float(total("GPU") > 0)


def _run_shards(config: ExtractConfig, work: Work, writer: StoreWriter, index: RowsIndex) -> None:
    """Compute the shards that have no receipt yet. Raises `ExtractionError` where some could not be."""
    missing = [shard for shard in range(len(index.shards)) if writer.receipt(shard) is None]
    if not missing:
        return
    gpus = _gpus(config)
    fit = int(total("GPU") // gpus) if gpus else int(total("CPU") // config.cpus_per_worker)
    workers = min(config.workers or max(fit, 1), len(missing))
    # The first worker measures first; the others are still loading their models then.
    tasks = [{"shard": MEASURE, "like": missing[0]}, *({"shard": shard, "like": shard} for shard in missing)]
    with _writing(writer):
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
    try:
        problems = _follow(results, missing, writer, index, workers)
    except RayError as error:
        raise ExtractionError(
            f"extraction stopped: {error}. Finished shards are kept in {writer.folder}; the same command goes on."
        ) from error
    with _writing(writer):
        writer.forget_attempts()
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS_SHOWN} more"] if len(problems) > MAX_PROBLEMS_SHOWN else []
        raise ExtractionError(
            "\n  ".join(
                [f"{len(problems)} of {len(missing)} shards were not written:", *problems[:MAX_PROBLEMS_SHOWN], *more]
            )
            + f"\nFinished shards are kept in {writer.folder}; the same command tries the others again."
        )


def _follow(
    results: ray.data.Dataset, missing: list[int], writer: StoreWriter, index: RowsIndex, workers: int
) -> list[str]:
    """Show how the shards come along; what is wrong with those that failed.

    Raises `ExtractionError` as soon as one cannot be written: neither could the others.
    """
    problems: list[str] = []
    started = time.monotonic()
    tokens, left = 0, sum(index.shards[shard].tokens for shard in missing)
    with track("Extracting", index.texts) as tracker:
        tracker.advance(index.texts - sum(index.shards[shard].texts for shard in missing))
        for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for shard, outcome, problem, rate in zip(*(batch[name] for name in RESULT), strict=True):
                if shard == MEASURE and not rate:
                    console.print(f"Plan: {left} tokens; how long they take could not be measured: {problem}.")
                    continue
                if shard == MEASURE:
                    console.print(
                        f"Plan: about {_duration(left / (rate * workers))} for {left} tokens, at {rate:.0f} tokens/s "
                        f"measured on one of {workers} workers."
                    )
                    continue
                rows = index.shards[shard]
                if outcome == "unwritable":
                    raise ExtractionError(_unwritable(writer, problem))
                if outcome == "failed":
                    problems.append(f"shard {shard} ({rows.texts} texts, {rows_file(shard)}): {problem}")
                tokens += rows.tokens
                tracker.advance(rows.texts, f"{tokens / (time.monotonic() - started):.0f} tokens/s")
    return problems


def _duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
