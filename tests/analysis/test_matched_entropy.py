import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bae_ray.analysis.matched_entropy import bits_at, common_fvu, matched_entropy
from bae_ray.errors import InvalidInputError


def gaussian_bits(fvu: np.ndarray, d: int) -> np.ndarray:
    """Rate of a Gaussian source of d equal dimensions."""
    return d / 2 * np.log2(1 / fvu)


def table(curves: dict[tuple[int, int], np.ndarray], d: int = 10) -> pd.DataFrame:
    """Rows of `results` for cells of layers and seeds, whose curves are those of Gaussian sources of d + layer."""
    return pd.DataFrame(
        [
            {
                "layer": layer, "site": "residual", "position": 4, "seed": seed, "training.entropy_weight": 10.0**i,
                "fvu_val": fvu, "fvu_train": fvu / 2, "entropy_bits": float(gaussian_bits(np.array(fvu), d + layer)),
                "n_train": 80, "n_val": 20, "d_latent": 100,
            }
            for (layer, seed), values in curves.items() for i, fvu in enumerate(values)
        ]
    )  # fmt: skip


@given(
    fvu=st.floats(0.02, 0.9),
    points=st.lists(st.floats(0.01, 0.95), min_size=2, max_size=8, unique=True).map(sorted),
    d=st.integers(1, 500),
)
def test_a_gaussian_curve_is_read_exactly(fvu: float, points: list[float], d: int):
    curve = np.array(points)
    found = bits_at(fvu, curve, gaussian_bits(curve, d))
    if curve[0] <= fvu <= curve[-1]:
        assert found.bits == pytest.approx(float(gaussian_bits(np.array(fvu), d)), rel=1e-6, abs=1e-6)
    else:
        assert math.isnan(found.bits)
        assert found.reason.startswith("FVU stays ")


def test_fewest_bits_where_a_curve_passes_several_times():
    assert bits_at(0.3, np.array([0.2, 0.4, 0.2, 0.4]), np.array([80.0, 60.0, 50.0, 20.0])).bits < 50


def test_a_curve_may_begin_at_an_exact_reconstruction():
    found = bits_at(0.1, np.array([0.0, 0.4]), np.array([80.0, 20.0])).bits
    assert 20 < found < 30, "near the other end, as far as a logarithm can tell"


def test_a_row_per_cell_with_its_interval_over_seeds():
    fvus = np.array([0.1, 0.3, 0.6])
    curves = {(layer, seed): fvus * (1 + 0.1 * seed) for layer in (0, 5) for seed in (0, 1, 2)}
    curves[9, 0] = np.array([0.6, 0.7, 0.8])
    data = table(curves)
    data.loc[data["seed"] == 1, "entropy_bits"] += 1
    data.loc[data["seed"] == 2, "entropy_bits"] += 2
    found = matched_entropy(data, 0.25)
    exact = [float(gaussian_bits(np.array(0.25), 10 + layer)) for layer in (0, 5)]
    assert found["bits"].tolist()[:2] == pytest.approx([bits + 1 for bits in exact])
    half = 4.302652729911275 / math.sqrt(3)  # Student's t of two degrees of freedom, 97.5 %
    assert (found["bits"] - found["low"]).tolist()[:2] == pytest.approx([half, half])
    assert found["seeds"].tolist() == [3, 3, 0]
    assert math.isnan(found["bits"][2])
    assert found["reason"].tolist()[:2] == ["", ""]
    assert found["reason"][2].startswith("FVU stays above 0.6")
    assert found["fixed_fvu_val"][0] == pytest.approx(0.11)
    assert found["fixed_fvu_train"][0] == pytest.approx(0.055)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_intervals_hold_their_estimate_and_are_entropies(entropies: list[float]):
    """Student's t alone leaves [0, d_latent] where seeds are few, and entropies near an end."""
    data = table({(0, seed): np.array([0.2, 0.4]) for seed in range(len(entropies))})
    data["entropy_bits"] = np.repeat(entropies, 2)
    found = matched_entropy(data, 0.3).iloc[0]
    assert found["bits"] == pytest.approx(np.mean(entropies))
    if len(entropies) == 1:
        assert math.isnan(found["low"])
        assert math.isnan(found["high"])
        return
    low, high = stats.ttest_1samp(entropies, 0).confidence_interval() if len(set(entropies)) > 1 else entropies[:2]
    assert 0 <= found["low"] <= found["bits"] <= found["high"] <= max(100, found["bits"])
    assert found["low"] == pytest.approx(max(low, 0), abs=1e-6)
    assert found["high"] == pytest.approx(min(high, 100), abs=1e-6)


def test_bits_of_held_out_samples_are_read_at_their_own_fvu():
    data = table({(layer, seed): np.array([0.1, 0.3, 0.6]) for layer in (0, 5) for seed in (0, 1)})
    data["entropy_bits_val"] = data["entropy_bits"] / 2
    data["heldout_bits"] = data["entropy_bits"] + 200 + data["seed"]
    found = matched_entropy(data, 0.25)
    exact = np.array([float(gaussian_bits(np.array(0.25), 10 + layer)) for layer in (0, 5)])
    assert found["bits"].tolist() == pytest.approx(exact)
    assert found["val_bits"].tolist() == pytest.approx(exact / 2)
    assert found["heldout_bits"].tolist() == pytest.approx(exact + 200.5)
    half = 12.706204736432095 / 2  # Student's t of one degree of freedom, 97.5 %, of a standard error of 1/2
    assert found["heldout_high"].tolist() == pytest.approx(exact + 200.5 + half), "a code length has no greatest value"
    unmeasured = matched_entropy(data.drop(columns=["entropy_bits_val", "heldout_bits"]), 0.25)
    assert unmeasured[["val_bits", "heldout_bits"]].isna().all(axis=None)


def test_the_interval_of_two_seeds_far_apart_ends_with_the_scale():
    data = table({(0, seed): np.array([0.2, 0.4]) for seed in (0, 1)})
    data["entropy_bits"] = [68.5, 68.5, 98.5, 98.5]  # by Student's t from -107 to 274
    assert matched_entropy(data, 0.3)[["bits", "low", "high"]].to_numpy().tolist() == [[83.5, 0, 100]]


def test_the_fixed_weight_is_the_smallest_that_is_one_or_the_one_asked_for():
    data = table({(0, 0): np.array([0.1, 0.3, 0.6])})
    data["training.entropy_weight"] = [0.0, 1e-3, 1e-2]
    for wanted, weight, fvu in ((None, 1e-3, 0.3), (1e-2, 1e-2, 0.6), (0.0, 0.0, 0.1)):
        found = matched_entropy(data, 0.25, wanted).iloc[0]
        assert (found["fixed_weight"], found["fixed_fvu_val"]) == (weight, fvu)
    with pytest.raises(InvalidInputError, match=r"no run has entropy weight 0\.5: give one of 0, 0\.001, 0\.01"):
        matched_entropy(data, 0.25, 0.5)


def test_the_fvu_that_most_curves_have():
    wide, high = np.array([0.2, 0.5]), np.array([0.4, 0.9])
    assert common_fvu([table({(0, 0): wide, (1, 0): wide}), table({(2, 0): high})]) == pytest.approx(0.4)
    assert common_fvu([table({(0, 0): wide, (1, 0): wide, (2, 0): np.array([0.8, 0.9])})]) == pytest.approx(0.2)
