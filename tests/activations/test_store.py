import json
import shutil
from pathlib import Path

import psutil
import pytest
import torch

from bae_ray.activations.store import (
    ActivationStore,
    Cell,
    Manifest,
    Receipt,
    Request,
    StoreWriter,
    free_bytes,
    store_bytes,
)
from bae_ray.errors import CorruptShardError, ForeignStoreError, IncompleteStoreError, InvalidInputError


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    """A copy of the tiny store, to be damaged."""
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def request(**changes) -> Request:
    fields = {
        "model": {"name": "m"}, "tokenizer": {}, "corpus": {"corpus": "c"}, "layers": (0,), "sites": ("residual",),
        "positions": (1,), "dtype": "float32", "batch_size": 2, "shard_size": 4,
    }  # fmt: skip
    return Request.model_validate({**fields, **changes})


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
    writer = StoreWriter(tmp_path / "s")
    matrix = torch.ones(1_000_000, 16)
    (tmp_path / "s" / "rows").mkdir(parents=True)
    (tmp_path / "s" / "rows" / "00000.parquet").write_bytes(b"")
    receipt = writer.write_shard(0, {Cell(0, "residual", 1): matrix})
    assert writer.receipt(0) == receipt
    assert writer.receipt(1) is None
    writer.finish(Manifest(request=request(), d=16, n=len(matrix), texts_read=1, texts_too_short=0, shards=(receipt,)))
    store = ActivationStore.open(tmp_path / "s")
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


def test_good_store_verifies(tiny_store: Path):
    assert ActivationStore.open(tiny_store).verify() is None


def test_unfinished_store_is_refused(store: Path, tmp_path: Path):
    (store / "manifest.json").unlink()
    with pytest.raises(IncompleteStoreError, match="Run the same extraction again"):
        ActivationStore.open(store)
    with pytest.raises(IncompleteStoreError, match="bae-ray extract"):
        ActivationStore.open(tmp_path / "nothing")


def test_foreign_store_names_what_differs(tmp_path: Path):
    writer = StoreWriter(tmp_path / "s")
    writer.claim(request())
    writer.claim(request())
    with pytest.raises(
        ForeignStoreError, match=r"layers is \[0\] there, \[0, 5\] here; dtype is float32 there, bfloat16"
    ):
        writer.claim(request(layers=(0, 5), dtype="bfloat16"))
    assert json.loads((tmp_path / "s" / "request.json").read_text())["layers"] == [0]


def test_folder_with_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ForeignStoreError, match="is not empty and holds no activation store"):
        StoreWriter(tmp_path).claim(request())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_receipt_of_a_shard_whose_file_is_gone_does_not_count(store: Path):
    writer = StoreWriter(store)
    receipt = writer.receipt(1)
    assert isinstance(receipt, Receipt)
    (store / Cell(2, "residual", 2).file(1)).unlink()
    assert writer.receipt(1) is None


def test_sizes(tmp_path: Path):
    assert store_bytes(10, 4, 3, 2) == 240
    assert free_bytes(tmp_path / "not" / "yet" / "there") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.01)
