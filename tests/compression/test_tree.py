"""Scheme `tree`: nothing is lost, codes take what the tree says, and other trees are refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders import BAEConfig, build_autoencoder, load_autoencoder
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.compression import (
    choices,
    compress,
    compress_activations,
    decompress,
    decompress_activations,
    fit_tree,
    open_container,
    read_header,
    read_rows,
    tree_coder,
    tree_walk,
)
from bae_ray.compression.config import CompressConfig
from bae_ray.compression.conversions import Compression, FileSource
from bae_ray.compression.entropy import COUNTED, RATED
from bae_ray.compression.header import TableChoice
from bae_ray.compression.parallel import convert
from bae_ray.compression.tree_coder import TreeCoder
from bae_ray.compression.tree_table import TreeTable
from bae_ray.errors import (
    CompressionError,
    CorruptContainerError,
    ForeignModelError,
    InvalidInputError,
    NoPriorError,
)
from tests.autoencoders.known_codes import drawn, random_tree

TABLES: tuple[TableChoice, ...] = ("embedded", "reference")


@st.composite
def trees(draw: st.DrawFn, most: int = 20) -> ChowLiuTree:
    """Trees of any form, fitted to codes that hang together in many ways."""
    width, n, seed = draw(st.integers(1, most)), draw(st.integers(1, 200)), draw(st.integers(0, 10_000))
    rates, parent = random_tree(width, seed)
    return fit_tree(drawn(n, rates, parent, seed))


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 70), st.floats(0, 1), st.integers(0, 1000), st.integers(1, 45), st.sampled_from(TABLES))
def test_nothing_is_lost_whatever_the_code(
    tree: ChowLiuTree, n: int, rate: float, seed: int, block_rows: int, table: TableChoice
):
    code = torch.rand(n, len(tree.parent), generator=torch.Generator().manual_seed(seed)) < rate
    data = compress(code, tree, "tree", block_rows=block_rows, table=table)
    given_ = tree if table == "reference" else None
    assert torch.equal(decompress(data, prior=given_), code.to(torch.uint8))
    assert (read_header(data).rows, read_header(data).scheme) == (n, "tree")
    start, stop = n // 3, n - n // 4
    assert torch.equal(read_rows(data, start, stop, prior=given_), code[start:stop].to(torch.uint8))


@settings(max_examples=100, deadline=None)
@given(trees(most=30), st.integers(1, 90), st.floats(0, 1), st.integers(0, 1000))
def test_both_kinds_of_blocks_are_read(tree: ChowLiuTree, rows: int, rate: float, seed: int):
    code = torch.rand(rows, len(tree.parent), generator=torch.Generator().manual_seed(seed)) < rate
    table = TreeTable.of(tree)
    coder, flips = TreeCoder(table), np.flatnonzero(code.numpy() != table.typical)
    kinds = set()
    with pytest.MonkeyPatch.context() as patch:
        for most, at_once in ((-1, 1 << 22), (-1, 1), (-1, 20), (1 << 40, 1)):
            patch.setattr(tree_coder, "MOST_RATED_BYTES", most)
            patch.setattr(tree_walk, "EXCEPTIONS_AT_ONCE", at_once)
            patch.setattr(tree_coder, "CHUNK", at_once)
            content = coder.encode(flips, rows)
            kinds.add(content[0])
            assert sorted(np.concatenate(list(coder.decode(content, rows))).tolist()) == flips.tolist()
    assert COUNTED in kinds


def test_unseen_codes_take_what_the_tree_says():
    rates, parent = random_tree(400, 0)
    tree = fit_tree(drawn(4_000, rates, parent, 1))
    unseen = drawn(8_192, rates, parent, 2)
    expected = float(tree.code_lengths(unseen).sum())
    data = compress(unseen, tree, "tree", table="reference")
    assert torch.equal(decompress(data, prior=tree), unseen.to(torch.uint8))
    assert 0.98 * expected <= 8 * len(data) <= 1.03 * expected
    assert len(data) < 0.85 * len(compress(unseen, unseen.double().mean(0), table="reference"))
    few = compress(unseen[:1], tree, "tree", table="reference")
    assert 8 * len(few) <= float(tree.code_lengths(unseen[:1]).sum()) + 8 * 50


def test_copies_take_next_to_nothing():
    """A thousand latents of four states, somewhat as layer 20 has them."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(2_000, 2, generator=generator) < torch.tensor([0.5, 0.1])
    code = bits.repeat(1, 500)
    tree = fit_tree(code[:1_600])
    expected = float(tree.code_lengths(code[1_600:]).sum())
    data = compress(code[1_600:], tree, "tree", table="reference")
    assert 8 * (len(data) - 50) <= 1.03 * expected < 400 * 3


def test_what_differs_from_the_typical_code_is_less_likely():
    """Of each latent the rates given its parent are what the table says, to its levels; integers alone decide."""
    rates, parent = random_tree(30, 7)
    tree = fit_tree(drawn(500, rates, parent, 0))
    table = TreeTable.of(tree)
    for latent, above in enumerate(tree.parent.tolist()):
        for exception in (0, 1) if above >= 0 else (0,):
            value = 0 if above < 0 else int(table.typical[above]) ^ exception
            fires = float(tree.rates[latent, value])
            atypical = 1 - fires if table.typical[latent] else fires
            flips = 1 - atypical if exception and table.follows[latent] else atypical
            level = int(table.levels[exception, latent])
            assert flips <= 0.5
            assert level == 63 or 2 ** -(1 + level / 2) * (1 - 1e-9) < flips <= 2 ** -(0.5 + level / 2) * (1 + 1e-9)
    again = TreeTable(table.entries)
    for name in ("parent", "typical", "follows", "levels", "depth"):
        assert np.array_equal(getattr(again, name), getattr(table, name))


def small(table: TableChoice, block_rows: int = 8) -> tuple[Tensor, ChowLiuTree, bytes]:
    rates, parent = random_tree(10, 1)
    code = drawn(20, rates, parent, 0).to(torch.uint8)
    tree = fit_tree(code)
    return code, tree, compress(code, tree, "tree", block_rows=block_rows, table=table, model_hash="abc")


@pytest.mark.parametrize(("table", "block_rows"), [*itertools.product(TABLES, (8, 64))])
def test_every_changed_byte_every_cut_and_anything_added_is_refused(table: TableChoice, block_rows: int):
    code, tree, data = small(table, block_rows)
    given_ = tree if table == "reference" else None
    assert torch.equal(decompress(data, prior=given_), code)
    for place in range(len(data)):
        for change in (1, 16, 128, 255):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(CompressionError):
                decompress(damaged, prior=given_)
    for other in (*(data[:end] for end in range(len(data))), data + b"\0", data + data):
        with pytest.raises(CorruptContainerError):
            read_header(other)


def test_another_tree_is_refused():
    code, tree, data = small("reference")
    other = fit_tree(code[:10])
    for wrong, reason in ((other, "was written with the tree"), (code.double().mean(0), "not to firing rates"),
                          (fit_tree(code[:, :9]), "was written with the tree")):  # fmt: skip
        with pytest.raises(ForeignModelError, match=reason):
            decompress(data, prior=wrong)
    with pytest.raises(ForeignModelError, match=r"refers to the tree .* give prior=autoencoder\.tree"):
        decompress(data)
    rates = code.double().mean(0)
    with pytest.raises(ForeignModelError, match="not to a tree"):
        decompress(compress(code, rates, table="reference"), prior=tree)
    with pytest.raises(InvalidInputError, match=r"scheme tree takes a tree, as fit_tree"):
        compress(code, rates, "tree")
    with pytest.raises(InvalidInputError, match="scheme entropy takes firing rates"):
        compress(code, tree)
    with pytest.raises(InvalidInputError, match="holds 2"):
        fit_tree(torch.full((3, 4), 2))


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        (torch.zeros(5), r"shape \(5,\); expected \[n, F\]"),
        (torch.zeros(2, 3, 4), r"shape \(2, 3, 4\); expected \[n, F\]"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"shape \(2, 4\); expected \[n, 3\]"),
        ([torch.zeros(2, 3), torch.zeros(3)], r"shape \(3,\); expected \[n, 3\]"),
    ],
)
def test_what_is_no_matrix_of_codes_is_named(codes: Tensor | list[Tensor], reason: str):
    with pytest.raises(InvalidInputError, match=reason):
        fit_tree(codes)


def test_an_autoencoder_has_its_tree_with_it(tmp_path: Path):
    autoencoder = build_autoencoder(BAEConfig(d_in=6, d_latent=40))
    autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    code = autoencoder.requires_grad_(False).eval().encode(x)
    autoencoder.prior.copy_(code.mean(0))
    with pytest.raises(NoPriorError, match="has no tree over its latents"):
        compress_activations(autoencoder, x, "tree")
    autoencoder.tree = fit_tree(code)
    autoencoder.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    data = compress_activations(loaded, x, "tree")
    assert read_header(data).table == "reference"
    assert len(data) < len(compress_activations(loaded, x))
    assert torch.equal(decompress_activations(loaded, data), loaded.decode(code))
    with_table = compress_activations(loaded, x, "tree", table="embedded")
    own = compress_activations(loaded, x[:200], "tree", prior=fit_tree(code[:200]))
    assert read_header(own).table == "embedded"
    loaded.tree = None
    assert torch.equal(decompress_activations(loaded, with_table), loaded.decode(code))
    with pytest.raises(ForeignModelError, match=r"this one has none\. Load it with the tree\.safetensors"):
        decompress_activations(loaded, data)
    with pytest.raises(InvalidInputError, match="prior is data and scheme tree"):
        compress_activations(loaded, x, "tree", prior="data")
    loaded.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("scheme", "has_tree", "expected"), [("auto", True, "tree"), ("auto", False, "entropy"), ("tree", True, "tree")]
)
def test_files_are_compressed_with_the_tree(scheme: str, has_tree: bool, expected: str, tmp_path: Path):
    autoencoder = build_autoencoder(BAEConfig(d_in=6, d_latent=40))
    autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    code = autoencoder.requires_grad_(False).eval().encode(x)
    autoencoder.prior.copy_(code.mean(0))
    autoencoder.tree = fit_tree(code) if has_tree else None
    autoencoder.save_pretrained(tmp_path / "bae")
    np.save(tmp_path / "x.npy", x.numpy())
    config = CompressConfig.model_validate({"scheme": scheme, "block_rows": 32, "part_rows": 64})
    source = FileSource(str(tmp_path / "x.npy"))
    conversion = Compression(source, str(tmp_path / "bae"), "x", config)
    (receipt,) = convert([conversion], tmp_path / "out", config, "Compressing", "inline")
    assert receipt.request["scheme"] == expected
    data = (tmp_path / "out" / receipt.name).read_bytes()
    assert (read_header(data).scheme, read_header(data).table) == (expected, "reference")
    assert torch.equal(decompress_activations(autoencoder, data), autoencoder.decode(code))
    if has_tree:
        assert data == compress_activations(autoencoder, x, "tree", block_rows=32)


def test_auto_takes_the_smaller_container_where_a_sample_alone_would_not(monkeypatch: pytest.MonkeyPatch):
    """The table of a tree takes six times the bytes of the other, once in a container of any number of rows."""
    autoencoder = build_autoencoder(BAEConfig(d_in=6, d_latent=40))
    autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(600, 6, generator=torch.Generator().manual_seed(1))
    code = autoencoder.requires_grad_(False).eval().encode(x)
    autoencoder.prior.copy_(code.mean(0))
    autoencoder.tree = fit_tree(code)
    monkeypatch.setattr(choices, "SAMPLE_ROWS", 20)
    few = x[:: len(x) // 20]
    sizes = {
        scheme: [len(compress_activations(autoencoder, some, scheme, table="embedded")) for some in (few, x)]
        for scheme in ("entropy", "tree")
    }
    assert sizes["entropy"][0] < sizes["tree"][0]
    assert sizes["tree"][1] < sizes["entropy"][1]
    assert choices.chosen_scheme(autoencoder, x, "encoder", table="embedded") == "tree"


@pytest.mark.parametrize(
    ("rows", "block_rows", "kinds", "recorded"),
    [
        (60, 32, [RATED, RATED], ["6e840c62618f8efb23a99db2b94ffe60", "5dc84715dda33ccf5b8cb52d61fe1570"]),
        (6000, 4000, [COUNTED, COUNTED], ["9b6544f5f94318c5462cda7f5c952865", "b7151f2bb9ff6361c9cbb2d97e020d25"]),
    ],
)
def test_bytes_are_the_same_on_all_machines(rows: int, block_rows: int, kinds: list[int], recorded: list[str]):
    """Recorded once: trees of whole numbers, and codes of a generator without floating point."""
    i = torch.arange(rows * 16).reshape(rows, 16)
    code = ((i * 7919 % 10_007) % 5 < 2) & ((i * 104_729 % 1_299_709) % 3 > 0)
    code[:, 1::2] ^= code[:, ::2]
    parent = torch.tensor([-1, *range(15)])
    fired = torch.stack(
        [(code & ~code[:, parent.clamp_min(0)]).sum(0), (code & code[:, parent.clamp_min(0)]).sum(0)], 1
    )
    fired[0] = torch.tensor([int(code[:, 0].sum()), 0])
    tree, found = ChowLiuTree(parent, fired, rows), []
    for table in TABLES:
        data = compress(code, tree, "tree", block_rows=block_rows, table=table)
        found.append(xxhash.xxh3_128_hexdigest(data))
        assert torch.equal(decompress(data, prior=tree), code.to(torch.uint8))
        with open_container(data, tree) as reader:
            assert [reader.read(block)[0] for block in range(2)] == kinds
    assert found == recorded
