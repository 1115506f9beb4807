"""Copies of the weights in bf16 against autocast's casts in every step, on a CPU that computes as a GPU does."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import bae, covariance, waiting
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.autoencoders.base import MULTIPLIED
from bae_ray.training.config import TrainingConfig
from bae_ray.training.resident import ResidentSteps
from bae_ray.training.samples import Batches
from bae_ray.training.stack import Stack

BF16 = TrainingConfig(
    epochs=7, lr=2**-8, entropy_weight=1e-3, covariance_weight=1e-4, entropy_warmup=0.5, batch_size=16, precision="bf16"
)
N_STEPS, BATCH_SIZE = 8, 16
PACKS = [
    pytest.param([BF16], id="alone"),
    pytest.param([BF16, BF16.model_copy(update={"seed": 1, "l1_weight": 1e-3})], id="one optimizer"),
    pytest.param(
        [
            BF16.model_copy(update={"decoder_norm": "unit"}),
            BF16.model_copy(update={"lr": 2**-7, "grad_clip": 0.5}),
            BF16.model_copy(update={"seed": 2}),
        ],
        id="two optimizers",
    ),
]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(autouse=True)
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is computed on as a GPU is, but for the kernels: interpreted, they cannot compute in bf16."""
    monkeypatch.setattr(waiting, "RUNS_AHEAD", {"cuda", "cpu"})
    for module in (bae, covariance):
        monkeypatch.setattr(module, "has_kernels", lambda: False)


def rows(seed: int) -> Tensor:
    return torch.randn(N_STEPS * BATCH_SIZE, 6, generator=torch.Generator().manual_seed(seed))


class Trained:
    """Steps of a stack, with copies of the weights or with casts."""

    def __init__(self, architecture: str, trainings: list[TrainingConfig], copies: bool) -> None:
        config = ARCHITECTURES[architecture].config.model_validate({"d_in": 6})
        self.stack = Stack(config, trainings, torch.device("cpu"), BF16.epochs * N_STEPS)
        assert vars(self.stack)["_half"] is not None
        if not copies:
            vars(self.stack)["_half"] = None
        target = Rows([rows(1)]) if architecture == "transcoder" else None
        data = Batches(Rows([rows(0)]), target, lambda x: x, lambda y: y, torch.device("cpu"))
        self.records = torch.zeros(N_STEPS, 1 + len(self.stack.names), len(trainings))
        self.steps = ResidentSteps([self.stack], data, BATCH_SIZE, [self.records], capture=False)

    def epoch(self, number: int) -> Tensor:
        order = torch.randperm(N_STEPS * BATCH_SIZE, generator=torch.Generator().manual_seed(number))
        weights, active = self.stack.weights(number), self.stack.active(number)
        for _ in self.steps.run(order, 0, (number - 1) * N_STEPS, [weights], [active]):
            pass
        return self.records.clone()


@pytest.mark.parametrize("trainings", PACKS)
@every_architecture
def test_the_same_terms_and_weights_to_the_last_bit(architecture: str, trainings: list[TrainingConfig]):
    """56 steps; between two epochs weights change as they do when latents are revived."""
    ours, cast = Trained(architecture, trainings, copies=True), Trained(architecture, trainings, copies=False)
    for number in range(1, 8):
        assert torch.equal(ours.epoch(number), cast.epoch(number)), number
        for one in (ours, cast):
            with torch.no_grad():
                one.stack.members[0].autoencoder.W_enc[:, 0] += 0.1
    expected = cast.stack.state()
    for name, tensor in ours.stack.state().items():
        assert torch.equal(tensor, expected[name]), name
        assert tensor.dtype == torch.float32, "the copies are no part of what is saved"


class Casts(TorchDispatchMode):
    """Counts the weights that are cast: tensors of their shapes, from float32 to bfloat16."""

    def __init__(self, shapes: set[tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes, self.found = shapes, 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16:
            self.found += tuple(made.shape) in self._shapes
        return made


@every_architecture
def test_no_weight_is_cast_in_a_step(architecture: str):
    found = []
    for copies in (True, False):
        one = Trained(architecture, [BF16], copies)
        autoencoder = one.stack.members[0].autoencoder
        weights = [weight for name, weight in autoencoder.named_parameters() if name in MULTIPLIED]
        shapes = {shape for weight in weights for shape in (tuple(weight.shape), (1, *weight.shape))}
        with Casts(shapes) as casts:
            one.epoch(1)
        found.append(casts.found)
    assert found[0] == 0
    assert found[1] >= N_STEPS * 2


def test_weights_that_no_product_takes_stay_in_float32():
    half = vars(Trained("gated_sae", [BF16], copies=True).stack)["_half"].module
    assert half.W_enc.dtype == half.W_dec.dtype == torch.bfloat16
    assert half.r_mag.dtype == half.b_gate.dtype == torch.float32
