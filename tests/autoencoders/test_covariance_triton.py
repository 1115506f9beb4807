"""The kernels against the float path: compiled where there is a GPU, else interpreted (`make test`)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders.covariance import covariance_penalty as on_cpu

pytestmark = pytest.mark.triton

DEVICE = "cuda" if torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ else "cpu"
NARROWEST = 1  # bytes: one tile of columns at a time


def code(*shape: int, seed: int = 0) -> Tensor:
    """Rates from 0 to 1; one latent twice, once as it is not."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(*shape, generator=generator) < torch.linspace(0, 1, shape[-1])).float()
    drawn[..., 0], drawn[..., -1] = drawn[..., shape[-1] // 2], 1 - drawn[..., shape[-1] // 2]
    return drawn


def one_varies() -> Tensor:
    rows = torch.zeros(1, 5, 6)
    rows[0, 1, 3] = 1
    return rows


def found(rows: Tensor, working_set: int | None = None, weights: float = 1.0) -> tuple[Tensor, Tensor]:
    from bae_ray.autoencoders.covariance_triton import covariance_penalty

    rows = rows.to(DEVICE).requires_grad_()
    value = covariance_penalty(rows, working_set)
    (gradient,) = torch.autograd.grad((value * weights).sum(), rows)
    return value.detach().cpu(), gradient.cpu()


def expected(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.clone().requires_grad_()
    value = on_cpu(rows, "float")
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    return value.detach(), gradient


@pytest.mark.parametrize("working_set", [None, NARROWEST])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(code(1, 64, 200), id="two tiles, one not full"),
        pytest.param(code(3, 50, 300), id="members"),
        pytest.param(code(1, 64, 384), id="whole tiles"),
        pytest.param(code(1, 300, 130), id="samples over several tiles"),
        pytest.param(code(2, 2, 300), id="two samples"),
        pytest.param(code(1, 7, 5), id="fewer than a tile"),
        pytest.param(torch.ones(2, 9, 40), id="all constant"),
        pytest.param(one_varies(), id="one varies"),
        pytest.param(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).repeat(3, 1)[None], id="independent"),
        pytest.param(torch.stack([code(30, 140), torch.zeros(30, 140)]), id="a constant member"),
    ],
)
def test_value_and_gradient_are_the_float_paths(rows: Tensor, working_set: int | None):
    for ours, theirs in zip(found(rows, working_set), expected(rows), strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_whose_squares_are_no_int32(monkeypatch: pytest.MonkeyPatch):
    from bae_ray.autoencoders import covariance_triton

    rows = code(2, 60, 150)
    narrow = found(rows)
    monkeypatch.setattr(covariance_triton, "INT32_EXACT_ROOT", 50)
    for ours, theirs in zip(found(rows), narrow, strict=True):
        assert torch.equal(ours, theirs)


def test_large_batches_are_exact_where_single_precision_is_not():
    rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).repeat(1000, 1)[None]
    value, gradient = found(rows)
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_codes(dtype: torch.dtype):
    rows = code(1, 40, 150)
    value, gradient = found(rows.to(dtype))
    wanted, wanted_gradient = expected(rows)
    assert torch.equal(value, wanted)
    assert torch.equal(gradient, wanted_gradient.to(dtype))


def test_incoming_gradients_are_applied():
    rows = code(2, 30, 150)
    assert torch.equal(found(rows, weights=-3.0)[1], found(rows)[1] * -3)


def test_without_a_gradient_the_value_is_the_same():
    from bae_ray.autoencoders.covariance_triton import covariance_penalty

    rows = code(2, 30, 150)
    assert torch.equal(covariance_penalty(rows.to(DEVICE)).cpu(), found(rows)[0])


@given(st.integers(1, 64), st.integers(1, 131_072), st.sampled_from([1, 1 << 20, 512 << 20]))
def test_signs_take_the_working_set_or_a_tiles_width(members: int, latents: int, working_set: int):
    from bae_ray.autoencoders.covariance_triton import OPERAND, TILE, columns_at_once

    width = columns_at_once(members, latents, working_set)
    taken = members * latents * width * OPERAND.itemsize
    assert 1 <= width <= latents
    assert width == latents or width % TILE == 0
    assert taken <= working_set or width <= TILE
    if width < latents:
        assert taken + members * latents * TILE * OPERAND.itemsize > working_set, "no narrower than it has to be"


def test_the_paper_and_beyond_by_blocks():
    from bae_ray.autoencoders.covariance_triton import columns_at_once

    assert columns_at_once(1, 8192) == 8192
    assert columns_at_once(1, 16_384) == 16_384
    assert columns_at_once(1, 131_072) == 2048


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="measures what a GPU allocates")
@pytest.mark.parametrize("members", [1, 2])
def test_memory_on_a_gpu_is_bounded_at_131_072_latents(members: int):
    """The covariances of one member take 34 GB in half precision; the value is told of its firing rates alone."""
    from bae_ray.autoencoders.covariance_triton import WORKING_SET, covariance_penalty

    n, f = 64, 131_072
    rows = torch.zeros(members, n, f, device="cuda")
    rows[:, 0, ::64] = 1  # 2,048 latents that fire together, once
    rows.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = covariance_penalty(rows)
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    assert torch.cuda.max_memory_allocated() - before < WORKING_SET + 30 * rows.numel()
    assert value.tolist() == pytest.approx([2048 * 2047 / n] * members)
    assert gradient.isfinite().all()


@pytest.mark.skipif(DEVICE == "cuda", reason="measures what a CPU allocates")
def test_memory_is_bounded(tmp_path: Path):
    """The covariances of 12,000 latents take 288 MB; no more than codes, their gradients and a block are allocated."""
    n, f, working_set = 2, 12_000, 12_000 * 2 * 128 * 2
    rows = torch.zeros(1, n, f)
    rows[0, 0, ::40] = 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        found(rows, working_set)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    totals = np.cumsum([0, *(e["args"]["Bytes"] for e in memory)])
    assert working_set < totals.max() < 3 * working_set  # the interpreter copies what a kernel is given
