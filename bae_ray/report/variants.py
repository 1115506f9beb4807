"""The variants of a sweep: runs that differ in nothing but cell and seed, which may stand in one figure."""

from typing import NamedTuple

import pandas as pd


class Variant(NamedTuple):
    """Runs of equal settings."""

    label: str
    """The settings that tell it from the others, such as 'autoencoder.expansion=2'; empty if there are none."""
    runs: pd.DataFrame
    """Their rows of `results`."""


def variants(table: pd.DataFrame) -> list[Variant]:
    """Split the rows of `results` by every setting that differs between them, the seed aside."""
    settings = [
        column
        for column in table.columns
        if column in ("model", "site")
        or (column.startswith(("autoencoder.", "training.")) and column != "training.seed")
    ]
    differing = [column for column in settings if table[column].nunique(dropna=False) > 1]
    if not differing:
        return [Variant("", table)]
    return [
        Variant(", ".join(f"{column}={value}" for column, value in zip(differing, values, strict=True)), runs)
        for values, runs in table.groupby(differing, dropna=False)
    ]
