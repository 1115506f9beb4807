"""What no measure can be, over scale, n and type, for every number of the results table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.analysis.features import FeatureStatistics, cosines, feature_statistics
from bae_ray.analysis.sampling import estimate_entropy
from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, build_autoencoder
from bae_ray.errors import TrainingError
from bae_ray.serving.compute.operations import describe_feature
from bae_ray.training.config import TrainingConfig
from bae_ray.training.measuring import Trained
from bae_ray.training.trainer import train

D, F = 5, 12
TRAINING = TrainingConfig(epochs=3, batch_size=16, entropy_weight=1e-3)


def activations(n: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) + mean


def columns(trained: Trained, factor: float = 1.0) -> dict[str, float]:
    """The measures of the results table, the squared errors in units of `factor`."""
    return {
        "entropy_bits": trained.all.entropy_bits,
        "entropy_low": trained.entropy.low,
        "entropy_high": trained.entropy.high,
        "entropy_bias": trained.entropy.bias,
        **{f"subset_{i}": bits for i, bits in enumerate(trained.entropy.subset_bits)},
        "fvu_train": trained.train.fvu,
        "fvu_val": trained.val.fvu,
        "mse_val": trained.val.mse / factor**2,
        "cosine": trained.val.cosine,
        "cosine_val": trained.val.cosine_centred,
        "l0": trained.all.l0,
        "dead": trained.all.dead,
        "dense": trained.all.dense,
    }


def check_possible(found: dict[str, float]) -> None:
    assert all(map(math.isfinite, found.values())), found
    for name in ("entropy_bits", "entropy_low", "entropy_high", "l0", *(f"subset_{i}" for i in range(5))):
        assert 0 <= found[name] <= F, (name, found)
    assert found["entropy_low"] <= found["entropy_bits"] <= found["entropy_high"]
    assert all(0 <= found[name] <= 1 for name in ("dead", "dense"))
    assert all(-1 <= found[name] <= 1 for name in ("cosine", "cosine_val"))
    assert all(found[name] >= 0 for name in ("entropy_bias", "fvu_train", "fvu_val", "mse_val"))


@settings(max_examples=12, deadline=None)
@given(
    st.integers(4, 60),
    st.integers(0, 1000),
    st.sampled_from([-120, -100, -33, -1, 40, 100, 119]),
    st.sampled_from([BAEConfig(d_latent=F), ReLUConfig(d_latent=F)]),
    st.sampled_from([0.0, 3.0]),
)
def test_a_power_of_two_changes_no_measure(n: int, seed: int, power: int, architecture: BAEConfig, mean: float):
    """Floating-point numbers times a power of two are as exact as before: all is equal to the last digits."""
    x = activations(n, seed, mean)
    found = columns(train(x, architecture, TRAINING))
    check_possible(found)
    scaled = columns(train(x * 2.0**power, architecture, TRAINING), 2.0**power)
    assert scaled == pytest.approx(found, rel=1e-9, abs=1e-9)


RANGES = {torch.int64: (3, 15), torch.float16: (-3, 3)}
"""Powers of ten at which a type still tells numbers apart, where those are fewer than float32's."""


@settings(max_examples=10, deadline=None)
@given(
    st.integers(4, 40),
    st.floats(0, 1),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]),
)
def test_measures_are_possible_at_any_scale_and_type(n: int, place: float, dtype: torch.dtype):
    low, high = RANGES.get(dtype, (-30, 30))
    x = (activations(n, n) * 10.0 ** (low + place * (high - low))).to(dtype)
    check_possible(columns(train(x, BAEConfig(d_latent=F), TRAINING)))


@pytest.mark.parametrize("power", [-140, -130, 126])
def test_scales_that_cannot_be_normalised_are_refused(power: int):
    with pytest.raises(TrainingError, match=r"below float32's normal range|expected at most 8\.51e\+37"):
        train(activations(20, 0) * 2.0**power, BAEConfig(d_latent=F), TRAINING)


def reader() -> Autoencoder:
    """Its code is whether each of F coordinates is 1."""
    autoencoder = build_autoencoder(BAEConfig(d_in=F, expansion=1))
    with torch.no_grad():
        autoencoder.W_enc.copy_(torch.eye(F))
        autoencoder.get_parameter("b_enc").fill_(-0.5)
    return autoencoder.eval()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.floats(0, 1), st.integers(0, 1000))
def test_intervals_hold_their_estimate_and_are_entropies(n: int, rate: float, seed: int):
    x = (torch.rand(n, F, generator=torch.Generator().manual_seed(seed)) < rate).float()
    found = estimate_entropy(reader(), x, seed)
    p = x.double().mean(0).numpy()
    p = p[(p > 0) & (p < 1)]
    assert found.bits == pytest.approx(float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum()), abs=1e-9)
    assert 0 <= found.low <= found.bits <= found.high <= F


@given(st.floats(-44, 38), st.floats(-44, 38), st.integers(0, 1000))
def test_cosines_depend_on_no_scale(one: float, other: float, seed: int):
    x, y = activations(4, seed).double(), activations(4, seed + 1).double()
    expected = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
    assert torch.allclose(cosines(x * 10**one, y * 10**other), expected, rtol=0, atol=1e-12)
    assert torch.equal(cosines(x, torch.zeros_like(x)), torch.zeros(4, dtype=torch.float64))
    assert bool((cosines(x, x * 10**one) <= 1).all())


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_cosine_of_small_activations_is_that_of_large_ones(scale: float):
    x, x_hat = activations(9, 0), activations(9, 1)
    expected = np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(x.double().numpy(), x_hat.double().numpy(), strict=True)])  # fmt: skip  # noqa: E501
    statistics = FeatureStatistics(D, 1)
    statistics.update(x * scale, torch.zeros(9, 1), x_hat * scale)
    assert statistics.metrics().cosine == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_similar_features_are_so_at_any_scale(scale: float):
    autoencoder = build_autoencoder(BAEConfig(d_in=D, d_latent=F))
    autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    rows = autoencoder.W_dec.detach().double()
    expected = torch.nn.functional.cosine_similarity(rows, rows[2:3])
    expected[2] = -2
    autoencoder.W_dec.data.mul_(scale)
    autoencoder.prior.fill_(0.5)
    found = describe_feature(autoencoder, 2)
    assert found["similar_indices"].tolist() == expected.topk(10).indices.tolist()
    assert found["similar_cosines"] == pytest.approx(expected.topk(10).values.numpy(), abs=1e-5)


@pytest.mark.parametrize("value", [0.1, 1e10, -3e-12])
def test_identical_rows_have_no_fvu_whatever_their_rounding(value: float):
    """Their mean is not exactly they: what is left is rounding, and no variance to explain."""
    autoencoder = build_autoencoder(BAEConfig(d_in=D, d_latent=F))
    x = torch.full((7, D), value) * torch.tensor([1.0, 0.3, 0.7, 1.1, 0.9])
    centre = activations(1, 0)[0].double()
    assert math.isnan(feature_statistics(autoencoder, x, centre=x.double().mean(0)).metrics().fvu)
    assert math.isnan(feature_statistics(autoencoder, x, centre=centre).metrics().fvu)
