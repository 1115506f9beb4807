"""What texts/encode says of each token's reconstruction and code, against the definitions written row by row."""

import math

import numpy as np
import pytest
import torch

from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, TranscoderConfig, build_autoencoder
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.compute.operations import compute

D, F = 6, 9
FIT = Operation("fit")


def made(config: ArchitectureConfig) -> Autoencoder:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(config)
    with torch.no_grad():
        autoencoder.mean.copy_(torch.randn(D))
        autoencoder.scale.fill_(3.0)
        autoencoder.prior.copy_(torch.linspace(0.05, 0.95, F))
    return autoencoder


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, D)).astype(np.float32) * 4


@pytest.mark.parametrize("config", [BAEConfig(d_in=D, d_latent=F), ReLUConfig(d_in=D, d_latent=F)])
def test_error_is_that_of_the_reconstruction_over_that_of_the_mean(config: ArchitectureConfig, x: np.ndarray):
    autoencoder = made(config)
    found = compute(autoencoder, FIT, [x[:7], x[7:]])["error"]
    for row, error in zip(torch.from_numpy(x), found, strict=True):
        x_hat = autoencoder.decode(autoencoder.encode(row[None]))[0].detach()
        assert error == pytest.approx(
            float(((row - x_hat) ** 2).sum() / ((row - autoencoder.mean) ** 2).sum()), rel=1e-4
        )
    assert compute(autoencoder, FIT, [autoencoder.mean.numpy()[None]])["error"].tolist() == [0.0], (
        "and no division by 0"
    )


def test_bits_are_those_of_independent_latents(x: np.ndarray):
    autoencoder = made(BAEConfig(d_in=D, d_latent=F))
    for row, bits in zip(torch.from_numpy(x), compute(autoencoder, FIT, [x])["bits"], strict=True):
        code, rates = autoencoder.encode(row[None])[0].tolist(), autoencoder.prior.tolist()
        expected = -sum(math.log2(rate if bit else 1 - rate) for bit, rate in zip(code, rates, strict=True))
        assert bits == pytest.approx(expected, rel=1e-4)


def test_what_is_not_known_is_left_out(x: np.ndarray):
    assert compute(made(ReLUConfig(d_in=D, d_latent=F)), FIT, [x]).keys() == {"error"}
    assert compute(made(TranscoderConfig(d_in=D, d_latent=F)), FIT, [x]).keys() == set()
    without_rates = made(BAEConfig(d_in=D, d_latent=F))
    without_rates.prior.zero_()
    assert compute(without_rates, FIT, [x]).keys() == {"error"}
