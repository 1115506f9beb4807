"""Whether a training converged, and runs that go on because they did not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig, ReLUConfig
from bae_ray.cli.verb_training import SweepCommand
from bae_ray.cli.verb_training import sweep as sweep_verb
from bae_ray.errors import InvalidInputError
from bae_ray.training import run_folder
from bae_ray.training.config import TrainingConfig
from bae_ray.training.continuing import CONTINUED_FILE, epochs_of, reopen, unconverged
from bae_ray.training.convergence import Convergence, convergence
from bae_ray.training.grid import plan_run
from bae_ray.training.measuring import Trained
from bae_ray.training.objective import learning_rate
from bae_ray.training.packing import unfinished_packs
from bae_ray.training.run_execution import execute_run, execute_runs
from bae_ray.training.run_folder import METRICS_FILE, RESULT_FILE, STATE_FILE, read_result
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SearchConfig, SweepConfig
from bae_ray.training.trainer import train_many

TRAINING = TrainingConfig(
    epochs=6,
    batch_size=16,
    lr=1e-2,
    entropy_weight=1e-3,
    entropy_warmup=2,
    warmup_unit="epochs",
    covariance_weight=1e-4,
)
"""Nothing in it depends on how many epochs there are."""


def ended(path: Path, loss: list[float], entropy: list[float] | None = None, steps: int = 1) -> Convergence:
    """How a training with these epochs ended, of 100 bits and FVU .5; each epoch in so many steps."""
    lines = [
        {"epoch": epoch, "step": step, "loss": value + off, "reconstruction": value + off}
        | ({} if entropy is None else {"entropy": entropy[epoch - 1] - off})
        for epoch, value in enumerate(loss, start=1)
        for step, off in enumerate(np.linspace(-0.1, 0.1, steps) if steps > 1 else [0.0])
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = convergence(path, 100.0, 0.5)
    assert found is not None
    return found


def test_changes_are_those_of_a_line_through_the_last_tenth(tmp_path: Path):
    loss = [1.0] * 90 + [0.5 - 0.002 * epoch for epoch in range(10)]
    entropy = [300.0] * 90 + [200.0 + 3 * epoch for epoch in range(10)]
    found = ended(tmp_path / "a", loss, entropy)
    assert found.epochs == 100
    assert not found.converged
    assert found.loss_change == pytest.approx(-0.02 / 0.491)
    assert found.fvu_change == pytest.approx(-0.02 / 0.491 * 0.5)
    assert found.bits_change == pytest.approx(30 / 213.5 * 100)
    by_step = ended(tmp_path / "b", loss, entropy, steps=5)
    assert (by_step.loss_change, by_step.bits_change) == (
        pytest.approx(found.loss_change), pytest.approx(found.bits_change)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "bits", "converged"),
    [(0.0, 0.0, True), (0.0009, 0.0, True), (0.0015, 0.0, False), (0.0, 0.9, True), (0.0, -1.5, False)],
)
def test_it_converged_where_nothing_changes_by_more_than_its_threshold(
    loss: float, bits: float, converged: bool, tmp_path: Path
):
    """So much over the last ten epochs in all, of a loss of 0.1 and 100 bits."""
    slope = np.arange(10) / 10
    values = [0.1] * 90 + (0.1 - loss * slope).tolist()
    entropy = [100.0] * 90 + (100 + bits * slope).tolist()
    assert ended(tmp_path / "metrics.jsonl", values, entropy).converged is converged


def test_noise_around_a_level_is_no_change_and_a_tiny_loss_has_little_to_lose(tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 0.003, 200)
    assert ended(tmp_path / "a", (0.5 * (1 + noise)).tolist()).converged
    falling = [1.0] * 90 + [1e-5 * (1 - 0.05 * epoch) for epoch in range(10)]
    path = tmp_path / "b"
    ended(path, falling)
    found = convergence(path, 8.0, 1e-5)
    assert found is not None
    assert found.converged
    assert found.loss_change == pytest.approx(-0.5 / (1 - 0.225))


def test_two_epochs_tell_nothing_and_no_metrics_less(tmp_path: Path):
    assert ended(tmp_path / "a", [0.5, 0.5]) == (2, False, None, None, None)
    assert convergence(tmp_path / "none", 1.0, 1.0) is None


@pytest.fixture
def store(tiny_store: Path) -> ActivationStore:
    return ActivationStore.open(tiny_store)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("architecture", [BAEConfig(expansion=2), ReLUConfig(expansion=2)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("with_state", [True, False])
def test_a_run_that_goes_on_is_one_of_more_epochs(
    architecture: BAEConfig, packed: bool, with_state: bool, store: ActivationStore, tmp_path: Path
):
    cell = Cell(1, "residual", 2)
    run = plan_run(store, cell, architecture, TRAINING)
    if packed:
        other = plan_run(store, cell, architecture, TRAINING.model_copy(update={"lr": 3e-3}))
        execute_runs([other, run], store, tmp_path, tmp_path / "states" / "both.safetensors", "cpu")
        assert not (tmp_path / "states" / "both.safetensors").exists()
    else:
        execute_run(run, store, tmp_path, "cpu")
    folder = tmp_path / run.id
    assert [found.id for found in unconverged(tmp_path, [run])] == [run.id]
    config = (folder / "run.json").read_text()
    reopen(tmp_path, run, 4)
    assert not (folder / RESULT_FILE).exists()
    assert json.loads((folder / "result-6.json").read_text())["epochs"] == 6
    assert epochs_of(tmp_path, run) == 10
    if not with_state:
        (folder / STATE_FILE).unlink()
    result = execute_run(run, store, tmp_path, "cpu")
    longer = plan_run(store, cell, architecture, TRAINING.model_copy(update={"epochs": 10}))
    expected = execute_run(longer, store, tmp_path / "longer", "cpu")
    rtol, atol = (1e-4, 1e-5) if packed else (0.0, 0.0)
    for name, tensor in weights(tmp_path / "longer" / longer.id).items():
        assert torch.allclose(weights(folder)[name], tensor, rtol=rtol, atol=atol), name
    assert result.epochs == 10
    if not packed:
        same = {"run": run.id, "seconds": 0.0}
        assert result.model_copy(update=same) == expected.model_copy(update=same)
    lines = [json.loads(line)["epoch"] for line in (folder / METRICS_FILE).read_text().splitlines()]
    assert lines == list(range(1, 11))
    assert (folder / "run.json").read_text() == config
    assert (folder / STATE_FILE).exists() is (result.converged is False)


def test_it_can_go_on_again_and_the_rate_decays_again(store: ActivationStore, tmp_path: Path):
    training = TRAINING.model_copy(update={"lr_decay": 0.5})
    steps = (0, 49, 75, 99, 100, 139, 160, 179, 180, 190, 195, 199)
    assert [learning_rate(training, step, 100, (180, 200)) for step in steps] == pytest.approx(
        [0.01, 0.01, 0.005, 0.0002, 0.01, 0.01, 0.005, 0.00025, 0.01, 0.01, 0.005, 0.001]
    )
    run = plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=2), training)
    execute_run(run, store, tmp_path, "cpu")
    for more, epochs in ((3, 9), (2, 11)):
        reopen(tmp_path, run, more)
        assert execute_run(run, store, tmp_path, "cpu").epochs == epochs
    assert json.loads((tmp_path / run.id / CONTINUED_FILE).read_text()) == {"ends": [9, 11]}
    assert {file.name for file in (tmp_path / run.id).glob("result*.json")} == {
        "result.json", "result-6.json", "result-9.json"
    }  # fmt: skip


SWEEP = SweepConfig(
    layers=(1,), positions=(2,), training=TRAINING, axes=("training.lr=1e-2,3e-3",), tensorboard=False,
    autoencoder=BAEConfig(expansion=2),
)  # fmt: skip


def test_a_sweep_goes_on_with_what_did_not_converge(store: ActivationStore, tmp_path: Path):
    first = sweep(SWEEP, store, tmp_path, "inline")
    assert (first.trained, first.unconverged) == (2, 2)
    still, steady = (run.id for run in first.runs)
    result = json.loads((tmp_path / steady / RESULT_FILE).read_text())
    (tmp_path / steady / RESULT_FILE).write_text(json.dumps({**result, "converged": True}))
    assert sweep(SWEEP, store, tmp_path, "inline").trained == 0
    second = sweep(SWEEP, store, tmp_path, "inline", continue_unconverged=3)
    assert (second.trained, sorted(second.finished)) == (1, sorted([still, steady]))
    epochs = {run: json.loads((tmp_path / run / RESULT_FILE).read_text())["epochs"] for run in (still, steady)}
    assert epochs == {still: 9, steady: 6}


def test_killed_while_it_goes_on_the_same_call_adds_no_epochs_twice(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = sweep(SWEEP, store, tmp_path, "inline")
    write, written = run_folder.write_result, []

    def killed(*given: Any) -> None:
        if written:
            raise KeyboardInterrupt
        write(*given)
        written.append(given)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(SWEEP, store, tmp_path, "inline", continue_unconverged=3)
    again = sweep(SWEEP, store, tmp_path, "inline", continue_unconverged=3)
    assert (again.trained, again.unconverged) == (1, 2)
    assert [read_result(tmp_path, run).epochs for run in first.runs] == [9, 9]
    sweep(SWEEP, store, tmp_path, "inline", continue_unconverged=3)
    assert [read_result(tmp_path, run).epochs for run in first.runs] == [12, 12]


def test_a_training_that_goes_on_restarts_no_latents():
    """In its last epoch they would be measured untrained; and it may end with each."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    off = TRAINING.model_copy(update={"initial": "components", "revive_every": 9})
    restarts, none = (
        train_many(x, [(BAEConfig(expansion=8), training)], later=[9])[0]
        for training in (off, off.model_copy(update={"revive_every": None}))
    )
    assert isinstance(restarts, Trained)
    assert isinstance(none, Trained)
    assert none.all.dead > 0, "there is something to restart"
    assert torch.equal(restarts.autoencoder.W_enc, none.autoencoder.W_enc)


def test_what_goes_on_is_trained_alone_and_an_earlier_result_is_asked_by_its_metrics(
    store: ActivationStore, tmp_path: Path
):
    outcome = sweep(SWEEP, store, tmp_path, "inline")
    for run in outcome.runs:
        file = tmp_path / run.id / RESULT_FILE
        told = json.loads(file.read_text())
        earlier = {name: value for name, value in told.items() if name not in ("epochs", "converged")}
        file.write_text(json.dumps(earlier))
    assert len(unconverged(tmp_path, outcome.runs)) == 2
    for run in outcome.runs:
        reopen(tmp_path, run, 1)
    assert [len(pack.runs) for pack in unfinished_packs(outcome.runs, tmp_path, 8)] == [1, 1]
    assert [len(pack.runs) for pack in unfinished_packs(outcome.runs, tmp_path, 8)] == [1, 1]


def test_what_cannot_go_on_is_refused(store: ActivationStore, tmp_path: Path):
    searched = SWEEP.model_copy(update={"search": SearchConfig(scheduler="asha")})
    with pytest.raises(InvalidInputError, match="runs of a search do not go on"):
        sweep(searched, store, tmp_path, "inline", continue_unconverged=3)
    command = SweepCommand(sweep=SWEEP, store=str(tmp_path), out=tmp_path, dry_run=True, continue_unconverged=3)
    with pytest.raises(InvalidInputError, match="give one of them"):
        sweep_verb(command)
