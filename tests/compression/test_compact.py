"""Containers that refer to their table of firing rates: small, seekable, refused where a byte or the table differs."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder
from bae_ray.client.split_containers import split_container
from bae_ray.compression import (
    Scheme,
    compress,
    compress_activations,
    decompress,
    decompress_activations,
    model_hash,
    open_container,
    read_header,
    read_rows,
)
from bae_ray.compression.compact import MAGIC, write_fields
from bae_ray.compression.container import ContainerWriter
from bae_ray.compression.entropy import COUNTED, MOST_RATED_BITS, RATED, RatedCoder
from bae_ray.compression.header import Header
from bae_ray.compression.prior import PriorTable
from bae_ray.errors import CompressionError, ContainerTooLargeError, CorruptContainerError, ForeignModelError
from tests.compression.test_codec import codes_and_priors
from tests.memory import MB, at_most

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEMES: tuple[Scheme, ...] = ("entropy", "indices")


def recorded() -> tuple[Autoencoder, Tensor]:
    """What made the recorded containers: weights and activations that are eighths, with sums that float32 holds."""
    d_in, d_latent = 6, 24
    autoencoder = build_autoencoder(BAEConfig(d_in=d_in, d_latent=d_latent))
    i = torch.arange(d_in * d_latent).float()
    with torch.no_grad():
        autoencoder.W_enc.copy_(((i * 37 % 17) - 8).reshape(d_in, d_latent) / 8)
        autoencoder.get_parameter("b_enc").copy_(((torch.arange(d_latent) * 5 % 11) - 8) / 8)
        autoencoder.W_dec.copy_(((i * 29 % 13) - 6).reshape(d_latent, d_in) / 8)
        autoencoder.b_dec.copy_(torch.arange(d_in) / 8)
    x = ((torch.arange(50 * d_in).float() * 23 % 19) - 9).reshape(50, d_in) / 4
    autoencoder.requires_grad_(False).eval()
    autoencoder.prior.copy_(autoencoder.encode(x).mean(0))
    return autoencoder, x


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_recorded_containers_are_read_and_written_for_ever(scheme: Scheme, version: str):
    """v1: written by the release before there was v2."""
    autoencoder, x = recorded()
    suffix = "codes.safetensors" if version == "v1" else "codes"
    data = (GOLDEN / f"container_{version}_{scheme}.{suffix}").read_bytes()
    code = autoencoder.encode(x).to(torch.uint8)
    assert torch.equal(decompress(data, prior=autoencoder.prior), code)
    assert torch.equal(read_rows(data, 15, 33, prior=autoencoder.prior), code[15:33])
    assert torch.equal(decompress_activations(autoencoder, data), autoencoder.decode(code))
    table = "embedded" if version == "v1" else "reference"
    assert compress_activations(autoencoder, x, scheme, block_rows=16, table=table) == data


def skewed(n: int, bits: float) -> tuple[Tensor, Tensor]:
    """Codes of 2,304 latents with such a marginal entropy, as trained ones have, and their rates."""
    rng = np.random.default_rng(0)
    logs = rng.normal(-7.5, 2.2, 2304)
    low, high, rates = -5.0, 5.0, np.exp(logs)
    for _ in range(50):
        shift = (low + high) / 2
        rates = np.exp(logs + shift).clip(0, 0.5)
        low, high = (shift, high) if entropy(rates) < bits else (low, shift)
    return torch.from_numpy(rng.random((n, 2304)) < rates), torch.from_numpy(rates)


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())


def surprise(code: Tensor, rates: Tensor) -> float:
    """Bits of a code under its rates."""
    return float(-torch.where(code, rates, 1 - rates).log2().sum())


def test_one_vector_takes_its_bits_and_few_bytes():
    code, rates = skewed(200, 76)
    name = "0123456789abcdef" * 2
    sizes = [len(compress(row, rates, table="reference", model_hash=name)) for row in code.split(1)]
    bits = [surprise(row, rates) for row in code.split(1)]
    assert np.mean(bits) == pytest.approx(76, abs=3)
    assert np.mean(sizes) < 60
    assert max(size for size, b in zip(sizes, bits, strict=True) if b <= 80) < 60
    assert all(size <= 43 + (b + 48) / 8 for size, b in zip(sizes, bits, strict=True))


@pytest.mark.parametrize("n", [100, 1000])
def test_many_vectors_take_their_entropy(n: int):
    code, rates = skewed(n, 76)
    data = compress(code, rates, table="reference", model_hash="0" * 32)
    assert torch.equal(decompress(data, prior=rates), code.to(torch.uint8))
    assert 8 * len(data) < (1.03 if n == 1000 else 1.06) * n * entropy(rates.numpy())


@settings(max_examples=150, deadline=None)
@given(codes_and_priors(), st.integers(1, 45))
def test_nothing_is_lost_whatever_the_prior(given_: tuple[Tensor, Tensor], block_rows: int):
    code, prior = given_
    data = compress(code, prior, block_rows=block_rows, table="reference")
    assert torch.equal(decompress(data, prior=prior), code)
    assert read_header(data).rows == len(code)
    start, stop = len(code) // 3, len(code) - len(code) // 4
    assert torch.equal(read_rows(data, start, stop, prior=prior), code[start:stop])


@pytest.mark.parametrize("rows", [MOST_RATED_BITS // 2304, MOST_RATED_BITS // 2304 + 1])
def test_blocks_around_the_limit(rows: int):
    code, rates = skewed(rows, 20)
    data = compress(code, rates, table="reference")
    assert data[len(MAGIC)] == (RATED if rows * 2304 <= MOST_RATED_BITS else COUNTED)
    assert torch.equal(decompress(data, prior=rates), code.to(torch.uint8))


def small(scheme: Scheme, block_rows: int) -> tuple[Tensor, Tensor, bytes]:
    code = (torch.rand(20, 12, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    prior = torch.full((12,), 0.25)
    return code, prior, compress(code, prior, scheme, block_rows=block_rows, table="reference", model_hash="abc")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("block_rows", [8, 64])
def test_every_changed_byte_every_cut_and_anything_added_is_refused(scheme: Scheme, block_rows: int):
    code, prior, data = small(scheme, block_rows)
    assert torch.equal(decompress(data, prior=prior), code)
    for place in range(len(data)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(CompressionError):
                decompress(damaged, prior=prior)
    for other in (*(data[:end] for end in range(len(data))), data + b"\0", data + data):
        with pytest.raises(CorruptContainerError):
            read_header(other)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_what_only_begins_like_one_is_refused(content: bytes):
    with pytest.raises(CorruptContainerError):
        decompress(MAGIC + content, prior=torch.full((12,), 0.25))


def test_another_table_is_refused_by_its_digest():
    code, prior, data = small("entropy", 64)
    for other in (prior * 2, torch.full((11,), 0.25), torch.full((13,), 0.25)):
        with pytest.raises(ForeignModelError, match=f"the table of firing rates {PriorTable.of(prior).hash[:16]}"):
            decompress(data, prior=other)
    with pytest.raises(ForeignModelError, match=r"give prior=autoencoder\.prior"):
        decompress(data)
    assert torch.equal(decompress(data, prior=prior.double()), code)

    autoencoder, x = recorded()
    data = compress_activations(autoencoder, x)
    assert read_header(data).model_hash == model_hash(autoencoder)
    autoencoder.prior.copy_(1 - autoencoder.prior)
    with pytest.raises(ForeignModelError, match="table of firing rates"):
        decompress_activations(autoencoder, data)
    autoencoder.b_dec.add_(1)
    with pytest.raises(ForeignModelError, match="codes were made by the autoencoder"):
        decompress_activations(autoencoder, data)


def test_rates_that_are_not_the_autoencoders_are_in_the_container():
    autoencoder, x = recorded()
    assert read_header(compress_activations(autoencoder, x)).table == "reference"
    data = compress_activations(autoencoder, x[:9], prior="data")
    assert read_header(data).table == "embedded"
    assert torch.equal(decompress(data), autoencoder.encode(x[:9]).to(torch.uint8))


def lie(header: Header, payload: bytes, sizes: list[int], checksums: list[int]) -> bytes:
    return MAGIC + payload + write_fields(header, sizes, checksums)


def test_what_it_claims_takes_no_memory():
    """Containers that are right in every byte and hold next to nothing."""
    zeros = torch.zeros(1 << 16)
    block = bytes([RATED]) + bytes(8)
    checksum = xxhash.xxh3_64_intdigest(block)
    header = Header(1 << 8, 1 << 16, "entropy", 1 << 8, "", PriorTable.of(zeros).hash, "reference")
    one = lie(header, block, [len(block)], [checksum])
    assert read_header(one).rows == 1 << 8
    with at_most(4 * MB), pytest.raises(ContainerTooLargeError, match="take 16777216 bytes"):
        decompress(one, prior=zeros, max_bytes=MB)
    with at_most(16 * MB + 8 * MB), pytest.raises(CorruptContainerError, match="of no known kind"):
        decompress(one, prior=zeros)  # bit by bit this would take long
    many = lie(header._replace(block_rows=1 << 7), block, [len(block)] * 2, [checksum] * 2)
    with at_most(4 * MB), pytest.raises(CorruptContainerError, match="not as long as it says"):
        decompress(many, prior=zeros)
    bomb = lie(header._replace(rows=1 << 47, d_latent=1), block, [len(block)], [checksum])
    with at_most(4 * MB), pytest.raises(CorruptContainerError, match="block_rows is"):
        read_header(bomb)


def test_damage_in_one_block_leaves_the_others():
    code, prior, data = small("entropy", 8)
    damaged = bytearray(data)
    damaged[len(MAGIC) + 3] ^= 1
    assert torch.equal(read_rows(damaged, 8, 20, prior=prior), code[8:])
    with pytest.raises(CorruptContainerError, match=r"block 0 \(rows 0 to 7\) is damaged"):
        read_rows(damaged, 7, 9, prior=prior)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_containers_are_joined_and_split_by_blocks(scheme: Scheme):
    code, prior, data = small(scheme, 4)
    joined = io.BytesIO()
    with open_container(data, prior) as reader:
        writer = ContainerWriter(joined, reader.header, reader.table)
        writer.append(reader)
        writer.finish()
    assert joined.getvalue() == data
    parts = split_container(data, 9, 1 << 20)
    assert [read_header(part).rows for part in parts] == [8, 8, 4]
    assert torch.equal(torch.cat([decompress(part, prior=prior) for part in parts]), code)
    assert parts[0] == compress(code[:8], prior, scheme, block_rows=4, table="reference", model_hash="abc")
    assert len(split_container(data, 100, 100)) > 1
    assert split_container(data, 20, len(data)) == [data]


def test_rates_of_levels_are_those_of_their_bounds():
    """Level l is of flip probabilities in (2^-(1 + l/2), 2^-(1 + (l-1)/2)]: codes cost little more than those say."""
    for level in range(1, 40):
        p = 2 ** -(0.75 + level / 2)
        table = PriorTable.of(torch.full((200,), p, dtype=torch.float64))
        assert set(table.levels.tolist()) == {level}
        content = RatedCoder(table).encode(np.array([7, 61]), 1)
        wanted = 2 * -np.log2(max(p, 2**-24)) - 198 * np.log2(1 - p)
        assert 8 * (len(content) - 1) <= wanted + 72
