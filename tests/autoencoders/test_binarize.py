import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.autoencoders.binarize import Gradient, binarize, fires

AROUND_ZERO = [-1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0]
PAIRS = st.lists(st.tuples(st.floats(-50, 50), st.floats(-10, 10)), min_size=1, max_size=20)


def gradient_and_inputs(pairs: list[tuple[float, float]], gradient: Gradient) -> list[tuple[float, float, float]]:
    """(our gradient, pre-activation, incoming gradient) of each pair, in double precision."""
    x = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64, requires_grad=True)
    binarize(x, gradient).backward(torch.tensor([pair[1] for pair in pairs], dtype=torch.float64))
    assert x.grad is not None
    return [(ours, *pair) for ours, pair in zip(x.grad.tolist(), pairs, strict=True)]


@pytest.mark.parametrize("gradient", ["sigmoid", "straight_through"])
def test_step_is_one_from_zero_on(gradient: Gradient):
    assert binarize(torch.tensor(AROUND_ZERO), gradient).tolist() == [0, 0, 1, 1, 1, 1]


def test_step_of_the_released_code_is_one_above_zero():
    assert binarize(torch.tensor(AROUND_ZERO), "release").tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("gradient", get_args(Gradient))
def test_fires_is_the_step_as_booleans(gradient: Gradient):
    x = torch.tensor(AROUND_ZERO)
    assert fires(x, gradient).dtype == torch.bool
    assert torch.equal(fires(x, gradient), binarize(x, gradient).bool())


@pytest.mark.parametrize("gradient", get_args(Gradient))
def test_an_autoencoder_fires_at_zero_as_its_step_does(gradient: Gradient):
    autoencoder = build_autoencoder(BAEConfig(d_in=2, d_latent=3, gradient=gradient))
    torch.nn.init.zeros_(autoencoder.W_enc)
    torch.nn.init.zeros_(autoencoder.get_parameter("b_enc"))
    found = autoencoder.fires(torch.ones(1, 2))
    assert found.tolist() == [[gradient != "release"] * 3]
    assert torch.equal(found, autoencoder.encode(torch.ones(1, 2)).bool())


@pytest.mark.parametrize("gradient", get_args(Gradient))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_shape_stay(gradient: Gradient, dtype: torch.dtype):
    x = torch.tensor([[[-2.0, 3.0]]], dtype=dtype, requires_grad=True)
    code = binarize(x, gradient)
    code.sum().backward()
    assert (code.dtype, code.tolist()) == (dtype, [[[0, 1]]])
    assert x.grad is not None
    assert (x.grad.dtype, x.grad.shape) == (dtype, x.shape)


@given(PAIRS)
def test_sigmoid_gradient_is_that_of_equation_6(pairs: list[tuple[float, float]]):
    for ours, x, incoming in gradient_and_inputs(pairs, "sigmoid"):
        sigmoid = 1 / (1 + math.exp(-x))
        assert ours == pytest.approx(incoming * sigmoid * (1 - sigmoid), rel=1e-9, abs=1e-12)


@given(PAIRS)
def test_straight_through_gradient_is_the_incoming_one(pairs: list[tuple[float, float]]):
    for ours, _, incoming in gradient_and_inputs(pairs, "straight_through"):
        assert ours == incoming


@given(PAIRS)
def test_release_gradient_is_a_rule_of_the_incoming_one_alone(pairs: list[tuple[float, float]]):
    for ours, _, incoming in gradient_and_inputs(pairs, "release"):
        assert ours == pytest.approx(incoming - incoming**2, rel=1e-9, abs=1e-12)


def test_sigmoid_is_the_default():
    default, sigmoid = (torch.tensor([-1.0, 2.0], requires_grad=True) for _ in range(2))
    binarize(default).sum().backward()
    binarize(sigmoid, "sigmoid").sum().backward()
    assert default.grad is not None
    assert sigmoid.grad is not None
    assert default.grad.tolist() == sigmoid.grad.tolist()
