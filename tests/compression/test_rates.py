"""Whose rates codes are written by: on data other than the reference set its own rates make smaller containers."""

import numpy as np
import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import feature_statistics
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder
from bae_ray.compression import compress_activations, decompress
from bae_ray.compression.choices import chosen_prior
from bae_ray.compression.header import DIGEST_SIZE, HEADER_SIZE
from bae_ray.errors import InvalidInputError

D, F, N = 16, 256, 4096


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    """One whose latents mostly rest on what it was fitted on."""
    made = build_autoencoder(BAEConfig(d_in=D, d_latent=F)).requires_grad_(False).eval()
    made.reset_parameters(torch.Generator().manual_seed(1))
    made.get_parameter("b_enc").copy_(-torch.rand(F, generator=torch.Generator().manual_seed(2)) * 3)
    feature_statistics(made, activations(0, 0.0)).set_reference(made)
    return made


def activations(seed: int, shift: float) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed)) + shift


def excess(autoencoder: Autoencoder, x: torch.Tensor, data: bytes) -> float:
    """Bits of the blocks over the marginal entropy of the very codes."""
    p = autoencoder.encode(x).double().mean(0).clamp(1e-300, 1 - 1e-16).numpy()
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum()
    blocks = -(-N // 1024)
    return 8 * (len(data) - HEADER_SIZE - DIGEST_SIZE - F - 16 * blocks - 8) / (N * entropy)


def test_the_datas_own_rates_reach_its_entropy_where_others_do_not(autoencoder: Autoencoder):
    x = activations(3, 0.7)
    sizes = {}
    for choice in ("encoder", "data", "auto"):
        data = compress_activations(autoencoder, x, prior=choice, table="embedded")
        assert torch.equal(decompress(data).bool(), autoencoder.encode(x).bool())
        sizes[choice] = len(data)
        if choice == "data":
            assert excess(autoencoder, x, data) < 1.05
        if choice == "encoder":
            assert excess(autoencoder, x, data) > 1.1
    assert sizes["auto"] == sizes["data"] < sizes["encoder"]


def test_auto_keeps_the_autoencoders_prior_where_that_is_better(autoencoder: Autoencoder, monkeypatch):
    """Rates of three vectors, which are not those of the others."""
    x = activations(0, 0.0)
    monkeypatch.setattr("bae_ray.compression.choices.SAMPLE_ROWS", 3)
    few = chosen_prior(autoencoder, x, "data")
    three = autoencoder.encode(x[[0, 2048, 4095]]).double().mean(0)
    assert torch.allclose(few.double(), (3 * three + 0.5) / 4), "the first, the last and one in the middle"
    assert len(compress_activations(autoencoder, x, prior="encoder", table="embedded")) < len(
        compress_activations(autoencoder, x, prior=few)
    )
    monkeypatch.setattr("bae_ray.compression.choices.SAMPLE_ROWS", N)
    autoencoder.prior.copy_(chosen_prior(autoencoder, x, "data"))
    assert chosen_prior(autoencoder, x, "auto") is autoencoder.prior, "no reason to take another"


def test_rates_of_pieces_are_those_of_the_whole(autoencoder: Autoencoder):
    x = activations(3, 0.7)
    whole = chosen_prior(autoencoder, x, "data")
    assert torch.equal(chosen_prior(autoencoder, Rows([x[:1000], x[1000:]]), "data"), whole)
    assert torch.allclose(whole, autoencoder.encode(x).float().mean(0), atol=1 / N)


def test_sizes_of_what_a_threshold_keeps_are_not_compared(autoencoder: Autoencoder):
    x = activations(3, 0.7)[:50]
    with pytest.raises(InvalidInputError, match=r"prior is auto and threshold -0\.5"):
        compress_activations(autoencoder, x, "indices", prior="auto", threshold=-0.5)
    assert compress_activations(autoencoder, x, "indices", prior="data", threshold=-0.5)
