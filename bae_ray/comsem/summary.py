"""The summary of a method's scores: a row of the paper's Table 1, with intervals and chance levels; the files of a run.

Chance is how often the judge says Yes to an explanation on another feature's tokens.

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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bae_ray.comsem.judge_check import JudgeCheck
from bae_ray.comsem.scoring import FeatureScore
from bae_ray.comsem.usage import Usage

REPLICATES = 2000
COVERAGE = 0.95
COUNTED = ("scored", "unexplained", "unreadable")
"""Statuses of the features in the mean score: all those with answers of the judge."""
CONFIG_FILE = "comsem.json"
CACHE_FILE = "judge.sqlite"
STORE_FOLDER = "activations"
FEATURES_FILE = "features.parquet"
RANDOM_FILE = "random.parquet"
USAGE_FILE = "usage.json"
SUMMARY_FILE = "summary.json"
TABLE_FILE = "summary.csv"


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval, a bootstrap over features; NaN without values."""

    mean: float
    low: float
    high: float


class Scores(NamedTuple):
    """The summary of one method's features."""

    activated: int
    """Act.: features with more than n_I examples."""
    interpretable: int
    """FI#: scored features with a score above 0."""
    scored: int
    """Number of features in the means."""
    score: Interval
    """Score: mean over the scored features."""
    chance: Interval
    """Score of the same explanations on another feature's tokens."""
    above_chance: Interval
    """Score minus chance, with the same replicates."""
    random: Interval
    """Score of the sets of random tokens."""
    p_yes: float
    """Mean P(Yes) over the features."""
    judged: int
    """Judgements of features, controls and random sets."""
    unreadable: int
    refusals: int
    unexplained: int
    """Features, without random sets, for which the judge gave no usable explanation."""
    failed: int
    """Features and random sets without a result, since requests had no answer. Run again."""


def table(scores: Sequence[FeatureScore]) -> pd.DataFrame:
    """A row per feature, as in features.parquet."""
    rows = [
        {
            "feature": s.feature,
            "status": s.status,
            "explanation": s.explanation,
            "score": s.score,
            "n_test": s.test.n,
            "yes": s.test.yes,
            "p_yes": s.test.p_yes,
            "parse_failures": s.test.unreadable,
            "refusals": s.test.refusals,
            # Without an explanation the score and the chance are both 0, so that their means have the same features.
            "chance": 0.0 if s.status == "unexplained" and s.shuffled_with >= 0 else s.shuffled.score,
            "chance_n": s.shuffled.n,
            "chance_yes": s.shuffled.yes,
            "chance_p_yes": s.shuffled.p_yes,
            "chance_parse_failures": s.shuffled.unreadable,
            "chance_refusals": s.shuffled.refusals,
            "chance_feature": s.shuffled_with,
            "candidates": [candidate.explanation for candidate in s.candidates],
            "candidate_fits": [candidate.fit for candidate in s.candidates],
            "explanations_refused": s.explanations_refused,
            "explanations_unreadable": s.explanations_unreadable,
            "error": s.error,
        }
        for s in scores
    ]
    return pd.DataFrame(rows)


def summarize(features: pd.DataFrame, random: pd.DataFrame, seed: int) -> Scores:
    """The summary of the rows of `table`: those of all features, and those of the random sets."""
    counted = features[features["status"].isin(COUNTED)]
    scores, chances = counted["score"].to_numpy(float), counted["chance"].to_numpy(float)
    drawn = np.random.default_rng(seed).integers(0, max(1, len(scores)), (REPLICATES, len(scores)))
    random_scores = random[random["status"].isin(COUNTED)]["score"].to_numpy(float) if len(random) else np.empty(0)
    drawn_random = np.random.default_rng(seed).integers(0, max(1, len(random_scores)), (REPLICATES, len(random_scores)))
    both = pd.concat([features, random], ignore_index=True)
    return Scores(
        activated=int((features["status"] != "inactive").sum()),
        interpretable=int((counted["score"] > 0).sum()),
        scored=len(counted),
        score=_interval(_mean(scores), _means(scores, drawn)),
        chance=_interval(_mean(chances), _means(chances, drawn)),
        above_chance=_interval(_mean(scores) - _mean(chances), _means(scores, drawn) - _means(chances, drawn)),
        random=_interval(_mean(random_scores), _means(random_scores, drawn_random)),
        p_yes=_mean(counted["p_yes"].to_numpy(float)),
        judged=_total(both, "n_test", "chance_n"),
        unreadable=_total(both, "parse_failures", "chance_parse_failures"),
        refusals=_total(both, "refusals", "chance_refusals"),
        unexplained=int((features["status"] == "unexplained").sum()),
        failed=int((both["status"] == "failed").sum()),
    )


def flat(scores: Scores) -> dict[str, Any]:
    """The summary as columns: an interval becomes three."""
    row: dict[str, Any] = {}
    for name, value in scores._asdict().items():
        if isinstance(value, Interval):
            row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            row[name] = value
    return row


def _total(rows: pd.DataFrame, *columns: str) -> int:
    return int(sum(rows[column].sum() for column in columns))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _means(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mean of each replicate over its known values; NaN where it has none."""
    taken = values[drawn]
    known = ~np.isnan(taken)
    counts = known.sum(1)
    totals = np.where(known, taken, 0.0).sum(1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def _interval(mean: float, replicates: np.ndarray) -> Interval:
    known = replicates[~np.isnan(replicates)]
    if math.isnan(mean) or not len(known):
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(mean, float(low), float(high))


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
