from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bae_ray.autoencoders import Autoencoder, build_autoencoder
from bae_ray.autoencoders.architectures import ARCHITECTURES

D_IN, D_LATENT = 6, 24


@pytest.fixture(scope="session")
def random_autoencoder() -> Callable[..., Autoencoder]:
    """Make an autoencoder with random weights, as if trained on activations of mean 3 and standard deviation 2.5."""

    def make(architecture: str, **fields: Any) -> Autoencoder:
        if architecture == "bae":
            fields = {"gradient": "sigmoid", **fields}
        if architecture in ("topk", "batchtopk"):
            fields = {"k": 3, **fields}
        autoencoder = build_autoencoder(
            ARCHITECTURES[architecture].config(d_in=D_IN, expansion=D_LATENT // D_IN, **fields)
        )
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in autoencoder.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            for name, buffer in autoencoder.named_buffers():
                if name.endswith("mean"):
                    buffer.copy_(torch.randn(buffer.shape, generator=generator) + 3)
                elif name in ("scale", "target_scale"):
                    buffer.fill_(2.5)
                elif name == "threshold":
                    buffer.fill_(0.3)
        return autoencoder.eval()

    return make


@pytest.fixture(scope="session")
def autoencoders(random_autoencoder: Callable[..., Autoencoder]) -> dict[str, Autoencoder]:
    """One of every architecture, and variants that other packages represent in another way."""
    every = {architecture: random_autoencoder(architecture) for architecture in ARCHITECTURES}
    return every | {
        "bae_release": random_autoencoder("bae", gradient="release"),
        "bae_3_bits": random_autoencoder("bae", bits_per_feature=3),
        "bae_no_bias": random_autoencoder("bae", encoder_bias=False),
        "relu_no_bias": random_autoencoder("relu", encoder_bias=False),
        "batchtopk_untrained": _untrained(random_autoencoder("batchtopk")),
    }


@pytest.fixture(scope="session")
def activations() -> torch.Tensor:
    """Activations [200, 6] like those of `random_autoencoder`."""
    return torch.randn(200, D_IN, generator=torch.Generator().manual_seed(4)) * 2.5 + 3


def _untrained(autoencoder: Autoencoder) -> Autoencoder:
    autoencoder.threshold.fill_(-1)  # pyright: ignore[reportCallIssue]
    return autoencoder


def randomized(autoencoder: Autoencoder) -> Autoencoder:
    """Every parameter and every buffer has a value that no fresh autoencoder has."""
    generator = torch.Generator().manual_seed(7)
    for tensor in autoencoder.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return autoencoder


@pytest.fixture
def folder(tmp_path: Path, random_autoencoder: Callable[..., Autoencoder]) -> Path:
    """A saved BAE of 6 inputs and 24 latents."""
    randomized(random_autoencoder("bae")).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
