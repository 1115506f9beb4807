"""Comparisons of distributions against scipy and torch."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from bae_ray.fidelity.next_token import MEASURES, compare, log_probabilities


@given(st.integers(1, 40), st.integers(2, 30), st.integers(0, 1000), st.floats(0.01, 30))
def test_measures_are_those_of_scipy(m: int, v: int, seed: int, size: float):
    generator = torch.Generator().manual_seed(seed)
    clean, changed = (torch.randn(m, v, generator=generator) * size for _ in range(2))
    targets = torch.randint(v, (m,), generator=generator)
    found = dict(zip(MEASURES, compare(log_probabilities(clean), changed, targets).numpy(), strict=True))
    p, q = (softmax(logits.double().numpy(), axis=1) for logits in (clean, changed))
    np.testing.assert_allclose(found["kl"], rel_entr(p, q).sum(1), atol=2e-4, rtol=1e-4)
    middle = (p + q) / 2
    np.testing.assert_allclose(found["jsd"], (rel_entr(p, middle) + rel_entr(q, middle)).sum(1) / 2, atol=1e-5)
    np.testing.assert_allclose(found["ce_clean"], -np.log(p[np.arange(m), targets]), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found["ce"], -np.log(q[np.arange(m), targets]), atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(found["top1_agreement"], p.argmax(1) == q.argmax(1))


def test_the_same_distribution_is_no_distance_and_opposite_ones_are_the_largest():
    logits = torch.tensor([[0.0, 1.0, -math.inf]])
    same = compare(log_probabilities(logits), logits, torch.tensor([0]))
    assert same[2:, 0].tolist() == [0.0, 0.0, 1.0]
    apart = compare(
        log_probabilities(torch.tensor([[0.0, -math.inf]])), torch.tensor([[-math.inf, 0.0]]), torch.tensor([0])
    )
    assert abs(float(apart[MEASURES.index("jsd"), 0]) - math.log(2)) < 1e-6
    assert apart[MEASURES.index("top1_agreement"), 0] == 0


def test_tokens_without_a_next_one_have_no_cross_entropy():
    found = compare(log_probabilities(torch.zeros(2, 4)), torch.zeros(2, 4), torch.tensor([-1, 2]))
    assert found[0].isnan().tolist() == [True, False]
    assert found[1].isnan().tolist() == [True, False]
    assert found[2].tolist() == [0, 0]
