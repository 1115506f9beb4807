"""The extraction pipeline: one forward pass per text, on a pool of Ray Data actors, into an activation store.

The unit of work is a shard of texts; shards are cut while earlier ones are computed. An actor reads a shard's rows,
runs the model, writes the vectors of every cell and then a receipt; a rerun looks for receipts and computes only the
shards that have none. The manifest comes last.
"""

from typing import Any, NamedTuple

from bae_ray.activations.batch_limits import CPU_TEXTS, CPU_TOKENS
from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig, ICLInput
from bae_ray.activations.extraction_run import free_cpus, run_probe, run_shards, share_of, writing
from bae_ray.activations.ingest import Lengths, lengths, write_rows
from bae_ray.activations.layout import MANIFEST, RECEIPTS, REQUEST, Failure, Manifest, Probe, Request, RowsIndex
from bae_ray.activations.loading import TORCH_DTYPES
from bae_ray.activations.model import (
    ModelSource,
    check_request,
    find_model,
    load_tokenizer,
    model_identity,
    wanted_layers,
)  # fmt: skip
from bae_ray.activations.shard_stream import Cut, ShardStream, check_disk
from bae_ray.activations.sources import Source, find_source
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import ExtractionError, InvalidInputError, NotEnoughDiskError, NoTextLongEnoughError
from bae_ray.progress import console
from bae_ray.storage import Location, folder_at
from bae_ray.work.devices import Share
from bae_ray.work.executor import Executor
from bae_ray.work.executors import ExecutorName, data_executor
from bae_ray.work.receipts import FAILURES, listed, read_receipt


def extract(config: ExtractConfig, out: Location, executor: Executor | ExecutorName = "ray") -> ActivationStore:
    """Extract activations into the store `out`, or finish an interrupted call there.

    `out` is a path, or a URI of any file system that pyarrow knows. Raises an `InvalidInputError` or
    `ForeignStoreError` before any long work starts, and `ExtractionError` where shards failed; what is finished by then
    is kept. With the executor `inline` this process computes all shards; only the corpus is read by Ray.
    """
    executor = data_executor(executor)
    writer = StoreWriter(folder_at(out))
    plan = _plan(config)
    share = share_of(config, executor)
    workers = config.workers or executor.fitting(share)
    try:
        plan = _with_batches(plan, read_receipt(writer.folder, REQUEST, Request), share)
        request = plan.request()
        finished = writer.folder.exists(MANIFEST)
        new = writer.claim(request)
    except OSError as error:
        raise InvalidInputError(
            f"{writer.folder} cannot be written to: {error}. Give a folder that can be made and written."
        ) from error
    store = ActivationStore.open(writer.folder) if finished else None
    if store is not None and not store.manifest.failed:
        _tell_complete(store)
        return store
    if store is not None:
        console.print(
            f"{writer.folder} was finished without {len(store.manifest.failed)} shards: they are tried again."
        )
    try:
        _tell(plan, writer)
        shards = _shards(plan, writer, free_cpus(executor, share, workers))
        failures, probed = run_shards(config, plan.work(share), writer, shards, executor, share, workers)
    except NotEnoughDiskError:
        if new and writer.index() is None:  # rows that were written stay for the next try
            writer.give_up()
        raise
    except InvalidInputError:  # what cannot be used leaves the folder free for another try
        if new and not writer.folder.files(RECEIPTS):
            writer.give_up()
        raise
    assert shards.index is not None  # else its error was raised
    return _finish(config, writer, request, plan.model.hidden_size, shards.index, failures, probed)


def _finish(
    config: ExtractConfig,
    writer: StoreWriter,
    request: Request,
    d: int,
    index: RowsIndex,
    failures: list[Failure],
    probed: Probe,
) -> ActivationStore:
    """Write the manifest. Raises `ExtractionError` where shards are missing that may not."""
    if failures and not (config.finish_without_failed and len(failures) < len(index.shards)):
        raise ExtractionError(
            f"{listed(failures, len(index.shards), 'shards')}\n"
            f"All are named in {writer.folder}/{FAILURES}. Finished shards are kept; the same command tries the others "
            "again, and with --finish-without-failed the store is finished without those that fail."
        )
    held = sorted(set(range(len(index.shards))) - {failure.shard for failure in failures})
    receipts = [receipt for shard in held if (receipt := writer.receipt(shard)) is not None]
    if gone := set(held) - {receipt.shard for receipt in receipts}:
        raise ExtractionError(
            f"files of {len(gone)} shards in {writer.folder}, such as shard {min(gone)}, are gone or cut short since "
            "they were written, or lie on another machine: --out must be on a file system that all machines see. Run "
            "the same command again: it computes them anew."
        )
    manifest = Manifest(
        request=request,
        d=d,
        n=sum(receipt.n for receipt in receipts),
        texts=sum(receipt.texts for receipt in receipts),
        tokens=sum(index.shards[shard].tokens for shard in held),
        **{name: value for name, value in index if name != "shards"},
        shards=tuple(receipts),
        failed=tuple(failures),
        probe=probed,
    )
    with writing(writer):
        writer.finish(manifest)
    if failures:
        console.print(f"{writer.folder} is finished without {len(failures)} shards, which its {MANIFEST} names.")
    return ActivationStore(writer.folder, manifest)


def _tell_complete(store: ActivationStore) -> None:
    console.print(f"{store.folder} is complete: {store.manifest.n} vectors x {len(store.cells)} cells.")
    if store.manifest.probe is None:
        console.print(
            f"{store.folder} was made before models were tried: its vectors may be of a model that looks ahead or "
            "lacks weights. extract --check tries the model now; delete the store to extract anew if it fails."
        )


def check(config: ExtractConfig) -> Probe:
    """Check the model on texts of the corpus, without a store: alone and batched, whole and cut, changed late.

    Raises an `InvalidInputError` if a vector depends on other texts or on later tokens.
    """
    plan = _plan(config, trying=True)
    longest, least = config.max_tokens or plan.model.max_positions, plan.wanted.least
    executor = data_executor("ray")
    share = share_of(config, executor)
    first = next(plan.source.tables(1), None)
    ids: list[list[int]] = [] if first is None else first["token_ids"].to_pylist()
    fitting = sorted((row[:longest] for row in ids if len(row) >= max(2, least)), key=len)
    if not fitting:
        raise NoTextLongEnoughError(
            f"none of the first {len(ids)} texts of corpus '{config.corpus}' reaches position {least - 1}. Ask "
            "for smaller positions, or give longer texts."
        )
    texts = [fitting[0], fitting[len(fitting) // 2], fitting[-1]]
    return run_probe(plan.work(share), executor, share, config.attempts, texts, plan.wanted.cut)


class _Plan(NamedTuple):
    """What a config asks for: everything is found and checked that needs no weights."""

    config: ExtractConfig
    model: ModelSource
    layers: tuple[int, ...]
    wanted: Lengths
    source: Source

    def work(self, share: Share) -> Work:
        """What a worker with this share needs to know."""
        gpus = max(1, int(share.gpus))
        return Work(model=self.model, label_tokens=self.source.label_tokens, gpus=gpus, **self._named())

    def request(self) -> Request:
        """What determines the store."""
        config = self.config
        return Request(
            model=model_identity(self.model),
            tokenizer={"add_special_tokens": True, "cut": self.wanted.cut, "most": self.wanted.most},
            input=self.source.identity,
            tokens=config.tokens.model_dump(mode="json") if "all" in config.all_positions else None,
            **self._named("shard_size", "shard_mb"),
        )

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.layers) * len(self.config.sites) * len(self.config.all_positions)

    @property
    def bytes_per_vector(self) -> int:
        """What a vector takes in every cell together."""
        return self.model.hidden_size * TORCH_DTYPES[self.config.dtype].itemsize * self.n_cells

    def _named(self, *others: str) -> dict[str, Any]:
        """Layers and positions, and what has the same name in the config."""
        shared = self.config.model_dump(include={"sites", "dtype", "batch_size", "batch_tokens", "compile", *others})
        return {"layers": self.layers, "positions": self.config.all_positions, **shared}


def _plan(config: ExtractConfig, trying: bool = False) -> _Plan:
    """The plan; `trying`: texts are read as far as the model takes them, whatever the positions."""
    model = find_model(config.model, config.revision)
    layers = wanted_layers(model, config.layers, config.sites)
    check_request(model, layers, config.sites, config.all_positions, config.max_tokens)
    longest = config.max_tokens or model.max_positions
    wanted = lengths(config.all_positions, longest, whole=isinstance(config.input, ICLInput))
    return _Plan(config, model, layers, wanted, find_source(config, model, longest if trying else wanted.read))


def _with_batches(plan: _Plan, begun: Request | None, share: Share) -> _Plan:
    """Batches that were left out are those that the store was begun with; in a new one a GPU's are measured."""
    size, tokens = plan.config.batch_size, plan.config.batch_tokens
    if begun is not None:
        size, tokens = size or begun.batch_size, tokens or begun.batch_tokens
    elif not share.gpus:
        size, tokens = size or CPU_TEXTS, tokens or CPU_TOKENS
    return plan._replace(config=plan.config.model_copy(update={"batch_size": size, "batch_tokens": tokens}))


def _tell(plan: _Plan, writer: StoreWriter) -> None:
    """Say what is planned. Raises `NotEnoughDiskError` where it is known already that it does not fit."""
    config = plan.config
    console.print(f"Plan: {plan.n_cells} cells x {plan.model.hidden_size} numbers in {config.dtype} for each vector.")
    if config.max_texts is not None and config.tokens.max_vectors is not None:
        console.print(
            f"Plan: at most {config.max_texts} texts (--max-texts) and {config.tokens.max_vectors} vectors "
            "(--tokens.max-vectors) for each cell; the limit reached first ends it."
        )
    if (most := most_vectors(config)) is not None:
        check_disk(writer, f"at most {most}", most * plan.bytes_per_vector)


def _shards(plan: _Plan, writer: StoreWriter, cpus: float) -> ShardStream:
    """The shards, found written or cut as they are asked for; a task that tokenises takes so many CPUs."""

    def cut() -> Cut:
        special = frozenset(load_tokenizer(plan.model).all_special_ids)
        tables, size = plan.source.tables(cpus), plan.bytes_per_vector
        return write_rows(writer, tables, plan.config, plan.wanted, special, size, plan.source.windowed)

    return ShardStream(writer, cut, plan.bytes_per_vector)


def most_vectors(config: ExtractConfig) -> int | None:
    """How many vectors a cell gets, given enough texts; None if that depends on the texts' lengths."""
    if "all" not in config.all_positions:
        return config.max_texts
    length = {"windows": "length", "random_tokens": "bits"}.get(config.input.kind)
    known = [config.tokens.per_text, getattr(config.input, length) if length else None]
    of_text = min((limit for limit in known if limit is not None), default=None)
    if config.max_texts is None or of_text is None:
        return config.tokens.max_vectors if config.max_texts is None else None
    most = config.max_texts * of_text
    return most if config.tokens.max_vectors is None else min(most, config.tokens.max_vectors)
