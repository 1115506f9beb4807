"""What other tools read of a store: read back by those tools."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.export import export_cells
from bae_ray.activations.extract import extract
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError


@pytest.fixture
def store(tiny_store: Path) -> ActivationStore:
    return ActivationStore.open(tiny_store)


def test_npy(store: ActivationStore, tmp_path: Path):
    written = export_cells(store, tmp_path / "out", "npy")
    assert len(written) == len(store.cells) + 1
    for cell in store.cells:
        array = np.load(tmp_path / "out" / f"{cell.name}.npy", mmap_mode="r")
        np.testing.assert_array_equal(array, store.matrix(cell.layer, cell.position).numpy())
    rows = pd.read_parquet(tmp_path / "out" / "rows.parquet")
    assert rows["text_id"].tolist() == store.rows["text_id"].tolist()


def test_parquet_with_the_standard_tensor_type(store: ActivationStore, tmp_path: Path):
    export_cells(store, tmp_path, "parquet", layers=[1])
    table = pq.read_table(tmp_path / "residual" / "layer-01" / "position-00007.parquet")
    assert table.schema.field("activation").type == pa.fixed_shape_tensor(pa.float32(), [16])
    assert table["text_id"].to_pylist() == store.rows["text_id"].tolist()
    tensors = table["activation"].combine_chunks()
    np.testing.assert_array_equal(tensors.to_numpy_ndarray(), store.matrix(1, 7).numpy())
    assert not (tmp_path / "residual" / "layer-00").exists()


def test_list_of_layers_as_the_released_code_takes_it(store: ActivationStore, tmp_path: Path):
    """Its --layered_feature wants a list, by layer, of lists of vectors: the tensors "0", "1", ... in order."""
    export_cells(store, tmp_path, "release", layers=[1, 3], positions=[2])
    file = tmp_path / "residual" / "position-2.safetensors"
    tensors = load_file(file)
    layers = [list(tensors[str(i)]) for i in range(len(tensors))]
    assert [len(layer) for layer in layers] == [store.manifest.n] * 2
    np.testing.assert_array_equal(layers[1][5], store.matrix(3, 2)[5].numpy())
    with safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"layers": "1,3"}


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision(ray_cluster, tiny_config: ExtractConfig, tmp_path: Path, dtype: str):
    changes = {"dtype": dtype, "layers": (2,), "positions": ("all",), "max_texts": 50}
    store = extract(ExtractConfig.model_validate({**tiny_config.model_dump(), **changes}), tmp_path / "store", "inline")
    whole = store.matrix(2, "all")
    export_cells(store, tmp_path / "npy", "npy")
    export_cells(store, tmp_path / "parquet", "parquet")
    array = np.load(tmp_path / "npy" / "residual" / "layer-02" / "position-all.npy")
    assert array.dtype == {"bfloat16": np.float32, "float16": np.float16}[dtype]
    assert torch.equal(torch.from_numpy(array).to(whole.dtype), whole)
    table = pq.read_table(tmp_path / "parquet" / "residual" / "layer-02" / "position-all.parquet")
    np.testing.assert_array_equal(table["activation"].combine_chunks().to_numpy_ndarray(), array)
    assert table["text_id"].to_pylist() == store.rows["text_id"].tolist()


def test_what_is_not_there_or_in_the_way_is_said(store: ActivationStore, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"layer 9 is not in the store .*; it has \[0, 1, 2, 3\]"):
        export_cells(store, tmp_path, "npy", layers=[9])
    with pytest.raises(InvalidInputError, match=r"site mlp_in is not in the store .*; it has \['residual'\]"):
        export_cells(store, tmp_path, "npy", sites=["mlp_in"])
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(InvalidInputError, match="is not empty"):
        export_cells(store, tmp_path, "npy")


def test_store_verbs(bae_ray, tiny_store: Path, tmp_path: Path):
    code, out, _ = bae_ray("store", "info", "--store", tiny_store)
    assert code == 0
    assert "8 of " in out
    assert "x 16 in float32" in out
    code, out, err = bae_ray("store", "verify", "--store", tiny_store)
    assert code == 0, err
    files = sum(len(json.loads(file.read_text())["files"]) for file in (tiny_store / "receipts").iterdir())
    assert f"{files} files, each as it was written" in out
    code, out, err = bae_ray("store", "export", "--store", tiny_store, "--out", tmp_path / "x", "--positions", 2)
    assert code == 0, err
    assert out.startswith("5 files in")
    code, _, err = bae_ray("store", "info", "--store", "ftp://somewhere/store")
    assert code == 2
    assert "begins with ftp:// cannot be used" in err
    code, _, err = bae_ray("store", "list")
    assert code == 2
    assert "'store list' is not a verb" in err
