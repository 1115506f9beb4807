from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bae_ray.analysis.features import FeatureStatistics, feature_statistics
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.autoencoders.bae import BinaryAutoencoder
from bae_ray.autoencoders.binarize import Gradient
from bae_ray.autoencoders.covariance import covariance_penalty
from bae_ray.autoencoders.losses import marginal_entropy, reconstruction_loss


@pytest.fixture
def with_golden_weights(golden: dict, set_released_weights) -> Callable[..., BinaryAutoencoder]:
    """Make a BAE with the weights of the golden file."""

    def make(gradient: Gradient = "sigmoid") -> BinaryAutoencoder:
        autoencoder = BinaryAutoencoder(BAEConfig(d_in=golden["d_in"], d_latent=golden["d_latent"], gradient=gradient))
        set_released_weights(autoencoder, golden["bae_state_dict"])
        return autoencoder

    return make


def losses(
    autoencoder: BinaryAutoencoder, x: Tensor, penalty: Callable[[Tensor], Tensor] = covariance_penalty
) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, entropy and covariance terms, with a gradient."""
    code = autoencoder.activate(autoencoder.pre_activations(x))
    return reconstruction_loss(autoencoder.decode_normalized(code), x), marginal_entropy(code), penalty(code)


@pytest.fixture
def released(golden: dict, with_golden_weights) -> BinaryAutoencoder:
    """A BAE with the weights of the golden file."""
    return with_golden_weights()


@pytest.mark.parametrize("gradient", ["sigmoid", "release"])
def test_codes_and_reconstructions_of_the_released_code(golden: dict, gradient: Gradient, with_golden_weights):
    latents, x_hat = with_golden_weights(gradient)(torch.tensor(golden["x"]))
    assert latents.tolist() == golden["bae"]["code"]
    torch.testing.assert_close(x_hat, torch.tensor(golden["bae"]["reconstruction"]), rtol=0, atol=1e-5)


def dense_covariance(code: Tensor) -> Tensor:
    """The covariance term in floating point, where a covariance of 0 gets the sign of its rounding."""
    covariance = torch.cov(code.T)
    return covariance.abs().sum() - covariance.diagonal().abs().sum()


@pytest.mark.parametrize("penalty", [covariance_penalty, dense_covariance])
def test_gradients_of_the_released_code(golden: dict, penalty: Callable[[Tensor], Tensor], with_golden_weights):
    """To 1e-5, but for latents that have a covariance of exactly 0 with another: ours leaves those alone."""
    expected = golden["bae_release_gradient"]
    autoencoder = with_golden_weights("release")
    mse, entropy, covariance = losses(autoencoder, torch.tensor(golden["x"]), penalty)
    loss = mse + expected["entropy_weight"] * entropy + expected["covariance_weight"] * covariance
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    assert autoencoder.W_enc.grad is not None
    assert autoencoder.W_dec.grad is not None
    code = torch.tensor(golden["bae"]["code"])
    independent = len(code) * code.T @ code == torch.outer(code.sum(0), code.sum(0))
    known = ~independent.any(1)
    assert 0 < int(known.sum()) < len(known)
    compared = known if penalty is covariance_penalty else torch.ones_like(known)
    torch.testing.assert_close(
        autoencoder.W_enc.grad.T[compared], torch.tensor(expected["encoder.weight"])[compared], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(autoencoder.W_dec.grad.T, torch.tensor(expected["decoder.weight"]), rtol=0, atol=1e-5)


def test_another_rule_has_other_gradients(golden: dict, with_golden_weights):
    autoencoder = with_golden_weights()
    losses(autoencoder, torch.tensor(golden["x"]))[0].backward()
    assert autoencoder.W_enc.grad is not None
    release = torch.tensor(golden["bae_release_gradient"]["encoder.weight"])
    assert (autoencoder.W_enc.grad.T - release).abs().max() > 1e-2


def test_training_of_the_released_code(golden: dict, with_golden_weights):
    expected = golden["bae_release_training"]
    autoencoder, x = with_golden_weights("release"), torch.tensor(golden["x"])
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=expected["lr"])
    measured = []
    for _ in range(expected["steps"]):
        terms = losses(autoencoder, x)
        measured.append([term.item() for term in terms])
        optimizer.zero_grad()
        (terms[0] + expected["entropy_weight"] * terms[1] + expected["covariance_weight"] * terms[2]).backward()
        optimizer.step()
    torch.testing.assert_close(
        torch.tensor(measured), torch.tensor(expected["mse_entropy_cov_per_step"]), rtol=0, atol=1e-4
    )


def test_compression_of_the_released_code(golden: dict, released: BinaryAutoencoder):
    """The rounded prior, flipped at the stored indices (section 7), decodes to what it does there."""
    expected = golden["compression"]
    statistics = feature_statistics(released, torch.tensor(golden["x"]), batch_size=7)
    statistics.set_reference(released)
    assert released.prior.tolist() == expected["prior"]
    typical = released.prior.round()
    assert typical.tolist() == expected["typical_bits"]
    codes = typical.repeat(len(expected["reconstruction"]), 1)
    for code, flipped in zip(codes, expected["flipped_indices"], strict=False):
        code[flipped] = 1 - code[flipped]
    torch.testing.assert_close(released.decode(codes), torch.tensor(expected["reconstruction"]), rtol=0, atol=1e-5)


def test_magnitudes_are_the_burstiness_of_the_released_code(golden: dict, released: BinaryAutoencoder):
    x = torch.tensor(golden["x"])
    feature_statistics(released, x).set_reference(released)
    torch.testing.assert_close(released.magnitudes(x), torch.tensor(golden["burstiness_eps1e-6"]), rtol=0, atol=1e-5)


def test_without_encoder_bias_it_is_equation_1(golden: dict):
    autoencoder = BinaryAutoencoder(BAEConfig(d_in=8, encoder_bias=False))
    x = torch.tensor(golden["x"])
    assert autoencoder.b_enc is None
    expected = (x @ autoencoder.W_enc >= 0).float() @ autoencoder.W_dec + autoencoder.b_dec
    torch.testing.assert_close(autoencoder(x).x_hat, expected)


def test_weights_learn_by_equation_6():
    """Gradients of the encoder against the chain rule written out, with the step's derivative from Eq. 6."""
    torch.manual_seed(0)
    autoencoder = BinaryAutoencoder(BAEConfig(d_in=5, d_latent=9)).double()
    x = torch.randn(30, 5, dtype=torch.float64)
    reconstruction_loss(autoencoder(x).x_hat, x).backward()
    with torch.no_grad():
        assert autoencoder.b_enc is not None
        pre_activations = x @ autoencoder.W_enc + autoencoder.b_enc
        code = (pre_activations >= 0).double()
        error = 2 * (code @ autoencoder.W_dec + autoencoder.b_dec - x) / x.numel()
        sigmoid = 1 / (1 + (-pre_activations).exp())
        at_pre_activations = error @ autoencoder.W_dec.T * sigmoid * (1 - sigmoid)
        expected = {
            "W_enc": x.T @ at_pre_activations,
            "b_enc": at_pre_activations.sum(0),
            "W_dec": code.T @ error,
            "b_dec": error.sum(0),
        }
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("bits", range(1, 9))
class TestMoreBitDecoding:
    """Eq. 7, with C = `bits`."""

    D_IN, GROUPS, N = 5, 6, 40

    @pytest.fixture
    def autoencoder(self, bits: int) -> BinaryAutoencoder:
        torch.manual_seed(bits)
        return BinaryAutoencoder(BAEConfig(d_in=self.D_IN, d_latent=self.GROUPS * bits, bits_per_feature=bits))

    @pytest.fixture
    def x(self) -> Tensor:
        return torch.randn(self.N, self.D_IN, generator=torch.Generator().manual_seed(1))

    def naive(self, code: Tensor, bits: int) -> Tensor:
        features = [
            [sum(2**j * row[i * bits + j] for j in range(bits)) / (2**bits - 1) for i in range(self.GROUPS)]
            for row in code.tolist()
        ]
        return torch.tensor(features)

    def test_features_are_equation_7(self, autoencoder: BinaryAutoencoder, x: Tensor, bits: int):
        code = autoencoder.encode(x)
        assert code.shape == (self.N, self.GROUPS * bits)
        assert set(code.unique().tolist()) == {0, 1}
        torch.testing.assert_close(autoencoder.features(code), self.naive(code, bits))

    def test_reconstruction_is_of_the_real_features(self, autoencoder: BinaryAutoencoder, x: Tensor, bits: int):
        latents, x_hat = autoencoder(x)
        assert autoencoder.W_dec.shape == (self.GROUPS, self.D_IN)
        assert autoencoder.n_features == self.GROUPS
        expected = self.naive(latents, bits) @ autoencoder.W_dec + autoencoder.b_dec
        torch.testing.assert_close(x_hat, expected)

    def test_features_reach_from_0_to_1(self, autoencoder: BinaryAutoencoder, bits: int):
        code = torch.stack([torch.zeros(self.GROUPS * bits), torch.ones(self.GROUPS * bits)])
        torch.testing.assert_close(autoencoder.features(code), torch.tensor([[0.0], [1.0]]).expand(2, self.GROUPS))

    def test_entropy_is_of_the_bits(self, autoencoder: BinaryAutoencoder, x: Tensor, bits: int):
        code = autoencoder.encode(x)
        assert torch.equal(autoencoder.penalized(autoencoder.pre_activations(x), code), code)
        statistics = feature_statistics(autoencoder, x)
        assert statistics.firing_rates.shape == (self.GROUPS * bits,)
        assert statistics.metrics().entropy_bits == pytest.approx(marginal_entropy(code).item(), rel=1e-5)

    def test_magnitudes_are_of_the_real_features(self, autoencoder: BinaryAutoencoder, x: Tensor, bits: int):
        feature_statistics(autoencoder, x).set_reference(autoencoder)
        code = autoencoder.encode(x)
        magnitudes = autoencoder.magnitudes(x)
        if bits == 1:
            torch.testing.assert_close(magnitudes, torch.log2((code - code.mean(0)).abs() + 1e-6))
        else:
            torch.testing.assert_close(magnitudes, self.naive(code, bits))

    def test_gradient_of_a_bit_is_its_place_value(self, autoencoder: BinaryAutoencoder, bits: int):
        code = torch.zeros(1, self.GROUPS * bits, requires_grad=True)
        autoencoder.features(code).sum().backward()
        assert code.grad is not None
        expected = [2**j / (2**bits - 1) for _ in range(self.GROUPS) for j in range(bits)]
        assert code.grad[0].tolist() == pytest.approx(expected)


def test_prior_is_the_firing_rates_of_the_reference_set(released: BinaryAutoencoder, golden: dict):
    x = torch.tensor(golden["x"])
    statistics = FeatureStatistics(8, 32)
    statistics.update(x[:20], *released(x[:20]))
    statistics.set_reference(released)
    torch.testing.assert_close(released.prior, torch.tensor(golden["bae"]["code"][:20]).float().mean(0))


def test_initial_weights_come_from_the_generator():
    first, second = (build_autoencoder(BAEConfig(d_in=8)) for _ in range(2))
    assert not torch.equal(first.W_enc, second.W_enc)
    for autoencoder in (first, second):
        autoencoder.reset_parameters(torch.Generator().manual_seed(5))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_initial_weights_are_as_wide_as_those_of_linear_layers():
    """The released code's layers are torch's own."""
    autoencoder = build_autoencoder(BAEConfig(d_in=64, expansion=8, bits_per_feature=2))
    for parameter, layer in (
        (autoencoder.W_enc, torch.nn.Linear(64, 512).weight),
        (autoencoder.W_dec, torch.nn.Linear(256, 64).weight),
    ):
        assert parameter.abs().max().item() == pytest.approx(layer.abs().max().item(), rel=1e-2)
        assert parameter.std().item() == pytest.approx(layer.std().item(), rel=5e-2)
        assert parameter.mean().item() == pytest.approx(0, abs=2e-3)
