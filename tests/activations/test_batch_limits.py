"""How large batches are: what was asked for, a CPU's own, or what a GPU was measured to gain from."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.activations.batch_limits import TRIED_TOKENS, BatchLimits, limits, measured
from bae_ray.activations.compute import ShardComputer, Work, load
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Request
from bae_ray.activations.model import find_model
from bae_ray.activations.store import ActivationStore


@pytest.mark.parametrize(
    ("texts", "tokens", "device", "expected"),
    [
        (None, None, "cpu", (32, 16_384)),
        (8, None, "cpu", (8, 16_384)),
        (None, 100, "cpu", (32, 100)),
        (None, None, "cuda", None),
        (8, None, "cuda", None),
        (None, 4096, "cuda", (4096, 4096)),
        (8, 4096, "cuda", (8, 4096)),
    ],
)
def test_what_is_left_out(texts: int | None, tokens: int | None, device: str, expected: tuple[int, int] | None):
    assert limits(texts, tokens, device) == (BatchLimits(*expected) if expected else None)


@given(st.integers(1, 100), st.integers(1, 10_000), st.integers(1, 20_000))
def test_a_batch_keeps_to_both_limits(texts: int, tokens: int, longest: int):
    n = BatchLimits(texts, tokens).of(longest)
    assert 1 <= n <= texts
    assert n == 1 or n * longest <= tokens
    assert n == texts or (n + 1) * longest > tokens


@given(st.floats(1e-3, 1.0), st.floats(1e-6, 1e-3), st.integers(0, len(TRIED_TOKENS) - 1))
def test_the_largest_batch_that_gains(start: float, each: float, fits: int):
    """A device with a fixed cost for each pass, and memory for so many tokens: the oracle looks at all pairs."""
    ran: list[int] = []

    def seconds(tokens: int) -> float:
        ran.append(tokens)
        if tokens > TRIED_TOKENS[fits]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start + each * tokens

    rates = [tokens / (start + each * tokens) for tokens in TRIED_TOKENS[: fits + 1]]
    expected = next((i for i in range(fits) if rates[i + 1] < 1.05 * rates[i]), fits)
    assert measured(seconds) == TRIED_TOKENS[expected]
    assert ran == list(TRIED_TOKENS[: expected + 2]), "nothing larger is tried"


def test_memory_too_small_for_the_smallest_batch_is_told():
    def full(_tokens: int) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        measured(full)


def test_other_errors_are_not_taken_for_too_little_memory():
    def broken(tokens: int) -> float:
        if tokens > TRIED_TOKENS[0]:
            raise RuntimeError("an illegal instruction")
        return 1.0

    with pytest.raises(RuntimeError, match="illegal instruction"):
        measured(broken)


@pytest.mark.parametrize(("all_tokens", "expected"), [(False, 4096), (True, 4096)])
def test_a_worker_measures_once_and_says_so(
    tiny_config: ExtractConfig, tiny_store: Path, monkeypatch: pytest.MonkeyPatch, all_tokens: bool, expected: int
):
    """On this CPU as on a GPU, but for the clock: the first batch tried is the fastest."""
    config, model = tiny_config, find_model(tiny_config.model)
    times = iter([1.0, 10.0])
    monkeypatch.setattr("bae_ray.activations.compute.timed", lambda run: (run(), next(times))[1])
    positions = ("all",) if all_tokens else config.all_positions
    work = Work(model, (0, 3), ("residual",), positions, "float32", None, None, False, None)
    computer = ShardComputer(work, load(work, "cpu"), "cpu")
    computer._limits = None
    rows = ActivationStore.open(tiny_store).texts_table()
    if all_tokens:
        rows = rows.append_column("kept", rows["token_ids"])
    computer._limit(rows)
    computer._limit(rows)
    assert computer._limits == BatchLimits(32, expected)
    assert computer.made_with["batch_tokens"] == str(expected)


def test_a_store_goes_on_with_the_batches_that_it_was_begun_with(
    ray_cluster: None, tiny_config: ExtractConfig, tiny_store: Path
):
    """Those of earlier versions say 32 and 16,384, on a GPU too."""
    request = Request.model_validate_json((tiny_store / "request.json").read_text())
    assert (request.batch_size, request.batch_tokens) == (16, 16_384)
    left_out = tiny_config.model_copy(update={"batch_size": None, "gpus_per_worker": 1})
    assert extract(left_out, tiny_store).manifest.request == request


def test_on_a_gpu_a_new_store_leaves_them_to_the_workers(
    ray_cluster: None, tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path
):
    """With the logical GPUs of this Ray, whose workers compute on the CPU after all."""
    left_out = tiny_config.model_copy(update={"batch_size": None, "gpus_per_worker": 1, "layers": (3,)})
    store = extract(left_out, tmp_path / "store")
    assert (store.manifest.request.batch_size, store.manifest.request.batch_tokens) == (None, None)
    expected = ActivationStore.open(tiny_store)
    torch.testing.assert_close(store.matrix(3, 7), expected.matrix(3, 7), rtol=0, atol=1e-6)


@pytest.mark.gpu
def test_a_gpus_batches_are_measured(ray_cluster: None, tiny_config: ExtractConfig, tmp_path: Path):
    left_out = tiny_config.model_copy(update={"batch_size": None, "gpus_per_worker": 1})
    made_with = extract(left_out, tmp_path / "store").manifest.shards[0].made_with
    assert int(made_with["batch_tokens"]) in TRIED_TOKENS
