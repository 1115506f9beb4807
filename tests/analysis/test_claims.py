import math

import pandas as pd
import pytest

from bae_ray.analysis.claims import claim, last_share, trend


def table(bits: dict[tuple[int, int], float]) -> pd.DataFrame:
    """Two seeds for each (layer, position), one above and one below."""
    constant = {"n_train": 8, "n_val": 2}
    return pd.DataFrame(
        [
            {"layer": layer, "position": position, "entropy_bits": value + offset, "seed": seed, **constant}
            for (layer, position), value in bits.items() for seed, offset in ((0, 1.0), (1, -1.0))
        ]
    )  # fmt: skip


def test_trends_are_rank_correlations_within_groups():
    rising = table({(layer, position): 10 * layer + 100 * position for layer in range(4) for position in (1, 2, 4)})
    found = trend(rising, "layer", ["position"])
    assert (found.correlation, found.groups) == (pytest.approx(1), 3)
    assert found.verdict("rises") == "agrees"
    assert found.verdict("falls") == "contradicts"
    bent = table({(0, 1): 1, (1, 1): 3, (2, 1): 2, (0, 2): 3, (1, 2): 1, (2, 2): 2})
    mixed = trend(bent, "layer", ["position"])
    assert (mixed.lowest, mixed.highest) == (pytest.approx(-0.5), pytest.approx(0.5))
    assert mixed.verdict("rises") == "unclear"
    assert trend(table({(0, 1): 1, (1, 1): 2}), "layer", ["position"]).verdict("rises") == "cannot be told"


def test_saturation_is_the_share_of_the_last_step():
    even = table({(0, position): position for position in (0, 1, 2, 3, 4)})
    assert last_share(even, "position", ["layer"]) == pytest.approx(1 / 4)
    flat = table({(0, 1): 0, (0, 2): 80, (0, 4): 99, (0, 8): 100})
    assert last_share(flat, "position", ["layer"]) == pytest.approx(0.01)
    assert math.isnan(last_share(table({(0, 1): 3, (0, 2): 2, (0, 4): 1}), "position", ["layer"]))


def test_a_claim_says_on_how_much_it_rests():
    rising = table({(layer, 1): 10 * layer for layer in range(4)})
    line = claim("bits rise with depth", trend(rising, "layer", ["position"]), "rises", "layer", rising)
    assert line == (
        "Paper: bits rise with depth. Here: agrees; rank correlation of bits with layer +1.00 (mean of 1 groups, +1.00 "
        "to +1.00; n = 10, seeds 0, 1)."
    )
