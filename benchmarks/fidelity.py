"""What a spliced run takes beside one bare forward pass, with logits, over the same texts.

The bundled model, texts of the bundled AG News, random binary autoencoders of two latents per dimension at several
layers. "Bare" is the model alone with the logits of every token that has a next one. "A run" is what each run adds: its
reconstruction, the layers from the splice on, the logits, and the comparison of the distributions; its share of the
clean pass, which all runs of a unit have together, is told beside it. Both sides in one process, the fastest of some
repeats.

    python benchmarks/fidelity.py [--texts 16] [--tokens 64] [--threads 2] [--device cpu]
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from bae_ray.activations.bundled import bundled_corpus_file
from bae_ray.activations.capture import logits_at
from bae_ray.activations.layout import Cell
from bae_ray.activations.loading import load_model_with_head
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.fidelity.held_out_texts import Texts
from bae_ray.fidelity.measurer import FidelityMeasurer
from bae_ray.fidelity.spliced_batch import Given
from bae_ray.fidelity.subjects import Subject, Target
from bae_ray.fidelity.units import MeasureUnit
from bae_ray.interventions.spliced_loss import padded
from bae_ray.storage import folder_at

RUNS = 4
"""So many at each layer."""
REPEATS = 2


def main(texts: int = 16, tokens: int = 64, threads: int = 2, device: str = "cpu") -> None:
    """Measure, and print a table."""
    torch.set_num_threads(threads)
    source = find_model("smollm2-135m")
    ids = token_ids(texts, tokens)
    config = FidelityConfig(max_tokens=tokens)
    given = Given(
        config,
        source,
        folder_at("."),
        Texts(ids, list(range(texts)), None, frozenset()),
        {"first": True, "special": True},
    )
    measurer = FidelityMeasurer(given, device)
    model = load_model_with_head(source, "float32", device)
    bare = smallest(lambda: bare_pass(model, ids, config.batch_tokens, device), device)
    layers = [0, source.n_layers // 4, source.n_layers // 2, 3 * source.n_layers // 4, source.n_layers]
    table = Table(title=f"{texts} texts of {tokens} tokens, {threads} threads, {device}: bare pass {bare:.2f} s")
    for name in ("splice", "runs", "seconds a run", "a run / bare", "with its share of the clean pass / bare"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for position in ("all", 16):
            for layer in layers:
                subjects = [subject(Path(folder), layer, position, number, texts) for number in range(RUNS)]
                one, several = (
                    smallest(lambda some=some: measurer.measure(MeasureUnit(tuple(some), tuple(range(texts)))), device)
                    for some in (subjects[:1], subjects)
                )
                each = (several - one) / (RUNS - 1)
                table.add_row(
                    f"layer {layer}, position {position}", str(RUNS), f"{each:.2f}", f"{each / bare:.2f}",
                    f"{several / RUNS / bare:.2f}",
                )  # fmt: skip
    Console(width=120).print(table)


def token_ids(texts: int, tokens: int) -> list[list[int]]:
    """Texts of the bundled corpus, four joined so that they are long enough."""
    tokenizer = load_tokenizer(find_model("smollm2-135m"))
    every = pq.read_table(bundled_corpus_file("agnews"))["text"].to_pylist()
    joined = [" ".join(every[start : start + 4]) for start in range(0, 4 * texts, 4)]
    return [tokenizer(text).input_ids[:tokens] for text in joined]


def subject(folder: Path, layer: int, position: int | str, number: int, texts: int) -> Subject:
    """A random binary autoencoder at a layer."""
    place = folder / f"{layer}-{position}-{number}"
    if not place.exists():
        autoencoder = build_autoencoder(BAEConfig(d_in=576, expansion=2))
        autoencoder.reset_parameters(torch.Generator().manual_seed(number))
        autoencoder.save_pretrained(place)
    cell = Cell(layer, "residual", position)  # pyright: ignore[reportArgumentType]
    return Subject(place.name, "run", Target(place, cell, cell, None, place.name), tuple(range(texts)))


def bare_pass(model: PreTrainedModel, ids: list[list[int]], batch_tokens: int, device: str) -> None:
    """The model on all texts, in the batches of the other side, with the logits of all tokens but the last."""
    each = max(1, batch_tokens // len(ids[0]))
    with torch.inference_mode():
        for start in range(0, len(ids), each):
            batch = padded(ids[start : start + each]).to(device)
            asked = torch.arange(batch.numel(), device=device).reshape(batch.shape)[:, :-1].flatten()
            logits_at(model, batch, asked)


def smallest(action: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of some repeats, after one to warm up."""
    seconds: list[float] = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


if __name__ == "__main__":
    tyro.cli(main)
