"""What runs differently on a GPU gives the numbers of the CPU, to the precision asked for."""

from pathlib import Path

import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig, BAEConfig, BatchTopKConfig, JumpReLUConfig, ReLUConfig
from bae_ray.autoencoders.losses import covariance_penalty
from bae_ray.errors import TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.trainer import train, train_many

pytestmark = pytest.mark.gpu

TRAINING = TrainingConfig(epochs=6, batch_size=64, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4)
X = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) * 30 + 500


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("precision", [None, "float", "bfloat16"])
@pytest.mark.parametrize("working_set", [None, 1 << 14])
def test_covariance_penalty(precision, working_set, autocast: bool):
    code = (torch.rand(600, 300, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    on_cpu, on_gpu = code.clone().requires_grad_(), code.cuda().requires_grad_()
    expected = covariance_penalty(on_cpu, "float")
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = covariance_penalty(on_gpu, precision, working_set)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (wanted,) = torch.autograd.grad(expected, on_cpu)
    (ours,) = torch.autograd.grad(found, on_gpu)
    torch.testing.assert_close(ours.cpu(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("architecture", [BAEConfig(), ReLUConfig(), BatchTopKConfig(k=5), JumpReLUConfig()])
def test_training(architecture: ArchitectureConfig, precision: str):
    settings = TRAINING.model_copy(update={"precision": precision})
    trained = train(X, architecture, settings, device="cuda")
    assert trained.autoencoder.W_enc.is_cuda
    assert trained.val.fvu == pytest.approx(train(X, architecture, TRAINING).val.fvu, rel=0.1)


def test_from_disk_with_members_revival_early_stop_and_resume(tmp_path: Path):
    members = [
        (BAEConfig(), TRAINING.model_copy(update={"revive_every": 2, "grad_clip": 1.0})),
        (BAEConfig(), TRAINING.model_copy(update={"patience": 2, "decoder_norm": "unit"})),
        (ReLUConfig(standardize=True), TRAINING),
    ]
    state = tmp_path / "state.safetensors"

    class KilledError(Exception):
        pass

    def kill(member: int, lines: list) -> None:
        if member == 2 and lines[0].epoch == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train_many(Rows([X[:200], X[200:]]), members, "cuda", kill, checkpoint=state, placement="disk")
    assert state.exists()
    resumed = train_many(Rows([X[:200], X[200:]]), members, "cuda", checkpoint=state, placement="disk")
    whole = train_many(X.cuda(), members, "cuda")
    for ours, theirs in zip(resumed, whole, strict=True):
        assert not isinstance(ours, TrainingError)
        assert not isinstance(theirs, TrainingError)
        assert ours.all.fvu == pytest.approx(theirs.all.fvu, rel=1e-2)
        assert ours.autoencoder.magnitudes(X.cuda()).isfinite().all()


def test_compiled():
    compiled = train(X, BAEConfig(), TRAINING.model_copy(update={"compile": True}), device="cuda")
    assert compiled.val.fvu == pytest.approx(train(X, BAEConfig(), TRAINING).val.fvu, rel=0.1)
