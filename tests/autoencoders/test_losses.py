import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders.covariance import covariance_penalty
from bae_ray.autoencoders.losses import (
    EntropyForm,
    Reduction,
    bernoulli_entropy,
    l1_penalty,
    marginal_entropy,
    printed_entropy,
    reconstruction_loss,
)

CODES = st.tuples(st.integers(1, 24), st.integers(1, 12)).flatmap(
    lambda shape: st.lists(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)
ROWS = st.integers(1, 8).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=width, max_size=width), min_size=1, max_size=10
    )
)


def naive_entropy(code: Tensor, form: EntropyForm) -> float:
    """The definition, a latent at a time."""
    total = 0.0
    for column in code.T.tolist():
        p = sum(column) / len(column)
        total -= sum(q * math.log2(q) for q in ((p, 1 - p) if form == "bernoulli" else (p,)) if q > 0)
    return total


@pytest.mark.parametrize("form", get_args(EntropyForm))
@given(CODES)
def test_marginal_entropy_is_its_definition(form: EntropyForm, rows: list[list[float]]):
    code = torch.tensor(rows)
    assert marginal_entropy(code, form).item() == pytest.approx(naive_entropy(code, form), abs=1e-4)


def test_bernoulli_is_the_default_form():
    code = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert marginal_entropy(code).item() == marginal_entropy(code, "bernoulli").item()
    assert marginal_entropy(code, "printed").item() == pytest.approx(0.5)


@pytest.mark.parametrize("form", get_args(EntropyForm))
def test_rates_of_a_bfloat16_code_are_exact(form: EntropyForm):
    """Means over 4,000 rows, of which bfloat16 itself would count 256."""
    code = (torch.rand(4000, 50, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 50)).bfloat16()
    entropy = marginal_entropy(code, form)
    assert entropy.dtype == torch.float32
    assert entropy.item() == pytest.approx(naive_entropy(code, form), rel=1e-5)


@pytest.mark.parametrize("entropy", [bernoulli_entropy, printed_entropy])
def test_entropy_and_gradient_are_zero_where_nothing_is_uncertain(entropy):
    p = torch.tensor([0.0, 1.0], requires_grad=True)
    bits = entropy(p)
    bits.sum().backward()
    assert bits.tolist() == [0, 0]
    assert p.grad is not None
    assert p.grad.tolist() == [0, 0]


def test_one_fair_bit_is_one_bit_and_none_can_be_gained():
    p = torch.tensor([0.5], requires_grad=True)
    bernoulli_entropy(p).sum().backward()
    assert bernoulli_entropy(p).item() == 1
    assert p.grad is not None
    assert p.grad.item() == pytest.approx(0, abs=1e-6)


@given(st.floats(1e-3, 1 - 1e-3))
def test_bernoulli_gradient_is_the_logit_in_bits(value: float):
    p = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(bernoulli_entropy(p), p)
    assert gradient.item() == pytest.approx(math.log2((1 - value) / value), abs=1e-9)


@given(st.floats(1e-3, 1 - 1e-3))
def test_printed_gradient_is_the_derivative_of_what_is_printed(value: float):
    p = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(printed_entropy(p), p)
    assert gradient.item() == pytest.approx(-math.log2(value) - 1 / math.log(2), abs=1e-9)


@given(ROWS, st.floats(-2, 2))
def test_reconstruction_loss_is_equation_3(rows: list[list[float]], shift: float):
    x = torch.tensor(rows)
    x_hat = x * 0.5 + shift
    squares = [(a - b) ** 2 for a, b in zip(x_hat.flatten().tolist(), x.flatten().tolist(), strict=True)]
    total = math.fsum(squares) / len(rows)
    assert reconstruction_loss(x_hat, x, "sum").item() == pytest.approx(total, rel=1e-4, abs=1e-6)
    mean = reconstruction_loss(x_hat, x, "mean").item()
    assert mean == pytest.approx(total / x.shape[1], rel=1e-4, abs=1e-6)
    assert reconstruction_loss(x_hat, x).item() == mean


@given(ROWS)
def test_l1_penalty_is_that_of_equation_9(rows: list[list[float]]):
    total = math.fsum(abs(value) for row in rows for value in row)
    assert l1_penalty(torch.tensor(rows), "sum").item() == pytest.approx(total, rel=1e-5, abs=1e-6)
    assert l1_penalty(torch.tensor(rows)).item() == l1_penalty(torch.tensor(rows), "sum").item()
    assert l1_penalty(torch.tensor(rows), "mean").item() == pytest.approx(total / len(rows), rel=1e-5, abs=1e-6)


def test_sums_of_bfloat16_keep_single_precision():
    ones = torch.ones(1000, 30, dtype=torch.bfloat16)
    assert l1_penalty(ones).item() == 30_000
    assert reconstruction_loss(ones, torch.zeros_like(ones), "sum").item() == 30


def test_members_have_values_of_their_own():
    code = (torch.rand(3, 20, 7, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x_hat, x = code * 2, torch.ones(20, 7)
    for reduction in get_args(Reduction):
        torch.testing.assert_close(
            reconstruction_loss(x_hat, x, reduction),
            torch.stack([reconstruction_loss(member, x, reduction) for member in x_hat]),
        )
        torch.testing.assert_close(
            l1_penalty(x_hat, reduction), torch.stack([l1_penalty(member, reduction) for member in x_hat])
        )
    for form in get_args(EntropyForm):
        torch.testing.assert_close(
            marginal_entropy(code, form), torch.stack([marginal_entropy(member, form) for member in code])
        )


def test_losses_of_the_released_code(golden: dict):
    code = torch.tensor(golden["bae"]["code"]).float()
    x, x_hat = torch.tensor(golden["x"]), torch.tensor(golden["bae"]["reconstruction"])
    assert reconstruction_loss(x_hat, x).item() == pytest.approx(golden["bae"]["mse"], abs=1e-5)
    assert marginal_entropy(code).item() == pytest.approx(golden["bae"]["entropy_bits"], abs=1e-5)
    assert covariance_penalty(code).item() == pytest.approx(golden["bae"]["covariance_penalty"], abs=1e-5)


@pytest.mark.parametrize("variant", ["sae_relu", "sae_topk", "sae_jumprelu"])
def test_losses_of_the_released_sparse_autoencoders(golden: dict, variant: str):
    expected = golden[variant]
    mse = reconstruction_loss(torch.tensor(expected["reconstruction"]), torch.tensor(golden["x"]))
    assert mse.item() == pytest.approx(expected["mse"], abs=1e-5)
    assert l1_penalty(torch.tensor(expected["latents"])).item() == pytest.approx(expected["l1_sum"], rel=1e-6)
