import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from bae_ray import results
from bae_ray.activations.layout import Cell, Manifest
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.autoencoders import load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.files import checksum
from bae_ray.storage import folder_at
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import SweepConfig
from bae_ray.training.results import ENTROPY_COLUMNS, entropy_table
from bae_ray.training.run import RESULT_FILE
from bae_ray.training.sweep import sweep

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = SweepConfig(layers=(0, 2), training=TrainingConfig(epochs=3, batch_size=32), gpus_per_trial=0)


@pytest.fixture(scope="module")
def swept(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "s"
    outcome = sweep(CONFIG, ActivationStore.open(tiny_store), out)
    assert (outcome.trained, outcome.failures) == (4, [])
    return out


def finished(out: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob(f"*/{RESULT_FILE}")}


def test_a_directory_per_run(swept: Path):
    folders = [path for path in swept.iterdir() if path.is_dir()]
    assert len(folders) == 4
    for folder in folders:
        assert {file.name for file in folder.iterdir()} == {
            "run.json", "metrics.jsonl", "config.json", "model.safetensors", "result.json"
        }  # fmt: skip
        assert json.loads((folder / "run.json").read_text())["training"]["epochs"] == 3
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]


def test_table_says_what_the_checkpoints_measure(swept: Path, tiny_store: Path):
    table = results(swept)
    assert list(entropy_table(table).columns) == ENTROPY_COLUMNS
    assert not entropy_table(table).isna().any().any()
    assert table["training.epochs"].tolist() == [3] * 4
    store = ActivationStore.open(tiny_store)
    for row in table.to_dict("records"):
        x = store.matrix(row["layer"], row["position"])
        p = load_autoencoder(swept / row["run"]).encode(x).detach().mean(0).double()
        p = p[(p > 0) & (p < 1)]
        bits = float(-(p * p.log2() + (1 - p) * (1 - p).log2()).sum())
        assert row["entropy_bits"] == pytest.approx(bits, rel=1e-5)
        assert row["n_train"] + row["n_val"] == len(x)
    assert table["entropy_bits"].nunique() > 1
    pd.testing.assert_frame_equal(pd.read_parquet(swept / "results.parquet"), table, check_dtype=False)


def test_a_grid_is_extended_and_nothing_trained_twice(swept: Path, tiny_store: Path):
    before = finished(swept)
    store = ActivationStore.open(tiny_store)
    assert sweep(CONFIG, store, swept).trained == 0
    outcome = sweep(CONFIG.model_copy(update={"axes": ("training.seed=0,1",), "layers": (0, 2)}), store, swept)
    assert outcome.trained == 4
    after = finished(swept)
    assert len(after) == 8
    assert {run: after[run] for run in before} == before


def test_an_unfinished_run_is_trained_anew_to_the_same_numbers(swept: Path, tiny_store: Path):
    run = next(iter(finished(swept)))
    weights = {name: tensor.clone() for name, tensor in load_file(swept / run / "model.safetensors").items()}
    result = json.loads((swept / run / RESULT_FILE).read_text())
    (swept / run / RESULT_FILE).unlink()
    (swept / run / "model.safetensors").write_bytes(b"half")
    assert sweep(CONFIG.model_copy(update={"axes": ("training.seed=0,1",)}), ActivationStore.open(tiny_store), swept)
    for name, tensor in load_file(swept / run / "model.safetensors").items():
        assert torch.equal(tensor, weights[name])
    again = json.loads((swept / run / RESULT_FILE).read_text())
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


@pytest.fixture
def store_with_bad_cells(tiny_store: Path, tmp_path: Path) -> ActivationStore:
    """Three cells of one shard: a good one, a constant one, and one whose file is damaged after it was written."""
    source = ActivationStore.open(tiny_store)
    writer = StoreWriter(folder_at(tmp_path / "bad"))
    cells = {Cell(layer, "residual", 2): source.matrix(2, 2).clone() for layer in (0, 1, 2)}
    cells[Cell(1, "residual", 2)][:] = 3
    n = source.manifest.n
    receipt = writer.write_shard(0, writer.write_rows(0, source.texts_table(), n, n), cells)
    request = source.manifest.request.model_copy(update={"layers": (0, 1, 2), "positions": (2,)})
    fields = source.manifest.model_dump()
    writer.finish(
        Manifest.model_validate({**fields, "request": request.model_dump(), "shards": [receipt.model_dump()]})
    )
    damaged = tmp_path / "bad" / Cell(2, "residual", 2).file(0)
    save_file({"activations": torch.zeros(4, 16)}, damaged)
    assert checksum(damaged) != receipt.files[Cell(2, "residual", 2).file(0)].checksum
    return ActivationStore.open(writer.folder)


def test_failing_cells_are_reported_and_lose_nothing(store_with_bad_cells: ActivationStore, tmp_path: Path):
    config = CONFIG.model_copy(update={"layers": None})
    outcome = sweep(config, store_with_bad_cells, tmp_path / "out")
    assert outcome.trained == 1
    assert len(outcome.failures) == 2
    constant, damaged = outcome.failures
    assert "(layer 1, residual, position 2): all" in constant
    assert "identical" in constant
    assert "(layer 2, residual, position 2):" in damaged
    assert "has checksum" in damaged
    assert results(tmp_path / "out")["layer"].tolist() == [0]
    reasons = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*/failure.json")]
    assert {reason["error"] for reason in reasons} == {"TrainingError", "CorruptShardError"}


def test_no_finished_run_is_said(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"holds no finished run\. Make some with 'bae-ray sweep'"):
        results(tmp_path)
