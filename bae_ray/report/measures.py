"""The measures of a cell that tables of runs may have, and how they are written."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd


class Measure(NamedTuple):
    """A column of numbers that a map can show."""

    label: str
    decimals: int


ESTIMATORS = {
    "entropy_bits": Measure("Entropy / bits", 0),
    "entropy_bits_val": Measure("Entropy of held-out texts / bits", 0),
    "tree_bits": Measure("Tree bits", 1),
    "heldout_bits": Measure("Bits of a held-out text under the tree", 1),
    "heldout_marginal_bits": Measure("Bits of a held-out text without the tree", 1),
    "joint_bits": Measure("Joint entropy / bits", 1),
    "gaussian_bits": Measure("Gaussian rate at the FVU / bits", 0),
    "sign_bits": Measure("Signs of principal components / bits", 0),
    "product_bits": Measure("Product quantiser / bits", 0),
    "effective_rank": Measure("Effective rank", 0),
    "participation_ratio": Measure("Participation ratio", 1),
    "matrix_entropy_bits": Measure("Matrix-based entropy / bits", 2),
    "intrinsic_dimension": Measure("Intrinsic dimension (TwoNN)", 1),
}
"""What estimates how much activations hold, in bits or in dimensions, by its column."""
MEASURES = {
    **ESTIMATORS,
    "fvu_val": Measure("FVU on held-out texts", 2),
    "fvu_train": Measure("FVU on training texts", 2),
    "fvu": Measure("FVU measured at", 2),
    "sign_fvu": Measure("FVU of the signs", 2),
    "product_fvu": Measure("FVU of the product quantiser", 2),
    "l0": Measure("L0", 0),
    "dead": Measure("Dead latents", 3),
    "dense": Measure("Dense latents", 3),
    "ce_recovered": Measure("CE recovered, against zero", 2),
    "ce_recovered_mean": Measure("CE recovered, against the mean", 2),
    "kl": Measure("KL to the clean model / nats", 3),
    "top1_agreement": Measure("Agreement of the next token", 2),
}
"""All that a map can show."""


def known_measures(table: pd.DataFrame, names: Iterable[str] = MEASURES) -> list[str]:
    """Those of the measures of which a table has a number."""
    return [name for name in names if name in table and table[name].notna().any()]
