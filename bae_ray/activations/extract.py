"""The extraction pipeline: one forward pass per text, on a pool of Ray Data actors, into an activation store.

The unit of work is a shard of texts. An actor reads its rows, runs the model, writes the vectors of every cell and
then a receipt; a rerun looks for receipts and computes only the shards that have none. The manifest comes last.
"""

from typing import Any, NamedTuple

from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig, ICLInput
from bae_ray.activations.extractor import run_probe, run_shards, share_of, writing
from bae_ray.activations.ingest import Lengths, lengths, write_rows
from bae_ray.activations.layout import MANIFEST, Manifest, Probe, Request, RowsIndex
from bae_ray.activations.loading import TORCH_DTYPES
from bae_ray.activations.model import ModelSource, check_request, find_model, load_tokenizer, model_identity
from bae_ray.activations.sources import Source, find_source
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import ExtractionError, InvalidInputError, NotEnoughDiskError, NoTextLongEnoughError
from bae_ray.progress import console
from bae_ray.storage import Location, folder_at
from bae_ray.work.executor import Executor
from bae_ray.work.executors import ExecutorName, data_executor
from bae_ray.work.receipts import FAILURES, listed


def extract(config: ExtractConfig, out: Location, executor: Executor | ExecutorName = "ray") -> ActivationStore:
    """Extract activations into the store `out`, or finish the one that an earlier call has begun there.

    `out` is a path, or a URI of any file system that pyarrow knows. Raises an `InvalidInputError` or
    `ForeignStoreError` before any long work starts, and `ExtractionError` where shards failed; what is finished by then
    is kept. With the executor `inline` this process computes all shards; only the corpus is read by Ray.
    """
    executor = data_executor(executor)
    writer = StoreWriter(folder_at(out))
    plan = _plan(config)
    request = plan.request()
    try:
        finished = writer.folder.exists(MANIFEST)
        new = writer.claim(request)
    except OSError as error:
        raise InvalidInputError(
            f"{writer.folder} cannot be written to: {error}. Give a folder that can be made and written."
        ) from error
    store = ActivationStore.open(writer.folder) if finished else None
    if store is not None and store.manifest.failed:
        console.print(
            f"{writer.folder} was finished without {len(store.manifest.failed)} shards: they are tried again."
        )
    elif store is not None:
        console.print(f"{writer.folder} is complete: {store.manifest.n} vectors x {len(store.cells)} cells.")
        if store.manifest.probe is None:
            console.print(
                f"{writer.folder} was made before models were tried: its vectors may be of a model that looks ahead or "
                "lacks weights. extract --check tries the model now; delete the store to extract anew if it fails."
            )
        return store
    try:
        index, probed = _ingest(plan, writer, executor)
    except InvalidInputError:  # what cannot be used leaves the folder free for another try
        if new:
            writer.give_up()
        raise
    # Only now: where the disk is too small for what was found in the texts, their rows stay for the next try.
    _check_disk(writer, f"{index.n}", index.n * plan.bytes_per_vector)
    failures = run_shards(config, plan.work, writer, index, executor)
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
        d=plan.model.hidden_size,
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


def check(config: ExtractConfig) -> Probe:
    """Try the model on texts of the corpus, without a store: alone and beside others, whole and cut, changed late.

    Raises an `InvalidInputError` where its vectors depend on what they must not.
    """
    plan = _plan(config, trying=True)
    longest, least = config.max_tokens or plan.model.max_positions, plan.wanted.least
    executor = data_executor("ray")
    share_of(config, executor)
    first = next(plan.source.tables(), None)
    ids: list[list[int]] = [] if first is None else first["token_ids"].to_pylist()
    fitting = sorted((row[:longest] for row in ids if len(row) >= max(2, least)), key=len)
    if not fitting:
        raise NoTextLongEnoughError(
            f"none of the first {len(ids)} texts of corpus '{config.corpus}' reaches position {least - 1}. Ask "
            "for smaller positions, or give longer texts."
        )
    texts = [fitting[0], fitting[len(fitting) // 2], fitting[-1]]
    return run_probe(config, plan.work, executor, texts, plan.wanted.cut)


class _Plan(NamedTuple):
    """What a config asks for: everything is found and checked that needs no weights."""

    config: ExtractConfig
    model: ModelSource
    layers: tuple[int, ...]
    wanted: Lengths
    source: Source

    @property
    def work(self) -> Work:
        """What a worker needs to know."""
        return Work(model=self.model, label_tokens=self.source.label_tokens, **self._named())

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
    # The last layer, after the final norm, has no MLP.
    every = range(model.n_layers + (config.sites == ("residual",)))
    layers = tuple(sorted(config.layers if config.layers is not None else every))
    check_request(model, layers, config.sites, config.all_positions, config.max_tokens)
    longest = config.max_tokens or model.max_positions
    wanted = lengths(config.all_positions, longest, whole=isinstance(config.input, ICLInput))
    return _Plan(config, model, layers, wanted, find_source(config, model, longest if trying else wanted.read))


def _ingest(plan: _Plan, writer: StoreWriter, executor: Executor) -> tuple[RowsIndex, Probe]:
    """Check that there is room, try the model, write the rows or find them written, and say what is to be done."""
    config, model, source = plan.config, plan.model, plan.source
    console.print(f"Plan: {plan.n_cells} cells x {model.hidden_size} numbers in {config.dtype} for each vector.")
    if config.max_texts is not None and config.tokens.max_vectors is not None:
        console.print(
            f"Plan: at most {config.max_texts} texts (--max-texts) and {config.tokens.max_vectors} vectors "
            "(--tokens.max-vectors) for each cell; the limit reached first ends it."
        )
    if (most := most_vectors(config)) is not None:
        _check_disk(writer, f"at most {most}", most * plan.bytes_per_vector)
    probed = run_probe(config, plan.work, executor)
    console.print(f"Plan: {probed}.")
    index = writer.index()
    if index is None:
        special, size = frozenset(load_tokenizer(model).all_special_ids), plan.bytes_per_vector
        with writing(writer):
            index = write_rows(writer, source.tables(), config, plan.wanted, special, size, source.windowed)
    if index.windowed is not None:
        console.print(f"Plan: windows of {index.windowed}")
    empty = f" ({index.texts_empty} of them null, empty or blank)" if index.texts_empty else ""
    console.print(
        f"Plan: {index.texts} texts with {index.tokens} tokens; {index.texts_too_short} of {index.texts_read} were too "
        f"short{empty} and {index.texts_too_long} too long, and left out."
    )
    return index, probed


def most_vectors(config: ExtractConfig) -> int | None:
    """How many vectors a cell gets, if there are texts enough; None where that hangs on how long they are."""
    if "all" not in config.all_positions:
        return config.max_texts
    length = {"windows": "length", "random_tokens": "bits"}.get(config.input.kind)
    known = [config.tokens.per_text, getattr(config.input, length) if length else None]
    of_text = min((limit for limit in known if limit is not None), default=None)
    if config.max_texts is None or of_text is None:
        return config.tokens.max_vectors if config.max_texts is None else None
    most = config.max_texts * of_text
    return most if config.tokens.max_vectors is None else min(most, config.tokens.max_vectors)


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
            "Make room and run the same command again, or use fewer texts, layers or positions, or a smaller dtype, in "
            "another folder."
        )
