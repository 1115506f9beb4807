"""What a sweep costs beyond its trainings, and how it scales; every pair is measured in this run.

1. Overhead: wall seconds x workers - the trainings' own seconds, per training, of 200 short ones.
2. 48 cells, with two entropy weights each: packed, unpacked, and as a process per cell, the released code's way.
3. The same on one worker and on one per core.
4. 5,000 trainings: seconds per result and the driver's memory, by how many were recorded before.

    python benchmarks/sweep.py [--parts 1 2 3 4]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Cell, Manifest
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.files import write_text
from bae_ray.storage import folder_at
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.sweep_config import SweepConfig

CORES = os.cpu_count() or 1
LAYERS, POSITIONS, WIDTH, N = 6, 8, 128, 2048
SHORT = TrainingConfig(epochs=20, batch_size=256, lr=3e-3)
CELLS = TrainingConfig(epochs=24, batch_size=256, lr=3e-3)
TINY = TrainingConfig(epochs=1, batch_size=256)
OUT = Path("runs/benchmarks/sweep.json")
SIDES = Path(__file__).with_name("sweep_sides.py")


def main(parts: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Measure the parts, print a table for each, and write all figures to runs/benchmarks/sweep.json."""
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = _store(folder)
        if 1 in parts:
            measured["overhead"] = _overhead(store, folder)
        if 2 in parts:
            measured["packing"] = _packing(store, folder)
        if 3 in parts:
            measured["workers"] = _workers(store, folder)
        if 4 in parts:
            measured["recorded"] = _recorded(store, folder)
    write_text(OUT, json.dumps({"cores": CORES, "load": os.getloadavg()[0], "measured": measured}, indent=2) + "\n")
    print(f"All figures: {OUT}")


def _store(folder: Path) -> Path:
    """A store of 48 cells of random directions: each 32 bits in 128 dimensions."""
    template = extract(ExtractConfig(layers=(0,), positions=(1,), max_texts=N), folder / "template")
    request = template.manifest.request.model_copy(
        update={"layers": tuple(range(LAYERS)), "positions": tuple(range(POSITIONS))}
    )
    generator = torch.Generator().manual_seed(0)
    cells = {
        Cell(layer, "residual", position): (torch.rand(N, 32, generator=generator) < 0.5).float()
        @ torch.randn(32, WIDTH, generator=generator)
        for layer in range(LAYERS)
        for position in range(POSITIONS)
    }
    writer, texts = StoreWriter(folder_at(folder / "store")), template.texts_table()
    receipt = writer.write_shard(0, writer.write_rows(0, texts, N, template.manifest.tokens), cells)
    fields = {**template.manifest.model_dump(), "request": request.model_dump(), "d": WIDTH, "n": N}
    writer.finish(Manifest.model_validate({**fields, "shards": [receipt.model_dump()]}))
    return folder / "store"


def _grid(training: TrainingConfig, packed: int = 8, **options: Any) -> SweepConfig:
    return SweepConfig(
        autoencoder=BAEConfig(expansion=2),
        training=training,
        packed=packed,
        gpus_per_trial=0,
        tensorboard=True,
        **options,
    )


def _sweep(config: SweepConfig, store: Path, out: Path, cpus: int = CORES) -> dict[str, Any]:
    """A sweep in a process of its own."""
    file = out.with_suffix(".json")
    write_text(file, config.model_dump_json())
    return _side("sweep", file, store, out, cpus)


def _side(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, str(SIDES), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own script
    return json.loads(done.stdout.splitlines()[-1])


def _overhead(store: Path, folder: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, packed in (("each by itself", 1), ("packed by 8", 8)):
        config = _grid(SHORT, packed, layers=(0, 1, 2, 3, 4), positions=(0, 1, 2, 3, 4), axes=(WEIGHTS_8,))
        took = _sweep(config, store, folder / f"overhead-{packed}")
        took["per_training"] = (took["wall"] * CORES - took["training"]) / took["runs"]
        rows[name] = {key: took[key] for key in ("runs", "wall", "training", "per_training")}
    _print(
        f"Overhead of short trainings on {CORES} workers",
        ("", "trainings", "wall s", "trainings' s / workers", "overhead s per training"),
        [(name, row["runs"], row["wall"], row["training"] / CORES, row["per_training"]) for name, row in rows.items()],
    )
    return rows


WEIGHTS_8 = "training.entropy_weight=0,1e-6,1e-5,1e-4,1e-3,2e-3,4e-3,8e-3"
WEIGHTS_2 = "training.entropy_weight=1e-4,1e-3"


def _packing(store: Path, folder: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for name, packed in (("packed", 8), ("unpacked", 1)):
        seconds[name] = _sweep(_grid(CELLS, packed, axes=(WEIGHTS_2,)), store, folder / name)["wall"]
    cells: dict[str, list[RunConfig]] = {}
    for run in expand(_grid(CELLS, axes=(WEIGHTS_2,)), ActivationStore.open(store)):
        cells.setdefault(run.data, []).append(run)
    for name, runs in cells.items():
        write_text(folder / f"cell-{name}.json", json.dumps([run.model_dump(mode="json") for run in runs]))
    started = time.monotonic()
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda name: _side("train", folder / f"cell-{name}.json", store, folder / "apart"), cells))
    seconds["a process per cell"] = time.monotonic() - started
    first = seconds["a process per cell"]
    _print(
        f"{len(cells)} cells of two trainings, {CORES} at a time",
        ("", "wall s", "cells per hour", "times a process per cell"),
        [(name, wall, 3600 * len(cells) / wall, first / wall) for name, wall in seconds.items()],
    )
    return seconds


def _workers(store: Path, folder: Path) -> dict[str, float]:
    config = _grid(CELLS, axes=(WEIGHTS_2,))
    seconds = {f"{n} worker{'s' if n > 1 else ''}": _sweep(config, store, folder / f"workers-{n}", n)["wall"]
               for n in (1, CORES)}  # fmt: skip
    first = next(iter(seconds.values()))
    _print(
        "The same trainings by workers of one thread",
        ("", "wall s", "times one worker"),
        [(name, wall, first / wall) for name, wall in seconds.items()],
    )
    return seconds


def _recorded(store: Path, folder: Path) -> list[tuple[int, float, float]]:
    config = _grid(TINY, 1, layers=(0,), positions=(0,), seeds=tuple(range(5000))).model_copy(
        update={"autoencoder": BAEConfig(d_latent=8), "tensorboard": False}
    )
    took = _sweep(config, store, folder / "many")
    rows: list[tuple[int, float, float]] = []
    edge, since, before = 1000, 0.0, 0
    for seconds, finished, memory in took["looks"]:
        if finished >= min(edge, took["runs"]) > before:
            rows.append((finished, 1e3 * (seconds - since) / (finished - before), memory))
            edge, since, before = finished + 1000, seconds, finished
    _print(
        f"{took['runs']} trainings recorded; then the table of all is read in {took['table']:.1f} s",
        ("recorded", "ms per result", "driver's memory MB"),
        rows,
    )
    return rows


def _print(title: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row))
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
