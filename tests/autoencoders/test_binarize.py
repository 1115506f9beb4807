import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.autoencoders.binarize import binarize


def test_step_is_one_from_zero_on():
    x = torch.tensor([-1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0])
    assert binarize(x).tolist() == [0, 0, 1, 1, 1, 1]


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-10, 10)), min_size=1, max_size=20))
def test_gradient_is_that_of_equation_6(pairs: list[tuple[float, float]]):
    x = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64, requires_grad=True)
    incoming = torch.tensor([pair[1] for pair in pairs], dtype=torch.float64)
    binarize(x).backward(incoming)
    expected = [
        g * (1 / (1 + math.exp(-v))) * (1 - 1 / (1 + math.exp(-v)))
        for v, g in zip(x.tolist(), incoming.tolist(), strict=True)
    ]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
