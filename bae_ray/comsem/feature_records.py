"""The files with the examples and measures of an autoencoder's features on the evaluation set.

examples.parquet     a row per feature: how often it was activated, its examples and strongest tokens; a sample of its
                     activations, tokens at quantiles of the sample, similar features, words promoted and suppressed
evaluation.json      written last: which autoencoder and evaluation set they belong to, and the autoencoder's measures

Shapes: G features, C examples kept per feature.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from bae_ray.comsem.examples import NO_TOKEN, Floats, Kept
from bae_ray.comsem.feature_details import NO_WORDS, Similar, Strongest, Word, Words
from bae_ray.errors import UnreadableFileError
from bae_ray.files import atomic_path, remove, write_text

EXAMPLES_FILE = "examples.parquet"
EVALUATION_FILE = "evaluation.json"
MEASURES = ("feature", "count", "firing_rate", "entropy_bits", "max_magnitude")
"""Columns with a number for each feature."""
EXAMPLES = ("tokens", "magnitudes", "strongest")
DETAILS = ("sample", "quantiles", "similar", "promoted", "suppressed")
"""Columns that format 1 of the table lacks."""

_STRONGEST = pa.list_(
    pa.struct({"text": pa.int64(), "pieces": pa.list_(pa.string()), "values": pa.list_(pa.float32()), "at": pa.int32()})
)
_SIMILAR = pa.list_(pa.struct({"feature": pa.int64(), "cosine": pa.float32()}))
_WORDS = pa.list_(pa.struct({"word": pa.string(), "logit": pa.float32()}))


class Evaluation(BaseModel):
    """An autoencoder's measures on the evaluation set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    """Hash of the autoencoder, the activations and the config of the examples."""
    architecture: str
    layer: int
    site: str
    d_in: int
    n_features: int
    n_tokens: int
    n_sentences: int
    mse: float | None = None
    """L_r: mean squared error in the activations' own units. None where there is no reconstruction."""
    fvu: float | None = None
    l0: float | None = None
    entropy_bits: float | None = None
    spectral_norm: float | None = None
    """||Cov|| of Table 1."""


class Details(NamedTuple):
    """What a feature's card shows beside its strongest tokens."""

    sample: list[float]
    """Magnitudes of activations drawn at random, rising."""
    quantiles: list[Strongest]
    """Tokens at quantiles of the sample, the strongest first."""
    similar: list[Similar]
    words: Words


NO_DETAILS = Details([], [], [], NO_WORDS)


class FeatureRecords:
    """Examples, strongest tokens and firing rates of an autoencoder's features."""

    def __init__(self, evaluation: Evaluation, table: pa.Table) -> None:
        self.evaluation = evaluation
        self._table = table
        lists = [table[name].to_pylist() for name in ("tokens", "magnitudes")]
        width = max(map(len, lists[0]), default=0)
        tokens = np.full((len(table), width), NO_TOKEN, dtype=np.int64)
        magnitudes = np.zeros((len(table), width), dtype=np.float32)
        for padded, rows in zip((tokens, magnitudes), lists, strict=True):
            for i, row in enumerate(rows):
                padded[i, : len(row)] = row
        self.kept = Kept(tokens, magnitudes, table["count"].to_numpy())

    @property
    def features(self) -> pd.DataFrame:
        """A row per feature with the columns `MEASURES`."""
        return self._table.select(list(MEASURES)).to_pandas()

    def strongest(self, feature: int) -> list[Strongest]:
        """The strongest tokens of a feature."""
        return [_as_strongest(one) for one in self._table["strongest"][feature].as_py()]

    def details(self, feature: int) -> Details:
        """What else the card of a feature shows; empty where the table is of format 1."""
        if not set(DETAILS) <= set(self._table.column_names):
            return NO_DETAILS
        sample, quantiles, similar, *words = (self._table[name][feature].as_py() for name in DETAILS)
        return Details(
            sample,
            [_as_strongest(one) for one in quantiles],
            [Similar(**one) for one in similar],
            Words(*([Word(**one) for one in some] for some in words)),
        )

    def write(self, folder: Path) -> None:
        """Write the two files."""
        remove(folder / EVALUATION_FILE)
        with atomic_path(folder / EXAMPLES_FILE) as temporary:
            pq.write_table(self._table, temporary)
        write_text(folder / EVALUATION_FILE, self.evaluation.model_dump_json(indent=2) + "\n")


def read_evaluation(folder: Path) -> Evaluation:
    """The measures in a folder. Raises `UnreadableFileError` where there are none, or not in this form."""
    file = folder / EVALUATION_FILE
    try:
        return Evaluation.model_validate_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, ValidationError) as error:
        raise _unreadable(file, "it is missing or damaged, or written by another version") from error


def read_feature_records(folder: Path) -> FeatureRecords:
    """The records in a folder. Raises `UnreadableFileError` where there are none, or not in this form."""
    evaluation = read_evaluation(folder)
    file = folder / EXAMPLES_FILE
    try:
        table = pq.read_table(file)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise _unreadable(file, "it is missing or damaged") from error
    if missing := {*MEASURES, *EXAMPLES} - set(table.column_names):
        raise _unreadable(file, f"it is of an earlier version, without the columns {', '.join(sorted(missing))}")
    return FeatureRecords(evaluation, table)


def records_table(
    kept: Kept,
    rates: Floats,
    entropies: Floats,
    strengths: Floats,
    strongest: Mapping[int, list[Strongest]],
    details: Mapping[int, Details],
) -> pa.Table:
    """The table of all G features.

    `rates`, `entropies` and `strengths` [G] are firing rates, their entropies in bits and largest magnitudes. Features
    that are not in `strongest` and `details` have none.
    """
    some = [details.get(feature, NO_DETAILS) for feature in range(len(rates))]
    there = kept.tokens != NO_TOKEN
    tokens, magnitudes = (
        [row[known].tolist() for row, known in zip(rows, there, strict=True)] for rows in (kept.tokens, kept.magnitudes)
    )
    return pa.table(
        {
            "feature": pa.array(range(len(rates)), pa.int64()),
            "count": pa.array(kept.counts, pa.int64()),
            "firing_rate": pa.array(rates, pa.float64()),
            "entropy_bits": pa.array(entropies, pa.float64()),
            "max_magnitude": pa.array(strengths, pa.float32()),
            "tokens": pa.array(tokens, pa.list_(pa.int64())),
            "magnitudes": pa.array(magnitudes, pa.list_(pa.float32())),
            "strongest": pa.array([_as_dicts(strongest.get(i, [])) for i in range(len(rates))], _STRONGEST),
            "sample": pa.array([one.sample for one in some], pa.list_(pa.float32())),
            "quantiles": pa.array([_as_dicts(one.quantiles) for one in some], _STRONGEST),
            "similar": pa.array([[other._asdict() for other in one.similar] for one in some], _SIMILAR),
            "promoted": pa.array([[word._asdict() for word in one.words.promoted] for one in some], _WORDS),
            "suppressed": pa.array([[word._asdict() for word in one.words.suppressed] for one in some], _WORDS),
        }
    )


def _unreadable(file: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(f"{file} cannot be read: {reason}. Run ComSem again into this folder.")


def _as_strongest(one: dict[str, Any]) -> Strongest:
    """A row of a table's list; null stands for NaN."""
    return Strongest(one["text"], one["pieces"], [math.nan if v is None else v for v in one["values"]], one["at"])


def _as_dicts(strongest: list[Strongest]) -> list[dict[str, Any]]:
    return [{**one._asdict(), "values": [None if math.isnan(v) else v for v in one.values]} for one in strongest]
