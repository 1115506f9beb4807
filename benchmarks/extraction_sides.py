"""What the extraction is measured against: plain transformers loops, a plain memory map, SAELens' own runner.

python benchmarks/extraction_sides.py TOKEN_IDS.npy DTYPE BATCH THREADS    (one process of the split bare loop)
python benchmarks/extraction_sides.py tokenise TEXTS.json                  (the tokenizer's own call)
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from peers import environment
from transformers import AutoModel

from bae_ray.activations.bundled import bundled_corpus_file
from bae_ray.activations.config import Precision
from bae_ray.activations.loading import TORCH_DTYPES
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.reading.blocks import Columns, file_blocks

MODEL = "smollm2-135m"
WARM_UP_TEXTS = 64
SAELENS = ["sae-lens==6.54.12"]


def bare_loop(ids: np.ndarray, dtype: Precision, batch: int, threads: int) -> float:
    """Seconds of transformers' own forward pass over all batches, which keeps nothing; the model loaded and warm."""
    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(find_model(MODEL).path, dtype=TORCH_DTYPES[dtype]).eval()
    tokens = torch.tensor(ids, dtype=torch.long)
    with torch.inference_mode():
        for part in tokens[:WARM_UP_TEXTS].split(batch):
            model(part, use_cache=False)
        started = time.monotonic()
        for part in tokens.split(batch):
            model(part, use_cache=False)
        return time.monotonic() - started


def split_bare_loop(ids: np.ndarray, dtype: Precision, batch: int, processes: int, folder: Path) -> float:
    """The same in processes of one thread, each with its share of the texts; seconds of the slowest."""
    running: list[subprocess.Popen[str]] = []
    for i, share in enumerate(np.array_split(ids, processes)):
        np.save(folder / f"share-{i}.npy", share)
        command = [sys.executable, __file__, str(folder / f"share-{i}.npy"), dtype, str(batch), "1"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))  # noqa: S603 - ourselves
    return max(float(process.communicate()[0].splitlines()[-1]) for process in running)


def read_texts() -> list[str]:
    """Every text of the corpus."""
    blocks = file_blocks(bundled_corpus_file("agnews"), Columns("text", None))
    return [text for block in blocks for text in block["text"].to_pylist() if text is not None]


def own_call(texts: list[str], folder: Path) -> float:
    """Tokens per second of the tokenizer's own call on all texts, in a process of one thread."""
    (folder / "texts.json").write_text(json.dumps(texts))
    command = [sys.executable, __file__, "tokenise", str(folder / "texts.json")]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)  # noqa: S603
    return float(done.stdout.splitlines()[-1])


def _call(file: Path) -> float:
    texts, tokenizer = json.loads(file.read_text()), load_tokenizer(find_model(MODEL))
    tokenizer(texts[:1024], return_attention_mask=False)
    started = time.monotonic()
    ids = tokenizer(texts, return_attention_mask=False)["input_ids"]
    return sum(map(len, ids)) / (time.monotonic() - started)


def one_pass_per_layer(ids: np.ndarray, layers: range, positions: tuple[int, ...], batch: int, threads: int) -> float:
    """Seconds of the released code's way: a pass over all texts for each layer, which keeps that layer's vectors."""
    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(find_model(MODEL).path, dtype=torch.float32).eval()
    tokens = torch.tensor(ids, dtype=torch.long)
    with torch.inference_mode():
        model(tokens[:batch], use_cache=False)
        started = time.monotonic()
        for layer in layers:
            kept = [
                model(part, use_cache=False, output_hidden_states=True).hidden_states[layer][:, list(positions)]
                for part in tokens.split(batch)
            ]
            torch.cat(kept)
        return time.monotonic() - started


def saelens(ids: np.ndarray, layer: int, batch: int, dtype: str, threads: int, folder: Path) -> dict[str, float]:
    """What SAELens' runner says of itself, see extraction_saelens.py, and seconds of its whole process."""
    python = environment("sae-lens", SAELENS)
    np.save(folder / "ids.npy", ids)
    script = Path(__file__).with_name("extraction_saelens.py")
    started = time.monotonic()
    arguments = [find_model(MODEL).path, folder / "ids.npy", layer, batch, dtype, folder / "saelens", threads]
    done = subprocess.run(  # noqa: S603 - our own script
        [str(python), str(script), *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.monotonic() - started}


def peak_rss(command: list[str]) -> dict[str, float]:
    """Run a command; the largest resident MB of its own process, and of any one worker that it caused."""
    peaks = {"driver": 0.0, "worker": 0.0}
    before = {process.pid for process in psutil.process_iter()}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    while running.poll() is None:
        for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
            if process.pid in before or process.info["memory_info"] is None:
                continue
            is_worker = "MapWorker" in " ".join(process.info["cmdline"] or [])
            kind = "driver" if process.pid == running.pid else "worker" if is_worker else None
            if kind:
                peaks[kind] = max(peaks[kind], process.info["memory_info"].rss / 1e6)
        time.sleep(0.2)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return peaks


if __name__ == "__main__" and sys.argv[1] == "tokenise":
    print(_call(Path(sys.argv[2])))
elif __name__ == "__main__":
    file, precision, size, n_threads = sys.argv[1:]
    assert precision in ("float32", "bfloat16", "float16")
    print(bare_loop(np.load(file), precision, int(size), int(n_threads)))
