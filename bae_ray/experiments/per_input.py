"""A store and a sweep for each of several settings of the input, and one table of them all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.store import ActivationStore
from bae_ray.progress import console
from bae_ray.training.results import ENTROPY_COLUMNS, results
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig

Settings = Mapping[str, Mapping[str, Any]]
"""By the name of its folder: the fields of the input that a store has of its own. They are columns of the table."""


def extract_each(config: ExtractConfig, settings: Settings, folder: Path) -> dict[str, ActivationStore]:
    """Extract a store for each setting of the input, in `folder`."""
    stores: dict[str, ActivationStore] = {}
    for name, fields in settings.items():
        console.print(name)
        given = config.input.model_copy(update=fields)
        stores[name] = extract(config.model_copy(update={"input": given}), folder / name)
    return stores


def sweep_each(
    config: SweepConfig, settings: Settings, stores: Mapping[str, ActivationStore], folder: Path
) -> tuple[pd.DataFrame | None, list[str]]:
    """Train the grid on the store of each setting, in folders of the same names in `folder`.

    Returns a row per finished run, with the setting of its input and its entropy with FVUs, or None where none is
    finished; and a line for each failure.
    """
    tables: list[pd.DataFrame] = []
    failures: list[str] = []
    for name, fields in settings.items():
        console.print(name)
        outcome = sweep(config, stores[name], folder / name)
        failures += outcome.failures
        if outcome.finished:
            trained = results(folder / name, only=outcome.finished)[ENTROPY_COLUMNS]
            tables.append(trained.assign(**fields)[[*fields, *ENTROPY_COLUMNS]])
    return pd.concat(tables, ignore_index=True) if tables else None, failures
