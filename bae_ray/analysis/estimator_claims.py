"""Whether the paper's claims on layers and positions hold for every estimator of the information in activations."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from bae_ray.analysis.claims import last_share, saturation, trend

WITHOUT_FVU = {"effective_rank", "participation_ratio", "matrix_entropy_bits", "intrinsic_dimension"}
"""Estimators without a distortion (FVU)."""
AT_FVU = {"gaussian_bits": ("fvu_val", "fvu"), "sign_bits": ("sign_fvu",), "product_bits": ("product_fvu",)}
"""Columns with the FVU of estimators that need no autoencoder; the first existing one is used."""


def claims_by_estimator(table: pd.DataFrame, estimators: Iterable[str]) -> pd.DataFrame:
    """The claims of section 4.2 for each of these columns of a table of cells: a row per estimator.

    `depth` says whether it rises with the layer at one position, `position` whether it rises with the position at one
    layer, positions that are numbers, in the words of `Trend.verdict`, each with its mean rank correlation over so many
    groups and what hinders a comparison. `saturation`: of those that rise with position, whether the last step of it
    makes less than half of an even rise (agrees), or as much as it (contradicts); `last_step` is its share in the whole
    rise, `even_step` the even one.
    Bits are compared at the FVU that they are of, and of what needs no autoencoder it does not count how its training
    went.
    """
    is_number = [isinstance(position, int) for position in table["position"]]
    steps = table.loc[is_number, "position"].nunique() - 1
    even = 1 / steps if steps > 0 else math.nan
    rows: list[dict[str, Any]] = []
    for name in estimators:
        cells = _of(table, name)
        numbered = cells[is_number]
        depth = trend(cells, "layer", ["position", "site"], name)
        along = trend(numbered, "position", ["layer", "site"], name)
        share = last_share(numbered, "position", ["layer", "site"], name)
        rows.append(
            {
                "estimator": name,
                "depth": depth.verdict("rises"),
                "depth_correlation": depth.correlation,
                "depth_groups": depth.groups,
                "depth_hindrance": depth.hindrance,
                "position": along.verdict("rises"),
                "position_correlation": along.correlation,
                "position_groups": along.groups,
                "position_hindrance": along.hindrance,
                "saturation": saturation(along, share, even),
                "last_step": share,
                "even_step": even,
            }
        )
    return pd.DataFrame(rows)


def _of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows with what has to be alike where this estimator is compared."""
    if name in WITHOUT_FVU:
        return table.drop(columns=["fvu_val", "converged"], errors="ignore")
    if (columns := AT_FVU.get(name)) is None:
        return table
    fvu = next((table[column] for column in columns if column in table), None)
    alike = table.drop(columns="converged", errors="ignore")
    return alike if fvu is None else alike.assign(fvu_val=fvu)
