import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load
from torch import Tensor

from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.compression import (
    CodeWriter,
    Scheme,
    compress,
    compress_activations,
    decompress,
    decompress_activations,
    read_header,
    read_rows,
)
from bae_ray.compression.header import HEADER_SIZE
from bae_ray.errors import InvalidInputError


@st.composite
def codes_and_priors(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Codes drawn from rates, and a prior that fits them, contradicts them, or has nothing to do with them."""
    rows, d_latent, seed = draw(st.integers(0, 40)), draw(st.integers(1, 50)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, 1.0, 0.5, 1e-30, 1 - 2**-24, 1e-3, 0.3])
    rates = special[torch.randint(len(special), (d_latent,), generator=generator)]
    code = (torch.rand(rows, d_latent, generator=generator) < rates).to(torch.uint8)
    kind = draw(st.sampled_from(["fits", "contradicts", "another"]))
    prior = {"fits": rates, "contradicts": 1 - rates, "another": rates.flip(0)}[kind]
    return code, prior


@settings(max_examples=300, deadline=None)
@given(codes_and_priors(), st.integers(1, 45))
def test_entropy_loses_nothing_whatever_the_prior(given_: tuple[Tensor, Tensor], block_rows: int) -> None:
    code, prior = given_
    assert torch.equal(decompress(compress(code, prior, block_rows=block_rows)), code)


@settings(max_examples=150, deadline=None)
@given(codes_and_priors(), st.integers(1, 45), st.floats(-1, 0))
def test_indices_keep_the_bits_above_the_threshold(
    given_: tuple[Tensor, Tensor], block_rows: int, threshold: float
) -> None:
    code, prior = given_
    typical = prior.round().to(torch.uint8)
    kept = (code.double() - prior.double()).abs() > 2.0**threshold  # Appendix A.5, word by word
    data = compress(code, prior, "indices", block_rows=block_rows, threshold=threshold)
    assert torch.equal(decompress(data), torch.where(kept, 1 - typical, typical))


@settings(max_examples=60, deadline=None)
@given(codes_and_priors(), st.integers(1, 12), st.data(), st.sampled_from(["entropy", "indices"]))
def test_rows_are_read_alone(
    given_: tuple[Tensor, Tensor], block_rows: int, data: st.DataObject, scheme: Scheme
) -> None:
    code, prior = given_
    container = compress(code, prior, scheme, block_rows=block_rows)
    start = data.draw(st.integers(0, len(code)))
    stop = data.draw(st.integers(start, len(code)))
    assert torch.equal(read_rows(container, start, stop), decompress(container)[start:stop])


def test_reading_rows_reads_their_blocks_only() -> None:
    code = (torch.rand(100, 30, generator=torch.Generator().manual_seed(0)) < 0.2).to(torch.uint8)
    data = bytearray(compress(code, code.double().mean(0), block_rows=10))
    start = read_payload_start(data)
    data[start] ^= 1  # in block 0
    assert torch.equal(read_rows(data, 10, 100), code[10:])


def read_payload_start(data: bytes | bytearray) -> int:
    length = int.from_bytes(data[:8], "little")
    return 8 + length + json.loads(data[8 : 8 + length])["payload"]["data_offsets"][0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_codes_of_any_dtype(dtype: torch.dtype) -> None:
    code = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    prior = code.float().mean(0)
    assert compress(code.to(dtype), prior) == compress(code, prior)
    assert compress(code.to(dtype).T.contiguous().T, prior.bfloat16().float()) is not None


def test_golden_indices(golden: dict, set_released_weights: Callable[[Autoencoder, dict[str, Any]], None]) -> None:
    """The paper's released code keeps these indices of these activations, and reconstructs this of them."""
    compression = golden["compression"]
    autoencoder = build_autoencoder(BAEConfig(d_in=golden["d_in"], d_latent=golden["d_latent"], encoder_bias=True))
    set_released_weights(autoencoder, golden["bae_state_dict"])
    autoencoder.prior.copy_(torch.tensor(compression["prior"]))
    data = compress_activations(autoencoder, torch.tensor(golden["x"]), "indices", table="embedded")
    payload = load(data)["payload"].view("<u2").tolist()
    flipped = compression["flipped_indices"]
    assert payload[: len(flipped)] == [len(indices) for indices in flipped]
    assert payload[len(flipped) :] == [index for indices in flipped for index in indices]
    expected = torch.tensor(compression["reconstruction"])
    torch.testing.assert_close(decompress_activations(autoencoder, data, stop=len(expected)), expected)


def simulated(bits: float, rows: int, d_latent: int) -> tuple[Tensor, Tensor]:
    """Codes of independent latents with so many bits of entropy, of all kinds of rates, and these rates."""
    generator = torch.Generator().manual_seed(1)
    shape = torch.rand(d_latent, generator=generator).pow(6)
    low, high = 0.0, 0.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if bernoulli_entropy((shape * middle).double()).sum() > bits else (middle, high)
    rates = torch.where(torch.rand(d_latent, generator=generator) < 0.1, 1 - shape * low, shape * low)
    return (torch.rand(rows, d_latent, generator=generator) < rates).to(torch.uint8), rates


@pytest.mark.parametrize(("rows", "d_latent", "rate"), [(200_000, 1, 0.5), (40, 70_000, 0.999), (65_537, 3, 1e-4)])
@pytest.mark.parametrize("scheme", ["entropy", "indices"])
def test_large_blocks(rows: int, d_latent: int, rate: float, scheme: Scheme) -> None:
    """More flips than are coded at a time, more latents than 16 bits tell apart, gaps longer than the tables."""
    code = (torch.rand(rows, d_latent, generator=torch.Generator().manual_seed(0)) < rate).to(torch.uint8)
    for prior in (torch.zeros(d_latent), torch.full((d_latent,), 0.3)):
        assert torch.equal(decompress(compress(code, prior, scheme, block_rows=rows)), code)


@pytest.mark.parametrize("bits", [100, 500])
def test_size_is_the_entropy(bits: float) -> None:
    code, rates = simulated(bits, 4096, 2048)
    limit = -(torch.where(code.bool(), rates, 1 - rates).double().log2().sum()) / 8  # of these very codes
    assert limit <= len(compress(code, rates)) - HEADER_SIZE - 2048 <= 1.02 * limit  # the header and the prior are once


def test_what_is_written_never_changes() -> None:
    """Containers are read by later versions and on other machines: their bytes are fixed."""
    generator = np.random.Generator(np.random.PCG64(5))
    rates = torch.from_numpy(generator.integers(0, 101, 64) / 100)
    code = torch.from_numpy((generator.random((50, 64)) < rates.numpy()).astype(np.uint8))
    found = [
        xxhash.xxh3_128_hexdigest(compress(code, rates, scheme, block_rows=16)) for scheme in ("entropy", "indices")
    ]
    assert found == ["dee7739770a7cb4a5c9f98dfa69717be", "5ab65d6a6f2d87609566b18e714b9642"]


def test_any_safetensors_reader_reads_it() -> None:
    code, rates = simulated(20, 100, 64)
    tensors = load(compress(code, rates, block_rows=40))
    assert {name: len(tensor) for name, tensor in tensors.items() if name != "payload"} == {
        "offsets": 4,
        "checksums": 3,
        "prior": 64,
        "digest": 16,
    }


def test_writing_in_parts_is_writing_at_once(tmp_path: Path) -> None:
    code, rates = simulated(20, 100, 64)
    with open(tmp_path / "codes", "wb") as file, CodeWriter(file, rates, block_rows=16, model_hash="m") as writer:
        for part in code.split(7):
            writer.write(part)
    assert (tmp_path / "codes").read_bytes() == compress(code, rates, block_rows=16, model_hash="m")
    assert torch.equal(decompress(tmp_path / "codes"), code)
    header = read_header(tmp_path / "codes")
    assert (header.rows, header.d_latent, header.scheme, header.model_hash) == (100, 64, "entropy", "m")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"code": torch.tensor([[0.0, 0.5]])}, "code holds 0.5"),
        ({"code": torch.tensor([[0.0, float("nan")]])}, "code holds nan"),
        ({"code": torch.tensor([[0, 2]])}, "code holds 2"),
        ({"code": torch.tensor([[0, -1]])}, "code holds -1"),
        ({"code": torch.tensor([[0, 256]])}, "code holds 256"),
        ({"code": torch.tensor([0, 1])}, r"code has shape \(2,\)"),
        ({"code": torch.zeros(3, 5)}, r"expected \[n, 2\]"),
        ({"prior": torch.tensor([0.5, 1.5])}, r"prior\[1\] is 1.5"),
        ({"prior": torch.tensor([float("nan"), 0.5])}, r"prior\[0\] is nan"),
        ({"prior": torch.zeros(0)}, r"prior has shape \(0,\)"),
        ({"scheme": "zip"}, "scheme is 'zip'"),
        ({"block_rows": 0}, "block_rows is 0"),
        ({"block_rows": 1 << 28}, "block_rows is 268435456"),
        ({"threshold": -0.5}, "threshold is -0.5; scheme entropy"),
        ({"scheme": "indices", "threshold": 0.1}, "threshold is 0.1; expected"),
        ({"scheme": "indices", "threshold": float("nan")}, "threshold is nan"),
        ({"model_hash": "ä"}, "model_hash is 'ä'"),
    ],
)
def test_bad_input_is_named(changed: dict, message: str) -> None:
    arguments: dict[str, Any] = {"code": torch.tensor([[0, 1]]), "prior": torch.tensor([0.5, 0.25])} | changed
    with pytest.raises(InvalidInputError, match=message):
        compress(**arguments)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 11)])
def test_rows_that_are_not_there(start: int, stop: int) -> None:
    with pytest.raises(InvalidInputError, match="the container has 10"):
        read_rows(compress(torch.zeros(10, 3), torch.zeros(3)), start, stop)


@pytest.mark.gpu
def test_codes_on_a_gpu() -> None:
    code, rates = simulated(50, 300, 256)
    assert compress(code.cuda(), rates.cuda()) == compress(code, rates)
    assert compress(code.cuda(), rates, "indices") == compress(code, rates, "indices")


def test_source_may_be_an_open_file() -> None:
    code, rates = simulated(20, 10, 64)
    assert torch.equal(decompress(io.BytesIO(compress(code, rates))), code)
