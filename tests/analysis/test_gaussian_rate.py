"""Reverse water-filling against what can be said by hand, and against a root finder."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import root_scalar

from bae_ray.analysis.gaussian_rate import gaussian_rate_bits
from bae_ray.errors import InvalidInputError


@pytest.mark.parametrize("fvu", [1e-6, 0.01, 0.25, 0.5, 0.999])
def test_an_isotropic_source_takes_half_a_bit_per_dimension_for_each_halving(fvu: float):
    assert gaussian_rate_bits(torch.full((48,), 3.0), fvu) == pytest.approx(24 * math.log2(1 / fvu), abs=1e-9)


def test_two_variances_by_hand():
    variances = torch.tensor([1.0, 4.0])
    assert gaussian_rate_bits(variances, 0.2) == pytest.approx(1.5 + 0.5, abs=1e-12)  # level 1/2 in both
    assert gaussian_rate_bits(variances, 0.4) == pytest.approx(1.0, abs=1e-12)  # the smaller is just covered
    assert gaussian_rate_bits(variances, 0.6) == pytest.approx(0.5, abs=1e-12)  # level 2 in the larger alone


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=30).map(lambda logs: [2.0**log for log in logs]),
    st.floats(1e-4, 0.9999),
    st.integers(0, 3),
)
def test_it_is_the_rate_at_the_water_level_that_a_root_finder_finds(variances: list[float], fvu: float, zeros: int):
    wanted = fvu * math.fsum(variances)
    level: float = root_scalar(
        lambda level: math.fsum(min(level, variance) for variance in variances) - wanted,
        method="brentq", bracket=(0.0, max(variances)), xtol=1e-300, maxiter=2000,
    ).root  # fmt: skip
    bits = math.fsum(math.log2(variance / level) / 2 for variance in variances if variance > level)
    found = gaussian_rate_bits(torch.tensor(variances + [0.0] * zeros, dtype=torch.float64), fvu)
    assert found == pytest.approx(bits, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_error_never_takes_fewer_bits(variances: list[float], one: float, other: float):
    smaller, larger = sorted((one, other))
    given_ = torch.tensor(variances, dtype=torch.float64)
    assert gaussian_rate_bits(given_, smaller) >= gaussian_rate_bits(given_, larger) - 1e-9


def test_the_ends():
    assert gaussian_rate_bits(torch.tensor([1.0, 2.0]), 0) == math.inf
    assert gaussian_rate_bits(torch.tensor([1.0, 2.0]), 1) == 0
    assert gaussian_rate_bits(torch.tensor([1.0, 2.0]), 1.3) == 0
    assert gaussian_rate_bits(torch.zeros(3), 0.1) == 0, "nothing varies"
    for wrong in (-0.1, math.nan):
        with pytest.raises(InvalidInputError, match=rf"fvu is {wrong}; expected a fraction of variance"):
            gaussian_rate_bits(torch.tensor([1.0]), wrong)
