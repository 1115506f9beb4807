"""What is measured of the autoencoders: the rows of the table, firing rates and maps of magnitudes."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import load_autoencoder
from bae_ray.comsem.feature_records import FeatureRecords
from bae_ray.experiments.more_bit.config import MoreBitConfig
from bae_ray.experiments.more_bit.feature_table import by_layer, feature_table, rates_of
from bae_ray.experiments.more_bit.firing import Rates
from bae_ray.experiments.more_bit.magnitudes import MagnitudeMap, magnitude_map


class Measurements(NamedTuple):
    """What the results are made of."""

    table: pd.DataFrame
    """A row per autoencoder."""
    rates: dict[int, dict[str, Rates]]
    """By layer and name of those with one bit per feature: how often each feature is active."""
    maps: dict[int, dict[str, MagnitudeMap]]
    """Of the same: magnitudes."""


def measure(
    config: MoreBitConfig,
    folder: Path,
    runs: pd.DataFrame,
    evaluation: ActivationStore,
    found: Mapping[str, FeatureRecords],
    scores: pd.DataFrame | None,
) -> Measurements:
    """Measure the autoencoders in `folder`; `runs` are their rows of `results`.

    `found` is what was found of each run's features on the evaluation store. `scores` is ComSem's summary of the runs
    at the layer of Table 2, where a judge was asked.
    """
    table = feature_table(runs, found, config.examples, scores)
    rates: dict[int, dict[str, Rates]] = {}
    maps: dict[int, dict[str, MagnitudeMap]] = {}
    for layer, rows in by_layer(table[table["bits_per_feature"].fillna(1) == 1]):
        named = dict(zip(rows["method"], rows["run"], strict=True))
        x = Rows(evaluation.shards(layer, "all"))
        rates[layer] = {name: rates_of(found[run]) for name, run in named.items()}
        maps[layer] = {
            name: magnitude_map(load_autoencoder(folder / run), x, config.map_samples, config.map_columns)
            for name, run in named.items()
        }
    return Measurements(table, rates, maps)
