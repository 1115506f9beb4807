"""The command that goes on with runs of a sweep that did not converge, for whoever reads that they did not."""

import json
import shlex
from pathlib import Path

from bae_ray.files import read_text, write_text
from bae_ray.locations import location_of
from bae_ray.own_command import own_command
from bae_ray.training.sweep_config import SearchConfig, SweepConfig

SWEEP_FILE = "sweep.json"
"""In the folder of a sweep: the options of a `bae-ray sweep` of what was trained there last."""


def how_to_go_on(runs: Path | None) -> str:
    """What goes on with the runs of a folder that did not converge; empty for those of a search, which cannot.

    That is a command that runs as it stands, for as many epochs again, where the folder's record names a store that is
    there; else what command it would be.
    """
    begun = "this goes on with them: "
    unknown = f"{begun}bae-ray sweep with the same --store, --out and settings, and with --continue-unconverged EPOCHS"
    if runs is None or location_of(runs) or not (file := runs / SWEEP_FILE).is_file():
        return unknown  # of a folder in a bucket, --config would be a copy on this machine
    try:
        told = json.loads(read_text(file))
        store, epochs = str(told["store"]), int(told["training"]["epochs"])
        if any("training.epochs=" in axis for axis in told["axes"]):
            return unknown  # for each of them another number
        if not SearchConfig.model_validate(told["search"]).is_grid:
            return ""
    except (KeyError, TypeError, ValueError):  # of another version, or damaged
        return unknown
    if "://" not in store and not Path(store).exists():
        return unknown
    options = ["--config", str(file), "--store", store, "--out", str(runs)]
    return begun + shlex.join([own_command(), "sweep", *options, "--continue-unconverged", str(epochs)])


def record_sweep(config: SweepConfig, store: Path, runs: Path) -> None:
    """Write down what sweep a folder is of, in the form that `bae-ray sweep --config FILE` takes."""
    told = {**config.model_dump(mode="json"), "store": _location(store), "out": _location(runs)}
    write_text(runs / SWEEP_FILE, json.dumps(told, indent=2) + "\n")


def _location(path: Path) -> str:
    return location_of(path) or str(path)
