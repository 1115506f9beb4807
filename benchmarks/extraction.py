"""The extraction against its floor and its peers, on SmolLM2-135M and AG News; every pair is measured in this run.

1. Tokens per second of a whole extraction (reading, tokenising, starting workers, loading their models, computing,
   writing, checksums) against transformers' own forward pass over the same token ids in the same batches: as one
   process with all cores as threads, and as a process of one thread per core.
2. All layers x 6 positions in one pass against a pass per layer, the released code's way.
3. One worker of one thread against one per core; and what the machine gives the bare loop for as many processes.
4. Reading a cell against a plain memory map of the same bytes.
5. SAELens' runner, in its own environment: tokens per second at one middle layer, and bytes per vector.
6. Peak resident memory of the driver and of a worker, for a corpus and for one of eight times its size.
7. Tokenising alone, from the file to the rows of all shards, whole texts and windows, against the tokenizer's own call
   on the same texts in one thread.

    python benchmarks/extraction.py [--texts 4096] [--dtype float32] [--parts 1 2 3 4 5 6 7]
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tyro
from extraction_sides import (
    MODEL,
    bare_loop,
    one_pass_per_layer,
    own_call,
    peak_rss,
    read_texts,
    saelens,
    split_bare_loop,
)  # fmt: skip
from rich.console import Console
from rich.table import Table

from bae_ray.activations.batch_limits import CPU_TEXTS
from bae_ray.activations.compute import ShardComputer, Work, load
from bae_ray.activations.config import ExtractConfig, Precision, TextsInput, WindowsInput
from bae_ray.activations.extract import extract
from bae_ray.activations.ingest import Lengths, write_rows
from bae_ray.activations.layout import Cell, Manifest
from bae_ray.activations.model import find_model
from bae_ray.activations.sources import find_source
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.cluster import connect
from bae_ray.files import write_text
from bae_ray.storage import folder_at

LAYERS = (0, 5, 10, 20, 30)
POSITIONS = (1, 2, 4, 8, 16, 32)
MIDDLE_LAYER = 10
CORES = os.cpu_count() or 1
OUT = Path("runs/benchmarks/extraction.json")

Rows = list[tuple[str, float, float]]


def main(
    texts: int = 4096,
    dtype: Precision = "float32",
    batch_size: int = 32,
    parts: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7),
) -> None:
    """Measure the parts, print a table for each, and write all figures to runs/benchmarks/extraction.json."""
    find_model(MODEL)  # converted on first use, which is no part of an extraction
    measured: dict[str, Rows] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ExtractConfig(
            layers=LAYERS, positions=POSITIONS, max_texts=texts, dtype=dtype, batch_size=batch_size, shard_size=128
        )
        if 6 in parts:  # first, while nothing of Ray runs here
            measured["peak MB of"] = _memory(folder)
        connect()
        if {1, 3} & set(parts):
            seconds, store = _extraction(config, folder / "all")
            ids = _token_ids(store)
            if 1 in parts:
                measured[f"tokens/s, {ids.size} tokens"] = _floor(ids, dtype, batch_size, seconds, folder)
            if 3 in parts:
                alone, _ = _extraction(config.model_copy(update={"workers": 1}), folder / "one")
                measured["tokens/s of workers of one thread"] = _rates(
                    ids.size, {"one worker": alone, f"{CORES} workers": seconds}
                )
                bare = {
                    f"bare loop, {n} process{'es' if n > 1 else ''}": split_bare_loop(ids, dtype, batch_size, n, folder)
                    for n in (1, CORES)
                }
                measured["tokens/s of bare loops of one thread"] = _rates(ids.size, bare)
        if 2 in parts:
            measured["texts/s, all layers x 6 positions"] = _passes(config, folder)
        if 4 in parts:
            measured["GB/s of a cell"] = _reading(folder)
        if 5 in parts:
            measured[f"tokens/s to layer {MIDDLE_LAYER}"] = _saelens(config, folder)
        if 7 in parts:
            measured["tokens/s tokenised"] = _tokenising(folder)
    for title, rows in measured.items():
        _print(title, rows)
    write_text(OUT, json.dumps({"dtype": dtype, "cores": CORES, "measured": measured}, indent=2) + "\n")
    print(f"All figures: {OUT}")


def _extraction(config: ExtractConfig, out: Path) -> tuple[float, ActivationStore]:
    started = time.monotonic()
    store = extract(config, out)
    return time.monotonic() - started, store


def _token_ids(store: ActivationStore) -> np.ndarray:
    return np.stack(store.rows["token_ids"].to_numpy()).astype(np.int64)


def _rates(amount: float, seconds: dict[str, float]) -> Rows:
    """Amount per second of each side, and its ratio to the first."""
    first = next(iter(seconds.values()))
    return [(name, amount / value, first / value) for name, value in seconds.items()]


def _floor(ids: np.ndarray, dtype: Precision, batch: int, extraction: float, folder: Path) -> Rows:
    return _rates(
        ids.size,
        {
            f"bare loop, {CORES} threads": bare_loop(ids, dtype, batch, CORES),
            f"bare loop, {CORES} processes of one thread": split_bare_loop(ids, dtype, batch, CORES, folder),
            "whole extraction": extraction,
        },
    )


def _passes(config: ExtractConfig, folder: Path) -> Rows:
    """On few texts, in this process: the model's own time is all that matters."""
    n, all_layers = 32, range(find_model(MODEL).n_layers + 1)
    small = config.model_copy(update={"layers": (0,), "max_texts": n, "dtype": "float32"})
    _, store = _extraction(small, folder / "few")
    work = Work(find_model(MODEL), tuple(all_layers), ("residual",), POSITIONS, "float32", 32, 16_384, False, None)
    torch.set_num_threads(CORES)
    computer, rows = ShardComputer(work, load(work, "cpu"), "cpu"), store.texts_table()
    computer.compute(rows.slice(0, 32))
    started = time.monotonic()
    computer.compute(rows)
    ours = time.monotonic() - started
    return _rates(n, {"a pass per layer": one_pass_per_layer(_token_ids(store), all_layers, POSITIONS, 32, CORES),
                      "one pass": ours})  # fmt: skip


def _reading(folder: Path) -> Rows:
    """Sum all numbers of a cell of 1 GB, of one shard and of eight; each opened anew, its pages in the cache."""
    n, d = 500_000, 512
    template = extract(ExtractConfig(layers=(0,), positions=(0,), max_texts=2), folder / "template").manifest
    matrix = torch.rand(n, d)
    raw = folder / "raw.bin"
    raw.write_bytes(matrix.numpy().tobytes())
    seconds = {"plain memory map": _seconds(lambda: np.memmap(raw, np.float32, "r", shape=(n, d)).sum())}
    for shards in (1, 8):
        path = folder / f"cell-{shards}"
        writer = StoreWriter(folder_at(path))
        texts = ActivationStore.open(folder / "template").texts_table()
        receipts = [
            writer.write_shard(i, writer.write_rows(i, texts, len(part), 0), {Cell(0, "residual", 0): part})
            for i, part in enumerate(matrix.split(n // shards))
        ]
        fields = {**template.model_dump(), "n": n, "d": d, "shards": [receipt.model_dump() for receipt in receipts]}
        writer.finish(Manifest.model_validate(fields))
        store = ActivationStore.open(path)
        name = f"matrix, {shards} shard{'s' if shards > 1 else ''}"
        seconds[f"{name}, first time (with checksums)"] = _seconds(lambda store=store: store.matrix(0, 0).numpy().sum())
        seconds[name] = _seconds(lambda store=store: store.matrix(0, 0).numpy().sum())
    parts = store.shards(0, 0)
    seconds["shards, 8 of them, no copy"] = _seconds(lambda: [part.numpy().sum() for part in parts])
    return _rates(4 * n * d / 1e9, seconds)


def _seconds(read: object) -> float:
    assert callable(read)
    started = time.monotonic()
    read()
    return time.monotonic() - started


def _tokenising(folder: Path) -> Rows:
    """All texts of the corpus, the processes that tokenise warm; the ratio for each core is the last over the cores."""
    texts = read_texts()
    alone = own_call(texts, folder)
    rates = [("the tokenizer's own call, one thread", alone)]
    inputs = {"whole texts": TextsInput(), "windows of 1,024": WindowsInput(length=1024)}
    for name, kind in inputs.items():
        config = ExtractConfig(input=kind, positions=("all",), max_texts=None, layers=(0,), shard_size=8192)
        source = find_source(config, find_model(MODEL), None)
        for out in (folder / f"warm-{kind.kind}", folder / f"rows-{kind.kind}"):
            rows = write_rows(
                StoreWriter(folder_at(out)), source.tables(1), config, Lengths(1, None, None), frozenset(), 1
            )
            started = time.monotonic()
            tokens = sum(shard.tokens for _, shard in rows)
            seconds = time.monotonic() - started
        rates.append((f"{name}, {CORES} cores", tokens / seconds))
    return [(name, rate, rate / alone) for name, rate in rates]


def _saelens(config: ExtractConfig, folder: Path) -> Rows:
    n, batch = config.max_texts or 1024, config.batch_size or CPU_TEXTS
    changes = {"layers": (MIDDLE_LAYER,), "positions": ("all",), "max_tokens": POSITIONS[-1] + 1, "dtype": "float32"}
    fixed, store = _extraction(config.model_copy(update={"layers": (MIDDLE_LAYER,), "dtype": "float32"}), folder / "sl")
    ids = _token_ids(store)[: n // batch * batch]
    every, all_store = _extraction(config.model_copy(update=changes), folder / "sl-all")
    size = sum(record.size for shard in all_store.manifest.shards for record in shard.files.values())
    theirs = saelens(ids, MIDDLE_LAYER, batch, "float32", CORES, folder)
    assert theirs["check"] < 1e-3, "SAELens cached something else"
    rates = [
        ("SAELens' runner, every token, model loaded", theirs["tokens"] / theirs["seconds"]),
        ("SAELens' runner, every token, whole process", theirs["tokens"] / theirs["whole"]),
        (f"whole extraction, {len(POSITIONS)} positions", ids.size / fixed),
        ("whole extraction, every token", all_store.manifest.tokens / every),
    ]
    print(
        f"bytes per vector: SAELens {theirs['bytes'] / theirs['vectors']:.0f}, ours {size / all_store.manifest.n:.0f}"
    )
    return [(name, rate, rate / rates[0][1]) for name, rate in rates]


def _memory(folder: Path) -> Rows:
    """Of `bae-ray extract` as a process: many short texts, few layers, so that the corpus is what grows."""
    command = [str(Path(sys.executable).with_name("bae-ray")), "extract", "--layers", "0", "1", "--positions", "2", "8"]
    peaks = {
        n: peak_rss([*command, "--max-texts", str(n), "--shard-size", "1024", "--out", str(folder / f"rss-{n}")])
        for n in (15_000, 120_000)
    }
    return [(f"{kind}, {n} texts", peaks[n][kind], peaks[n][kind] / peaks[15_000][kind])
            for kind in ("driver", "worker") for n in peaks]  # fmt: skip


def _print(title: str, rows: Rows) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", title.partition(" ")[0].rstrip(","), "ratio to the first"):
        table.add_column(column, justify="right" if column else "left")
    for name, value, ratio in rows:
        table.add_row(name, f"{value:,.1f}" if value < 100 else f"{value:,.0f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
