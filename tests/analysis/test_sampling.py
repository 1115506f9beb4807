import math

import numpy as np
import pytest
import torch

from bae_ray.analysis.sampling import SUBSETS, estimate_entropy
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder


@pytest.fixture
def reader() -> Autoencoder:
    """Its code is whether each of 24 coordinates is 1."""
    autoencoder = build_autoencoder(BAEConfig(d_in=24, expansion=1))
    with torch.no_grad():
        autoencoder.W_enc.copy_(torch.eye(24))
        autoencoder.get_parameter("b_enc").fill_(-0.5)
    return autoencoder.eval()


def draw(n: int, p: torch.Tensor, seed: int) -> torch.Tensor:
    return (torch.rand(n, 24, generator=torch.Generator().manual_seed(seed)) < p).float()


def bits(p: np.ndarray) -> float:
    p = p[(p > 0) & (p < 1)]
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())


def test_bits_are_those_of_the_rates(reader: Autoencoder):
    x = draw(3000, torch.linspace(0, 1, 24), 0)
    found = estimate_entropy(reader, x, seed=0)
    assert found.bits == pytest.approx(bits(x.double().mean(0).numpy()), rel=1e-9)
    assert found.subset_n == tuple(round(share * 3000) for share in SUBSETS)
    assert found.subset_bits[-1] == found.bits
    assert estimate_entropy(reader, x, seed=0) == found
    assert estimate_entropy(reader, x, seed=1).low != found.low


def test_interval_holds_the_true_entropy_and_the_bias_is_that_of_many_draws(reader: Autoencoder):
    """300 sets of 60 samples, drawn from known rates."""
    p = torch.linspace(0.1, 0.6, 24)
    true = bits(p.double().numpy())
    found = [estimate_entropy(reader, draw(60, p, seed), seed) for seed in range(300)]
    covered = np.mean([estimate.low <= true <= estimate.high for estimate in found])
    assert 0.90 <= covered <= 0.99
    shift = true - np.mean([estimate.bits for estimate in found])
    assert np.mean([estimate.bias for estimate in found]) == pytest.approx(shift, rel=0.25)
    assert shift > 0.2
    common = 24 / (2 * 60 * math.log(2))  # Miller and Madow: here no rate is so low that it would not do
    assert np.mean([estimate.bias for estimate in found]) == pytest.approx(common, rel=0.1)


def test_constant_latents_have_no_entropy_and_no_bias(reader: Autoencoder):
    found = estimate_entropy(reader, torch.ones(50, 24), 0)
    assert (found.bits, found.low, found.high, found.bias) == (0, 0, 0, 0)


def test_read_in_pieces(reader: Autoencoder, monkeypatch: pytest.MonkeyPatch):
    x = draw(1000, torch.full((24,), 0.3), 0)
    whole = estimate_entropy(reader, x, 0)
    monkeypatch.setattr("bae_ray.analysis.joint_bits.rows_at_once", lambda _: 77)
    assert estimate_entropy(reader, x, 0) == whole
