"""A run's directory, above all after an interruption."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.rivals import Rivals
from bae_ray.autoencoders import BAEConfig, ReLUConfig, load_autoencoder
from bae_ray.errors import DivergedError
from bae_ray.training import loop, run_execution
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.results import results
from bae_ray.training.run_execution import execute_run
from bae_ray.training.run_folder import STATE_FILE, RunResult, is_finished, read_failure
from bae_ray.training.samples import Split

TRAINING = TrainingConfig(epochs=6, batch_size=16, lr=1e-2, log="step")


class KilledError(Exception):
    """Stands for a kill."""


def test_an_interrupted_run_goes_on_and_its_directory_is_that_of_one_that_was_not(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = ActivationStore.open(tiny_store)
    run = plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=2), TRAINING)
    expected = execute_run(run, store, tmp_path / "whole", "cpu")
    seen: list[int] = []

    def kill_in_epoch_4(epoch: int) -> None:
        seen.append(epoch)
        if epoch == 4:
            raise KilledError

    monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
    with pytest.raises(KilledError):
        execute_run(run, store, tmp_path / "killed", "cpu", kill_in_epoch_4)
    folder = tmp_path / "killed" / run.id
    assert (folder / STATE_FILE).exists()
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 5, "lo')  # the line that was being written
    found = execute_run(run, store, tmp_path / "killed", "cpu", seen.append)
    assert seen == [1, 2, 3, 4, 2, 3, 4, 5, 6], "the state was saved after the first epoch"
    assert found.model_dump(exclude={"seconds"}) == expected.model_dump(exclude={"seconds"})
    logs, weights = [], []
    for name in ("whole", "killed"):
        assert {file.name for file in (tmp_path / name / run.id).iterdir()} == {
            "run.json", "metrics.jsonl", "config.json", "model.safetensors", "tree.safetensors", "result.json",
            "state.safetensors",  # six epochs are not enough
        }  # fmt: skip
        lines = (tmp_path / name / run.id / "metrics.jsonl").read_text().splitlines()
        logs.append([{**json.loads(line), "seconds": 0} for line in lines])
        weights.append(load_file(tmp_path / name / run.id / "model.safetensors"))
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, len(logs[0]) + 1))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_binary_run_tells_its_bits_and_keeps_its_tree(tiny_store: Path, tmp_path: Path):
    store = ActivationStore.open(tiny_store)
    run = plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=2), TRAINING)
    result = execute_run(run, store, tmp_path, "cpu")
    assert result.tree_bits is not None
    assert result.heldout_bits is not None
    assert result.distinct is not None
    assert 0 < result.tree_bits <= result.entropy_bits
    assert result.heldout_bits >= 0
    assert 1 < result.distinct <= result.n_train + result.n_val
    loaded = load_autoencoder(tmp_path / run.id)
    assert loaded.tree is not None
    assert loaded.tree.n == result.n_train + result.n_val
    assert loaded.tree.entropy_bits == pytest.approx(result.tree_bits)
    assert loaded.prior.tolist() == pytest.approx((loaded.tree.total / loaded.tree.n).tolist())

    x = store.matrix(1, 2)
    p = loaded.encode(x[Split.draw(Rows([x]), None, 0.2, 0).held_out]).detach().double().mean(0)
    entropy = -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)).sum() / math.log(2)
    assert result.entropy_bits_val is not None
    assert result.entropy_bits_val == pytest.approx(float(entropy))
    assert result.entropy_bits_val != pytest.approx(result.entropy_bits)
    assert result.entropy_low_val is not None
    assert result.entropy_high_val is not None
    assert result.entropy_low_val <= result.entropy_bits_val <= result.entropy_high_val <= result.d_latent
    assert result.entropy_bias_val is not None
    assert result.entropy_bias_val > result.entropy_bias > 0
    other = plan_run(store, Cell(1, "residual", 2), ReLUConfig(expansion=2), TRAINING)
    told = execute_run(other, store, tmp_path, "cpu")
    assert (told.tree_bits, told.heldout_bits, told.joint_bits, told.distinct) == (None, None, None, None)
    assert not (tmp_path / other.id / "tree.safetensors").exists()
    tables = results(tmp_path)
    assert tables["tree_bits"].notna().sum() == 1

    earlier = tmp_path / run.id / "result.json"
    fields = json.loads(earlier.read_text())
    new = [name for name in fields if RunResult.model_fields[name].default is None]
    earlier.write_text(json.dumps({name: value for name, value in fields.items() if name not in new}))
    assert len(new) == 23 + len(Rivals._fields)
    assert results(tmp_path)["tree_bits"].isna().all()


def test_a_diverged_run_says_why_and_keeps_its_last_state(tiny_store: Path, tmp_path: Path):
    store = ActivationStore.open(tiny_store)
    diverging = TRAINING.model_copy(update={"l1_weight": 1e38, "l1_warmup": 0.5})
    run = plan_run(store, Cell(1, "residual", 2), ReLUConfig(), diverging)
    with pytest.raises(DivergedError, match=r"in epoch 4 of 6, step \d+ of"):
        execute_run(run, store, tmp_path, "cpu")
    assert not is_finished(tmp_path, run)
    assert "Lower lr (0.01) or the loss weights" in str(read_failure(tmp_path, run))
    state = load_file(tmp_path / run.id / STATE_FILE)
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_an_unexpected_error_keeps_its_traceback(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ActivationStore.open(tiny_store)
    run = plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=2), TRAINING)
    monkeypatch.setattr(run_execution, "train_together", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        execute_run(run, store, tmp_path, "cpu")
    failure = read_failure(tmp_path, run)
    assert failure is not None
    assert (failure.error, failure.message) == ("ZeroDivisionError", "integer division or modulo by zero")
    assert "in execute_runs" in failure.traceback

    file = tmp_path / run.id / "failure.json"
    older = {key: value for key, value in json.loads(file.read_text()).items() if key != "traceback"}
    file.write_text(json.dumps(older))
    assert read_failure(tmp_path, run) == failure.model_copy(update={"traceback": ""})
