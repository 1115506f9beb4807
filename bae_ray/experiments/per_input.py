"""A store and a sweep for each of several settings of the input, and one table of them all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.store import ActivationStore
from bae_ray.experiments.protocol import Outcome
from bae_ray.progress import console
from bae_ray.training.results import ENTROPY_COLUMNS, results
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig

Settings = Mapping[str, Mapping[str, Any]]
"""By the name of its folder: the fields of the input that a store has of its own. They are columns of the table."""


class Swept(NamedTuple):
    """A finished sweep."""

    folder: Path
    """Folder of the runs."""
    runs: list[str]
    """Ids of those that are finished."""


def extract_each(config: ExtractConfig, settings: Settings, folder: Path) -> dict[str, ActivationStore]:
    """Extract a store for each setting of the input, in `folder`."""
    stores: dict[str, ActivationStore] = {}
    for name, fields in settings.items():
        console.print(name)
        given = config.input.model_copy(update=fields)
        stores[name] = extract(config.model_copy(update={"input": given}), folder / name)
    return stores


def sweep_each(config: SweepConfig, stores: Mapping[str, ActivationStore], folder: Path) -> Outcome[dict[str, Swept]]:
    """Train the grid on each of the stores, in folders of the same names in `folder`."""
    swept: dict[str, Swept] = {}
    failures: list[str] = []
    for name, store in stores.items():
        console.print(name)
        outcome = sweep(config, store, folder / name)
        swept[name] = Swept(folder / name, outcome.finished)
        failures += outcome.failures
    return Outcome(swept if any(one.runs for one in swept.values()) else None, failures)


def entropies(sweeps: Mapping[str, Swept], settings: Settings) -> pd.DataFrame:
    """A row per run: the setting of its input, and its entropy with FVUs."""
    parts = [
        results(folder, only=runs)[ENTROPY_COLUMNS].assign(**settings[name])
        for name, (folder, runs) in sweeps.items()
        if runs
    ]
    fields = next(iter(settings.values()))
    return pd.concat(parts, ignore_index=True)[[*fields, *ENTROPY_COLUMNS]]
