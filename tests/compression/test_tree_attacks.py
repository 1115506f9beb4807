"""Scheme `tree`: what an attacker writes is decoded in bounded memory and time, or refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.compression import compress, decompress, fit_tree, read_rows, tree_walk
from bae_ray.compression.entropy import COUNTED, RATED, encode_gaps, range_encoder
from bae_ray.compression.header import TABLE_BYTES, Header
from bae_ray.compression.tree_coder import TreeCoder
from bae_ray.compression.tree_table import TreeTable
from bae_ray.errors import ContainerTooLargeError, CorruptContainerError, InvalidInputError
from bae_ray.varint import write_varints
from tests.autoencoders.known_codes import drawn, random_tree
from tests.compression.test_container import container
from tests.memory import MB, at_most


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120), st.integers(1, 9), st.sampled_from([COUNTED, RATED, 2]))
def test_blocks_of_anything_are_decoded_or_refused(block: bytes, rows: int, kind: int):
    """An attacker's checksums are right; what comes out is a code or an error of ours."""
    rates, parent = random_tree(7, 3)
    table = TreeTable.of(fit_tree(drawn(90, rates, parent, 0)))
    header = Header(rows, 7, "tree", rows, "", table.hash)
    for content in (
        bytes([kind]) + block,
        bytes([kind, len(TreeCoder(table).encode(np.empty(0, np.int64), 1))]) + block,
    ):
        try:
            code = decompress(container(header, table, [content]))
        except CorruptContainerError:
            continue
        assert code.shape == (rows, 7)
        assert int(code.max()) <= 1


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=24, max_size=24))
def test_tables_of_anything_are_read_or_refused(entries: bytes):
    try:
        table = TreeTable(np.frombuffer(entries, dtype=np.uint8))
    except CorruptContainerError:
        return
    assert len(table.typical) == 4


def test_tables_that_are_no_trees_are_named():
    for parents, told, reason in (
        ([1, 0], [[1, 1], [1, 1]], "circle"),
        ([2, 0], [[1, 1], [1, 1]], "no latent"),
        ([1 << 31, 0], [[1, 1], [1, 1]], "no latent"),
        ([(1 << 32) - 1, 0], [[64, 1], [1, 1]], "level 64"),
    ):
        with pytest.raises(CorruptContainerError, match=reason):
            TreeTable(entries(parents, told))
    with pytest.raises(CorruptContainerError, match="7 bytes"):
        TreeTable(np.zeros(7, dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes([COUNTED]), "length of the numbers of flips cannot be read"),
        (bytes([COUNTED, 9, 0]), "ends before"),
        (bytes([COUNTED, 0]), "numbers of flips cannot be read"),
        (bytes([COUNTED, 2]) + write_varints([300]), "claims 300 flips, where there can be 14"),
        (bytes([3]), "no known kind"),
        (bytes([RATED, 0]), "whole number of words"),
    ],
)
def test_lies_in_a_block_are_named(content: bytes, reason: str):
    rates, parent = random_tree(7, 3)
    coder = TreeCoder(TreeTable.of(fit_tree(drawn(90, rates, parent, 0))))
    with pytest.raises(CorruptContainerError, match=reason):
        list(coder.decode(content, 2))


def test_a_block_that_claims_all_flips_takes_bounded_memory():
    width, rows = 1 << 12, 1 << 10
    table = TreeTable.of(fit_tree(torch.zeros(3, width)))
    assert TABLE_BYTES["tree"] * width == len(table.entries)
    told = write_varints([1 << 22, 100, 0])
    bomb = container(
        Header(rows, width, "tree", rows, "", table.hash), table, [bytes([COUNTED, len(told)]) + told + bytes(64)]
    )
    with at_most(rows * width + 8 * MB), pytest.raises(CorruptContainerError, match="claims 4194304 flips"):
        decompress(bomb)
    header = Header(10**10, 1, "tree", 1 << 20, "", TreeTable.of(fit_tree(torch.zeros(3, 1))).hash)
    many = container(header, TreeTable.of(fit_tree(torch.zeros(3, 1))), [b"\0"] * header.blocks)
    with at_most(8 * MB), pytest.raises(ContainerTooLargeError):
        decompress(many)
    with pytest.raises(InvalidInputError, match="expected at most 8192, so that a block does not take too much memory"):
        compress(torch.zeros(1, width), fit_tree(torch.zeros(3, width)), "tree", block_rows=1 << 16)


def entries(parents: list[int], told: list[list[int]]) -> np.ndarray:
    parents_ = np.array(parents, dtype=np.int64).astype("<u4").view(np.uint8)
    return np.concatenate([parents_, np.array(told, dtype=np.uint8).reshape(-1)])


def test_runs_that_claim_all_bits_each_take_bounded_memory():
    """64 runs of latents without a parent, each with as many flips as the block has bits: that costs little."""
    width, rows = 64, 1 << 10
    table, most = TreeTable(entries([-1] * width, [[level, 0] for level in range(width)])), width * rows
    encoder = range_encoder()
    for _ in range(width):
        encode_gaps(encoder, np.zeros(most, dtype=np.int64), 127, 0)
    told = write_varints([most, 127, 0] * width)
    block = bytes([COUNTED]) + write_varints([len(told)]) + told + encoder.get_compressed().astype("<u4").tobytes()
    bomb = container(Header(rows, width, "tree", rows, "", table.hash), table, [block])
    assert len(bomb) < 10_000
    with (
        at_most(17 * most + MB),
        pytest.raises(CorruptContainerError, match="claims 131072 flips, where there can be 65536"),
    ):
        decompress(bomb, max_bytes=most)


def test_many_small_blocks_under_a_deep_tree_are_refused():
    """Each takes a step for every latent, though it has 4 bytes: hours, of a container of 200 kB."""
    width, rows = 4096, 8192
    table = TreeTable(entries(list(range(-1, width - 1)), [[40, 40]] * width))
    header = Header(rows, width, "tree", 1, "", table.hash)
    data = container(header, table, [TreeCoder(table).encode(np.empty(0, dtype=np.int64), 1)] * rows)
    with pytest.raises(ContainerTooLargeError, match="and 4096 steps down the tree for each"):
        decompress(data)
    assert not read_rows(data, 5, 7).any()
    with pytest.raises(ContainerTooLargeError, match="the limit is 8192"):
        read_rows(data, 5, 7, max_bytes=2 * width)
    shallow = compress(torch.zeros(300, 40), fit_tree(torch.eye(40)), "tree", block_rows=1)
    assert decompress(shallow, max_bytes=300 * 40 * 256).shape == (300, 40)


def test_exceptions_that_cost_nothing_take_bounded_memory():
    """A star: where the root is atypical, all others are, and next to nothing is written of them."""
    width, rows = 1 << 12, 1 << 10
    fired = torch.zeros(width, 2, dtype=torch.int64)
    fired[0, 0], fired[1:, 1] = 10_000, 10_000
    star = ChowLiuTree(torch.tensor([-1, *[0] * (width - 1)]), fired, 30_000)
    data = compress(torch.ones(rows, width, dtype=torch.bool), star, "tree", block_rows=rows)
    assert len(data) < 7 * width + 2_000
    with pytest.MonkeyPatch.context() as patch, at_most(rows * width * (1 + 8) + 16 * MB):
        patch.setattr(tree_walk, "EXCEPTIONS_AT_ONCE", 1 << 16)
        assert int(decompress(data).sum()) == rows * width
