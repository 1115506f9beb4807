import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch

from bae_ray.activations.layout import Cell, Manifest, Receipt, Request, RowsIndex
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import CorruptShardError, ForeignStoreError, IncompleteStoreError, InvalidInputError
from bae_ray.storage import folder_at


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    """A copy of the tiny store, to be damaged."""
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def request(**changes) -> Request:
    fields = {
        "model": {"name": "m"}, "tokenizer": {}, "input": {"kind": "texts"}, "layers": (0,), "sites": ("residual",),
        "positions": (1,), "dtype": "float32", "batch_size": 2, "batch_tokens": 9, "shard_size": 4, "shard_mb": 1,
    }  # fmt: skip
    return Request.model_validate({**fields, **changes})


def write_store(path: Path, shards: list[dict[Cell, torch.Tensor]], **changes) -> ActivationStore:
    """A store of these shards, a text of two tokens per row."""
    writer = StoreWriter(folder_at(path))
    receipts: list[Receipt] = []
    for shard, vectors in enumerate(shards):
        n = len(next(iter(vectors.values())))
        first = sum(receipt.n for receipt in receipts)
        texts = pa.table(
            {
                "text_id": pa.array(range(first, first + n), pa.int64()),
                "token_ids": pa.array([[1, 2]] * n, pa.list_(pa.int32())),
                "text": ["a b"] * n,
            }
        )
        receipts.append(writer.write_shard(shard, writer.write_rows(shard, texts, n, 2 * n), vectors))
    n = sum(receipt.n for receipt in receipts)
    counts: dict[str, Any] = {
        "n": n,
        "texts": n,
        "tokens": 2 * n,
        "texts_read": n,
        "texts_too_short": 0,
        "texts_too_long": 0,
    }
    d = next(iter(shards[0].values())).shape[1]
    writer.finish(Manifest(request=request(**changes), d=d, shards=tuple(receipts), **counts))
    return ActivationStore.open(path)


def test_matrices_and_rows_belong_together(tiny_store: Path):
    store = ActivationStore.open(tiny_store)
    assert len(store.cells) == 8
    assert store.manifest.n == len(store.rows) == len(store.matrix(3, 7))
    assert store.manifest.texts_too_short == 200 - store.manifest.n
    assert len(store.manifest.shards) > 2
    embedding = {}
    for ids, vector in zip(store.rows["token_ids"], store.matrix(0, 2), strict=True):
        assert torch.equal(embedding.setdefault(ids[2], vector), vector)
    assert len(embedding) > 20


def test_single_shard_is_a_memory_map(tmp_path: Path):
    """Reading a cell of one shard of 64 MB takes next to no memory until its pages are touched."""
    matrix = torch.ones(1_000_000, 16)
    store = write_store(tmp_path / "s", [{Cell(0, "residual", 1): matrix}])
    process = psutil.Process()
    private = process.memory_full_info().uss
    mapped = store.matrix(0, 1)
    assert process.memory_full_info().uss - private < 8e6
    assert torch.equal(mapped, matrix)


def test_unknown_cell_lists_what_there_is(tiny_store: Path):
    with pytest.raises(
        InvalidInputError, match=r"no cell \(layer 9, residual, position 2\); it has layers \[0, 1, 2, 3\]"
    ):
        ActivationStore.open(tiny_store).matrix(9, 2)


@pytest.mark.parametrize("offset", [0, 100, -1])
def test_corrupted_byte_is_named_on_read(store: Path, offset: int):
    name = Cell(1, "residual", 7).file(1)
    content = bytearray((store / name).read_bytes())
    content[offset] ^= 1
    (store / name).write_bytes(content)
    opened = ActivationStore.open(store)
    opened.matrix(1, 2)
    for read in (lambda: opened.matrix(1, 7), opened.verify):
        with pytest.raises(CorruptShardError, match=f"{name} has checksum .* expected"):
            read()


def test_missing_shard_is_named(store: Path):
    name = Cell(0, "residual", 2).file(0)
    (store / name).unlink()
    with pytest.raises(CorruptShardError, match=f"{name} is missing"):
        ActivationStore.open(store).matrix(0, 2)


def test_corrupted_rows_are_named(store: Path):
    (store / "rows" / "00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptShardError, match=r"rows/00001\.parquet has checksum"):
        _ = ActivationStore.open(store).rows


def test_truncated_manifest_is_refused(store: Path):
    text = (store / "manifest.json").read_text()
    (store / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(CorruptShardError, match=r"manifest\.json cannot be read"):
        ActivationStore.open(store)


BROKEN = b"\xff"
"""A byte that UTF-8 does not have."""


def test_damage_that_is_no_text_is_named(store: Path, tiny_store: Path):
    """In place of a letter in each JSON file: what can be made anew is, the rest is refused by name."""
    writer = StoreWriter(folder_at(store))
    index, receipt = writer.index(), writer.receipt(1)
    assert index is not None
    assert receipt is not None
    for name in ("manifest.json", "receipts/00001.json", "rows.json", "request.json"):
        content = (store / name).read_bytes()
        (store / name).write_bytes(content.replace(b"s", BROKEN, 1))
    with pytest.raises(CorruptShardError, match=r"manifest\.json cannot be read .*invalid unicode"):
        ActivationStore.open(store)
    assert writer.receipt(1) is None
    assert writer.receipt(0) is not None
    assert writer.index() is None
    with pytest.raises(ForeignStoreError, match=r"request\.json is not the request of a store"):
        writer.claim(ActivationStore.open(tiny_store).manifest.request)


def test_good_store_verifies(tiny_store: Path):
    assert ActivationStore.open(tiny_store).verify() is None


def test_unfinished_store_is_refused(store: Path, tmp_path: Path):
    (store / "manifest.json").unlink()
    with pytest.raises(IncompleteStoreError, match="Run the same extraction again"):
        ActivationStore.open(store)
    with pytest.raises(IncompleteStoreError, match="bae-ray extract"):
        ActivationStore.open(tmp_path / "nothing")


def test_foreign_store_names_what_differs(tmp_path: Path):
    writer = StoreWriter(folder_at(tmp_path / "s"))
    assert writer.claim(request())
    assert not writer.claim(request())
    with pytest.raises(
        ForeignStoreError, match=r"layers is \[0\] there, \[0, 5\] here; dtype is float32 there, bfloat16"
    ):
        writer.claim(request(layers=(0, 5), dtype="bfloat16"))
    with pytest.raises(ForeignStoreError, match=r"compile is False there, True here"):
        writer.claim(request(compile=True))
    assert json.loads((tmp_path / "s" / "request.json").read_text())["layers"] == [0]


def test_folder_with_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ForeignStoreError, match="is not empty and holds no activation store"):
        StoreWriter(folder_at(tmp_path)).claim(request())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_receipt_of_a_shard_whose_file_is_gone_does_not_count(store: Path):
    writer = StoreWriter(folder_at(store))
    receipt = writer.receipt(1)
    assert isinstance(receipt, Receipt)
    (store / Cell(2, "residual", 2).file(1)).unlink()
    assert writer.receipt(1) is None


def test_receipt_of_a_shard_whose_file_was_cut_short_does_not_count(store: Path):
    """As a machine that lost its power may leave it."""
    file = store / Cell(2, "residual", 2).file(1)
    file.write_bytes(file.read_bytes()[:100])
    assert StoreWriter(folder_at(store)).receipt(1) is None
    assert StoreWriter(folder_at(store)).receipt(0) is not None


def test_damaged_rows_are_not_computed_from(tmp_path: Path):
    writer = StoreWriter(folder_at(tmp_path))
    written = writer.write_rows(0, pa.table({"text_id": [1]}), 1, 1)
    assert writer.read_rows(0, written.file)["text_id"].to_pylist() == [1]
    index = RowsIndex(texts_read=1, texts_too_short=0, texts_too_long=0, shards=(written,))
    writer.write_index(index)
    assert writer.index() == index
    (tmp_path / "rows" / "00000.parquet").write_bytes(b"PAR1")
    assert writer.index() is None
    with pytest.raises(CorruptShardError, match=r"rows/00000\.parquet is damaged\. Delete rows\.json"):
        writer.read_rows(0, written.file)
    (tmp_path / "rows" / "00000.parquet").unlink()
    with pytest.raises(CorruptShardError, match=r"00000\.parquet is missing on .* file system that all machines see"):
        writer.read_rows(0, written.file)


def test_what_killed_writers_left_goes_at_the_end(tmp_path: Path):
    left = tmp_path / "s" / "cells" / "residual" / ".00000.safetensors.0123.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    write_store(tmp_path / "s", [{Cell(0, "residual", 1): torch.ones(3, 2)}])
    assert not left.exists()


def test_store_of_an_earlier_format_says_so(store: Path):
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["request"]["format_version"] = 1
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptShardError, match="is a store of format 1, and this bae_ray reads format 2"):
        ActivationStore.open(store)


def test_store_that_does_not_say_how_it_was_made_reads_the_same(store: Path, tiny_store: Path):
    """As those do that were written before it was recorded."""
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["failed"], manifest["request"]["compile"]
    for shard in manifest["shards"]:
        del shard["made_with"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    earlier, whole = ActivationStore.open(store), ActivationStore.open(tiny_store)
    assert earlier.manifest.request == whole.manifest.request
    assert torch.equal(earlier.matrix(1, 7), whole.matrix(1, 7))


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[ActivationStore, torch.Tensor]:
    """A cell of three shards of different lengths in bfloat16, and all of it."""
    rows = torch.arange(700)
    whole = torch.stack([rows // 100, rows % 100], 1).to(torch.bfloat16)  # which row it is, in numbers bfloat16 has
    shards = [{Cell(0, "residual", "last"): part} for part in whole.split([300, 1, 399])]
    path = tmp_path_factory.mktemp("three")
    return write_store(path, shards, positions=("last",), dtype="bfloat16"), whole


def test_matrix_of_several_shards_is_all_of_them(three_shards: tuple[ActivationStore, torch.Tensor]):
    store, whole = three_shards
    assert torch.equal(store.matrix(0, "last"), whole)
    assert store.rows["text_id"].tolist() == list(range(700))


@pytest.mark.parametrize("batch_size", [1, 64, 700, 1000])
def test_batches_in_order(three_shards: tuple[ActivationStore, torch.Tensor], batch_size: int):
    store, whole = three_shards
    batches = list(store.iter_batches(0, "last", batch_size=batch_size, shuffle=False))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert all(batch.dtype == torch.float32 for batch in batches)
    assert torch.equal(torch.cat(batches), whole.float())


def test_batches_are_shuffled_over_all_shards(three_shards: tuple[ActivationStore, torch.Tensor]):
    store, _ = three_shards

    def one_pass(seed: int = 0, epoch: int = 0) -> torch.Tensor:
        return torch.cat(list(store.iter_batches(0, "last", batch_size=100, seed=seed, epoch=epoch)))

    first = one_pass()
    assert torch.equal(first, one_pass())
    assert not torch.equal(first, one_pass(seed=1))
    assert not torch.equal(first, one_pass(epoch=1))
    for shuffled in (first, one_pass(epoch=1)):
        rows = (shuffled[:, 0] * 100 + shuffled[:, 1]).long()
        assert torch.equal(rows.sort().values, torch.arange(700))
        assert (rows[:100] < 300).any(), "a batch holds rows of the first shard"
        assert (rows[:100] > 300).any(), "and of the last"


def test_reading_one_batch_reads_no_more(tmp_path: Path):
    """Of 128 MB, a batch of ten rows, and the order of them all."""
    store = write_store(tmp_path / "s", [{Cell(0, "residual", 1): torch.ones(500_000, 32)} for _ in range(2)])
    process = psutil.Process()
    batches = store.iter_batches(0, 1, batch_size=10)
    private = process.memory_full_info().uss
    next(batches)
    assert process.memory_full_info().uss - private < 64e6
