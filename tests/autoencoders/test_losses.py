import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders.losses import bernoulli_entropy, covariance_penalty, marginal_entropy, reconstruction_loss


def naive_entropy(code: Tensor) -> float:
    """The definition, a latent at a time."""
    total = 0.0
    for column in code.T.tolist():
        p = sum(column) / len(column)
        total -= sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
    return total


def dense_covariance_penalty(code: Tensor) -> Tensor:
    """The definition of Eq. 4 over the whole covariance matrix."""
    cov = torch.atleast_2d(torch.cov(code.T))
    return cov.abs().sum() - cov.diagonal().abs().sum()


def exact_gradient(code: Tensor) -> Tensor:
    """Gradient of the penalty by its formula in exact integer arithmetic, with sign(0) = 0."""
    rows = [[int(v) for v in row] for row in code.tolist()]
    n, f = len(rows), len(rows[0])
    sums = [sum(row[i] for row in rows) for i in range(f)]
    sign = [[0] * f for _ in range(f)]
    for i in range(f):
        for j in range(f):
            if i != j:
                scaled = n * sum(row[i] * row[j] for row in rows) - sums[i] * sums[j]
                sign[i][j] = (scaled > 0) - (scaled < 0)
    gradient = [
        [2 / (n - 1) * sum(sign[i][j] * (row[j] - sums[j] / n) for j in range(f)) for i in range(f)] for row in rows
    ]
    return torch.tensor(gradient)


codes = st.integers(2, 24).flatmap(
    lambda n: st.integers(1, 12).flatmap(
        lambda f: st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=f, max_size=f), min_size=n, max_size=n)
    )
)


@given(codes)
def test_marginal_entropy_is_its_definition(rows: list[list[float]]):
    code = torch.tensor(rows)
    assert marginal_entropy(code).item() == pytest.approx(naive_entropy(code), abs=1e-4)


def test_entropy_and_gradient_are_zero_where_nothing_is_uncertain():
    p = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    bits = bernoulli_entropy(p)
    bits.sum().backward()
    assert bits.tolist() == [0, 0, 1]
    assert p.grad is not None
    assert p.grad.tolist() == [0, 0, 0]


def test_entropy_gradient_is_the_logit_in_bits():
    p = torch.tensor([0.1, 0.7], dtype=torch.float64, requires_grad=True)
    bernoulli_entropy(p).sum().backward()
    assert p.grad is not None
    torch.testing.assert_close(p.grad, torch.log2((1 - p) / p).detach())


@given(codes)
@settings(deadline=None)
def test_covariance_penalty_is_the_dense_definition(rows: list[list[float]]):
    code = torch.tensor(rows, requires_grad=True)
    value = covariance_penalty(code)
    value.backward()
    assert value.item() == pytest.approx(dense_covariance_penalty(code.detach().double()).item(), abs=1e-4)
    assert code.grad is not None
    torch.testing.assert_close(code.grad, exact_gradient(code.detach()), rtol=1e-5, atol=1e-5)


def test_covariance_gradient_is_that_of_autograd_through_the_dense_definition():
    torch.manual_seed(0)
    code = (torch.rand(64, 40) < torch.linspace(0, 1, 40)).double()
    code.requires_grad_()
    (ours,) = torch.autograd.grad(covariance_penalty(code), code)
    (dense,) = torch.autograd.grad(dense_covariance_penalty(code), code)
    varying = code.detach().var(0) > 0
    assert 2 < int(varying.sum()) < 40
    torch.testing.assert_close(ours[:, varying], dense[:, varying], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("columns", [[0, 0, 0], [1, 1, 1], [0, 1, 0]])
def test_covariance_of_constant_latents_is_zero(columns: list[int]):
    code = torch.tensor([columns] * 5).float().requires_grad_()
    value = covariance_penalty(code)
    value.backward()
    assert value.item() == 0
    assert code.grad is not None
    assert not code.grad.any()


def test_losses_of_the_released_code(golden: dict):
    code = torch.tensor(golden["bae"]["code"])
    x, x_hat = torch.tensor(golden["x"]), torch.tensor(golden["bae"]["reconstruction"])
    assert reconstruction_loss(x_hat, x).item() == pytest.approx(golden["bae"]["mse"], abs=1e-5)
    assert marginal_entropy(code.float()).item() == pytest.approx(golden["bae"]["entropy_bits"], abs=1e-4)
    assert covariance_penalty(code.float()).item() == pytest.approx(golden["bae"]["covariance_penalty"], abs=1e-4)
