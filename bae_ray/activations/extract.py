"""The extraction pipeline: one forward pass per text, on a pool of Ray Data actors, into an activation store.

The unit of work is a shard of texts. An actor reads its rows, runs the model, writes the vectors of every cell and
then a receipt; a rerun looks for receipts and computes only the shards that have none. The manifest comes last.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from ray.exceptions import RayError
from torch import Tensor

from bae_ray.activations import corpus
from bae_ray.activations.config import ExtractConfig, Precision
from bae_ray.activations.ingest import RowsIndex, write_rows
from bae_ray.activations.model import (
    TORCH_DTYPES,
    ModelSource,
    ResidualCapture,
    check_layers_and_positions,
    find_model,
    load_model,
    model_identity,
)
from bae_ray.activations.store import (
    MANIFEST,
    ActivationStore,
    Cell,
    Manifest,
    Request,
    StoreWriter,
    free_bytes,
    rows_file,
    store_bytes,
)
from bae_ray.cluster import check_fits, configure_data, connect, total
from bae_ray.errors import ExtractionError, InvalidInputError, NotEnoughDiskError
from bae_ray.progress import console, track

SITE = "residual"
MAX_ATTEMPTS_PER_SHARD = 3
MAX_PROBLEMS_SHOWN = 10


def extract(config: ExtractConfig, out: str | Path) -> ActivationStore:
    """Extract activations into the store `out`, or finish the one that an earlier call has begun there.

    Raises an `InvalidInputError` or `ForeignStoreError` before any long work starts, and `ExtractionError` where
    shards failed; what is finished by then is kept.
    """
    out = Path(out).absolute()
    model = find_model(config.model, config.revision)
    layers = tuple(sorted(config.layers)) if config.layers is not None else tuple(range(model.n_layers + 1))
    positions = tuple(sorted(config.positions))
    check_layers_and_positions(model, layers, positions)
    source = corpus.resolve(config)
    request = Request(
        model=model_identity(model),
        tokenizer={"add_special_tokens": True, "truncated_to": positions[-1] + 1},
        corpus=corpus.identity(config, source),
        layers=layers,
        sites=(SITE,),
        positions=positions,
        dtype=config.dtype,
        batch_size=config.batch_size,
        shard_size=config.shard_size,
    )
    cells = [Cell(layer, SITE, position) for layer in layers for position in positions]
    writer = StoreWriter(out)
    if (out / MANIFEST).exists():
        writer.claim(request)
        store = ActivationStore.open(out)
        console.print(f"{out} is complete: {store.manifest.n} texts x {len(cells)} cells.")
        return store

    bytes_per_text = store_bytes(1, model.hidden_size, len(cells), TORCH_DTYPES[config.dtype].itemsize)
    console.print(f"Plan: {len(cells)} cells x {model.hidden_size} numbers in {config.dtype} for each text.")
    if config.max_texts is not None:
        _check_disk(writer, "at most ", config.max_texts, bytes_per_text)
    connect()
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else float(total("GPU") > 0)
    check_fits("a worker", config.cpus_per_worker, gpus)
    new = writer.claim(request)
    try:
        index = write_rows(out, source, config, model, positions[-1] + 1, config.shard_size)
        console.print(
            f"{index.n} texts of {positions[-1] + 1} tokens or more x {len(cells)} cells; {index.texts_too_short} of "
            f"{index.texts_read} were too short and left out."
        )
        _check_disk(writer, "", index.n, bytes_per_text)
    except InvalidInputError:  # a corpus that cannot be used leaves the folder free for another try
        if new:
            writer.give_up()
        raise
    _run_shards(config, gpus, model, writer, cells, index)
    receipts = [writer.receipt(shard) for shard in range(len(index.rows_per_shard))]
    manifest = Manifest(
        request=request,
        d=model.hidden_size,
        n=index.n,
        texts_read=index.texts_read,
        texts_too_short=index.texts_too_short,
        shards=tuple(receipt for receipt in receipts if receipt is not None),
    )
    writer.finish(manifest)
    return ActivationStore(out, manifest)


def _check_disk(writer: StoreWriter, at_most: str, n: int, bytes_per_text: int) -> None:
    """Print the store's size; raise `NotEnoughDiskError` where what is still to be written does not fit."""
    needed, free, there = n * bytes_per_text, free_bytes(writer.path), writer.bytes_written()
    console.print(
        f"Plan: {at_most}{n} texts, {needed / 1e9:.2f} GB in {writer.path} ({there / 1e9:.2f} GB of it there already, "
        f"{free / 1e9:.1f} GB free)."
    )
    if needed - there > free:
        raise NotEnoughDiskError(
            f"the store needs {at_most}{(needed - there) / 1e9:.2f} GB more, but {writer.path} has {free / 1e9:.2f} GB "
            "free. Use fewer texts, layers or positions, a smaller dtype, or another folder."
        )


def _run_shards(
    config: ExtractConfig, gpus: float, model: ModelSource, writer: StoreWriter, cells: list[Cell], index: RowsIndex
) -> None:
    """Compute the shards that have no receipt yet."""
    missing = [shard for shard in range(len(index.rows_per_shard)) if writer.receipt(shard) is None]
    if not missing:
        return
    fit = int(total("GPU") // gpus) if gpus else int(total("CPU") // config.cpus_per_worker)
    workers = min(config.workers or max(fit, 1), len(missing))
    configure_data()
    writer.forget_attempts()
    worker = (model, config.dtype, config.batch_size, config.cpus_per_worker, gpus, writer.path, cells)
    results = ray.data.from_items(
        [{"shard": shard} for shard in missing], override_num_blocks=len(missing)
    ).map_batches(
        ShardExtractor,
        fn_constructor_args=worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        num_cpus=config.cpus_per_worker,
        num_gpus=gpus,
    )
    problems: list[str] = []
    started = time.monotonic()
    tokens = 0
    with track("Extracting", index.n) as tracker:
        tracker.advance(index.n - sum(index.rows_per_shard[shard] for shard in missing))
        try:
            for result in results.iter_rows():
                tokens += result["tokens"]
                tracker.advance(result["n"], f"{tokens / (time.monotonic() - started):.0f} tokens/s")
                if result["problem"]:
                    problems.append(f"shard {result['shard']}: {result['problem']}")
        except RayError as error:
            raise ExtractionError(
                f"extraction stopped: {error}. Finished shards are kept in {writer.path}; the same command goes on."
            ) from error
    writer.forget_attempts()
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS_SHOWN} more"] if len(problems) > MAX_PROBLEMS_SHOWN else []
        raise ExtractionError(
            "\n  ".join(
                [f"{len(problems)} of {len(missing)} shards were not written:", *problems[:MAX_PROBLEMS_SHOWN], *more]
            )
            + f"\nFinished shards are kept in {writer.path}; the same command tries the others again."
        )


class ShardExtractor:
    """One worker: a copy of the model that turns row files into activation shards."""

    def __init__(
        self,
        model: ModelSource,
        dtype: Precision,
        batch_size: int,
        cpus: float,
        gpus: float,
        store: Path,
        cells: list[Cell],
    ) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        # Asked for no GPU, Ray leaves the machine's GPUs visible: what was asked for decides.
        self._device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        self._layers = sorted({cell.layer for cell in cells})
        self._positions = torch.tensor(sorted({cell.position for cell in cells}))
        self._capture = ResidualCapture(load_model(model, dtype, self._device), self._layers)
        self._batch_size = batch_size
        self._writer = StoreWriter(store)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Compute one shard (a batch is one row with its number) and say how it went; no shard stops the others."""
        shard = int(batch["shard"][0])
        n = tokens = 0
        # Ray replaces a dead worker and retries its shard without end: a shard that kills its workers is given up here.
        if self._writer.begin_attempt(shard) > MAX_ATTEMPTS_PER_SHARD:
            problem = f"its worker died {MAX_ATTEMPTS_PER_SHARD} times; too little memory is the usual reason"
        else:
            try:
                n, tokens, problem = self._compute(shard)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        return {"shard": [shard], "n": [n], "tokens": [tokens], "problem": [problem]}

    def _compute(self, shard: int) -> tuple[int, int, str]:
        """Compute and write one shard; its numbers of texts and tokens, and what is wrong with it, if anything."""
        rows = pq.read_table(self._writer.path / rows_file(shard))
        token_ids = torch.tensor(np.stack(rows["token_ids"].to_numpy()), dtype=torch.long)
        vectors = self._vectors(token_ids)
        problem = _non_finite(vectors, rows["text_id"].to_numpy())
        if not problem:
            self._writer.write_shard(shard, vectors)
        return len(rows), token_ids.numel(), problem

    def _vectors(self, token_ids: Tensor) -> dict[Cell, Tensor]:
        """Activations [n, d] on the CPU for every cell, for token ids [n, T]."""
        parts: dict[int, list[Tensor]] = {layer: [] for layer in self._layers}
        for ids in token_ids.split(self._batch_size):
            for layer, hidden in self._capture(ids.to(self._device), self._positions).items():
                parts[layer].append(hidden.cpu())
        vectors: dict[Cell, Tensor] = {}
        for layer, pieces in parts.items():
            hidden = torch.cat(pieces)
            for i, position in enumerate(self._positions.tolist()):
                vectors[Cell(layer, SITE, position)] = hidden[:, i].contiguous()
        return vectors


def _non_finite(vectors: dict[Cell, Tensor], text_ids: np.ndarray[Any, Any]) -> str:
    """Which cells hold NaN or infinity, how many, and in which text first; empty if none does."""
    found: list[str] = []
    for cell, matrix in vectors.items():
        bad = ~torch.isfinite(matrix)
        if count := int(bad.sum()):
            first = int(bad.any(1).nonzero()[0])
            found.append(f"{count} NaN or infinite numbers in {cell}, first in text {text_ids[first]}")
    remedy = " (try --dtype bfloat16 or float32, or leave that text out)" if found else ""
    more = f"; and in {len(found) - MAX_PROBLEMS_SHOWN} more cells" if len(found) > MAX_PROBLEMS_SHOWN else ""
    return "; ".join(found[:MAX_PROBLEMS_SHOWN]) + more + remedy
