import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from bae_ray.autoencoders.covariance import Precision, covariance_penalty

PRECISIONS: list[Precision | None] = [None, *get_args(Precision)]
SMALL = 1  # bytes: as many blocks as there can be

BINARY = arrays.arrays(
    np.float32, st.tuples(st.integers(2, 24), st.integers(1, 12)), elements=st.sampled_from([0.0, 1.0])
)


def exact(code: Tensor) -> tuple[float, Tensor]:
    """Value and gradient of the dense definition, signs in integer arithmetic, with sign(0) = 0."""
    c = code.detach().long().numpy()
    n = len(c)
    scaled = n * c.T @ c - np.outer(c.sum(0), c.sum(0))
    np.fill_diagonal(scaled, 0)
    gradient = 2 / (n - 1) * (c - c.mean(0)) @ np.sign(scaled)
    return float(np.abs(scaled).sum() / (n * (n - 1))), torch.from_numpy(gradient)


def dense(code: Tensor) -> Tensor:
    """The covariance term of Eq. 4 over the whole covariance matrix."""
    covariance = torch.atleast_2d(torch.cov(code.T))
    return covariance.abs().sum() - covariance.diagonal().abs().sum()


def ours(code: Tensor, precision: Precision | None = None, working_set: int | None = None) -> tuple[Tensor, Tensor]:
    code = code.detach().clone().requires_grad_()
    value = covariance_penalty(code, precision, working_set)
    (gradient,) = torch.autograd.grad(value.sum(), code)
    return value.detach(), gradient


def random_code(n: int, f: int, seed: int = 0) -> Tensor:
    """Rates from 0 to 1, so that a few of the latents are constant; and one latent twice, once as it is not."""
    generator = torch.Generator().manual_seed(seed)
    code = (torch.rand(n, f, generator=generator) < torch.linspace(0, 1, f)).float()
    code[:, 0], code[:, -1] = code[:, f // 2], 1 - code[:, f // 2]
    return code


def check(code: Tensor, precision: Precision | None = None, working_set: int | None = None) -> None:
    value, gradient = ours(code, precision, working_set)
    expected_value, expected_gradient = exact(code)
    assert value.item() == pytest.approx(expected_value, rel=1e-6)
    assert (value.dtype, gradient.dtype) == (code.dtype, code.dtype)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@given(BINARY)
@settings(deadline=None, max_examples=50)
def test_it_is_the_dense_definition(precision: Precision | None, rows: np.ndarray):
    code = torch.from_numpy(rows.copy())
    check(code, precision)
    assert ours(code, precision)[0].item() == pytest.approx(dense(code.double()).item(), abs=1e-5)


@pytest.mark.parametrize("working_set", [None, SMALL])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("n", "f"),
    [
        (2, 30),
        (64, 200),  # four blocks, the last one not full
        (700, 130),  # three of bfloat16's exact sums of 256 rows
        (50, 600),  # and of 256 latents
    ],
)
def test_random_codes(n: int, f: int, precision: Precision | None, working_set: int | None):
    code = random_code(n, f)
    varying = int((code.var(0) > 0).sum())
    assert varying > 2
    if n > 2:
        assert varying % 64
    check(code, precision, working_set)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_blocks_change_no_bit(dtype: torch.dtype):
    code = random_code(300, 150).to(dtype)
    value, gradient = ours(code, "float")
    for precision in PRECISIONS:
        for working_set in (SMALL, 150 * 2 * 4 * 100, None):
            other_value, other_gradient = ours(code, precision, working_set)
            assert torch.equal(value, other_value), (precision, working_set)
            assert torch.equal(gradient, other_gradient), (precision, working_set)


def test_gradient_is_that_of_autograd_through_the_dense_definition():
    code = (torch.rand(64, 40, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 40)).double()
    _, gradient = ours(code)
    (expected,) = torch.autograd.grad(dense(code.requires_grad_()), code)
    varying = code.detach().var(0) > 0
    assert 2 < int(varying.sum()) < 40
    torch.testing.assert_close(gradient[:, varying], expected[:, varying], rtol=1e-6, atol=1e-9)


def test_incoming_gradient_is_applied():
    code = random_code(20, 30)
    _, gradient = ours(code)
    code.requires_grad_()
    (covariance_penalty(code) * -3).backward()
    torch.testing.assert_close(code.grad, gradient * -3)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0, 0]] * 5,
        [[1, 1, 1]] * 5,
        [[0, 1, 0]] * 5,
        [[0, 1, 0], [0, 1, 1], [0, 1, 0]],  # one varies
        [[1], [0]],
    ],
)
def test_fewer_than_two_latents_that_vary_have_no_covariance(rows: list[list[int]], precision: Precision | None):
    value, gradient = ours(torch.tensor(rows).float(), precision)
    assert value.item() == 0
    assert gradient.shape == (len(rows), len(rows[0]))
    assert not gradient.any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_independent_latents_have_no_gradient(precision: Precision | None):
    """All 2^4 codes of 4 bits, 3 times: every covariance is 0, of which rounding would make a sign."""
    code = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).repeat(3, 1)
    value, gradient = ours(code, precision)
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_members_have_values_of_their_own(precision: Precision | None):
    code = torch.stack([random_code(30, 80, 1), torch.ones(30, 80), random_code(30, 80, 2)])
    value, gradient = ours(code, precision, SMALL)
    assert value.shape == (3,)
    for member in range(3):
        alone = ours(code[member], precision)
        assert torch.equal(value[member], alone[0])
        assert torch.equal(gradient[member], alone[1])


def test_members_have_incoming_gradients_of_their_own():
    code = torch.stack([random_code(30, 20, seed) for seed in (1, 2)])
    expected = ours(code)[1] * torch.tensor([2.0, 0.0])[:, None, None]
    code.requires_grad_()
    (covariance_penalty(code) * torch.tensor([2.0, 0.0])).sum().backward()
    torch.testing.assert_close(code.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_codes_give_single_precision_values(dtype: torch.dtype):
    code = random_code(300, 90)
    value, gradient = ours(code.to(dtype))
    assert value.dtype == torch.float32
    assert torch.equal(value, ours(code)[0])
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, ours(code)[1].to(dtype))


def test_without_a_gradient_the_value_is_the_same():
    code = random_code(40, 90)
    assert torch.equal(covariance_penalty(code), ours(code)[0])


def test_a_batch_whose_integers_single_precision_cannot_hold():
    """N^2 above 2^24: products are rounded, equal ones still cancel, and the value keeps its digits."""
    code = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).repeat(1000, 1)
    for precision in PRECISIONS:
        value, gradient = ours(code, precision)
        assert value.item() == 0, precision
        assert not gradient.any(), precision
    correlated = random_code(6000, 20)
    for precision in PRECISIONS:
        assert ours(correlated, precision)[0].item() == pytest.approx(exact(correlated)[0], rel=1e-5), precision


@pytest.mark.parametrize("precision", get_args(Precision))
def test_memory_is_bounded(precision: Precision, tmp_path: Path):
    """With 131,072 latents of which 2,000 vary, no more is allocated than codes, their gradient and a working set."""
    n, f, v, working_set = 2, 131_072, 2_000, 1 << 18
    generator = torch.Generator().manual_seed(0)
    code = torch.zeros(n, f)
    varying = torch.randperm(f, generator=generator)[:v]
    code[:, varying] = torch.nn.functional.one_hot(torch.randint(n, (v,), generator=generator), n).T.float()
    code.requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        covariance_penalty(code, precision, working_set).backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    totals = np.cumsum([0, *(e["args"]["Bytes"] for e in memory)])
    assert len(totals) > 100
    assert totals.max() < 2 * n * f * 4 + 4 * working_set  # 3 MB; all covariances are 4 MB in int8, 16 MB in float
    assert code.grad is not None
    assert int(code.grad.any(0).sum()) == v


@pytest.mark.parametrize("precision", ["float", "bfloat16", "int8"])
def test_exact_under_autocast(precision):
    """Training with bf16 runs it under autocast, which must not touch its products."""
    generator = torch.Generator().manual_seed(0)
    code = (torch.rand(512, 60, generator=generator) < 0.9).float()
    exact, rounded = code.clone().requires_grad_(), code.bfloat16().requires_grad_()
    expected = covariance_penalty(exact, "float")
    with torch.autocast("cpu", torch.bfloat16):
        found = covariance_penalty(rounded, precision)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (ours,) = torch.autograd.grad(found, rounded)
    (wanted,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(ours.float(), wanted, rtol=1e-2, atol=1e-6)


def test_codes_of_other_types():
    code = torch.rand(50, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    expected = covariance_penalty(code.float()).item()
    assert covariance_penalty(code).item() == pytest.approx(expected)
    assert covariance_penalty(code.long()).item() == pytest.approx(expected)
