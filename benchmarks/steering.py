"""Steered generation beside plain generation, on SmolLM2-135M; and what one vector of the steering job takes.

1. Tokens per second of greedy generation with a vector added at the last token, with a vector for each text at all
   tokens, and with a feature held at 0, against the same without any edit, at batch 1 and 16. Sides take turns.
2. Seconds to score the labels of prompts again with another vector, against a whole pass over them.

    python benchmarks/steering.py [--threads 2] [--new 24] [--turns 5]
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bae_ray.activations.bundled import BUNDLED_MODEL
from bae_ray.activations.model import find_model
from bae_ray.activations.taps import Tap
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.steering.edits import AddedVector, ClampedFeatures, SteeringEdit
from bae_ray.steering.generation import GenerationConfig, generate
from bae_ray.steering.label_scoring import AskedPrompts
from bae_ray.steering.steered_model import SteeredModel

HERE = Tap(10, "residual")
LABELS = ([1], [2])


def main(threads: int = 2, new: int = 24, turns: int = 5, tokens: int = 32, prompts: int = 64) -> None:
    """Measure, and print two tables."""
    torch.set_num_threads(threads)
    model = SteeredModel(EditableModel(find_model(BUNDLED_MODEL)))
    width = model.editable.source.hidden_size
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(1000, 20_000, (max(16, prompts), tokens), generator=generator).tolist()
    autoencoder = build_autoencoder(BAEConfig(d_in=width, expansion=2))
    config = GenerationConfig(max_new_tokens=new, temperature=0)
    table = Table("batch", "", "tokens/s", "of plain", title=f"{new} tokens after {tokens}, {threads} threads")
    for batch in (1, 16):
        own = torch.randn(batch, width, generator=generator) * 0.01
        sides: dict[str, Sequence[SteeringEdit]] = {
            "plain": [],
            "a vector, last token": [AddedVector(HERE, own[0])],
            "a vector each, all tokens": [AddedVector(HERE, own, 1.0, "all")],
            "a feature held at 0": [ClampedFeatures(HERE, autoencoder, [3])],
        }
        written = dict.fromkeys(sides, 0)

        def side(
            name: str, edits: Sequence[SteeringEdit], batch: int = batch, written: dict[str, int] = written
        ) -> Any:
            found = generate(model, texts[:batch], config, edits, batch)
            written[name] = max(len(one.token_ids) + one.ended for one in found) * batch

        seconds = _in_turns({name: lambda n=name, e=edits: side(n, e) for name, edits in sides.items()}, turns)
        speeds = {name: written[name] / taken for name, taken in seconds.items()}
        for name, speed in speeds.items():
            table.add_row(str(batch), name, f"{speed:.1f}", f"{speed / speeds['plain']:.3f}")
    Console(width=100).print(table)
    asked = AskedPrompts(model, texts[:prompts], prompts)
    vector = torch.randn(width, generator=generator) * 0.01
    again = {
        "another vector": lambda: asked.scores(LABELS, [AddedVector(HERE, vector)]),
        "a whole pass": lambda: asked.scores(LABELS, [AddedVector(HERE, vector, 1.0, "all")]),
    }
    again["another vector"]()  # reads the prompts
    table = Table("", "seconds", title=f"Labels after {prompts} prompts of {tokens} tokens")
    for name, taken in _in_turns(again, turns).items():
        table.add_row(name, f"{taken:.3f}")
    Console(width=100).print(table)


def _in_turns(sides: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The median seconds of each side, measured one after another so many times, after one try of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    tyro.cli(main)
