import pytest
import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, build_autoencoder
from bae_ray.experiments.more_bit import activity as module
from bae_ray.experiments.more_bit.activity import evenly_spaced, joined, magnitude_map

D = 5


def autoencoder_of(config: BAEConfig | ReLUConfig, seed: int = 0) -> Autoencoder:
    autoencoder = build_autoencoder(config)
    autoencoder.reset_parameters(torch.Generator().manual_seed(seed))
    return autoencoder


def activations(n: int = 41, seed: int = 1) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def naive_magnitudes(autoencoder: Autoencoder, x: Tensor, bits: int | None) -> list[list[float]]:
    """Of all samples and features, from the weights, as the paper's equations have it."""
    pre = x @ autoencoder.W_enc + autoencoder.get_parameter("b_enc")
    if bits is None:
        return pre.relu().tolist()
    code = (pre >= 0).double()
    if bits == 1:
        return (code - code.mean(0)).abs().clamp_min(1e-30).log2().tolist()
    rows = code.tolist()
    return [
        [sum(2**j * row[i + j] for j in range(bits)) / (2**bits - 1) for i in range(0, len(row), bits)] for row in rows
    ]


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        (BAEConfig(d_in=D, d_latent=24), 1),
        (BAEConfig(d_in=D, d_latent=48, bits_per_feature=2), 2),
        (ReLUConfig(d_in=D, d_latent=24), None),
    ],
)
@pytest.mark.parametrize(("samples", "columns"), [(1000, 1000), (7, 24), (10, 5), (2, 1)])
def test_a_map_is_that_of_the_dense_magnitudes(
    config: BAEConfig | ReLUConfig, bits: int | None, samples: int, columns: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "rows_at_once", lambda _: 3)
    autoencoder, x = autoencoder_of(config), activations()
    with torch.no_grad():
        dense = naive_magnitudes(autoencoder, x, bits)
    shown = magnitude_map(autoencoder, Rows([x[:20], x[20:]]), samples, columns)
    width = -(-24 // columns)
    expected = [
        [max(dense[sample][start : start + width]) for start in range(0, 24, width)]
        for sample in shown.samples.tolist()
    ]
    finite = torch.tensor(expected) > -50  # what never varies has a burstiness of minus infinity, or nearly
    assert shown.values.shape == (min(41, samples), len(expected[0]))
    assert len(expected[0]) <= columns
    torch.testing.assert_close(shown.values[finite], torch.tensor(expected)[finite], rtol=1e-4, atol=1e-4)
    assert bool((shown.values[~finite] < -15).all())
    assert (shown.n_features, shown.burstiness) == (24, bits == 1)


def test_samples_are_spread_over_all():
    assert evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4]
    spaced = evenly_spaced(1000, 7)
    assert spaced[0] == 0
    assert set(spaced.diff().tolist()) <= {142, 143}


def test_a_stripe_among_silent_neighbours_stays():
    values = torch.zeros(6, 100)
    values[:, 37] = 1.0
    shown = joined(values, 10)
    assert shown.shape == (6, 10)
    assert shown.sum(0).nonzero().tolist() == [[3]]
    assert bool((shown[:, 3] == 1).all())
