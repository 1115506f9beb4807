import copy
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import (
    FeatureStatistics,
    feature_statistics,
    spectral_norm,
)
from bae_ray.autoencoders import (
    Autoencoder,
    BAEConfig,
    ReLUConfig,
    TopKConfig,
    TranscoderConfig,
    build_autoencoder,
)

D_IN, D_LATENT = 5, 30


class Sample(NamedTuple):
    x: Tensor
    latents: Tensor
    x_hat: Tensor

    def part(self, rows: slice) -> "Sample":
        return Sample(self.x[rows], self.latents[rows], self.x_hat[rows])


def binary_sample(n: int, offset: float = 1000.0, seed: int = 0) -> Sample:
    """Around a mean so large that single precision sums would lose the variance; latents from dead to dense."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D_IN, generator=generator) * 0.1 + offset
    latents = (torch.rand(n, D_LATENT, generator=generator) < torch.linspace(0, 1, D_LATENT) ** 3).float()
    return Sample(x, latents, x + 0.05 * torch.randn(n, D_IN, generator=generator))


def real_sample(n: int, offset: float = 0.0, seed: int = 0) -> Sample:
    """Latents of either sign, some of them 0."""
    sample = binary_sample(n, offset, seed)
    values = torch.randn(n, D_LATENT, generator=torch.Generator().manual_seed(seed + 1)) * 3 + 1
    return sample._replace(latents=sample.latents * values)


def statistics_of(sample: Sample, cuts: list[int], mean: Tensor | None = None) -> FeatureStatistics:
    statistics = FeatureStatistics(D_IN, D_LATENT, centre=mean)
    bounds = [0, *cuts, len(sample.x)]
    for start, end in pairwise(bounds):
        statistics.update(*sample.part(slice(start, end)))
    return statistics


def naive_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) for u, v in zip(a, b, strict=True)]))


@pytest.mark.parametrize("make", [binary_sample, real_sample])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4])
def test_measures_are_their_definitions(make: Callable[..., Sample], offset: float):
    sample = make(40, offset)
    x, latents, x_hat = (part.double().numpy() for part in sample)
    statistics = statistics_of(sample, [7, 8, 30], sample.x.double().mean(0))
    metrics = statistics.metrics()
    rates = (latents != 0).mean(0)
    inner = rates[(rates > 0) & (rates < 1)]
    mean = x.mean(0)
    assert metrics.n == 40
    assert metrics.mse == pytest.approx(np.mean((x - x_hat) ** 2), rel=1e-9)
    assert metrics.fvu == pytest.approx(np.sum((x - x_hat) ** 2) / np.sum((x - mean) ** 2), rel=1e-9)
    assert metrics.cosine == pytest.approx(naive_cosine(x, x_hat), rel=1e-9)
    assert metrics.cosine_centred == pytest.approx(naive_cosine(x - mean, x_hat - mean), rel=1e-9)
    assert metrics.l0 == pytest.approx((latents != 0).sum(1).mean())
    assert metrics.dead == pytest.approx(np.mean(rates == 0))
    assert metrics.dense == pytest.approx(np.mean(rates > 0.1))
    assert 0 < metrics.dead < metrics.dense < 1
    assert metrics.entropy_bits == pytest.approx(-np.sum(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner)))
    np.testing.assert_allclose(statistics.firing_rates, rates)
    np.testing.assert_allclose(statistics.latent_mean, latents.mean(0), atol=1e-12)
    np.testing.assert_allclose(statistics.latent_std, latents.std(0), atol=1e-7)


def test_a_large_mean_hides_a_bad_reconstruction_from_the_raw_cosine_only():
    """Reconstructing the mean alone: FVU 1, however large the mean is."""
    x = binary_sample(50, 1e4).x
    statistics = FeatureStatistics(D_IN, D_LATENT)
    statistics.update(x, torch.zeros(50, D_LATENT), x.double().mean(0).expand_as(x))
    metrics = statistics.metrics()
    assert metrics.cosine == pytest.approx(1, abs=1e-6)
    assert metrics.cosine_centred == pytest.approx(0, abs=1e-6)
    assert metrics.fvu == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("dead_rate", "dense_rate", "dead", "dense"),
    [(0.0, 0.1, 1, 2), (0.1, 0.5, 2, 1), (0.5, 0.9, 3, 1), (0.0, 1.0, 1, 0), (0.49, 0.49, 2, 2)],
)
def test_dead_and_dense_are_at_the_stated_rates(dead_rate: float, dense_rate: float, dead: int, dense: int):
    """Four latents that fire on 0, 10, 50 and 100 % of ten samples: dead at most at a rate, dense above one."""
    latents = torch.zeros(10, 4)
    latents[:1, 1], latents[:5, 2], latents[:, 3] = 2.0, -1.0, 0.3
    statistics = FeatureStatistics(D_IN, 4)
    statistics.update(torch.randn(10, D_IN), latents, torch.randn(10, D_IN))
    metrics = statistics.metrics(dead_rate, dense_rate)
    assert (metrics.dead, metrics.dense) == (dead / 4, dense / 4)


@given(
    st.lists(st.integers(0, 40), max_size=6).map(sorted),
    st.integers(0, 40),
    st.sampled_from([0.0, 1e4]),
    st.sampled_from([binary_sample, real_sample]),
)
@settings(deadline=None)
def test_any_batches_and_merges_give_the_same(cuts: list[int], split: int, offset: float, make: Callable[..., Sample]):
    sample = make(40, offset)
    mean = sample.x.double().mean(0)
    whole = statistics_of(sample, [], mean)
    batches = statistics_of(sample, [cut for cut in cuts if 0 < cut < 40], mean)
    first = statistics_of(sample.part(slice(0, split)), [], mean)
    first.merge(statistics_of(sample.part(slice(split, 40)), [], mean))
    for other in (batches, first):
        assert other.metrics()._asdict() == pytest.approx(whole.metrics()._asdict(), rel=1e-9)
        torch.testing.assert_close(other.latent_mean, whole.latent_mean)
        torch.testing.assert_close(other.latent_std, whole.latent_std, rtol=1e-7, atol=1e-7)


@given(st.integers(1, 39), st.integers(1, 39))
@settings(deadline=None, max_examples=30)
def test_without_a_mean_all_but_the_centred_cosine_is_the_same(cut: int, split: int):
    """Sums are then taken around each set's own first batch."""
    sample = binary_sample(40, 1e4)
    whole = statistics_of(sample, [])
    merged = statistics_of(sample.part(slice(0, split)), [cut] if cut < split else [])
    merged.merge(statistics_of(sample.part(slice(split, 40)), [cut - split] if cut > split else []))
    ours, theirs = merged.metrics()._asdict(), whole.metrics()._asdict()
    del ours["cosine_centred"], theirs["cosine_centred"]
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_merging_with_an_empty_set_changes_nothing():
    sample = binary_sample(20)
    expected = statistics_of(sample, []).metrics()
    one, other = statistics_of(sample, []), FeatureStatistics(D_IN, D_LATENT)
    one.merge(other)
    assert one.metrics() == expected
    other.merge(one)
    assert other.metrics() == pytest.approx(expected)


def test_merging_leaves_the_other_as_it_is():
    sample = binary_sample(20)
    other = statistics_of(sample, [])
    expected = copy.deepcopy(other).metrics()
    empty = FeatureStatistics(D_IN, D_LATENT)
    empty.merge(other)
    empty.merge(statistics_of(binary_sample(9, seed=3), []))
    assert other.metrics() == expected


def test_activations_that_do_not_vary_have_no_fraction_of_variance():
    statistics = FeatureStatistics(D_IN, D_LATENT)
    statistics.update(torch.ones(4, D_IN), torch.zeros(4, D_LATENT), torch.zeros(4, D_IN))
    assert np.isnan(statistics.metrics().fvu)
    assert statistics.metrics().mse == 1


def test_half_precision_is_measured_in_double():
    sample = binary_sample(50, 1.0)
    half = Sample(*(part.bfloat16() for part in sample))
    metrics = statistics_of(half, []).metrics()
    x, latents, x_hat = (part.double().numpy() for part in half)
    assert metrics.mse == pytest.approx(np.mean((x - x_hat) ** 2), rel=1e-9)
    assert metrics.l0 == pytest.approx(latents.sum(1).mean(), rel=1e-9)


class TestOfAnAutoencoder:
    @pytest.fixture
    def x(self) -> Tensor:
        return torch.randn(100, D_IN, generator=torch.Generator().manual_seed(0)) + 20

    @pytest.fixture(params=[BAEConfig(d_in=D_IN), ReLUConfig(d_in=D_IN), TopKConfig(d_in=D_IN, k=4)])
    def autoencoder(self, request: pytest.FixtureRequest, x: Tensor) -> Autoencoder:
        torch.manual_seed(1)
        autoencoder = build_autoencoder(request.param).eval()
        autoencoder.mean.copy_(x.mean(0))
        return autoencoder

    def test_it_is_that_of_its_latents_and_reconstruction(self, autoencoder: Autoencoder, x: Tensor):
        with torch.no_grad():
            latents, x_hat = autoencoder(x)
        metrics = feature_statistics(autoencoder, x).metrics()
        assert metrics.mse == pytest.approx((x_hat - x).double().square().mean().item(), rel=1e-6)
        mean = x.double().mean(0)
        centred = naive_cosine((x - mean).numpy(), (x_hat - mean).numpy())
        assert metrics.cosine_centred == pytest.approx(centred, rel=1e-6)
        assert metrics.l0 == pytest.approx((latents != 0).double().sum(1).mean().item())

    def test_batch_size_does_not_matter(self, autoencoder: Autoencoder, x: Tensor):
        one, many, rows = (
            feature_statistics(autoencoder, data, batch_size).metrics()._asdict()
            for data, batch_size in ((x, 100), (x, 9), (Rows(list(x.split([60, 40]))), 7))
        )
        assert many == pytest.approx(one, rel=1e-5)
        assert rows == pytest.approx(one, rel=1e-5)

    def test_prior_is_the_firing_rates(self, autoencoder: Autoencoder, x: Tensor):
        feature_statistics(autoencoder, x, 9).set_reference(autoencoder)
        torch.testing.assert_close(autoencoder.prior, (autoencoder.encode(x) != 0).float().mean(0))


def test_a_transcoder_is_measured_against_its_target():
    torch.manual_seed(0)
    autoencoder = build_autoencoder(TranscoderConfig(d_in=D_IN)).eval()
    x, y = torch.randn(50, D_IN), torch.randn(50, D_IN) + 5
    with torch.no_grad():
        error = (autoencoder(x).x_hat - y).double().square()
    metrics = feature_statistics(autoencoder, x, 7, target=y).metrics()
    assert metrics.mse == pytest.approx(error.mean().item(), rel=1e-6)
    variance = (y.double() - y.double().mean(0)).square().sum().item()
    assert metrics.fvu == pytest.approx(error.sum().item() / variance, rel=1e-6)
    rows = feature_statistics(autoencoder, Rows([x]), 7, target=Rows(list(y.split(20)))).metrics()
    assert rows._asdict() == pytest.approx(metrics._asdict(), rel=1e-6)


@pytest.mark.parametrize(("f", "d"), [(32, 8), (8, 32), (7, 7), (20, 2)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_spectral_norm_is_that_of_the_covariance_of_the_rows(f: int, d: int, offset: float):
    dictionary = torch.randn(f, d, generator=torch.Generator().manual_seed(f)) + offset
    expected = np.linalg.norm(np.cov(dictionary.double().numpy()), 2)
    assert spectral_norm(dictionary) == pytest.approx(expected, rel=1e-8)


def test_spectral_norm_of_the_released_dictionary(golden: dict):
    dictionary = np.array(golden["bae_state_dict"]["decoder.weight"]).T
    expected = np.linalg.norm(np.cov(dictionary), 2)
    assert spectral_norm(torch.from_numpy(dictionary)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.gpu
def test_statistics_leave_the_gpu():
    """The driver of a cluster may have none."""
    torch.manual_seed(0)
    autoencoder, x = build_autoencoder(BAEConfig(d_in=8, d_latent=32)), torch.randn(100, 8)
    there = feature_statistics(autoencoder.cuda(), x).cpu()
    assert {value.device.type for value in vars(there).values() if isinstance(value, torch.Tensor)} == {"cpu"}
    assert there.metrics().mse == pytest.approx(feature_statistics(autoencoder.cpu(), x).metrics().mse, rel=1e-4)
