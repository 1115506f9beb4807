"""The measures of a store's cells that need no autoencoder: a table, and a file for each finished cell.

A cell's file in `measured/` is named by a hash of all that its numbers depend on. So the same command continues from
what is finished, and results of different options never mix.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.config import MeasureConfig
from bae_ray.analysis.features import ROWS_AT_ONCE
from bae_ray.analysis.rivals import CellRivals
from bae_ray.config import Record, content_hash
from bae_ray.errors import BaeRayError, InvalidInputError
from bae_ray.files import read_text, write_text
from bae_ray.locations import shown
from bae_ray.progress import track
from bae_ray.storage import folder_at
from bae_ray.training.config import CellConfig, RunConfig
from bae_ray.training.grid import check_trained_on
from bae_ray.training.results import position_order, results, write_parquet
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE, RunResult
from bae_ray.training.samples import Split
from bae_ray.values import check_finite
from bae_ray.work.receipts import read_receipt
from bae_ray.working_copies import refresh

MEASURED = "measured"
"""Folder of the finished cells."""
TABLE_FILE = "measures.parquet"
FEWEST_ROWS = 4
VERSION = 2
"""Version of the measures: if it changes, cells are measured again."""


class At(NamedTuple):
    """A held-out FVU at which a cell is measured."""

    run: str
    """Id of the run that has this FVU; empty if the user asked for it."""
    fvu: float


class Unit(NamedTuple):
    """A cell with one split of its rows."""

    cell: Cell
    target: Cell
    """What is measured: the cell itself; for a transcoder, the cell that it reconstructs."""
    val_fraction: float
    seed: int
    at: tuple[At, ...]

    def request(self, store: ActivationStore) -> dict[str, Any]:
        """All that the numbers depend on."""
        faiss = find_spec("faiss") is not None
        return {**self._asdict(), "data": store.fingerprint(self.target), "faiss": faiss, "version": VERSION}


class MeasuredCell(Record):
    """The file of a finished cell."""

    request: dict[str, Any]
    rows: list[dict[str, Any]]
    """Rows of the table."""


class Measured(NamedTuple):
    """What was measured."""

    table: pd.DataFrame | None
    """A row per cell, or per run of a cell; None where no cell could be measured."""
    failures: list[str]
    """A line for each cell that could not be measured."""


def measure_store(config: MeasureConfig, store: ActivationStore, out: Path, runs: Path | None = None) -> Measured:
    """Measure the cells of a store, and write `out/measures.parquet`. Cells that are finished in `out` are only read.

    With `runs`, a folder of runs on this store, cells are those that have finished ones, each measured at the held-out
    FVU of each of its runs; settings in which these differ are columns, as in `results`. The same store and config give
    the same numbers. Raises `InvalidInputError` if the store has too few rows, or if the runs belong to other
    activations, or if there are none.
    """
    if store.manifest.n < FEWEST_ROWS:
        raise InvalidInputError(
            f"the store {store.folder} has {store.manifest.n} rows; expected {FEWEST_ROWS} or more, of which some are "
            "held out. Extract more texts."
        )
    if runs is not None:
        refresh(runs)
    units = list(_of_runs(config, store, runs) if runs is not None else _of_config(config, store))
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    with track("Measuring", len(units)) as tracker:
        for unit in units:
            try:
                rows += _measured(unit, store, out)
            except BaeRayError as error:
                failures.append(f"{unit.cell}: {error}")
            except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
                failures.append(f"{unit.cell}: its covariance cannot be decomposed ({error}). Leave this cell out.")
            tracker.advance(note=str(unit.cell))
    if not rows:
        return Measured(None, failures)
    rows.sort(key=lambda row: (row["layer"], row["site"], position_order(row["position"]), row["seed"], row["run"]))
    table = pd.DataFrame(rows) if runs is None else _with_settings(pd.DataFrame(rows), runs)
    write_parquet(table, out / TABLE_FILE)
    return Measured(table, failures)


def _of_config(config: MeasureConfig, store: ActivationStore) -> Iterator[Unit]:
    for cell in store.select(config.layers, config.positions, config.sites):
        yield Unit(cell, cell, config.val_fraction, config.seed, (At("", config.fvu),))


def _of_runs(config: MeasureConfig, store: ActivationStore, folder: Path) -> Iterator[Unit]:
    chosen = store.select(config.layers, config.positions, config.sites)
    found: dict[Unit, list[At]] = {}
    for file in sorted(folder.glob(f"*/{RESULT_FILE}")):
        run = RunConfig.model_validate_json(read_text(file.with_name(RUN_FILE)))
        cell, target = _cell(run.cell), _cell(run.target or run.cell)
        if cell not in chosen:
            continue
        check_trained_on(run, file.parent, store)
        unit = Unit(cell, target, run.training.val_fraction, run.training.seed, ())
        result = RunResult.model_validate_json(read_text(file))
        found.setdefault(unit, []).append(At(result.run, result.fvu_val))
    if not found:
        raise InvalidInputError(
            f"{shown(folder)} holds no finished run of the cells to measure. Leave --runs out, or give it runs."
        )
    for unit, at in found.items():
        yield unit._replace(at=tuple(at))


def _with_settings(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    told = results(folder, only=table["run"])
    differing = [
        column
        for column in map(str, told)
        if column.startswith(("autoencoder.", "training."))
        and column != "training.seed"
        and told[column].nunique(dropna=False) > 1
    ]
    return table.merge(told[["run", *differing]], on="run")


def _cell(config: CellConfig) -> Cell:
    return Cell(config.layer, config.site, config.position)


def _measured(unit: Unit, store: ActivationStore, out: Path) -> list[dict[str, Any]]:
    """The rows of a cell, from its file where it is finished."""
    request = unit.request(store)
    name = f"{MEASURED}/{content_hash(request)}.json"
    if (receipt := read_receipt(folder_at(out), name, MeasuredCell)) is not None:
        return receipt.rows
    rows = list(_rows(unit, store))
    write_text(out / name, MeasuredCell(request=request, rows=rows).to_json())
    return rows


def _rows(unit: Unit, store: ActivationStore) -> Iterator[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, start = Rows(store.shards(unit.target.layer, unit.target.position, unit.target.site)), 0
    for batch in x.split(ROWS_AT_ONCE):
        check_finite(batch, "activations", start)
        start += len(batch)
    split = Split.draw(x, None, unit.val_fraction, unit.seed)
    (train, _), (heldout, _) = split.parts()
    rivals = CellRivals(train, heldout, unit.seed, device)
    for at in unit.at:
        yield {
            "model": str(store.manifest.request.model["name"]),
            **unit.cell._asdict(),
            "n_train": len(train),
            "n_val": len(heldout),
            "d_in": x.shape[1],
            "fvu": at.fvu,
            **rivals.at(at.fvu)._asdict(),
            "seed": unit.seed,
            "run": at.run,
        }
