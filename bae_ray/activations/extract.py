"""The extraction pipeline: one forward pass per text, on a pool of Ray Data actors, into an activation store.

The unit of work is a shard of texts. An actor reads its rows, runs the model, writes the vectors of every cell and
then a receipt; a rerun looks for receipts and computes only the shards that have none. The manifest comes last.
"""

from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.ingest import write_rows
from bae_ray.activations.inputs import ICLInput
from bae_ray.activations.layout import MANIFEST, Failure, Manifest, Probe, Request, RowsIndex
from bae_ray.activations.loading import TORCH_DTYPES
from bae_ray.activations.model import ModelSource, check_request, find_model, load_tokenizer, model_identity
from bae_ray.activations.pipeline import run_probe, run_shards, share_of, writing
from bae_ray.activations.selection import Lengths, lengths
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
    work = _work(config, model, layers, source)
    try:
        index, probed = _ingest(config, work, source, request, wanted, writer, executor)
    except InvalidInputError:  # what cannot be used leaves the folder free for another try
        if new:
            writer.give_up()
        raise
    # Only now: where the disk is too small for what was found in the texts, their rows stay for the next try.
    _check_disk(writer, f"{index.n}", index.n * _bytes_per_vector(request, model))
    failures = run_shards(config, work, writer, index, executor)
    if failures and not (config.finish_without_failed and len(failures) < len(index.shards)):
        raise ExtractionError(_failed(writer, index, failures))
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
        d=model.hidden_size,
        n=sum(receipt.n for receipt in receipts),
        texts=sum(receipt.texts for receipt in receipts),
        tokens=sum(index.shards[shard].tokens for shard in held),
        texts_read=index.texts_read,
        texts_too_short=index.texts_too_short,
        texts_too_long=index.texts_too_long,
        texts_empty=index.texts_empty,
        windowed=index.windowed,
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
    model = find_model(config.model, config.revision)
    layers = tuple(sorted(config.layers)) if config.layers is not None else _all_layers(model, config.sites)
    check_request(model, layers, config.sites, config.all_positions, config.max_tokens)
    longest = config.max_tokens or model.max_positions
    wanted = lengths(config.all_positions, longest, whole=isinstance(config.input, ICLInput))
    source = find_source(config, model, longest)
    executor = data_executor("ray")
    share_of(config, executor)
    first = next(source.tables(), None)
    ids: list[list[int]] = [] if first is None else first["token_ids"].to_pylist()
    fitting = sorted((row[:longest] for row in ids if len(row) >= max(2, wanted.least)), key=len)
    if not fitting:
        raise NoTextLongEnoughError(
            f"none of the first {len(ids)} texts of corpus '{config.corpus}' reaches position {wanted.least - 1}. Ask "
            "for smaller positions, or give longer texts."
        )
    texts = [fitting[0], fitting[len(fitting) // 2], fitting[-1]]
    return run_probe(config, _work(config, model, layers, source), executor, texts, wanted.cut)


def _failed(writer: StoreWriter, index: RowsIndex, failures: list[Failure]) -> str:
    return (
        f"{listed(failures, len(index.shards), 'shards')}\n"
        f"All are named in {writer.folder}/{FAILURES}. Finished shards are kept; the same command tries the others "
        "again, and with --finish-without-failed the store is finished without those that fail."
    )


def _all_layers(model: ModelSource, sites: tuple[str, ...]) -> tuple[int, ...]:
    """Every layer that has all of the sites: the last one, after the final norm, has no MLP."""
    return tuple(range(model.n_layers + (sites == ("residual",))))


def _work(config: ExtractConfig, model: ModelSource, layers: tuple[int, ...], source: Source) -> Work:
    return Work(
        model=model,
        layers=layers,
        sites=config.sites,
        positions=config.all_positions,
        dtype=config.dtype,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        compile=config.compile,
        label_tokens=source.label_tokens,
    )


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
        compile=config.compile,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        shard_size=config.shard_size,
        shard_mb=config.shard_mb,
    )


def _ingest(
    config: ExtractConfig,
    work: Work,
    source: Source,
    request: Request,
    wanted: Lengths,
    writer: StoreWriter,
    executor: Executor,
) -> tuple[RowsIndex, Probe]:
    """Check that there is room, try the model, write the rows or find them written, and say what is to be done."""
    model = work.model
    bytes_per_vector = _bytes_per_vector(request, model)
    console.print(f"Plan: {len(request.cells)} cells x {model.hidden_size} numbers in {config.dtype} for each vector.")
    if config.max_texts is not None and config.tokens.max_vectors is not None:
        console.print(
            f"Plan: at most {config.max_texts} texts (--max-texts) and {config.tokens.max_vectors} vectors "
            "(--tokens.max-vectors) for each cell; the limit reached first ends it."
        )
    if (most := most_vectors(config)) is not None:
        _check_disk(writer, f"at most {most}", most * bytes_per_vector)
    probed = run_probe(config, work, executor)
    console.print(f"Plan: {probed}.")
    index = writer.index()
    if index is None:
        special = frozenset(load_tokenizer(model).all_special_ids)
        with writing(writer):
            index = write_rows(writer, source.tables(), config, wanted, special, bytes_per_vector, source.windowed)
    if index.windowed is not None:
        console.print(f"Plan: windows of {index.windowed}")
    empty = f" ({index.texts_empty} of them null, empty or blank)" if index.texts_empty else ""
    console.print(
        f"Plan: {index.texts} texts with {index.tokens} tokens; {index.texts_too_short} of {index.texts_read} were too "
        f"short{empty} and {index.texts_too_long} too long, and left out."
    )
    return index, probed


def _bytes_per_vector(request: Request, model: ModelSource) -> int:
    """What a vector takes in every cell together."""
    return model.hidden_size * TORCH_DTYPES[request.dtype].itemsize * len(request.cells)


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
