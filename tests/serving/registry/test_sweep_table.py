"""The table of a registry's runs: that of their folders, however old the table of the sweep is."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.serving.registry.sweep_table import read_sweep
from bae_ray.training.config import TrainingConfig
from bae_ray.training.results import outcomes
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig

CONFIG = SweepConfig(
    axes=("training.lr=1e-3,1e30",), layers=(1,), training=TrainingConfig(epochs=2, batch_size=32), gpus_per_trial=0,
    tensorboard=False,
)  # fmt: skip


@pytest.fixture
def runs(tiny_store: Path, tmp_path: Path) -> Path:
    sweep(CONFIG, ActivationStore.open(tiny_store), tmp_path / "runs", executor="inline")
    return tmp_path / "runs"


def by_run(table: pd.DataFrame) -> dict[str, tuple[str, float]]:
    return {str(row["run"]): (row["status"], float(row.get("entropy_bits", 0))) for row in table.to_dict("records")}


def same(registry: Path) -> bool:
    found, expected = by_run(read_sweep(registry)), by_run(outcomes(registry))
    return {run: told[0] for run, told in found.items()} == {run: told[0] for run, told in expected.items()}


def test_finished_and_failed_with_a_table_and_without(runs: Path):
    table = read_sweep(runs)
    assert sorted(table["status"]) == ["failed", "failed", "finished", "finished"]
    assert same(runs)
    (runs / "results.parquet").unlink()
    assert same(runs)
    (runs / "results.parquet").write_bytes(b"PAR1 no table")
    assert same(runs)
    pd.DataFrame({"a": [1]}).to_parquet(runs / "results.parquet")
    assert same(runs), "a table of something else"


def test_what_came_went_or_changed_since_the_table_was_written(runs: Path):
    finished = sorted(read_sweep(runs).query("status == 'finished'")["run"])
    shutil.rmtree(runs / finished[0])
    result = json.loads((runs / finished[1] / "result.json").read_text())
    (runs / finished[1] / "result.json").write_text(json.dumps({**result, "entropy_bits": 12345.0}))
    later = (runs / "results.parquet").stat().st_mtime + 10
    os.utime(runs / finished[1] / "result.json", (later, later))
    shutil.copytree(runs / finished[1], runs / "copied")
    (runs / "copied" / "result.json").write_text(json.dumps({**result, "run": "copied"}))
    found = by_run(read_sweep(runs))
    assert finished[0] not in found
    assert found[finished[1]] == ("finished", 12345.0)
    assert found["copied"][0] == "finished"
    assert len(found) == 4


def test_a_damaged_run_costs_no_other(runs: Path, caplog: pytest.LogCaptureFixture):
    (runs / "results.parquet").unlink()
    finished = sorted(read_sweep(runs).query("status == 'finished'")["run"])
    (runs / finished[0] / "result.json").write_text("{")
    with caplog.at_level("ERROR", "ray.serve"):
        found = by_run(read_sweep(runs))
    assert finished[0] not in found
    assert len(found) == 3
    assert finished[0] in caplog.text


def test_a_registry_without_runs(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert len(read_sweep(tmp_path)) == 0
