"""The whole extraction against the bare forward pass, for a model of Llama-3.2-1B's shape and windows of 1,024 tokens.

The model has random weights and the bundled tokenizer: what is measured does not depend on them. The floor is
transformers' forward pass over the same windows, batches as large, its model loaded and warm, which keeps nothing.
"While extracting" is from the first finished shard to the last; "whole" is the command, from nothing to the readable
store. Without a GPU the shape is a small one and the device a CPU: then it only shows that all of it runs.

    python benchmarks/extraction_gpu.py [--tokens 5000000]
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from extraction_sides import MODEL
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, LlamaConfig, LlamaModel

from bae_ray.activations.config import ExtractConfig, WindowsInput
from bae_ray.activations.extract import extract
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.store import ActivationStore
from bae_ray.files import write_text

ON_GPU = torch.cuda.is_available()
LENGTH = 1024
POSITIONS = (*(1 << power for power in range(9)), LENGTH - 1)
SHAPE = (
    {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
     "num_key_value_heads": 8}
    if ON_GPU
    else {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2}
)  # fmt: skip
OUT = Path("runs/benchmarks/extraction_gpu.json")


def main(tokens: int = 5_000_000, batch: int = 32) -> None:
    """Measure, print a table, and write all figures to runs/benchmarks/extraction_gpu.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ExtractConfig(
            model=str(_model(folder / "model")),
            input=WindowsInput(length=LENGTH),
            positions=POSITIONS,
            max_texts=tokens // LENGTH,
            dtype="bfloat16",
            shard_size=256,
        )
        started = time.monotonic()
        store = extract(config, folder / "store")
        whole = time.monotonic() - started
        bare = _bare(config.model, store, batch)
        rates = {
            "bare forward pass": bare,
            "while extracting": _while_extracting(folder / "store", store),
            "whole command": store.manifest.tokens / whole,
        }
        used = store.manifest.shards[0].made_with
    table = Table(title=f"{used['device']}, {os.cpu_count()} cores, {store.manifest.tokens:,} tokens; batches of "
                        f"{used.get('batch_tokens', 'the default')} tokens", title_justify="left")  # fmt: skip
    for column in ("", "tokens/s", "of the bare pass"):
        table.add_column(column, justify="right" if column else "left")
    for side, rate in rates.items():
        table.add_row(side, f"{rate:,.0f}", f"{rate / bare:.2f}")
    Console().print(table)
    write_text(OUT, json.dumps({"made_with": used, "shape": SHAPE, "tokens/s": rates}, indent=2) + "\n")
    print(f"All figures: {OUT}")


def _model(folder: Path) -> Path:
    tokenizer = load_tokenizer(find_model(MODEL))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_dict({"vocab_size": len(tokenizer), "max_position_embeddings": 8192, **SHAPE})
    model: Any = LlamaModel(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def _bare(model: str, store: ActivationStore, batch: int) -> float:
    """Tokens per second over the store's own windows. Each goes through the model as far as it was extracted."""
    ids = torch.tensor(np.stack(store.rows["token_ids"].to_numpy()).astype(np.int64))
    device = "cuda" if ON_GPU else "cpu"
    loaded = AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval().to(device)
    with torch.inference_mode():
        loaded(ids[:batch].to(device), use_cache=False)
        _wait()
        started = time.monotonic()
        for part in ids.split(batch):
            loaded(part.to(device), use_cache=False)
        _wait()
    return ids.numel() / (time.monotonic() - started)


def _while_extracting(path: Path, store: ActivationStore) -> float:
    ends = sorted((path / "receipts" / f"{shard.shard:05d}.json").stat().st_mtime for shard in store.manifest.shards)
    tokens = store.manifest.tokens * (len(ends) - 1) / len(ends)
    return tokens / (ends[-1] - ends[0]) if len(ends) > 1 else float("nan")


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


if __name__ == "__main__":
    tyro.cli(main)
