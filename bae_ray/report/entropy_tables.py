"""A sweep's runs by variant (equal settings apart from cell and seed), and as layer x position grids and tables."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table

from bae_ray.activations.config import Position
from bae_ray.report.terminal import text_table
from bae_ray.training.caveats import marks
from bae_ray.training.results import position_order


class Variant(NamedTuple):
    """Runs of equal settings."""

    label: str
    """The settings that tell it from the others, such as 'autoencoder.expansion=2'; empty if there are none."""
    runs: pd.DataFrame
    """Their rows of `results`."""


def variants(table: pd.DataFrame, aside: Sequence[str] = ()) -> list[Variant]:
    """Group the rows of `results` by every setting that differs, apart from the seed and those in `aside`."""
    differing = settings_that_differ(table, aside)
    if not differing:
        return [Variant("", table)]
    return [Variant(_label(differing, values), runs) for values, runs in table.groupby(differing, dropna=False)]


def settings_that_differ(table: pd.DataFrame, aside: Sequence[str] = ()) -> list[str]:
    """Columns of settings in which rows of `results` differ, apart from the seed and those in `aside`."""
    settings = [
        column
        for column in table.columns
        if column in ("model", "site")
        or (column.startswith(("autoencoder.", "training.")) and column not in ("training.seed", *aside))
    ]
    return [column for column in settings if table[column].nunique(dropna=False) > 1]


def _label(columns: list[str], values: tuple[object, ...]) -> str:
    """The settings that a variant has; one of another architecture lacks some."""
    lacking = pd.isna(pd.Series(values, dtype=object))
    named = zip(columns, values, lacking, strict=True)
    return ", ".join(f"{column}={value}" for column, value, lacks in named if not lacks)


class CellGrid(NamedTuple):
    """One column of a results table over layer x position, averaged over the runs that share a cell."""

    layers: list[int]
    positions: list[Position]
    values: np.ndarray[Any, np.dtype[np.float64]]
    """[L, P]; NaN where the sweep has no such run."""


def cell_grid(table: pd.DataFrame, column: str, how: Literal["mean", "min", "max"] = "mean") -> CellGrid:
    """The grid of one column of runs of one variant; `how` combines the runs of a cell: mean, min or max."""
    grid = table.pivot_table(index="layer", columns="position", values=column, aggfunc=how, sort=False)
    layers = sorted(map(int, table["layer"].unique()))
    positions = sorted(table["position"].unique().tolist(), key=position_order)
    return CellGrid(layers, positions, grid.reindex(index=layers, columns=positions).to_numpy(dtype=np.float64))


def entropy_tables(table: pd.DataFrame) -> list[Table]:
    """Of each variant in the table of `results`, by layer and position: bits with FVU, and those of held-out texts.

    Also where dependence counts. All but the first where they were measured by a version that does, the last where
    codes are binary. Cells are marked by what `caveat_lines` says of their runs.
    """
    tables = []
    for variant in variants(table):
        title = "Entropy in bits, FVU on training / held-out texts"
        tables.append(_grid(variant, title, ("entropy_bits", "fvu_train", "fvu_val"), "{:.0f}  {:.2f}/{:.2f}"))
        if "entropy_bits_val" in variant.runs and variant.runs["entropy_bits_val"].notna().any():
            title = "Entropy of held-out texts in bits, with its 95 % interval"
            columns = ("entropy_bits_val", "entropy_low_val", "entropy_high_val")
            tables.append(_grid(variant, title, columns, "{:.0f} [{:.0f}, {:.0f}]"))
        if "tree_bits" in variant.runs and variant.runs["tree_bits"].notna().any():
            title = "Tree bits / bits that a held-out text takes under the tree, with its 95 % interval"
            columns = ("tree_bits", "heldout_bits", "heldout_low", "heldout_high")
            tables.append(_grid(variant, title, columns, "{:.1f} / {:.1f} [{:.0f}, {:.0f}]"))
    return tables


def _grid(variant: Variant, title: str, columns: tuple[str, ...], form: str) -> Table:
    grids = [cell_grid(variant.runs.astype(dict.fromkeys(columns, float)), column) for column in columns]
    marked = marks(variant.runs)
    of_position = {position: variant.runs["position"] == position for position in grids[0].positions}
    rows: list[dict[str, object]] = [{"layer": layer} for layer in grids[0].layers]
    for (row, column), value in np.ndenumerate(grids[0].values):
        told = "-" if np.isnan(value) else form.format(*(grid.values[row, column] for grid in grids))
        cell = marked[(variant.runs["layer"] == grids[0].layers[row]) & of_position[grids[0].positions[column]]]
        told += "".join(sorted(set("".join(cell))))
        rows[row][f"pos {grids[0].positions[column]}"] = told
    return text_table(f"{title}: {variant.label}" if variant.label else title, rows)
