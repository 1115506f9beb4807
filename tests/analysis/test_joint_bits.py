"""Bits under a tree, of held-out samples, and of whole codes, with their intervals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.analysis.distinct_codes import DistinctCodes
from bae_ray.analysis.joint_bits import JointBits, joint_bits
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from tests.autoencoders.known_codes import bernoulli, drawn, entropy_of, joint_entropy, random_tree


def measured(code: Tensor, n_heldout: int, seed: int = 0, texts: Tensor | None = None) -> JointBits:
    train, heldout = code[n_heldout:], code[:n_heldout]
    of = None if texts is None else (texts[n_heldout:], texts[:n_heldout])
    found = joint_bits(train.split(37), heldout.split(11), seed, of)
    assert found is not None
    return found


def test_each_number_is_what_it_says():
    rates, parent = random_tree(20, 0)
    code = drawn(2_500, rates, parent, 1)
    found = measured(code, 500)
    train = ChowLiuTree.fit([code[500:]])
    assert found.tree.bits == pytest.approx(ChowLiuTree.fit([code]).entropy_bits, abs=1e-9)
    assert found.heldout.bits == pytest.approx(float(train.code_lengths(code[:500]).mean()))
    p = (code[500:].double().sum(0) + 0.5) / 2001
    lengths = -torch.where(code[:500], p.log2(), (1 - p).log2()).sum(1)
    assert found.heldout_marginal.bits == pytest.approx(float(lengths.mean()))
    assert found.distinct == len(code.unique(dim=0))
    assert found.varying == 20
    assert found.joint is None
    assert torch.equal(found.model.fired, ChowLiuTree.fit([code]).fired)
    assert found.tree.low < entropy_of(rates, parent) < found.tree.high
    assert found.heldout.low < entropy_of(rates, parent) < found.heldout.high < found.heldout_marginal.low
    error = float(train.code_lengths(code[:500]).std()) / 500**0.5
    assert found.heldout.high - found.heldout.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_the_joint_entropy_is_told_where_codes_recur():
    generator = torch.Generator().manual_seed(0)
    state = torch.randint(24, (1_638,), generator=generator)
    code = (torch.rand(24, 300, generator=generator) < 0.3)[state]
    found = measured(code, 300)
    assert found.joint is not None
    share = np.bincount(state.numpy()) / len(state)
    plug_in = float(-(share * np.log2(share)).sum())
    assert found.joint.bits == pytest.approx(plug_in + 23 / (2 * len(state) * np.log(2)))
    assert found.joint.low < np.log2(24) <= found.joint.high
    assert found.distinct == 24
    assert 5 * plug_in < found.tree.bits < found.model.marginal_bits, "pairs tell little of random states"


@pytest.mark.parametrize(("n", "distinct", "told"), [(400, 20, True), (400, 21, False), (399, 20, False)])
def test_it_takes_twenty_samples_to_a_code(n: int, distinct: int, told: bool):
    codes = DistinctCodes()
    codes.add((torch.arange(n) % distinct)[:, None] == torch.arange(32))
    assert (codes.distinct, codes.recur) == (distinct, told)


def test_codes_that_nothing_else_has_are_few():
    codes = DistinctCodes()
    codes.add(torch.zeros(198, 20, dtype=torch.bool))
    codes.add(torch.eye(20, dtype=torch.bool)[:2])
    assert codes.recur
    codes.add(torch.eye(20, dtype=torch.bool)[2:3])
    assert not codes.recur


def test_texts_of_several_samples_are_drawn_whole():
    """Samples that are repeated in a text tell no more than one: the interval is as wide as that of the texts."""
    rates, parent = random_tree(15, 2)
    code = drawn(600, rates, parent, 3)
    once = measured(code, 150)
    texts = torch.arange(600).repeat_interleave(6)
    clustered = measured(code.repeat_interleave(6, 0), 900, texts=texts)
    for name in ("tree", "heldout", "heldout_marginal"):
        one, other = getattr(once, name), getattr(clustered, name)
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.3), name
    apart = measured(code.repeat_interleave(6, 0), 900)
    assert apart.heldout.high - apart.heldout.low < 0.6 * (once.heldout.high - once.heldout.low)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_numbers_are_possible_and_in_order(n: int, n_heldout: int, width: int, rate: float, seed: int):
    code = torch.rand(n + n_heldout, width, generator=torch.Generator().manual_seed(seed)) < rate
    found = measured(code, n_heldout, seed)
    assert joint_entropy(code) - 1e-9 <= found.tree.bits <= sum(map(bernoulli, code.double().mean(0).tolist())) + 1e-9
    for estimate in (found.tree, found.heldout, found.heldout_marginal, *([found.joint] if found.joint else [])):
        assert 0 <= estimate.low <= estimate.bits <= estimate.high < np.inf


def test_a_code_that_does_not_vary_takes_no_bits():
    found = measured(torch.tensor([[True, False]] * 50), 10)
    assert (found.tree, found.distinct, found.varying, found.joint) == ((0, 0, 0), 1, 0, (0, 0, 0))
    assert found.heldout.bits == pytest.approx(-2 * np.log2(40.5 / 41))


def test_where_too_many_latents_vary_nothing_is_told():
    code = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    assert joint_bits([code], [code], 0, most_varying=8) is None


def test_the_interval_of_the_held_out_mean_holds_the_true_one():
    """In 200 simulations; each is of 80 held-out samples, against the mean over many more."""
    rates, parent = random_tree(10, 4)
    tree = ChowLiuTree.fit([drawn(400, rates, parent, 0)])
    truth = float(tree.code_lengths(drawn(200_000, rates, parent, 1)).mean())
    train, held = drawn(400, rates, parent, 0), 0
    for seed in range(200):
        found = joint_bits([train], [drawn(80, rates, parent, 100 + seed)], seed)
        assert found is not None
        held += found.heldout.low <= truth <= found.heldout.high
    assert held >= 0.9 * 200
