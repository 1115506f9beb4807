"""Batches are computed in threads: the same numbers as at once, whatever they are cut into."""

import asyncio
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.errors import OutOfMemoryError
from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.compute.operations import ROWS_PER_THREAD, Threads, chunks

D, F = 12, 40
bae = build_autoencoder(BAEConfig(d_in=D, d_latent=F))
bae.prior.copy_(torch.linspace(0.01, 0.6, F))


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20), most=st.integers(1, 60))
def test_chunks_are_all_rows_in_their_order_and_never_too_many(lengths: list[int], most: int):
    splits = np.cumsum([0, *lengths])
    parts = [np.arange(a, b) for a, b in pairwise(splits)]
    found = [np.concatenate(chunk) for chunk in chunks(parts, most)]
    assert np.array_equal(np.concatenate(found), np.arange(splits[-1]))
    assert max(map(len, found)) <= most
    assert all(len(a) + len(b) > most for a, b in pairwise(found))  # else they would have gone together


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 2 * ROWS_PER_THREAD), min_size=1, max_size=8),
    count=st.integers(1, 4),
    name=st.sampled_from(["pack", "magnitudes", "top_k"]),
)
def test_a_batch_in_threads_is_what_the_encoder_makes_of_its_rows(lengths: list[int], count: int, name: str):
    parts = [np.random.default_rng(n).normal(size=(n, D)).astype(np.float32) for n in lengths]
    operation = Operation(name, 3 if name == "top_k" else 0)  # pyright: ignore[reportArgumentType]
    made = asyncio.run(Threads(count, "test").compute(bae, operation, parts))
    rows = torch.from_numpy(np.concatenate(parts))
    with torch.no_grad():
        code, magnitudes = bae.encode(rows), bae.magnitudes(rows)
    # Products of other sizes are summed in another order: a bit may turn where its pre-activation is nearly 0.
    sure = (bae.pre_activations(bae.normalize(rows)).abs() > 1e-5).all(1).numpy()
    assert sure.mean() > 0.9
    if name == "pack":
        assert np.array_equal(made["code"][sure], np.packbits(code.bool().numpy(), axis=1)[sure])
    elif name == "magnitudes":
        assert np.array_equal(made["magnitudes"][sure], magnitudes.numpy()[sure])
    else:
        found = np.take_along_axis(magnitudes.numpy(), made["indices"].astype(np.int64), 1)
        assert np.array_equal(found[sure], made["magnitudes"][sure])
        assert np.array_equal(made["magnitudes"][sure], magnitudes.topk(3).values.numpy()[sure])


@pytest.mark.parametrize(("rows", "chunked"), [(1, [4]), (4 * ROWS_PER_THREAD, [1, 1, 1, 1])])
def test_a_small_batch_has_all_threads_and_a_large_one_is_shared_out(
    rows: int, chunked: list[int], monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []

    def counted(*_arguments: object) -> dict[str, np.ndarray]:
        seen.append(torch.get_num_threads())
        return {"code": np.zeros((1, 1), np.uint8)}

    monkeypatch.setattr("bae_ray.serving.compute.operations.compute", counted)
    asyncio.run(Threads(4, "test").compute(bae, Operation("pack"), [np.zeros((rows, D), np.float32)]))
    assert seen == chunked


def test_however_many_batches_come_the_threads_stay_few():
    """OpenMP keeps as many threads for each thread that has ever computed with them."""
    wide = build_autoencoder(BAEConfig(d_in=64, d_latent=4096))
    before = len(os.listdir("/proc/self/task"))

    async def run() -> None:
        threads = Threads(6, "test")
        for n in (1, 50, 400):
            x = np.zeros((n, 64), np.float32)
            for _ in range(4):
                await asyncio.gather(*(threads.compute(wide, Operation("pack"), [x]) for _ in range(8)))
                await threads.compute(wide, Operation("pack"), [x])

    asyncio.run(run())
    assert len(os.listdir("/proc/self/task")) - before <= 6 + 1 + 5 + 1, "the pool, one more, and that one's own"


def test_too_little_memory_is_said_as_such():
    def allocate() -> torch.Tensor:
        return torch.empty(1 << 60)

    with pytest.raises(OutOfMemoryError, match="too little memory"):
        asyncio.run(Threads(1, "test").run(allocate))


def test_other_errors_are_raised_as_they_are():
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Threads(1, "test").run(lambda: 1 // 0))
