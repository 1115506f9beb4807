"""Conversions between callers' arrays (numpy, torch or pandas) and the service's.

Shapes: N rows, K the largest kept.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from bae_ray.errors import InvalidInputError
from bae_ray.values import check_finite, check_type

Returns = Literal["same", "numpy", "torch", "pandas"]
"""The kind of arrays that calls return. same: the kind that was given; for lists, numpy."""


class Feature(NamedTuple):
    """A feature, as the service describes it."""

    number: int
    firing_rate: float | None
    """Share of the reference set on which it fires; None if several bits make one feature."""
    direction: np.ndarray
    """[d]: what the feature adds to the reconstruction when it is 1."""
    similar: pd.Series
    """The features with the largest cosine between their directions and its own: index -> cosine."""
    card: dict[str, Any] | None
    """What ComSem found about it, in Neuronpedia's form; None if ComSem has not named it."""


class Rows(NamedTuple):
    """Rows that a caller gave, as numpy, and what kind they were."""

    values: np.ndarray
    kind: Literal["numpy", "torch", "pandas"]
    index: Any
    """Of a data frame."""


def rows_of(x: Any, name: str) -> Rows:
    """A matrix as float32 or uint8. Raises `InvalidInputError` for anything else."""
    kind: Literal["numpy", "torch", "pandas"] = "numpy"
    index = None
    if isinstance(x, pd.DataFrame):
        kind, index, x = "pandas", x.index, x.to_numpy()
    elif hasattr(x, "detach"):  # torch need not be there
        check_type(x, name, booleans=name == "code")
        kind, x = "torch", x.detach().float().cpu().numpy()
    try:
        values = np.asarray(x)
        values = np.asarray(values, dtype=float) if values.dtype == object else values
        check_type(values, name, booleans=name == "code")
        with np.errstate(over="ignore"):  # which is told below
            values = values if values.dtype == np.uint8 else values.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} is no matrix of numbers: {error}.") from error
    if values.ndim != 2 or not len(values):
        raise InvalidInputError(f"{name} has shape {values.shape}; expected [n, d] with at least one row.")
    check_finite(values, name)
    return Rows(np.ascontiguousarray(values), kind, index)


def given_back(values: np.ndarray, rows: Rows, returns: Returns) -> Any:
    """An array with a row for each of `rows`, as the caller wants it."""
    kind = rows.kind if returns == "same" else returns
    if kind == "pandas":
        return pd.DataFrame(values, index=rows.index)
    return _tensor(values) if kind == "torch" else values


def listed_back(values: list[np.ndarray], rows: Rows, returns: Returns) -> Any:
    """An array of its own length for each of `rows`, as the caller wants them: a list, or in pandas a series."""
    kind = rows.kind if returns == "same" else returns
    if kind == "pandas":
        return pd.Series(values, index=rows.index)
    return [_tensor(array) for array in values] if kind == "torch" else values


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values if values.flags.writeable else values.copy())


def token_table(answers: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per token: text, token_id, token, start, end, features [K], magnitudes [K]."""
    return pd.DataFrame(
        [
            {
                "text": number,
                "token_id": token["id"],
                "token": token["text"],
                "start": token["start"],
                "end": token["end"],
                "features": np.array([feature["index"] for feature in token["features"]]),
                "magnitudes": np.array([feature["magnitude"] for feature in token["features"]], np.float32),
            }
            for number, answer in enumerate(answers)
            for token in answer["tokens"]
        ],
        columns=["text", "token_id", "token", "start", "end", "features", "magnitudes"],
    )
