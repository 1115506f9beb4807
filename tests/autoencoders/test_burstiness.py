import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.autoencoders.bae import burstiness

BITS_AND_RATES = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=1, max_size=20)


@pytest.fixture
def code(golden: dict) -> torch.Tensor:
    return torch.tensor(golden["bae"]["code"]).float()


@pytest.fixture
def prior(golden: dict) -> torch.Tensor:
    return torch.tensor(golden["compression"]["prior"])


def test_numbers_of_the_released_code(golden: dict, code: torch.Tensor, prior: torch.Tensor):
    torch.testing.assert_close(burstiness(code, prior), torch.tensor(golden["burstiness_eps1e-6"]), rtol=0, atol=1e-5)


@given(BITS_AND_RATES)
def test_it_is_the_formula_of_section_5_2(pairs: list[tuple[float, float]]):
    bits, rates = torch.tensor(pairs, dtype=torch.float64).T
    expected = [math.log2(abs(bit - rate) + 1e-6) for bit, rate in pairs]
    assert burstiness(bits[None], rates)[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_the_less_expected_bit_is_the_more_bursty():
    rare, common = burstiness(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([0.01, 0.6])).T.tolist()
    assert rare[0] > rare[1]
    assert common[0] < common[1]
    assert rare[0] > common[0]


def test_a_certain_bit_is_finite():
    values = burstiness(torch.tensor([[0.0, 1.0]]), torch.tensor([0.0, 1.0]))
    assert values[0].tolist() == pytest.approx([math.log2(1e-6)] * 2, rel=1e-6)


def test_eps_can_be_chosen():
    assert burstiness(torch.tensor([[0.0]]), torch.tensor([0.25]), eps=0.0).item() == -2


def test_stored_bits_of_the_released_code(golden: dict, code: torch.Tensor, prior: torch.Tensor):
    """Compression stores what is burstier than log 0.5, without eps: a prior of 0.5 itself makes no bit one."""
    assert 0.5 in prior.tolist()
    stored = [row.nonzero().flatten().tolist() for row in burstiness(code, prior, eps=0.0) > math.log2(0.5)]
    assert stored == golden["compression"]["flipped_indices"]


def test_selected_samples_of_the_released_code(golden: dict, code: torch.Tensor, prior: torch.Tensor):
    """Algorithm 1's top k per sample; of equal magnitudes, which codes have many of, those of the first features."""
    expected, k = golden["comsem_topk"]["samples_per_feature"], golden["comsem_topk"]["k"]
    selected = torch.sort(burstiness(code, prior), dim=1, descending=True, stable=True).indices[:, :k].tolist()
    samples: dict[str, list[int]] = {}
    for number, features in enumerate(selected):
        for feature in features:
            samples.setdefault(str(feature), []).append(number)
    assert samples == expected


def test_any_top_k_agrees_but_for_ties(golden: dict, code: torch.Tensor, prior: torch.Tensor):
    expected, k = golden["comsem_topk"]["samples_per_feature"], golden["comsem_topk"]["k"]
    for number, (values, row) in enumerate(zip(*_top(code, prior, k), strict=True)):
        theirs = [int(feature) for feature, samples in expected.items() if number in samples]
        assert len(theirs) == k
        assert sorted(row[theirs].tolist()) == pytest.approx(sorted(values.tolist()), abs=1e-5)


def _top(code: torch.Tensor, prior: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    magnitudes = burstiness(code, prior)
    return magnitudes.topk(k).values, magnitudes
