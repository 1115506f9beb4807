"""Variants of a sweep: groups of runs with equal settings apart from cell and seed; each has its own figure."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd


class Variant(NamedTuple):
    """Runs of equal settings."""

    label: str
    """The settings that tell it from the others, such as 'autoencoder.expansion=2'; empty if there are none."""
    runs: pd.DataFrame
    """Their rows of `results`."""


def variants(table: pd.DataFrame, aside: Sequence[str] = ()) -> list[Variant]:
    """Group the rows of `results` by every setting that differs, apart from the seed and those in `aside`."""
    settings = [
        column
        for column in table.columns
        if column in ("model", "site")
        or (column.startswith(("autoencoder.", "training.")) and column not in ("training.seed", *aside))
    ]
    differing = [column for column in settings if table[column].nunique(dropna=False) > 1]
    if not differing:
        return [Variant("", table)]
    return [Variant(_label(differing, values), runs) for values, runs in table.groupby(differing, dropna=False)]


def _label(columns: list[str], values: tuple[object, ...]) -> str:
    """The settings that a variant has; one of another architecture lacks some."""
    lacking = pd.isna(pd.Series(values, dtype=object))
    named = zip(columns, values, lacking, strict=True)
    return ", ".join(f"{column}={value}" for column, value, lacks in named if not lacks)
