"""The files and the outcome of a ComSem run.

OUT/comsem.json               the config
OUT/judge.sqlite              every answer of the judge, so that a rerun costs nothing
OUT/activations               the evaluation set, where no store was given
OUT/METHOD/...                of each autoencoder: examples and measures (feature_records.py), and
OUT/METHOD/features.parquet   a row per feature
OUT/METHOD/random.parquet     a row per set of random tokens, the control
OUT/usage.json                requests and cost of the last run
OUT/summary.json, .csv        a row per autoencoder: Table 1, and the judge's own test; written last
"""

import math
from typing import Any, NamedTuple

import pandas as pd

from bae_ray.comsem.judge_check import JudgeCheck
from bae_ray.comsem.usage import Usage

CONFIG_FILE = "comsem.json"
CACHE_FILE = "judge.sqlite"
STORE_FOLDER = "activations"
FEATURES_FILE = "features.parquet"
RANDOM_FILE = "random.parquet"
USAGE_FILE = "usage.json"
SUMMARY_FILE = "summary.json"
TABLE_FILE = "summary.csv"


class Outcome(NamedTuple):
    """The outcome of a run."""

    summary: pd.DataFrame
    """A row per autoencoder."""
    check: JudgeCheck
    usage: Usage
    problems: tuple[str, ...]
    """For each method an example of what went wrong: a failed request or an unreadable answer."""
    failed: int
    """Number of features and test questions without a result, since requests had no answer. The same command asks
    again."""


def without_nan(value: Any) -> Any:
    """A JSON value with None in place of every NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
