"""Rates at one CE recovered, on curves that are known."""

import math
from typing import Any

import pandas as pd
import pytest

from bae_ray.analysis.matched_fidelity import ARCHITECTURE, matched_fidelity


def runs(architecture: str, seed: int, recovered: list[float], **rates: list[float]) -> pd.DataFrame:
    same: dict[str, Any] = {"layer": 1, "site": "residual", "position": "all", ARCHITECTURE: architecture, "seed": seed}
    return pd.DataFrame({**same, "ce_recovered_mean": recovered, **rates})


def of_rate(lost: float, size: float) -> float:
    """A rate that is linear in the logarithm of what is lost."""
    return -size * math.log2(lost)


def test_rates_are_those_of_the_curves_at_one_level():
    lost = [0.5, 0.2, 0.1, 0.05]
    tables = [
        runs("bae", seed, [1 - x for x in lost], heldout_bits=[of_rate(x, 10 + seed) for x in lost], l0=[9.0] * 4)
        for seed in (0, 2)
    ]
    tables.append(runs("topk", 0, [0.4, 0.9], l0=[of_rate(0.6, 3), of_rate(0.1, 3)]))
    tables.append(runs("relu", 0, [0.7], l0=[5.0]))  # one run makes no curve
    found = matched_fidelity(pd.concat(tables, ignore_index=True)).set_index(ARCHITECTURE)
    assert set(found.index) == {"bae", "topk"}
    level = 1 - found["ce_recovered_mean"].iloc[0]
    assert 0.0999 < level < 0.5001, "all curves have it"
    assert found.loc["bae", "heldout_bits"] == pytest.approx(of_rate(level, 11))
    assert found.loc["topk", "l0"] == pytest.approx(of_rate(level, 3))
    assert found["heldout_bits"].isna().tolist() == [False, True]
    assert found[["seeds", "of"]].to_numpy().tolist() == [[2, 2], [1, 1]]


def test_a_curve_without_that_level_has_no_rate():
    tables = [runs("bae", seed, [0.5, 0.8], heldout_bits=[10.0, 20.0]) for seed in range(3)]
    tables.append(runs("bae", 3, [0.1, 0.2], heldout_bits=[1.0, 2.0]))
    found = matched_fidelity(pd.concat(tables, ignore_index=True))
    assert found[["seeds", "of"]].to_numpy().tolist() == [[3, 4]]
    assert 10 <= found["heldout_bits"].iloc[0] <= 20


@pytest.mark.parametrize("recovered", [[0.5], [0.5, 0.5], [math.nan, 0.5]])
def test_no_curve_no_table(recovered: list[float]):
    assert matched_fidelity(runs("bae", 0, recovered, heldout_bits=[1.0] * len(recovered))).empty


def test_autoencoders_that_were_not_trained_here_make_no_curve():
    assert matched_fidelity(runs("bae", 0, [0.5, 0.7], l0=[1.0, 2.0]).drop(columns="seed")).empty
