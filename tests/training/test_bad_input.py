"""What is refused before any training begins."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bae_ray.autoencoders import BAEConfig
from bae_ray.errors import InvalidInputError, OutOfMemoryError, TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.trainer import train

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": float("inf")}, "finite number"),
        ({"entropy_weight": float("nan")}, "finite number"),
        ({"entropy_warmup": float("inf"), "warmup_unit": "epochs"}, "finite number"),
        ({"lr_warmup": 0.6, "lr_decay": 0.5}, "lr_warmup 0.6 and lr_decay 0.5 overlap: together they are at most 1"),
    ],
)
def test_settings(change: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**change)


def test_an_autoencoder_that_cannot_fit():
    with pytest.raises(OutOfMemoryError, match=r"up to 100,000,000,000 latents on 4 dimensions need .* GB; cpu has"):
        train(X, BAEConfig(d_latent=10**11), TrainingConfig(epochs=1))


def test_activations_of_another_kind():
    with pytest.raises(TrainingError, match=r"activations are a ndarray; expected a torch.Tensor"):
        train(np.zeros((5, 3)), BAEConfig(), TrainingConfig(epochs=1))  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(InvalidInputError, match="device is cuda but torch finds no GPU here"):
        train(X, BAEConfig(), TrainingConfig(epochs=1), device="cuda")
