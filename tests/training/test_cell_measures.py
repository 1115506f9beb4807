"""Measuring the cells of a store without a training, and at the FVU of runs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import xxhash
from safetensors.torch import load_file, save

from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.config import MeasureConfig
from bae_ray.analysis.rivals import CellRivals, Rivals
from bae_ray.autoencoders import BAEConfig, TranscoderConfig
from bae_ray.errors import InvalidInputError
from bae_ray.training.cell_measures import MEASURED, TABLE_FILE, measure_store
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.run_execution import execute_run
from bae_ray.training.samples import Split
from tests.recorded import made

FIXED = ["effective_rank", "participation_ratio", "matrix_entropy_bits", "intrinsic_dimension"]


def file_of(store: Path, layer: int, position: int) -> Path:
    return store / f"cells/residual/layer-{layer:02d}/position-{position:05d}/00000.safetensors"


def change(store: Path, layer: int, position: int, x: torch.Tensor) -> None:
    """Give a store another cell."""
    file, content = file_of(store, layer, position), save({"activations": x})
    file.write_bytes(content)
    manifest = json.loads((store / "manifest.json").read_text())
    record = manifest["shards"][0]["files"][str(file.relative_to(store))]
    record |= {"size": len(content), "checksum": xxhash.xxh3_128_hexdigest(content)}
    (store / "manifest.json").write_text(json.dumps(manifest))


def cells_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in (folder / MEASURED).iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return ActivationStore.open(made.store(tmp_path / "store", (0, 1), (1, 2)))


def measured(store: ActivationStore, out: Path, **fields: Any) -> pd.DataFrame:
    found = measure_store(MeasureConfig(**fields), store, out)
    assert found.failures == []
    assert found.table is not None
    return found.table


def test_every_cell_has_the_measures_of_its_activations(store: ActivationStore, tmp_path: Path):
    table = measured(store, tmp_path / "out", fvu=0.5)
    assert table[["layer", "position"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    for row in table.to_dict("records"):
        x = load_file(file_of(tmp_path / "store", row["layer"], row["position"]))["activations"]
        split = Split.draw(Rows([x]), None, 0.2, 0)
        (train, _), (heldout, _) = split.parts()
        expected = CellRivals(train, heldout).at(0.5)
        assert [row[name] for name in expected._fields] == list(expected)
        assert (row["n_train"], row["n_val"], row["d_in"], row["fvu"], row["run"]) == (51, 13, 8, 0.5, "")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / TABLE_FILE), table, check_dtype=False)
    assert measured(store, tmp_path / "other", fvu=0.5).equals(table), "the same numbers"
    drawn = measured(store, tmp_path / "out", fvu=0.5, seed=1)
    assert (drawn["effective_rank"] != table["effective_rank"]).all()


def test_what_is_finished_is_read_and_what_is_missing_or_damaged_is_measured(store: ActivationStore, tmp_path: Path):
    out = tmp_path / "out"
    table = measured(store, out)
    before = cells_of(out)
    assert len(before) == 4
    missing, damaged, kept, _ = sorted(before)
    (out / MEASURED / missing).unlink()
    (out / MEASURED / damaged).write_bytes(before[damaged][1][:-20])
    receipt = json.loads(before[kept][1])
    receipt["rows"][0]["gaussian_bits"] = 12345.0
    (out / MEASURED / kept).write_text(json.dumps(receipt))
    again = measured(store, out)
    place = (again["layer"] == receipt["rows"][0]["layer"]) & (again["position"] == receipt["rows"][0]["position"])
    assert (again["gaussian_bits"] == 12345.0).tolist() == place.tolist(), "it was read, and not measured"
    assert again[~place].equals(table[~place])
    assert {name: content for name, (_, content) in cells_of(out).items() if name != kept} == {
        name: content for name, (_, content) in before.items() if name != kept
    }

    some = measured(store, out, fvu=0.1, layers=(1,))
    assert len(some) == 2
    assert len(cells_of(out)) == 6, "other options have files of their own"
    assert (some["gaussian_bits"].to_numpy() > table["gaussian_bits"][2:].to_numpy()).all()
    assert some[FIXED].reset_index(drop=True).equals(table[FIXED][2:].reset_index(drop=True))


def test_cells_with_runs_are_measured_at_the_fvu_of_each(store: ActivationStore, tmp_path: Path):
    runs, training = tmp_path / "runs", TrainingConfig(epochs=2, batch_size=16)
    results = [
        execute_run(plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=size), training), store, runs, "cpu")
        for size in (1, 2)
    ]
    transcoder = TranscoderConfig(expansion=1, target_site="residual", target_layer_offset=1)
    other = training.model_copy(update={"seed": 7})
    results.append(execute_run(plan_run(store, Cell(0, "residual", 1), transcoder, other), store, runs, "cpu"))
    found = measure_store(MeasureConfig(), store, tmp_path / "out", runs)
    assert found.table is not None
    table = {row["run"]: row for row in found.table.to_dict("records")}
    assert {run: row["fvu"] for run, row in table.items()} == {result.run: result.fvu_val for result in results}
    assert sorted(found.table["autoencoder.expansion"]) == [1, 1, 2]
    assert "training.lr" not in found.table, "in which they do not differ"
    one, two, of_target = (table[result.run] for result in results)
    for result in results:
        assert [table[result.run][name] for name in Rivals._fields] == [
            getattr(result, name) for name in Rivals._fields
        ]
    assert all(one[name] == two[name] for name in FIXED)
    (train, _), (heldout, _) = Split.draw(Rows(store.shards(1, 2)), None, 0.2, 0).parts()
    cell = CellRivals(train, heldout)
    for row in (one, two):
        assert [row[name] for name in Rivals._fields] == list(cell.at(row["fvu"]))
    assert (of_target["layer"], of_target["position"], of_target["seed"]) == (0, 1, 7)
    reconstructed = measured(store, tmp_path / "out", layers=(1,), positions=(1,), seed=7)
    assert [[of_target[name] for name in FIXED]] == reconstructed[FIXED].to_numpy().tolist(), "what it reconstructs"


def test_runs_of_other_activations_are_refused(store: ActivationStore, tmp_path: Path):
    run = plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=1), TrainingConfig(epochs=1, batch_size=16))
    execute_run(run, store, tmp_path / "runs", "cpu")
    change(tmp_path / "store", 1, 2, made.numbers(64, made.D, seed=50))
    changed = ActivationStore.open(tmp_path / "store")
    with pytest.raises(
        InvalidInputError, match=rf"run {run.id} in .* other activations of layer 1, residual, position 2"
    ):
        measure_store(MeasureConfig(), changed, tmp_path / "out", tmp_path / "runs")
    for folder, layers in (("nothing", None), ("runs", (0,))):
        with pytest.raises(InvalidInputError, match="holds no finished run of the cells to measure"):
            measure_store(MeasureConfig(layers=layers), changed, tmp_path / "out", tmp_path / folder)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_cannot_be_measured_stops_no_other(store: ActivationStore, tmp_path: Path):
    x = made.numbers(64, made.D, seed=1)
    x[37, 3] = torch.nan
    change(tmp_path / "store", 0, 1, x)
    change(tmp_path / "store", 0, 2, torch.ones(64, made.D))
    file_of(tmp_path / "store", 1, 1).write_bytes(b"damaged")
    found = measure_store(MeasureConfig(), ActivationStore.open(tmp_path / "store"), tmp_path / "out")
    assert len(found.failures) == 2
    assert "layer 0, residual, position 1: activations[37, 3] is nan" in found.failures[0]
    assert "layer 1, residual, position 1" in found.failures[1]
    assert "damaged" in found.failures[1]
    assert found.table is not None
    same, other = found.table.to_dict("records")
    assert (same["position"], same["gaussian_bits"]) == (2, 0)
    assert all(pd.isna(same[name]) for name in [*FIXED, "sign_bits", "product_bits"]), "where all is the same"
    assert not any(pd.isna(value) for value in other.values())


def test_a_covariance_that_cannot_be_decomposed_stops_no_other(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decompose, calls = torch.linalg.eigh, []

    def first_fails(matrix: torch.Tensor) -> Any:
        calls.append(matrix)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")  # pyright: ignore[reportPrivateImportUsage]
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", first_fails)
    found = measure_store(MeasureConfig(layers=(0,)), store, tmp_path / "out")
    assert [failure.partition(" (")[0] for failure in found.failures] == [
        "layer 0, residual, position 1: its covariance cannot be decomposed"
    ]
    assert found.table is not None
    assert found.table["position"].tolist() == [2]


def test_too_few_rows_are_refused_before_anything_is_read(tmp_path: Path):
    store = ActivationStore.open(made.store(tmp_path / "store", (0,), (1,), n=3))
    with pytest.raises(InvalidInputError, match="has 3 rows; expected 4 or more"):
        measure_store(MeasureConfig(), store, tmp_path / "out")
