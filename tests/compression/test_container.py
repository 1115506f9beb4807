"""What a container of codes withstands: damage, lies and bombs."""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.compression import compress, decompress, read_header, read_rows
from bae_ray.compression.container import ContainerWriter
from bae_ray.compression.entropy import EntropyCoder
from bae_ray.compression.header import DIGEST_SIZE, HEADER_SIZE, Header, Layout, Scheme, write_header
from bae_ray.compression.indices import IndexCoder
from bae_ray.compression.prior import PriorTable
from bae_ray.compression.tables import Table
from bae_ray.errors import CompressionError, ContainerTooLargeError, CorruptContainerError
from tests.memory import MB, at_most

SCHEMES: tuple[Scheme, ...] = ("entropy", "indices")


def small(scheme: Scheme = "entropy") -> tuple[torch.Tensor, bytes]:
    code = (torch.rand(20, 12, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    return code, compress(code, torch.full((12,), 0.25), scheme, block_rows=8, model_hash="abc")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_single_byte_corruption_is_refused(scheme: Scheme) -> None:
    code, data = small(scheme)
    assert torch.equal(decompress(data), code)
    for place in range(len(data)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(CompressionError):
                decompress(damaged)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_cut_and_anything_added_is_refused(scheme: Scheme) -> None:
    _, data = small(scheme)
    for end in range(len(data)):
        with pytest.raises(CorruptContainerError):
            read_header(data[:end])
    for added in (b"\0", b"x" * 100, data):
        with pytest.raises(CorruptContainerError):
            read_header(data + added)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_what_is_no_container_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptContainerError):
        decompress(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=HEADER_SIZE))
def test_a_header_of_anything_is_refused(text: bytes) -> None:
    _, data = small()
    with pytest.raises(CorruptContainerError):
        decompress(data[:8] + text.ljust(HEADER_SIZE - 8) + data[HEADER_SIZE:])


def container(header: Header, table: Table, blocks: list[bytes]) -> bytes:
    """A container whose checksums are right, whatever is in it."""
    payload = b"".join(blocks)
    offsets = np.cumsum([0, *map(len, blocks)]).astype("<u8").tobytes()
    checksums = np.array([xxhash.xxh3_64_intdigest(block) for block in blocks], dtype="<u8").tobytes()
    tables, first = offsets + checksums + table.entries.tobytes(), write_header(header, len(payload))
    return first + payload + tables + xxhash.xxh3_128_digest(first + tables)


def test_claimed_rows_without_blocks_are_refused_without_memory() -> None:
    _, data = small()
    header = read_header(data)
    claimed = header._replace(rows=10**12)
    bomb = write_header(claimed, Layout.of(header, 0).payload[0]) + data[HEADER_SIZE:]
    with at_most(MB), pytest.raises(CorruptContainerError):
        decompress(bomb)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bomb_of_many_rows_is_refused_from_its_header(scheme: Scheme) -> None:
    """10^12 codes in a container that is right in every byte."""
    table = PriorTable.of(torch.zeros(1))
    header = Header(10**12, 1, scheme, 1 << 28, "", table.hash)
    bomb = container(header, table, [b"\0"] * header.blocks)
    assert len(bomb) < 100_000
    assert read_header(bomb).rows == 10**12
    with at_most(MB), pytest.raises(ContainerTooLargeError, match="1000000000000 rows of 1 latents"):
        decompress(bomb)
    with at_most(MB), pytest.raises(ContainerTooLargeError):
        read_rows(bomb, 0, 1, max_bytes=100_000_000)  # its block alone is larger


def test_the_cap_is_of_the_decoded_bytes() -> None:
    code, data = small()
    assert torch.equal(decompress(data, max_bytes=240), code)
    with pytest.raises(ContainerTooLargeError, match="take 240 bytes; the limit is 239"):
        decompress(data, max_bytes=239)
    assert torch.equal(read_rows(data, 2, 3, max_bytes=96), code[2:3])
    with pytest.raises(ContainerTooLargeError, match="in blocks of 8"):
        read_rows(data, 2, 3, max_bytes=95)


def test_a_block_that_claims_all_flips_takes_bounded_memory() -> None:
    """2^22 flips in a few words: decoded a part at a time, not as 2^22 positions of 8 bytes."""
    rows, d_latent = 1 << 10, 1 << 12
    table = PriorTable.of(torch.zeros(d_latent))
    header = Header(rows, d_latent, "entropy", rows, "", table.hash)
    varint = bytes([0x80, 0x80, 0x80, 0x02])  # 2^22
    bomb = container(header, table, [varint + bytes(64)])
    with at_most((rows * d_latent) + 8 * MB), suppress(CorruptContainerError):
        assert decompress(bomb).shape == (rows, d_latent)


def test_a_dense_block_of_indices_is_decoded_a_part_at_a_time() -> None:
    """2^21 indices of 2 bytes each; as positions of 8 bytes, with their rows and differences, they took 70 MB."""
    code = torch.ones(1 << 9, 1 << 12)
    data = compress(code, torch.full((1 << 12,), 0.1), "indices", block_rows=1 << 9)
    with at_most(code.numel() + 2 * len(data) + 8 * MB):
        assert bool(decompress(data).all())


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(SCHEMES), st.integers(1, 9))
def test_blocks_of_anything_are_decoded_or_refused(block: bytes, scheme: Scheme, rows: int) -> None:
    """An attacker's checksums are right; what comes out is a code or an error of ours."""
    table = PriorTable.of(torch.tensor([0.0, 1.0, 0.5, 0.01, 0.3]))
    header = Header(rows, 5, scheme, rows, "", table.hash)
    try:
        code = decompress(container(header, table, [block]))
    except CorruptContainerError:
        return
    assert code.shape == (rows, 5)
    assert int(code.max()) <= 1


def entries(*values: int) -> PriorTable:
    return PriorTable(np.array(values, dtype=np.uint8))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IndexCoder(4).decode(b"\1", 1), "too few or not whole"),
        (lambda: IndexCoder(4).decode(b"\2\0\1\0", 1), "claims 2 indices and has 1"),
        (lambda: IndexCoder(4).decode(b"\1\0\4\0", 1), "not ascending latents"),
        (lambda: IndexCoder(4).decode(b"\2\0\1\0\1\0", 1), "not ascending latents"),
        (lambda: EntropyCoder(entries(3, 3)).decode(b"", 1), "numbers of flips cannot be read"),
        (lambda: EntropyCoder(entries(3, 3)).decode(b"\xff" * 9, 1), "numbers of flips cannot be read"),
        (lambda: EntropyCoder(entries(3, 3)).decode(b"\3\0\0\0\0", 1), "claims 3 flips among 2 bits"),
        (lambda: EntropyCoder(entries(3, 3)).decode(b"\1\0\0\0", 1), "not a whole number of words"),
        (lambda: EntropyCoder(entries(3, 3)).decode(b"\1\xff\xff\xff\xff", 1), "leaves the block"),
    ],
)
def test_lies_in_a_block_are_named(build: Callable[[], Iterator[np.ndarray]], message: str) -> None:
    with pytest.raises(CorruptContainerError, match=message):
        list(build())


def test_a_prior_of_unknown_levels_is_refused() -> None:
    with pytest.raises(CorruptContainerError, match="level 64"):
        entries(64)


def test_damage_in_one_block_is_named_and_leaves_the_others() -> None:
    code, data = small()
    damaged = bytearray(data)
    damaged[HEADER_SIZE] ^= 1
    with pytest.raises(CorruptContainerError, match=r"block 0 \(rows 0 to 7\) is damaged"):
        decompress(damaged)
    assert torch.equal(read_rows(damaged, 8, 20), code[8:])


def test_files_larger_than_the_memory_they_take() -> None:
    """Writing and reading 64 MB of codes takes memory for a block."""
    from bae_ray.compression import CodeWriter, open_container

    d_latent, block = 4096, 256
    code = (torch.rand(block, d_latent, generator=torch.Generator().manual_seed(0)) < 0.01).to(torch.uint8)
    file = io.BytesIO()
    with at_most(8 * MB):
        with CodeWriter(file, torch.full((d_latent,), 0.01), block_rows=block) as writer:
            for _ in range(64):
                writer.write(code)
        with open_container(file) as reader:
            assert len(reader) == 64 * block
            assert all(np.array_equal(part, code.numpy()) for part in reader.codes(0, len(reader)))


def test_writing_a_short_block_before_others_is_a_mistake() -> None:
    table = PriorTable.of(torch.zeros(3))
    writer = ContainerWriter(io.BytesIO(), Header(0, 3, "entropy", 4, "", table.hash), table)
    writer.write_block(np.zeros(0, dtype=np.int64), 2)
    with pytest.raises(ValueError, match="only the last block"):
        writer.write_block(np.zeros(0, dtype=np.int64), 4)


def test_digest_is_last() -> None:
    _, data = small()
    assert Layout.of(read_header(data), 0).digest[1] - Layout.of(read_header(data), 0).digest[0] == DIGEST_SIZE
