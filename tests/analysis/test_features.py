import numpy as np
import pytest
import torch

from bae_ray.analysis.features import FeatureStatistics, feature_statistics
from bae_ray.autoencoders import BAEConfig, build_autoencoder


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Three batches (x, latents, x_hat) around a mean so large that single precision sums would lose the variance."""
    torch.manual_seed(0)
    made = []
    for n in (7, 1, 12):
        x = torch.randn(n, 5) * 0.1 + 1000
        latents = (torch.rand(n, 30) < torch.linspace(0, 1, 30) ** 3).float()
        made.append((x, latents, x + 0.05 * torch.randn(n, 5)))
    return made


def test_measures_are_their_definitions(batches):
    statistics = FeatureStatistics(5, 30)
    for batch in batches:
        statistics.update(*batch)
    x, latents, x_hat = (torch.cat(parts).double().numpy() for parts in zip(*batches, strict=True))
    metrics = statistics.metrics()
    rates = latents.mean(0)
    inner = rates[(rates > 0) & (rates < 1)]
    assert metrics.n == 20
    assert metrics.mse == pytest.approx(np.mean((x - x_hat) ** 2), rel=1e-9)
    assert metrics.fvu == pytest.approx(np.sum((x - x_hat) ** 2) / np.sum((x - x.mean(0)) ** 2), rel=1e-6)
    assert metrics.l0 == pytest.approx(latents.sum(1).mean())
    assert metrics.dead == pytest.approx(np.mean(rates == 0))
    assert 0 < metrics.dead < 1
    assert metrics.dense == pytest.approx(np.mean(rates > 0.1))
    assert metrics.entropy_bits == pytest.approx(-np.sum(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner)))


def test_merging_is_the_same_as_seeing_everything(batches):
    whole, first, second = FeatureStatistics(5, 30), FeatureStatistics(5, 30), FeatureStatistics(5, 30)
    for batch in batches:
        whole.update(*batch)
    first.update(*batches[0])
    second.update(*batches[1])
    second.update(*batches[2])
    first.merge(second)
    assert first.metrics()._asdict() == pytest.approx(whole.metrics()._asdict(), rel=1e-6)


def test_batch_size_does_not_matter():
    torch.manual_seed(0)
    autoencoder, x = build_autoencoder(BAEConfig(d_in=5)), torch.randn(100, 5)
    one, many = (feature_statistics(autoencoder, x, batch_size).metrics() for batch_size in (100, 9))
    assert one._asdict() == pytest.approx(many._asdict(), rel=1e-9)
