"""From the runs of a sweep to the methods of a table: copies of the autoencoders in folders with telling names.

ComSem names results after the folder, and the name of a run's folder is a hash. Rescaled methods are not trained: they
have the same weights, and features are selected by standardised latents (the paper's "ReLU SAE Resc.").
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bae_ray.autoencoders import build_autoencoder, load_autoencoder
from bae_ray.autoencoders.architectures import ARCHITECTURES, find_architecture
from bae_ray.autoencoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.comsem.config import RANDOM
from bae_ray.files import at_hand, atomic_path, checksum, read_text, remove, write_text
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE

RESCALED = " Resc."
COPY_FILE = "copy.json"
"""Written last into a copy: the checksum of the weights that it was made from."""


class TableMethod(NamedTuple):
    """A row of the table."""

    name: str
    """Name of its folder, and so of its results."""
    label: str
    layer: int | None
    """The layer whose hidden states it reconstructs; None for random tokens."""
    run: str
    """Id of the run; empty for random tokens."""
    source: str
    """Folder of the autoencoder, or random."""
    weights: str = ""
    """Checksum of the trained weights, which differ where a training was repeated; empty for random tokens."""


def table_methods(sweep: Path, runs: Iterable[str], rescaled: Iterable[str], out: Path) -> list[TableMethod]:
    """Copy the autoencoders of these runs into folders of `out`; return the methods by layer, in the tables' order.

    Architectures in `rescaled` are also a second method, rescaled. A copy is made again where the weights differ.
    """
    found = [_Run(run, json.loads((sweep / run / RUN_FILE).read_text(encoding="utf-8"))) for run in runs]
    again = set(rescaled)
    variants = [
        (run, standardize)
        for run in found
        for standardize in (False, True)
        if not standardize or (run.architecture in again and not run.standardized)
    ]
    variants.sort(key=lambda variant: variant[0].order(variant[1]))
    names = [run.name(standardize) for run, standardize in variants]
    methods: list[TableMethod] = []
    for (run, standardize), name in zip(variants, names, strict=True):
        unique = name if names.count(name) == 1 else f"{name}-{run.id[:6]}"
        label = run.label(standardize) if unique == name else f"{run.label(standardize)} {run.id[:6]}"
        weights = _copy(sweep / run.id, out / unique, standardize)
        methods.append(TableMethod(unique, label, run.layer, run.id, str(out / unique), weights))
    return methods


def random_method() -> TableMethod:
    """Sets of random tokens, as a method without features."""
    return TableMethod(RANDOM, "Random tokens", None, "", RANDOM)


class _Run:
    """A trained autoencoder, as its run.json describes it."""

    def __init__(self, run_id: str, config: dict[str, Any]) -> None:
        self.id = run_id
        self.architecture = str(config["autoencoder"]["architecture"])
        self.standardized = bool(config["autoencoder"].get("standardize", False))
        self.bits = int(config["autoencoder"].get("bits_per_feature", 1))
        self.recipe = str(config["training"].get("recipe", "paper"))
        self.layer = int((config["target"] or config["cell"])["layer"])

    def order(self, rescaled: bool) -> tuple[Any, ...]:
        """By layer: sparse autoencoders, then what reconstructs another cell, then binary ones."""
        kind = find_architecture(self.architecture)
        place = kind.is_binary, kind.reconstructs == "target", list(ARCHITECTURES).index(self.architecture)
        return self.layer, *place, self.bits, self.recipe, rescaled, self.id

    def name(self, rescaled: bool) -> str:
        bits = f"-{self.bits}bits" if self.bits > 1 else ""
        how = "-rescaled" if rescaled or self.standardized else ""
        return f"{self.architecture}{bits}{self._recipe('-')}{how}-layer-{self.layer}"

    def label(self, rescaled: bool) -> str:
        bits = f" C={self.bits}" if self.bits > 1 else ""
        how = RESCALED if rescaled or self.standardized else ""
        return find_architecture(self.architecture).label + bits + self._recipe(" ") + how

    def _recipe(self, before: str) -> str:
        return "" if self.recipe == "paper" else before + self.recipe


def _copy(source: Path, folder: Path, standardize: bool) -> str:
    """Copy a run's autoencoder and its measures, unless the copy of these weights is there; the weights' checksum."""
    about, weights = read_text(source / RUN_FILE), checksum(source / WEIGHTS_FILE)
    record = json.dumps({"weights": weights}) + "\n"
    if _holds(folder / COPY_FILE, record) and _holds(folder / RUN_FILE, about):
        return weights
    remove(folder / COPY_FILE)
    if standardize:
        trained = load_autoencoder(source)
        rescaled = build_autoencoder(trained.config.model_copy(update={"standardize": True}))
        # The statistics that it standardises with are set on the evaluation set.
        rescaled.load_state_dict(trained.state_dict(), strict=False)
        rescaled.save_pretrained(folder)
    else:
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(at_hand(source / name), temporary)
    if (source / RESULT_FILE).exists():
        write_text(folder / RESULT_FILE, read_text(source / RESULT_FILE))
    write_text(folder / RUN_FILE, about)
    write_text(folder / COPY_FILE, record)
    return weights


def _holds(file: Path, text: str) -> bool:
    return file.exists() and read_text(file) == text
