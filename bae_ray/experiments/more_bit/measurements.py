"""What is measured of each autoencoder: its row of the table of more-bit decoding, firing rates and magnitudes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import DENSE_RATE
from bae_ray.autoencoders import load_autoencoder
from bae_ray.autoencoders.architectures import find_architecture
from bae_ray.comsem.config import ExamplesConfig
from bae_ray.comsem.feature_records import FeatureRecords
from bae_ray.comsem.tasks import active_features
from bae_ray.experiments.more_bit.activity import MagnitudeMap, Rates, magnitude_map
from bae_ray.experiments.more_bit.config import MoreBitConfig

BASELINE = "ReLU SAE"
TRAINED = ["model", "layer", "n_train", "n_val", "d_in", "d_latent", "entropy_bits", "entropy_low", "entropy_high",
           "mse_val", "fvu_train", "fvu_val"]  # fmt: skip
SCORED = ["scored", "interpretable", "score", "score_low", "score_high", "chance", "chance_low", "chance_high",
          "above_chance", "above_chance_low", "above_chance_high", "unreadable", "refusals", "failed", "judge",
          "judge_accuracy", "judge_useless"]  # fmt: skip


def feature_table(
    results: pd.DataFrame, found: Mapping[str, FeatureRecords], examples: ExamplesConfig, scores: pd.DataFrame | None
) -> pd.DataFrame:
    """A row per autoencoder of `results`, ordered by layer, C and recipe.

    `found` is what was found of its features on the evaluation set, by run; `scores` ComSem's summary where a judge was
    asked: rows that it lacks have no scores.
    """
    by_weight = results.sort_values("training.entropy_weight", kind="stable")
    judged = {} if scores is None else scores.set_index("method")[SCORED].to_dict("index")
    rows = [
        {
            **_setting(run),
            **{column: run[column] for column in TRAINED},
            **_measured(found[run["run"]], examples),
            **judged.get(run["run"], {}),
            "seed": run["seed"],
            "run": run["run"],
        }
        for run in ({str(key): value for key, value in row.items()} for row in by_weight.to_dict("records"))
    ]
    order = ["layer", "bits_per_feature", "recipe"]
    table = pd.DataFrame(rows).sort_values(order, ignore_index=True, na_position="last")
    last = ["seed", "run"]
    return table[[column for column in table if column not in last] + last].astype({"bits_per_feature": "Int64"})


def by_layer(table: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The rows of each layer, in order."""
    return [(layer, table[table["layer"] == layer]) for layer in sorted(set(table["layer"].tolist()))]


def rates_of(found: FeatureRecords) -> Rates:
    """How often each feature fires and is selected on the evaluation set."""
    features = found.features
    return Rates(
        fires=features["firing_rate"].to_numpy(np.float64),
        selected=features["count"].to_numpy(np.float64) / found.evaluation.n_tokens,
    )


def _setting(run: Mapping[str, Any]) -> dict[str, Any]:
    recipe = run["training.recipe"]
    if not find_architecture(str(run["autoencoder.architecture"])).is_binary:
        return {"method": BASELINE, "bits_per_feature": None, "recipe": recipe}
    bits = int(run["autoencoder.bits_per_feature"])
    how = "" if recipe == "paper" else f", {recipe} {run['training.entropy_weight']:g}"
    return {"method": f"BAE, C = {bits}{how}", "bits_per_feature": bits, "recipe": recipe}


def _measured(found: FeatureRecords, examples: ExamplesConfig) -> dict[str, Any]:
    """Measures on the evaluation set."""
    of, rates = found.evaluation, rates_of(found)
    return {
        "n_features": of.n_features,
        "n_tokens": of.n_tokens,
        "fvu_evaluation": math.nan if of.fvu is None else of.fvu,
        "mse_evaluation": math.nan if of.mse is None else of.mse,
        "activated": len(active_features(found.kept, examples)),
        "fires_per_token": float(rates.fires.sum()),
        "never_fires": int((rates.fires == 0).sum()),
        "fires_densely": int((rates.fires > DENSE_RATE).sum()),
        "never_selected": int((rates.selected == 0).sum()),
        "selected_densely": int((rates.selected > DENSE_RATE).sum()),
    }


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
