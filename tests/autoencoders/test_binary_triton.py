"""The kernels of a binary code and its penalties against these one by one, on a CPU."""

import os
from typing import get_args

import pytest
import torch
from torch import Tensor

from bae_ray.autoencoders.binarize import Gradient, binarize
from bae_ray.autoencoders.covariance import covariance_penalty
from bae_ray.autoencoders.losses import marginal_entropy

pytestmark = pytest.mark.triton

DEVICE = "cuda" if torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter cannot cast to bfloat16
EVERYTHING = frozenset({"entropy", "covariance"})


def pre_activations(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rates from 0 to 1; and 0 itself, where the step is."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + torch.linspace(-5, 5, shape[-1])
    drawn[:, 0] = 0
    return drawn.to(dtype)


def both(
    pre: Tensor, gradient: Gradient = "sigmoid", printed: bool = False, active: frozenset[str] = EVERYTHING
) -> tuple[list[Tensor], list[Tensor]]:
    """Code, entropy, covariance and the gradient of a sum of them: ours, and one by one."""
    from bae_ray.autoencoders.binary_triton import binary_terms

    towards = torch.randn(pre.shape, generator=torch.Generator().manual_seed(1))
    weights = torch.arange(1.0, len(pre) + 1) / 100

    def differentiated(x: Tensor, parts: list[Tensor]) -> list[Tensor]:
        code, entropy, covariance = parts
        total = (code * towards.to(x)).sum() + (entropy * weights.to(x.device)).sum()
        total = total + (covariance * weights.to(x.device)).sum()
        (found,) = torch.autograd.grad(total, x)
        return [part.detach().cpu() for part in (*parts, found)]

    here, there = pre.to(DEVICE).requires_grad_(), pre.clone().requires_grad_()
    code = binarize(there, gradient)
    entropy = marginal_entropy(code, "printed" if printed else "bernoulli")
    covariance = covariance_penalty(code, "float")
    one_by_one = [
        code,
        entropy if "entropy" in active else entropy.detach(),
        covariance if "covariance" in active else covariance.detach(),
    ]
    return differentiated(here, [*binary_terms(here, gradient, printed, active)]), differentiated(there, one_by_one)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 40, 300),  # two tiles, one not full
        (3, 50, 130),
        (2, 2, 9),
        (1, 130, 20),
    ],
)
@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("gradient", get_args(Gradient))
def test_terms_and_gradient(gradient: Gradient, printed: bool, shape: tuple[int, ...]):
    ours, theirs = both(pre_activations(*shape), gradient, printed)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[2], theirs[2])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[3], theirs[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("active", [frozenset(), frozenset({"entropy"}), frozenset({"covariance"})])
def test_terms_that_are_not_active_have_a_value_and_no_gradient(active: frozenset[str]):
    ours, theirs = both(pre_activations(2, 30, 140), active=active)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_half_precision():
    ours, theirs = both(pre_activations(1, 40, 140, dtype=HALF))
    assert ours[0].dtype == ours[3].dtype == HALF
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[3], theirs[3], rtol=3e-2, atol=1e-2)


def test_without_gradients():
    from bae_ray.autoencoders.binary_triton import binary_terms

    pre = pre_activations(1, 40, 140)
    with torch.no_grad():
        terms = binary_terms(pre.to(DEVICE), "sigmoid", False, EVERYTHING)
    for one, other in zip(terms, both(pre)[0], strict=False):
        assert torch.equal(one.cpu(), other)


def test_a_number_that_is_none_does_not_fire():
    from bae_ray.autoencoders.binary_triton import binary_terms

    pre = torch.full((1, 3, 2), torch.nan).to(DEVICE)
    assert not binary_terms(pre, "sigmoid", False, EVERYTHING).code.any()
