"""Run directories -> tables. Every table is built from the directories alone, never from memory or run names."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from bae_ray.activations.config import Position
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path
from bae_ray.training.run import RESULT_FILE, RUN_FILE, RunResult

ENTROPY_COLUMNS = [
    "model",
    "layer",
    "site",
    "position",
    "n_train",
    "n_val",
    "d_in",
    "d_latent",
    "entropy_bits",
    "fvu_train",
    "fvu_val",
    "l0",
    "dead",
    "dense",
    "seed",
    "run",
]


def results(runs: str | Path, only: Iterable[str] | None = None) -> pd.DataFrame:
    """A row per finished run below `runs`, with its measures and its config's fields (`training.lr`, ...).

    `only` restricts it to runs of these ids. Raises `InvalidInputError` where there is no finished run.
    """
    runs = Path(runs)
    wanted = None if only is None else set(only)
    rows: list[dict[str, Any]] = []
    for file in sorted(runs.glob(f"*/{RESULT_FILE}")):
        if wanted is not None and file.parent.name not in wanted:
            continue
        try:
            result = RunResult.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise InvalidInputError(
                f"{file} is not the result of a run ({error.error_count()} fields do not fit). Delete its folder and "
                "run the sweep again."
            ) from error
        config = json.loads(file.with_name(RUN_FILE).read_text(encoding="utf-8"))
        settings = {
            f"{part}.{key}": value for part in ("autoencoder", "training") for key, value in config[part].items()
        }
        rows.append({**result.model_dump(), **settings})
    if not rows:
        raise InvalidInputError(f"{runs} holds no finished run. Make some with 'bae-ray sweep' or 'bae-ray train'.")
    rows.sort(key=lambda row: (row["layer"], row["site"], position_order(row["position"]), row["seed"], row["run"]))
    return pd.DataFrame(rows)


def position_order(position: Position) -> tuple[bool, int, str]:
    """Sorts positions: indices by number, then names."""
    return (False, position, "") if isinstance(position, int) else (True, 0, position)


def entropy_table(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `results` that entropy.csv has: each entropy with its FVU on training and held-out data."""
    return table.loc[:, ENTROPY_COLUMNS]


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, atomically; numbers in full precision, so that equal results give equal files."""
    with atomic_path(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def write_parquet(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as Parquet, atomically; positions as text where some of them are names."""
    if "position" in table and table["position"].dtype == object:
        table = table.astype({"position": str})
    with atomic_path(Path(path)) as temporary:
        table.to_parquet(temporary, index=False)
