"""Whether the paper's picture survives the choice of the estimator: a table and its sum, of any sweep or store."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from bae_ray.analysis.estimator_claims import claims_by_estimator
from bae_ray.report.entropy_tables import variants
from bae_ray.report.measures import ESTIMATORS, known_measures
from bae_ray.report.terminal import table_of

HEADING = "Does the paper's picture survive the choice of the estimator?"
NOTE = (
    "Beside the autoencoder's bits stand measures of activations that need none: the rate of a Gaussian source "
    "of the same covariance at the cell's held-out FVU (Cover and Thomas, 10.3.3), signs of principal components and a "
    "product quantiser (Jegou et al., 2011) at that FVU or the nearest they reach, and four that have no distortion: "
    "effective rank (Roy and Vetterli, 2007), participation ratio, matrix-based entropy (Skean et al., 2025) and "
    "intrinsic dimension (TwoNN; Facco et al., 2017). Bits at each cell's own FVU rise where its FVU falls."
)
CLAIMS = {"depth": "rises with depth", "position": "rises with position", "saturation": "and saturates"}


class Survival(NamedTuple):
    """What became of the claims."""

    table: pd.DataFrame
    """A row per variant and estimator."""
    lines: list[str]
    """How many estimators agree, a line for each variant and claim."""
    printed: Table
    """The table for the terminal."""


def survival(table: pd.DataFrame) -> Survival | None:
    """The claims for each estimator that a table of runs or cells has; None without cells enough to tell any."""
    names = known_measures(table, ESTIMATORS)
    parts, lines = [], []
    for variant in variants(table):
        found = claims_by_estimator(variant.runs.astype(dict.fromkeys(names, float)), names)
        parts.append(found.assign(variant=variant.label))
        prefix = f"{variant.label}: " if variant.label else ""
        lines += [f"{prefix}Paper: {said}. {_sum(found[claim].tolist())}" for claim, said in CLAIMS.items()]
    every = pd.concat(parts, ignore_index=True)
    if every[["depth_correlation", "position_correlation"]].isna().all(axis=None):
        return None
    return Survival(every, lines, _printed(every))


def _sum(verdicts: Sequence[str]) -> str:
    counted = Counter(verdicts)
    parts = (f"{verdict} {counted[verdict]}" for verdict in ("agrees", "contradicts", "unclear", "cannot be told"))
    return f"By {len(verdicts)} estimators: {', '.join(parts)}."


def _printed(table: pd.DataFrame) -> Table:
    columns = {
        "estimator": "{estimator}",
        "rises with depth": "{depth} ({depth_correlation:+.2f})",
        "with position": "{position} ({position_correlation:+.2f})",
        "saturates": "{saturation} ({last_step:.0%} of {even_step:.0%})",
    }
    if table["variant"].any():
        columns["runs with"] = "{variant}"
    return table_of(f"{HEADING} (rank correlations; last step)", table, columns, left=list(columns))
