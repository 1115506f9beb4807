"""What the measures that need no autoencoder take of a cell's time, beside the training of one.

One cell of the demo's size: 2,048 vectors of width 576 whose variances fall, an autoencoder of 1,152 latents, 60
epochs. Both sides in one process, one after the other; the measures are timed one by one, and together as a training
has them. "Share" is of the training without them.

    python benchmarks/rivals.py [--rows 2048] [--width 576] [--epochs 60] [--threads 1]
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bae_ray.activations.rows import Rows
from bae_ray.analysis.gaussian_rate import gaussian_rate_bits
from bae_ray.analysis.intrinsic_dimension import intrinsic_dimension
from bae_ray.analysis.product_code import ProductCodes
from bae_ray.analysis.rivals import CellRivals
from bae_ray.analysis.sign_code import sign_codes
from bae_ray.analysis.spectrum import spectrum
from bae_ray.autoencoders import BAEConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.samples import Split
from bae_ray.training.trainer import train

FVU = 0.3
REPEATS = 3


def main(rows: int = 2048, width: int = 576, epochs: int = 60, threads: int = 1) -> None:
    """Measure, and print a table."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    falling = torch.arange(1, width + 1).float().pow(-0.6)
    x = torch.randn(rows, width, generator=generator) * falling
    x = Rows([x @ torch.linalg.qr(torch.randn(width, width, generator=generator)).Q])
    (fit, _), (held_out, _) = Split.draw(x, None, 0.2, 0).parts()
    found = spectrum(fit)
    sides: dict[str, Callable[[], Any]] = {
        "spectrum": lambda: spectrum(fit),
        "Gaussian rate": lambda: gaussian_rate_bits(found.variances, FVU),
        "signs": lambda: sign_codes(found, fit, held_out),
        "product quantisers": lambda: ProductCodes(found, fit, held_out, 0).at(FVU),
        "intrinsic dimension": lambda: intrinsic_dimension(fit),
        "all of them": lambda: CellRivals(fit, held_out).at(FVU),
    }
    seconds = {name: min(_seconds(side) for _ in range(REPEATS)) for name, side in sides.items()}
    settings = TrainingConfig(recipe="scaled", epochs=epochs, batch_size=256)  # the demo's
    whole = _seconds(lambda: train(x, BAEConfig(expansion=2), settings, progress=False))
    training = whole - seconds["all of them"]
    table = Table("", "seconds", "share", title=f"[{rows}, {width}], {epochs} epochs, {threads} threads")
    for name, taken in {**seconds, "training": training}.items():
        table.add_row(name, f"{taken:.3f}", f"{taken / training:.3f}")
    Console(width=100).print(table)


def _seconds(side: Callable[[], Any]) -> float:
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


if __name__ == "__main__":
    tyro.cli(main)
