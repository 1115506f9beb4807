"""What the tree's codec really writes for held-out codes, beside `heldout_bits`, which says what it should.

For each binary run of a sweep: the codes of its held-out samples are compressed by the tree of its training samples,
as `heldout_bits` has it (scheme `tree`, the tree not in the container). A run's own tree has seen all its samples: the
last column has what that one takes.

    python benchmarks/heldout_bytes.py --store runs/demo/store --runs runs/demo/sweep
"""

from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BinaryAutoencoder, load_autoencoder
from bae_ray.compression import compress, fit_tree
from bae_ray.training.results import results
from bae_ray.training.samples import Split


@torch.no_grad()
def main(store: Path, runs: Path) -> None:
    """Compress, and print a table."""
    opened = ActivationStore.open(store)
    table = Table("layer", "position", "held-out bits", "codec (ratio)", "by the run's own tree (ratio)")
    found = results(runs)
    for run in found.sort_values(["layer", "position"]).to_dict("records"):
        autoencoder = load_autoencoder(runs / run["run"])
        if not isinstance(autoencoder, BinaryAutoencoder) or autoencoder.tree is None:
            continue
        x = Rows(opened.shards(run["layer"], run["position"], run["site"]))
        split = Split.draw(x, None, run["training.val_fraction"], run["seed"])
        train, held_out = (
            torch.cat([autoencoder.encode(batch) for batch in part.split(4096)]) for part, _ in split.parts()
        )
        said = run["heldout_bits"]
        taken = (
            8 * len(compress(held_out, tree, "tree", table="reference")) / len(held_out)
            for tree in (fit_tree(train), autoencoder.tree)
        )
        cells = (f"{bits:.2f} ({bits / said:.3f})" for bits in taken)
        table.add_row(str(run["layer"]), str(run["position"]), f"{said:.2f}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    tyro.cli(main)
