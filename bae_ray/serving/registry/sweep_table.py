"""The runs of a registry as one table; the table that a sweep has written makes it quick to read."""

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pandas as pd

from bae_ray.errors import BaeRayError
from bae_ray.training.results import outcomes
from bae_ray.training.run_folder import FAILURE_FILE, RESULT_FILE
from bae_ray.training.sweep_folder import RESULTS_FILE
from bae_ray.working_copies import reading

COLUMNS = {"run", "status", "layer", "site", "position"}
"""What a table of runs has in any case."""

log = logging.getLogger("ray.serve")


def read_sweep(registry: Path) -> pd.DataFrame:
    """A row per run of the registry, finished or not: see `training.results.outcomes`. Empty where there is none.

    Rows are taken from the sweep's table, but those of runs whose folder is gone, or has changed since.
    """
    folder = reading(registry)
    table, written = _written(folder / RESULTS_FILE)
    there = dict(_ended(folder))
    known = {*table["run"].dropna()} if len(table) else set()
    changed = [run for run, at in there.items() if run not in known or at > written]
    kept = table[table["run"].isna() | table["run"].isin(there.keys() - {*changed})] if len(table) else table
    if not changed:
        return kept
    read = _read(folder, changed)
    if len(kept) and len(read):
        read = read[read["run"].isin(changed)]  # settings that cannot be trained are in the table already
    return pd.concat([part for part in (kept, read) if len(part)] or [kept], ignore_index=True)


def _written(file: Path) -> tuple[pd.DataFrame, float]:
    """The sweep's table, and when it was written; an empty one where there is none."""
    try:
        written, table = file.stat().st_mtime, pd.read_parquet(file)
    except FileNotFoundError:
        return pd.DataFrame(), 0.0
    except (OSError, ValueError) as error:  # pyarrow's are of these
        log.error(f"{file.name} of the registry cannot be read: {error}. Its runs are read one by one.")
        return pd.DataFrame(), 0.0
    return (table, written) if {*table.columns} >= COLUMNS else (pd.DataFrame(), 0.0)


def _ended(folder: Path) -> Iterator[tuple[str, float]]:
    """The folders of runs that have ended, and when."""
    for name in os.listdir(folder):
        for file in (RESULT_FILE, FAILURE_FILE):
            try:
                yield name, (folder / name / file).stat().st_mtime
            except (FileNotFoundError, NotADirectoryError):
                continue
            break


def _read(folder: Path, runs: list[str]) -> pd.DataFrame:
    """Rows of runs from their own files; those of which a file is damaged are left out, and logged."""
    try:
        return outcomes(folder, only=runs)
    except (BaeRayError, OSError, ValueError, KeyError) as error:
        if len(runs) == 1:
            _log(runs[0], f"{type(error).__name__}: {error}")
            return pd.DataFrame()
    parts = [part for run in runs if len(part := _read(folder, [run]))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@lru_cache(maxsize=1024)
def _log(run: str, reason: str) -> None:
    """Log a reason once: the table is read again every few seconds."""
    log.error(f"run {run} is not in the table: {reason}")
