"""Tables of results, read only from the folders of the runs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from bae_ray.activations.config import Position
from bae_ray.analysis.rivals import Rivals
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path, read_text
from bae_ray.locations import shown
from bae_ray.training.config import TrainingConfig
from bae_ray.training.run_fidelity import FIDELITY_FILE, FidelityRecord, RunFidelity
from bae_ray.training.run_folder import FAILURE_FILE, RESULT_FILE, RUN_FILE, STOPPED, Failure, RunResult
from bae_ray.working_copies import reading

ILLEGAL_PREFIX = "illegal-"
"""Prefix of the folders of runs with invalid settings."""

ENTROPY_COLUMNS = [
    "model", "layer", "site", "position", "n_train", "n_val", "d_in", "d_latent", "entropy_bits", "entropy_low",
    "entropy_high", "entropy_bias", "fvu_train", "fvu_val", "l0", "dead", "dense", "seed", "run",
    *(f"{name}_{end}" for name in ("tree", "heldout", "heldout_marginal", "joint") for end in ("bits", "low", "high")),
    "distinct", "varying", *(f"entropy_{name}_val" for name in ("bits", "low", "high", "bias")),
    "epochs", "converged", "loss_change", "bits_change", "fvu_change", *Rivals._fields,
]  # fmt: skip


def results(runs: str | Path, only: Iterable[str] | None = None) -> pd.DataFrame:
    """A row per finished run below `runs`, with its measures and its config's fields (`training.lr`, ...).

    `only` restricts it to runs of these ids. Raises `InvalidInputError` where there is no finished run.
    """
    runs = reading(runs)
    rows = [_finished_row(file) for file in _files(runs, RESULT_FILE, only)]
    if not rows:
        raise InvalidInputError(
            f"{shown(runs)} holds no finished run. Make some with 'bae-ray sweep' or 'bae-ray train'."
        )
    return _table(rows)


def outcomes(runs: str | Path, only: Iterable[str] | None = None) -> pd.DataFrame:
    """The same with a row for each run without a result; `status` and `reason` say why.

    The status is finished, failed, stopped (by a search) or illegal (invalid settings). `only` restricts the table to
    runs of these ids and illegal ones.
    """
    runs = reading(runs)
    only = None if only is None else set(only)
    rows = [{**_finished_row(file), "status": "finished", "reason": ""} for file in _files(runs, RESULT_FILE, only)]
    finished = {row["run"] for row in rows}
    for file in sorted(runs.glob(f"*/{FAILURE_FILE}")):
        name, failure = file.parent.name, Failure.model_validate_json(read_text(file))
        if name.startswith(ILLEGAL_PREFIX):
            rows.append({**failure.cell, **failure.settings, "status": "illegal", "reason": failure.message})
        elif name not in finished and (only is None or name in only):
            config = json.loads(read_text(file.with_name(RUN_FILE)))
            reason = f"{failure.error}: {failure.message}"
            rows.append({**failure.cell, "run": name, **_settings(config), "seed": config["training"]["seed"],
                         "status": "stopped" if failure.error == STOPPED else "failed", "reason": reason})  # fmt: skip
    return _table(rows)


def position_order(position: Position) -> tuple[bool, int, str]:
    """Sorts positions: indices by number, then names."""
    return (False, position, "") if isinstance(position, int) else (True, 0, position)


def entropy_table(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of entropy.csv: each entropy with its FVU on training and held-out data."""
    return table.loc[:, ENTROPY_COLUMNS]


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, atomically; numbers in full precision, so that equal results give equal files."""
    with atomic_path(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def write_parquet(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as Parquet, atomically; columns of several types, such as positions of both kinds, as text."""
    mixed = [
        column
        for column in table.columns
        if table[column].dtype == object
        and len({type(value) for value in table[column].dropna() if not isinstance(value, tuple | list)}) > 1
    ]
    with atomic_path(Path(path)) as temporary:
        table.astype(dict.fromkeys(mixed, str)).to_parquet(temporary, index=False)


def _files(runs: Path, name: str, only: Iterable[str] | None) -> Iterator[Path]:
    if only is None:
        yield from sorted(runs.glob(f"*/{name}"))
    else:
        yield from (file for run in sorted(set(only)) if (file := runs / run / name).exists())


def _finished_row(file: Path) -> dict[str, Any]:
    try:
        result = RunResult.model_validate_json(read_text(file))
    except ValidationError as error:
        raise InvalidInputError(
            f"{file} is not the result of a run ({error.error_count()} fields do not fit). Delete its folder and "
            "run the sweep again."
        ) from error
    settings = _settings(json.loads(read_text(file.with_name(RUN_FILE))))
    fidelity = read_fidelity(file.parent)
    return {**result.model_dump(), **settings, **(fidelity.model_dump() if fidelity else {})}


def read_fidelity(run: Path) -> RunFidelity | None:
    """The fidelity of a run, if it was measured; a damaged file is measured again."""
    file = run / FIDELITY_FILE
    if not file.exists():
        return None
    try:
        return FidelityRecord.model_validate_json(read_text(file)).columns
    except ValidationError:
        return None


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    # What is not in a run.json is as it was before there was such a field.
    later = {name: field.default for name, field in TrainingConfig.model_fields.items() if field.exclude_if}
    config = {**config, "training": later | config["training"]}
    return {f"{part}.{key}": value for part in ("autoencoder", "training") for key, value in config[part].items()}


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    def order(row: dict[str, Any]) -> tuple[object, ...]:
        return (row["layer"], row["site"], position_order(row["position"]), row.get("seed", 0), row.get("run", ""))

    return pd.DataFrame(sorted(rows, key=order))
