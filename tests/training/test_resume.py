"""A training that is killed goes on from its last state and ends with the weights of one that was not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bae_ray.autoencoders import BAEConfig, BatchTopKConfig, ReLUConfig
from bae_ray.errors import CheckpointError, DivergedError
from bae_ray.training import loop
from bae_ray.training.config import TrainingConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.trainer import train, train_many
from bae_ray.work import preemption

TRAINING = TrainingConfig(
    epochs=12, batch_size=32, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4, revive_every=3, lr_decay=0.3
)


def data(n: int = 400, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


class KilledError(Exception):
    """Stands for a kill; the training has no chance to write anything more."""


@pytest.fixture
def saved_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
    monkeypatch.setattr(loop, "SHARE_OF_TIME", 0)


@pytest.mark.parametrize("kill_at_step", [0, 1, 7, 10, 57, 119])
@pytest.mark.parametrize("patience", [None, 4])
def test_resumed_at_any_step(
    kill_at_step: int, patience: int | None, tmp_path: Path, saved_every_step: None, monkeypatch: pytest.MonkeyPatch
):
    members = [
        (BAEConfig(), TRAINING.model_copy(update={"patience": patience})),
        (BAEConfig(), TRAINING.model_copy(update={"lr": 3e-3})),
        (BatchTopKConfig(k=2), TRAINING),
    ]
    whole_lines: list[tuple[int, TrainingMetrics]] = []
    whole = train_many(data(), members, on_epoch=lambda i, new: whole_lines.extend((i, line) for line in new))
    state = tmp_path / "state.safetensors"
    steps = 0
    step = loop.Stack.step

    def killed(self, *arguments):
        nonlocal steps
        if steps == 2 * kill_at_step:  # two architectures: two stacks take a step per batch
            raise KilledError
        steps += 1
        return step(self, *arguments)

    monkeypatch.setattr(loop.Stack, "step", killed)
    with pytest.raises(KilledError):
        train_many(data(), members, checkpoint=state, checkpoint_every_s=0)
    monkeypatch.setattr(loop.Stack, "step", step)
    assert state.exists() == (kill_at_step > 0)
    lines: list[tuple[int, TrainingMetrics]] = []
    resumed = train_many(
        data(), members, on_epoch=lambda i, new: lines.extend((i, line) for line in new), checkpoint=state
    )
    assert not state.exists()
    for ours, theirs in zip(resumed, whole, strict=True):
        assert not isinstance(ours, Exception)
        assert not isinstance(theirs, Exception)
        assert ours.all == theirs.all
        for name, tensor in theirs.autoencoder.state_dict().items():
            assert torch.equal(ours.autoencoder.state_dict()[name], tensor), name
    first = lines[0][1].epoch
    assert first > 1 or kill_at_step < 15
    again = [(i, line._replace(seconds=0.0)) for i, line in lines]
    assert again == [(i, line._replace(seconds=0.0)) for i, line in whole_lines if line.epoch >= first]


@pytest.mark.parametrize("asked_at_step", [1, 9, 10, 57, 119, 120])
def test_asked_to_end_it_saves_its_state_and_no_step_is_taken_twice(
    asked_at_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(preemption, "_asked", preemption._Asked())
    state, steps, step = tmp_path / "state.safetensors", 0, loop.Stack.step

    def counted(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == asked_at_step:
            preemption.ask("a test")
        return step(self, *arguments)

    whole = train(data(), BAEConfig(), TRAINING)
    monkeypatch.setattr(loop.Stack, "step", counted)
    with pytest.raises(preemption.Preempted, match="a test"):
        train(data(), BAEConfig(), TRAINING, checkpoint=state)
    assert steps == asked_at_step
    monkeypatch.setattr(preemption, "_asked", preemption._Asked())
    resumed = train(data(), BAEConfig(), TRAINING, checkpoint=state)
    assert steps == 12 * 10
    assert resumed.all == whole.all
    for name, tensor in whole.autoencoder.state_dict().items():
        assert torch.equal(resumed.autoencoder.state_dict()[name], tensor), name


def test_state_of_another_training_is_not_taken(tmp_path: Path):
    state = tmp_path / "state.safetensors"
    other = TRAINING.model_copy(update={"seed": 5})
    expected = train(data(), BAEConfig(), TRAINING)
    save_file({"0.0.weights.W_enc": torch.zeros(1)}, state, {"training": '{"identity": "another"}'})
    assert train(data(), BAEConfig(), TRAINING, checkpoint=state).all == expected.all
    assert train(data(), BAEConfig(), other).all != expected.all


def test_state_of_other_activations_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = tmp_path / "state.safetensors"

    def kill(lines: list[TrainingMetrics]) -> None:
        if lines[0].epoch == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train(data(), BAEConfig(), TRAINING, on_epoch=kill, checkpoint=state)
    assert state.exists()
    expected = train(data() + 1, BAEConfig(), TRAINING)
    assert train(data() + 1, BAEConfig(), TRAINING, checkpoint=state).all == expected.all


def test_damaged_state_is_said(tmp_path: Path):
    state = tmp_path / "state.safetensors"
    state.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"state.safetensors is not the state of a training .* Delete it"):
        train(data(), BAEConfig(), TRAINING, checkpoint=state)


def test_divergence_keeps_the_last_good_state(tmp_path: Path, saved_every_step: None):
    state = tmp_path / "state.safetensors"
    x = data()
    late = TRAINING.model_copy(update={"l1_weight": 1e38, "l1_warmup": 0.5})  # infinite from epoch 7 on
    with pytest.raises(
        DivergedError, match=r"epoch 7 of 12, step 1 .* last state saved before is .*state\.safetensors"
    ):
        train(x, ReLUConfig(), late, checkpoint=state, checkpoint_every_s=0)
    assert all(tensor.isfinite().all() for tensor in load_file(state).values())


@pytest.mark.parametrize("architecture", [BAEConfig(), ReLUConfig()])
def test_no_state_is_kept_whose_weights_are_lost(architecture, tmp_path: Path, saved_every_step: None):
    """With lr so large the loss is finite in the step that makes the weights infinite."""
    state = tmp_path / "state.safetensors"
    with pytest.raises(DivergedError):
        train(data(), architecture, TRAINING.model_copy(update={"lr": 1e38}), checkpoint=state, checkpoint_every_s=0)
    assert not state.exists() or all(tensor.isfinite().all() for tensor in load_file(state).values())


def test_resuming_with_one_member_lost(tmp_path: Path, saved_every_step: None):
    state = tmp_path / "state.safetensors"
    members = [
        (ReLUConfig(), TRAINING.model_copy(update={"l1_weight": 1e38, "l1_warmup": 0.3, "revive_every": 1})),
        (BAEConfig(), TRAINING),
    ]

    def kill(member: int, lines: list[TrainingMetrics]) -> None:
        if member == 1 and lines[0].epoch == 8:
            raise KilledError

    with pytest.raises(KilledError):
        train_many(data(), members, on_epoch=kill, checkpoint=state, checkpoint_every_s=0)
    seen: list[int] = []
    lost, other = train_many(data(), members, on_epoch=lambda _, lines: seen.append(lines[0].epoch), checkpoint=state)
    assert isinstance(lost, DivergedError)
    assert "in epoch 5 of 12" in str(lost)
    assert min(seen) == 8
    assert not isinstance(other, Exception)
    assert other.all == train(data(), BAEConfig(), TRAINING).all
    assert not state.exists()


SCRIPT = """
import sys
from pathlib import Path
import torch
from bae_ray.autoencoders import BAEConfig
from bae_ray.training import loop
from bae_ray.training.config import TrainingConfig
from bae_ray.training.trainer import train

torch.set_num_threads(1)
loop.STEPS_BETWEEN_CHECKS = 3
x = torch.randn(4000, 32, generator=torch.Generator().manual_seed(1))
training = TrainingConfig(epochs=60, batch_size=64, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4)
out = Path(sys.argv[1])
def report(lines):
    print(lines[-1].epoch, flush=True)
trained = train(x, BAEConfig(), training, on_epoch=report, checkpoint=out / "state.safetensors",
                checkpoint_every_s=0.05)
trained.autoencoder.save_pretrained(out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.3, 1.1, 2.3])
def test_killed_process(after_s: float, tmp_path: Path):
    """SIGKILL at a moment that nobody chose, then the same command again."""
    command = [sys.executable, "-c", SCRIPT]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    with subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first epoch is done
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "killed" / "state.safetensors").exists()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    again = subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True, text=True)
    assert int(again.stdout.split()[0]) >= 2
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
