import pytest
import torch

from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.autoencoders.bae import BinaryAutoencoder
from bae_ray.errors import InvalidInputError


@pytest.fixture
def released(golden: dict) -> BinaryAutoencoder:
    """A BAE with the weights of the golden file."""
    autoencoder = BinaryAutoencoder(BAEConfig(d_in=golden["d_in"], expansion=4))
    weights = {name: torch.tensor(values) for name, values in golden["bae_state_dict"].items()}
    with torch.no_grad():
        autoencoder.W_enc.copy_(weights["encoder.weight"].T)
        autoencoder.W_dec.copy_(weights["decoder.weight"].T)
        assert autoencoder.b_enc is not None
        autoencoder.b_enc.copy_(weights["encoder.bias"])
        autoencoder.b_dec.copy_(weights["decoder.bias"])
    return autoencoder


def test_codes_and_reconstructions_of_the_released_code(golden: dict, released: BinaryAutoencoder):
    latents, x_hat = released(torch.tensor(golden["x"]))
    assert latents.tolist() == golden["bae"]["code"]
    torch.testing.assert_close(x_hat, torch.tensor(golden["bae"]["reconstruction"]), rtol=0, atol=1e-5)


def test_without_encoder_bias_it_is_equation_1(golden: dict):
    autoencoder = BinaryAutoencoder(BAEConfig(d_in=8, encoder_bias=False))
    x = torch.tensor(golden["x"])
    assert autoencoder.b_enc is None
    expected = (x @ autoencoder.W_enc >= 0).float() @ autoencoder.W_dec + autoencoder.b_dec
    torch.testing.assert_close(autoencoder(x).x_hat, expected)


def test_normalisation_is_undone_by_decode(released: BinaryAutoencoder, golden: dict):
    x = torch.tensor(golden["x"])
    plain = released(x)
    released.mean.fill_(3.0)
    released.scale.fill_(20.0)
    scaled = released(x * 20 + 3)
    assert torch.equal(scaled.latents, plain.latents)
    torch.testing.assert_close(scaled.x_hat, plain.x_hat * 20 + 3)


def test_initial_weights_come_from_the_generator():
    first, second = (build_autoencoder(BAEConfig(d_in=8)) for _ in range(2))
    for autoencoder in (first, second):
        autoencoder.reset_parameters(torch.Generator().manual_seed(5))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_d_in_is_needed():
    with pytest.raises(InvalidInputError, match="d_in is not set"):
        build_autoencoder(BAEConfig())
