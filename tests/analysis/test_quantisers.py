import pytest
import torch

from bae_ray.analysis.quantisers import quantiser

MAX_1960 = {1: (0.3634, [0.0]), 3: (0.1175, [-0.9816, 0.0, 0.9816]), 7: (0.0345, [-1.748, -1.05, -0.5006, 0.0])}
"""Error and thresholds of the best quantisers of a Gaussian of variance 1 (J. Max, 1960)."""


@pytest.mark.parametrize("number", MAX_1960)
def test_of_a_gaussian(number: int):
    components = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    found = quantiser(components, number)
    error, thresholds = MAX_1960[number]
    assert found.error.tolist() == pytest.approx([error] * 2, rel=0.05)
    for column in found.thresholds.T.tolist():
        assert column[: len(thresholds)] == pytest.approx(thresholds, abs=0.06)
    bits = torch.special.entr(rates := torch.special.ndtr(-found.thresholds)) + torch.special.entr(1 - rates)
    assert found.bits.tolist() == pytest.approx((bits.sum(0) / torch.tensor(2.0).log()).tolist(), rel=0.01)


@pytest.mark.parametrize("number", MAX_1960)
def test_two_values_take_two_levels(number: int):
    components = torch.tensor([[-1.0], [3.0], [3.0], [-1.0], [3.0]])
    found = quantiser(components, number)
    assert found.error.tolist() == [0.0]
    assert set(found.levels.flatten().tolist()) == {-1.0, 3.0}


def test_one_value_has_no_error():
    found = quantiser(torch.full((4, 1), 2.0), 3)
    assert found.error.tolist() == [0.0]
    assert bool(found.levels.isfinite().all() & found.thresholds.isfinite().all())
