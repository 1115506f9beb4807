"""Steps whose every input is on the device, run on a CPU as a GPU runs them, but for the capture (see test_gpu.py)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import architectures as autoencoders
from bae_ray.autoencoders import waiting
from bae_ray.autoencoders.config import (
    ArchitectureConfig,
    BAEConfig,
    BatchTopKConfig,
    GatedConfig,
    GatedSAEConfig,
    JumpReLUConfig,
    ReLUConfig,
    TopKConfig,
    TranscoderConfig,
)
from bae_ray.errors import TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.resident import ResidentSteps
from bae_ray.training.samples import Batches
from bae_ray.training.stack import Stack
from bae_ray.training.trainer import Trained, train_many

SAES = [
    ReLUConfig(d_in=6),
    TopKConfig(d_in=6, k=3),
    GatedConfig(d_in=6),
    TranscoderConfig(d_in=6),
    BatchTopKConfig(d_in=6, k=3),
    JumpReLUConfig(d_in=6),
    GatedSAEConfig(d_in=6),
]
WITH_KERNELS = pytest.mark.triton(interpreted=True)
BINARY = [
    pytest.param(BAEConfig(d_in=6), id="bae", marks=WITH_KERNELS),
    pytest.param(BAEConfig(d_in=6, bits_per_feature=4), id="bae of more bits", marks=WITH_KERNELS),
]
ARCHITECTURES = [*(pytest.param(config, id=config.architecture) for config in SAES), *BINARY]
# Learning rates that float32 holds: on the device they are float32.
TRAINING = TrainingConfig(
    epochs=8, lr=2**-8, lr_warmup=0.25, entropy_weight=1e-3, covariance_weight=1e-4, entropy_warmup=0, batch_size=16
)
N_STEPS, BATCH_SIZE = 8, 16
N = N_STEPS * BATCH_SIZE + 5
WIDEST_PACK = [
    TRAINING.model_copy(update={"decoder_norm": "unit"}),
    TRAINING.model_copy(update={"lr": 2**-7, "grad_clip": 0.5}),
    TRAINING.model_copy(update={"seed": 2}),
]
PACKS = [
    pytest.param([TRAINING], id="alone"),
    pytest.param([TRAINING, TRAINING.model_copy(update={"seed": 1, "l1_weight": 1e-3})], id="one optimizer"),
    pytest.param(WIDEST_PACK, id="two optimizers"),
]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the CPU is computed on as a GPU is."""
    monkeypatch.setattr(waiting, "RUNS_AHEAD", {"cuda", "cpu"})


def rows(seed: int) -> Tensor:
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(seed))


def batches(architecture: ArchitectureConfig, placement: Any = None) -> Batches:
    target = Rows([rows(1)]) if isinstance(architecture, TranscoderConfig) else None
    return Batches(Rows([rows(0)]), target, lambda x: x, lambda y: y, torch.device("cpu"), placement)


def make(architecture: ArchitectureConfig, trainings: list[TrainingConfig]) -> Stack:
    return Stack(architecture, trainings, torch.device("cpu"), TRAINING.epochs * N_STEPS)


class Resident:
    """A stack and its steps, an epoch at a time."""

    def __init__(self, architecture: ArchitectureConfig, trainings: list[TrainingConfig], placement: Any = None):
        self.stack = make(architecture, trainings)
        self.records = torch.zeros(N_STEPS, 1 + len(self.stack.names), len(trainings))
        self.steps = ResidentSteps(
            [self.stack], batches(architecture, placement), BATCH_SIZE, [self.records], capture=False
        )

    def epoch(self, number: int, first: int = 0) -> Tensor:
        weights, active = self.stack.weights(number), self.stack.active(number)
        for _ in self.steps.run(order(number), first, (number - 1) * N_STEPS, [weights], [active]):
            pass
        return self.records.clone()


def order(epoch: int) -> Tensor:
    return torch.randperm(N, generator=torch.Generator().manual_seed(epoch))


def eager(architecture: ArchitectureConfig, trainings: list[TrainingConfig], epochs: int) -> tuple[Stack, Tensor]:
    stack, data = make(architecture, trainings), batches(architecture)
    measured = []
    for epoch in range(1, epochs + 1):
        for batch in data.batches(order(epoch), BATCH_SIZE):
            measured.append(stack.step(batch, stack.weights(epoch), stack.active(epoch), len(measured)))
    return stack, torch.stack(measured)


@pytest.mark.parametrize("placement", ["device", "disk"])
@pytest.mark.parametrize("trainings", PACKS)
@pytest.mark.parametrize("architecture", SAES, ids=lambda config: config.architecture)
def test_the_same_terms_and_weights(architecture, trainings: list[TrainingConfig], placement: str, ahead: None):
    """56 steps; the same code gives the same bits whether Python or the device keeps count."""
    expected, terms = eager(architecture, trainings, 7)
    resident = Resident(architecture, trainings, placement)
    measured = torch.cat([resident.epoch(epoch) for epoch in range(1, 8)])
    assert torch.equal(measured, terms)
    found = resident.stack.state()
    for name, tensor in expected.state().items():
        assert torch.equal(found[name], tensor), name


@WITH_KERNELS
@pytest.mark.parametrize("trainings", PACKS)
@pytest.mark.parametrize("architecture", BINARY)
def test_the_same_terms_and_weights_by_kernels(architecture, trainings: list[TrainingConfig], ahead: None):
    test_the_same_terms_and_weights(architecture, trainings, "device", ahead)


@pytest.mark.parametrize("trainings", PACKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_a_cpu_computes_to_rounding(
    architecture, trainings: list[TrainingConfig], monkeypatch: pytest.MonkeyPatch
):
    """The CPU's own paths: sparse decoding, an optimizer for each member."""
    _, terms = eager(architecture, trainings, 2)
    monkeypatch.setattr(waiting, "RUNS_AHEAD", {"cuda", "cpu"})
    resident = Resident(architecture, trainings)
    torch.testing.assert_close(torch.cat([resident.epoch(n) for n in (1, 2)]), terms, rtol=1e-4, atol=1e-6)


class NoWaiting(TorchDispatchMode):
    """Refuses operators that read a number, or whose shapes depend on one."""

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags), func
        return func(*args, **(kwargs or {}))


def test_no_architecture_is_left_out():
    assert {config.architecture for config in SAES} | {"bae"} == set(autoencoders.ARCHITECTURES)


def test_the_check_refuses_what_waits():
    x = torch.arange(3)
    for wait in (x.nonzero, lambda: x[x > 1], lambda: x.sum().item(), lambda: bool(x.any())):
        with pytest.raises(AssertionError), NoWaiting():
            wait()


IN_BF16 = [training.model_copy(update={"precision": "bf16"}) for training in WIDEST_PACK]


@pytest.mark.parametrize("trainings", [*PACKS, pytest.param(IN_BF16, id="bf16")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_step_waits(architecture, trainings: list[TrainingConfig], ahead: None):
    if trainings is IN_BF16 and isinstance(architecture, BAEConfig):
        pytest.skip("Triton's interpreter cannot compute in bf16: test_gpu.py")
    resident = Resident(architecture, trainings)
    weights, active = resident.stack.weights(1), resident.stack.active(1)
    steps = resident.steps.run(order(1), 0, 0, [weights], [active])
    next(steps)  # which fills the inputs
    with NoWaiting():
        for _ in steps:
            pass
    assert resident.records.isfinite().all()


def test_the_check_would_see_the_cpus_own_step_wait():
    stack = make(BAEConfig(d_in=6), [TRAINING])
    (batch, *_) = batches(BAEConfig(d_in=6)).batches(order(1), BATCH_SIZE)
    with pytest.raises(AssertionError, match="nonzero"), NoWaiting():
        stack.step(batch, stack.weights(1), stack.active(1), 0)


def test_an_epoch_goes_on_in_its_middle(ahead: None):
    whole, resumed = (Resident(TopKConfig(d_in=6, k=3), [TRAINING]) for _ in range(2))
    expected = whole.epoch(1)
    weights, active = resumed.stack.weights(1), resumed.stack.active(1)
    steps = resumed.steps.run(order(1), 0, 0, [weights], [active])
    for _ in range(3):
        next(steps)
    del steps
    assert torch.equal(resumed.epoch(1, first=3), expected)


@WITH_KERNELS
def test_whole_trainings(ahead: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Warm-ups, revival, early stop, kill and resume, several stacks: as the CPU's own loop, to rounding."""
    settings = TRAINING.model_copy(update={"epochs": 6, "entropy_warmup": 0.5, "lr": 1e-2})
    members = [
        (BAEConfig(), settings.model_copy(update={"revive_every": 2, "grad_clip": 1.0})),
        (BAEConfig(), settings.model_copy(update={"patience": 2, "decoder_norm": "unit", "log": "step"})),
        (JumpReLUConfig(), settings),
    ]
    x, state = rows(0) * 30 + 500, tmp_path / "state.safetensors"

    class KilledError(Exception):
        pass

    def kill(member: int, lines: list) -> None:
        if member == 2 and lines[0].epoch == 4:
            raise KilledError

    whole_lines, resumed_lines = [], []
    whole = train_many(x, members, on_epoch=lambda i, lines: whole_lines.append((i, lines)))
    with pytest.raises(KilledError):
        train_many(x, members, on_epoch=kill, checkpoint=state, checkpoint_every_s=0)
    resumed = train_many(x, members, on_epoch=lambda i, lines: resumed_lines.append((i, lines)), checkpoint=state)
    assert [numbers(lines) for _, lines in whole_lines[-6:]] == [numbers(lines) for _, lines in resumed_lines[-6:]]
    monkeypatch.setattr(waiting, "RUNS_AHEAD", {"cuda"})
    for ours, theirs, alike in zip(whole, resumed, train_many(x, members), strict=True):
        assert not isinstance(ours, TrainingError)
        assert not isinstance(theirs, TrainingError)
        assert isinstance(alike, Trained)
        assert ours.all == theirs.all
        assert ours.all.fvu == pytest.approx(alike.all.fvu, rel=1e-2)


def numbers(lines: list) -> list[tuple[Any, ...]]:
    return [(line.epoch, line.step, line.loss, line.terms, line.weights) for line in lines]
