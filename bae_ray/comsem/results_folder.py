"""Files of a ComSem run, and what a run comes to.

OUT/comsem.json               the config
OUT/judge.sqlite              every answer of the judge: what makes a rerun free
OUT/activations               the evaluation set, where no store was given
OUT/METHOD/...                of each autoencoder: examples and measures (feature_records.py), and
OUT/METHOD/features.parquet   a row per feature
OUT/METHOD/random.parquet     a row per set of random tokens, the control
OUT/usage.json                what the last run asked and cost
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
    """What a run came to."""

    summary: pd.DataFrame
    """A row per autoencoder."""
    check: JudgeCheck
    usage: Usage
    problems: tuple[str, ...]
    """What went wrong, an example of each method: a request that failed, an answer that could not be read."""
    failed: int
    """Features and questions of the judge's test without a result, since requests had no answer; the same command asks
    again."""


def without_nan(value: Any) -> Any:
    """A value of JSON's kinds with None in place of every NaN, which JSON has not."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
