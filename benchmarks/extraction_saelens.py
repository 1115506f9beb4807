"""Seconds that SAELens' own runner takes to cache a model's activations; run by the Python of its environment.

It is given the token ids, so that its rate can be set beside our extraction's on the same model, texts and threads.
The runner keeps one hook, at every position of each text. What is open is set in its favour: texts tokenised and in
memory, model loaded and warm, no shuffling, small buffers, which cost it less, and the forward pass left after a
block's hook. What is timed is `run`: the forward passes and the data set that they leave on disk. DTYPE is what the
model computes in; float32 is what is kept, as the runner collects in it and Arrow has no bfloat16. The token ids are
an int64 array of [texts, positions]; the last line printed is a JSON object.

    PYTHON benchmarks/extraction_saelens.py MODEL_FOLDER TOKEN_IDS.npy LAYER BATCH_TEXTS DTYPE OUT_FOLDER THREADS
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

BUFFER_BYTES = 5_000_000  # takes the runner less CPU time than its default, 2 GB
KEPT = "float32"


def main(model: str, ids: np.ndarray, layer: int, batch_texts: int, dtype: str, out: Path) -> dict[str, Any]:
    """Cache the hidden states that enter block `layer` into `out`, and compare one text's with transformers' own."""
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig  # pyright: ignore[reportMissingImports]
    from transformers import AutoConfig, AutoModelForCausalLM

    texts, positions = ids.shape
    if texts % batch_texts:
        sys.exit(f"{texts} texts are no whole number of batches of {batch_texts}: the runner would repeat some texts.")
    loading = {"dtype": getattr(torch, dtype), "local_files_only": True}
    shape = AutoConfig.from_pretrained(model, local_files_only=True)
    hook = hook_name(layer, shape.num_hidden_layers)
    batch_bytes = batch_texts * positions * shape.hidden_size * np.dtype(KEPT).itemsize
    config = CacheActivationsRunnerConfig(
        dataset_path="",
        model_name=model,
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs=loading,
        model_batch_size=batch_texts,
        hook_name=hook,
        d_in=shape.hidden_size,
        training_tokens=ids.size,
        context_size=positions,
        new_cached_activations_path=str(out),
        shuffle=False,
        dtype=KEPT,
        device="cpu",
        # Half a batch more than it holds, which the runner rounds off, keeps clear of a float's own rounding.
        buffer_size_gb=(buffer_batches(texts // batch_texts, batch_bytes) + 0.5) * batch_bytes / 1e9,
        prepend_bos=False,
    )
    runner = CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"input_ids": ids}))
    first = torch.from_numpy(ids[:batch_texts])
    with torch.inference_mode():
        runner.model.model(first)
    started = time.monotonic()
    cached = runner.run()
    seconds = time.monotonic() - started
    cached.set_format("numpy")
    if not np.array_equal(cached["token_ids"][:], ids):
        sys.exit("The runner did not cache the given texts.")
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(model, **loading).eval()(first, output_hidden_states=True)
    return {
        "seconds": seconds,
        "tokens": ids.size,
        "vectors": len(cached) * positions,
        "bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        "hook": hook,
        "check": float(np.abs(cached[0][hook] - plain.hidden_states[layer][0].float().numpy()).max()),
    }


def hook_name(layer: int, blocks: int) -> str:
    """The module of a Llama-like model that puts out `hidden_states[layer]`; only a block ends the pass early."""
    return "model.embed_tokens" if layer == 0 else "model.norm" if layer == blocks else f"model.layers.{layer - 1}"


def buffer_batches(batches: int, batch_bytes: int) -> int:
    """Batches per buffer: a divisor of `batches`, since the runner fills its last buffer too, by repeating texts."""
    return max(n for n in range(1, batches + 1) if batches % n == 0 and (n == 1 or n * batch_bytes <= BUFFER_BYTES))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    model, ids, layer, batch_texts, dtype, out, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(main(model, np.load(ids), int(layer), int(batch_texts), dtype, Path(out))))
