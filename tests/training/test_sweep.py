import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
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
from bae_ray.training import run_execution, run_folder
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.packing import jobs, unfinished_packs
from bae_ray.training.results import ENTROPY_COLUMNS, entropy_table
from bae_ray.training.run_execution import execute_runs
from bae_ray.training.run_folder import RESULT_FILE, RunResult
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = SweepConfig(
    layers=(0, 2), training=TrainingConfig(epochs=3, batch_size=32), cpus_per_trial=2, gpus_per_trial=0
)


@pytest.fixture(scope="module")
def swept(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "s"
    outcome = sweep(CONFIG, ActivationStore.open(tiny_store), out)
    assert (outcome.trained, outcome.failures) == (4, [])
    return out


def finished(out: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob(f"*/{RESULT_FILE}")}


def test_a_directory_per_run(swept: Path):
    folders = [path for path in swept.iterdir() if path.is_dir() and path.name != "tensorboard"]
    assert len(folders) == 4
    assert {path.name for path in (swept / "tensorboard").iterdir()} == {path.name for path in folders}
    for folder in folders:
        assert {file.name for file in folder.iterdir()} == {
            "run.json", "metrics.jsonl", "config.json", "model.safetensors", "tree.safetensors", "result.json",
            "state.safetensors",  # three epochs are not enough
        }  # fmt: skip
        assert json.loads((folder / "run.json").read_text())["training"]["epochs"] == 3
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]


def test_table_says_what_the_checkpoints_measure(swept: Path, tiny_store: Path):
    table = results(swept)
    assert list(entropy_table(table).columns) == ENTROPY_COLUMNS
    told = entropy_table(table).drop(columns=["joint_bits", "joint_low", "joint_high"])  # where codes recur
    assert not told.isna().any().any()
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
    written = pd.read_parquet(swept / "results.parquet")
    assert set(written["status"]) == {"finished"}
    pd.testing.assert_frame_equal(
        written[table.columns].drop(columns=["subset_n", "subset_bits"]),
        table.drop(columns=["subset_n", "subset_bits"]),
        check_dtype=False,
    )
    assert [tuple(bits) for bits in written["subset_bits"]] == table["subset_bits"].tolist()


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


@pytest.mark.parametrize("packed_cells", ["one", "several"])
def test_failing_cells_are_reported_and_lose_nothing(
    store_with_bad_cells: ActivationStore, tmp_path: Path, packed_cells: str
):
    """Also where they were to be trained as one with a good one."""
    config = CONFIG.model_copy(update={"layers": None, "packed_cells": packed_cells})
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


def test_the_other_cells_are_trained_as_one_without_them(
    store_with_bad_cells: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = expand(
        CONFIG.model_copy(update={"layers": None, "axes": ("training.entropy_weight=0,1e-3",)}), store_with_bad_cells
    )
    given: list[tuple[int, int]] = []
    train = run_execution.train_together

    def seen(data: list[Any], of: list[int], members: list[Any], *rest: Any, **options: Any) -> Any:
        given.append((len(data), len(members)))
        return train(data, of, members, *rest, **options)

    monkeypatch.setattr(run_execution, "train_together", seen)
    outcomes = execute_runs(runs, store_with_bad_cells, tmp_path, tmp_path / "state.safetensors", "cpu")
    assert given == [(1, 2)]
    assert [type(outcome).__name__ for outcome in outcomes] == [
        *["RunResult"] * 2, *["TrainingError"] * 2, *["CorruptShardError"] * 2,
    ]  # fmt: skip


def test_a_run_too_large_for_memory_takes_none_with_it_beside_bad_cells(
    store_with_bad_cells: ActivationStore, tmp_path: Path
):
    """Of one pack: two cells fail by themselves, and for the third memory runs out until its runs are apart."""
    config = CONFIG.model_copy(
        update={"layers": None, "packed_cells": "several", "axes": ("autoencoder.d_latent=32,100000000000",)}
    )
    outcome = sweep(config, store_with_bad_cells, tmp_path / "out", "inline")
    assert outcome.trained == 1
    table = results(tmp_path / "out")
    assert (table["layer"].item(), table["autoencoder.d_latent"].item()) == (0, 32)
    reasons = [json.loads(file.read_text())["error"] for file in (tmp_path / "out").glob("*/failure.json")]
    assert sorted(reasons) == ["CorruptShardError"] * 2 + ["OutOfMemoryError"] + ["TrainingError"] * 2


def test_a_finished_sweep_asks_for_no_worker(swept: Path, tiny_store: Path):
    """Whether packs hold several cells is asked of the cluster where there is something to train."""
    config = CONFIG.model_copy(update={"gpus_per_trial": 99})
    assert sweep(config, ActivationStore.open(tiny_store), swept).trained == 0


ONE_EACH = (
    "training.lr=3e-3,1e38,3e-3,3e-3 autoencoder.d_latent=32,32,100000000000,32 autoencoder.bits_per_feature=1,1,1,3"
)
"""A run that can be trained, one that diverges, one too large for any memory, one that cannot be."""


def test_illegal_diverging_and_too_large_runs_are_marked_and_the_others_finish(
    bae_ray: Callable, tiny_store: Path, tmp_path: Path
):
    command = [
        "sweep", "--store", tiny_store, "--out", tmp_path / "out", "--layers", 1, "--axes", ONE_EACH,
        "--training.epochs", 3, "--training.batch-size", 32, "--gpus-per-trial", 0,
    ]  # fmt: skip
    code, out, err = bae_ray(*command)
    assert code == 2
    assert "2 runs of the grid have invalid settings:" in err
    assert "autoencoder.bits_per_feature=3 at (layer 1, residual, position 2): d_latent is 32, which 3 bits" in err
    assert not (tmp_path / "out").exists()

    code, out, err = bae_ray(*command, "--skip-illegal")
    assert code == 1
    assert "2 runs trained, 6 failed." in out
    assert "2 runs ran out of memory or lost their workers; once more, one at a time" in err
    table = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert table.groupby("status")["position"].apply(list).to_dict() == {
        "failed": [2, 2, 7, 7], "finished": [2, 7], "illegal": [2, 7]
    }  # fmt: skip
    for status, lr, d_latent, reason in [
        ("finished", 3e-3, 32, ""),
        ("failed", 1e38, 32, "DivergedError: the loss became "),
        ("failed", 3e-3, 10**11, "OutOfMemoryError: 1 autoencoders of up to 100,000,000,000 latents"),
        ("illegal", 3e-3, 32, "d_latent is 32, which 3 bits per feature do not divide"),
    ]:
        rows = table[
            (table["status"] == status)
            & (table["training.lr"] == lr)
            & (table["autoencoder.d_latent"].astype(float) == d_latent)
        ]
        assert len(rows) == 2
        assert all(found.startswith(reason) for found in rows["reason"])
        assert rows["entropy_bits"].isna().all() == (status != "finished")
    assert results(tmp_path / "out")["run"].tolist() == table[table["status"] == "finished"]["run"].tolist()


@pytest.mark.slow
def test_a_run_that_kills_its_workers_takes_no_other_with_it(tiny_store: Path, tmp_path: Path):
    store = ActivationStore.open(tiny_store)
    long = TrainingConfig(epochs=600, batch_size=32)
    changes = {"layers": (1,), "positions": (2,), "training": long, "packed": 1, "retries": 1, "cpus_per_trial": 4}
    config = CONFIG.model_copy(update={**changes, "axes": ("training.lr=1e-3,2e-3,3e-3,4e-3,5e-3,6e-3,7e-3,8e-3",)})
    killer = expand(config, store)[2]
    (job,) = [job for job in jobs(unfinished_packs(expand(config, store), tmp_path, 1), 1) if job[0].runs[0] == killer]
    assert len(job) == 2, "it has no other behind it"
    over, killed = threading.Event(), 0

    def kill() -> None:  # whichever worker begins it: there is one at a time
        nonlocal killed
        seen: set[int] = set()
        while not over.wait(0.05):
            file = tmp_path / killer.id / "run.json"
            if file.exists() and (begun := file.stat().st_ino) not in seen:
                seen.add(begun)
                for process in psutil.Process().children(recursive=True):
                    if "ray::ResourceTrainable" in " ".join(process.cmdline()):
                        process.kill()
                        killed += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        outcome = sweep(config, store, tmp_path)
    finally:
        over.set()
        thread.join()
    assert killed == 4, "twice with the others, twice with nothing beside it"
    assert len(outcome.finished) == 7
    (failure,) = outcome.failures
    assert killer.id in failure
    assert "its worker died 2 times, with nothing beside it; too little memory is the usual reason" in failure
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert table.loc[table["status"] == "failed", "run"].tolist() == [killer.id]


class KilledError(BaseException):
    """Stands for a kill."""


def test_a_pack_killed_while_its_results_are_written_is_not_trained_again(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = ActivationStore.open(tiny_store)
    runs = expand(
        CONFIG.model_copy(update={"layers": (1,), "positions": (2,), "axes": ("training.entropy_weight=0,1e-3,1e-2",)}),
        store,
    )
    (quiet,) = unfinished_packs(runs, tmp_path / "quiet", 8)
    expected = execute_runs(quiet.runs, store, tmp_path / "quiet", quiet.state(tmp_path / "quiet"), "cpu")

    written: list[str] = []

    def kill_at_the_second(folder: Path, run: RunConfig, *given: Any) -> None:
        if written:
            raise KilledError
        written.append(run.id)
        write(folder, run, *given)

    write = run_folder.write_result
    out, epochs = tmp_path / "killed", []
    (pack,) = unfinished_packs(runs, out, 8)
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "write_result", kill_at_the_second)
        with pytest.raises(KilledError):
            execute_runs(pack.runs, store, out, pack.state(out), "cpu")
    before = finished(out)
    assert list(before) == written
    assert unfinished_packs(runs, out, 8) == [pack]
    found = execute_runs(pack.runs, store, out, pack.state(out), "cpu", lambda _, lines: epochs.append(lines))
    assert epochs == [], "it was trained again"
    assert {run: finished(out)[run] for run in before} == before
    assert not pack.state(out).exists()
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, RunResult)
        assert isinstance(theirs, RunResult)
        assert ours.model_dump(exclude={"seconds"}) == theirs.model_dump(exclude={"seconds"})


def test_packed_runs_have_the_numbers_of_those_trained_alone(tiny_store: Path, tmp_path: Path):
    store = ActivationStore.open(tiny_store)
    config = CONFIG.model_copy(
        update={"layers": (1,), "axes": ("training.entropy_weight=0,1e-3", "training.lr=1e-3,1e-2")}
    )
    tables = []
    for packed in (1, 8):
        sweep(
            config.model_copy(update={"packed": packed, "cpus_per_trial": 1}), store, tmp_path / str(packed), "inline"
        )
        tables.append(results(tmp_path / str(packed)).drop(columns=["seconds", "subset_n", "subset_bits"]))
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)


def test_extending_a_finished_grid_runs_what_is_new(tiny_store: Path, tmp_path: Path):
    store = ActivationStore.open(tiny_store)
    config = CONFIG.model_copy(update={"layers": (0, 1), "axes": ("training.lr=1e-3,2e-3,3e-3,4e-3,5e-3",)})
    assert sweep(config, store, tmp_path, "inline").trained == 20
    before = finished(tmp_path)
    extended = config.model_copy(update={"layers": None, "exclude": ("layer=2 position=2", "layer=3")})
    assert len(expand(extended, store)) == 25
    assert sweep(extended, store, tmp_path, "inline").trained == 5
    assert {run: finished(tmp_path)[run] for run in before} == before
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 25


def test_dry_run_writes_nothing(bae_ray: Callable, tiny_store: Path, tmp_path: Path):
    code, out, _ = bae_ray(
        "sweep", "--store", tiny_store, "--out", tmp_path / "out", "--seeds", 0, 1, "--packed", 2, "--dry-run",
        "--gpus-per-trial", 0, "--training.batch-size", 32,
    )  # fmt: skip
    assert code == 0
    assert re.search(r"runs\s+│ 16 \(0 finished, 16 to train in 16 packs\)", out)
    assert re.search(r"measured\s+│ \d+\.\d ms per step", out)
    assert "worker-hours" in out
    assert not (tmp_path / "out").exists()


def test_no_finished_run_is_said(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"holds no finished run\. Make some with 'bae-ray sweep'"):
        results(tmp_path)
