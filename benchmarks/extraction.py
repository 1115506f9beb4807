"""Tokens per second of the whole extraction against a bare transformers loop, on the same texts, batches and cores.

The bare loop is transformers' own forward pass over the same token ids and keeps nothing: the floor. It
uses all cores as one process with that many threads, and is timed with its model loaded and warm. The extraction is
timed whole: reading and tokenising the corpus, starting its workers (one per core, with a thread each), loading their
models, computing, writing, checksums.

    python benchmarks/extraction.py [--texts 4096] [--dtype float32]
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers import AutoModel

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.model import TORCH_DTYPES, find_model
from bae_ray.cluster import connect

LAYERS = (0, 5, 10, 20, 30)
POSITIONS = (1, 2, 4, 8, 16, 32)
WARM_UP_TEXTS = 64


def main(texts: int = 4096, dtype: Literal["float32", "bfloat16"] = "float32", batch_size: int = 32) -> None:
    """Measure both sides in one run and print their ratio."""
    find_model("smollm2-135m")  # converted on first use, which is no part of an extraction
    connect()
    with tempfile.TemporaryDirectory() as folder:
        config = ExtractConfig(
            layers=LAYERS, positions=POSITIONS, max_texts=texts, dtype=dtype, batch_size=batch_size, shard_size=128
        )
        started = time.monotonic()
        store = extract(config, Path(folder) / "store")
        wall = time.monotonic() - started
        tokens = store.manifest.n * (POSITIONS[-1] + 1)
        floor = _bare_loop(np.stack(store.rows["token_ids"].to_numpy()), dtype, batch_size)
    measured = {
        "bare loop": tokens / floor,
        "whole extraction": tokens / wall,
    }
    table = Table(title=f"{tokens} tokens of SmolLM2-135M to its last layer, {dtype}, {os.cpu_count()} cores")
    for column in ("", "tokens/s", "ratio to the bare loop"):
        table.add_column(column, justify="right" if column else "left")
    for name, rate in measured.items():
        table.add_row(name, f"{rate:.0f}", f"{rate / measured['bare loop']:.2f}")
    Console().print(table)
    print(json.dumps({"tokens": tokens, "dtype": dtype, "cores": os.cpu_count(), "tokens_per_s": measured}))


def _bare_loop(token_ids: np.ndarray, dtype: Literal["float32", "bfloat16"], size: int) -> float:
    """Seconds of transformers' own forward pass over all batches."""
    torch.set_num_threads(os.cpu_count() or 1)
    source = find_model("smollm2-135m")
    model = AutoModel.from_pretrained(source.path, dtype=TORCH_DTYPES[dtype]).eval()
    ids = torch.tensor(token_ids, dtype=torch.long)
    with torch.inference_mode():
        for batch in ids[:WARM_UP_TEXTS].split(size):
            model(batch, use_cache=False)
        started = time.monotonic()
        for batch in ids.split(size):
            model(batch, use_cache=False)
        return time.monotonic() - started


if __name__ == "__main__":
    tyro.cli(main)
