"""The sparse autoencoders of the literature against their papers' formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders import Autoencoder, BatchTopKConfig, GatedSAEConfig, JumpReLUConfig
from bae_ray.autoencoders.literature import BatchTopKAutoencoder, GatedSAE, JumpReLUAutoencoder
from bae_ray.autoencoders.losses import l0_penalty, l1_penalty, reconstruction_loss
from bae_ray.training.objective import Forms, term_names, terms

N, D_IN, D_LATENT, K = 40, 6, 24, 3

Make = Callable[..., Autoencoder]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, D_IN, generator=torch.Generator().manual_seed(8))


class TestBatchTopK:
    """arXiv 2412.06410."""

    @pytest.fixture
    def autoencoder(self) -> BatchTopKAutoencoder:
        return BatchTopKAutoencoder(BatchTopKConfig(d_in=D_IN, d_latent=D_LATENT, k=K))

    @pytest.fixture
    def pre_activations(self) -> Tensor:
        return torch.randn(N, D_LATENT, generator=torch.Generator().manual_seed(9))

    def test_k_per_sample_are_kept_in_training(self, autoencoder: BatchTopKAutoencoder, pre_activations: Tensor):
        latents = autoencoder.activate(pre_activations)
        limit = sorted(pre_activations.flatten().tolist())[-K * N]
        assert torch.equal(latents, torch.where(pre_activations >= limit, pre_activations, 0))
        counts = (latents > 0).sum(1)
        assert int(counts.sum()) == K * N
        assert counts.unique().numel() > 1

    @given(st.integers(0, 1000), st.integers(1, 8), st.floats(-2, 2))
    @settings(deadline=None)
    def test_what_is_kept_is_positive_and_larger_than_what_is_not(self, seed: int, k: int, shift: float):
        autoencoder = BatchTopKAutoencoder(BatchTopKConfig(d_in=2, d_latent=8, k=k))
        pre_activations = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)) + shift
        latents = autoencoder.activate(pre_activations)
        kept = latents != 0
        assert int(kept.sum()) == min(5 * k, int((pre_activations > 0).sum()))
        assert torch.equal(latents[kept], pre_activations[kept])
        if kept.any() and not kept.all():
            assert latents[kept].min() > 0
            assert latents[kept].min() >= pre_activations[~kept].max()

    def test_threshold_is_the_running_mean_of_the_smallest_kept(self, autoencoder: BatchTopKAutoencoder):
        assert autoencoder.threshold.item() < 0  # not trained yet
        expected = None
        for seed in range(4):
            pre_activations = torch.randn(N, D_LATENT, generator=torch.Generator().manual_seed(seed)) + seed
            latents = autoencoder.activate(pre_activations)
            smallest = min(value for value in latents.flatten().tolist() if value > 0)
            expected = smallest if expected is None else 0.99 * expected + 0.01 * smallest
            assert autoencoder.threshold.item() == pytest.approx(expected, rel=1e-5)

    def test_a_batch_without_positive_values_moves_nothing(self, autoencoder: BatchTopKAutoencoder):
        assert not autoencoder.activate(-torch.ones(4, D_LATENT)).any()
        assert autoencoder.threshold.item() == 0
        autoencoder.threshold.fill_(0.7)
        assert not autoencoder.activate(-torch.ones(4, D_LATENT)).any()
        assert autoencoder.threshold.item() == pytest.approx(0.7)

    def test_evaluation_keeps_what_is_above_the_threshold(
        self, autoencoder: BatchTopKAutoencoder, pre_activations: Tensor
    ):
        autoencoder.activate(pre_activations)
        threshold = autoencoder.threshold.item()
        autoencoder.eval()
        other = pre_activations.flip(1) * 1.3
        latents = autoencoder.activate(other)
        assert torch.equal(latents, torch.where(other > threshold, other, 0))
        assert torch.equal(torch.cat([autoencoder.activate(row[None]) for row in other]), latents)
        assert autoencoder.threshold.item() == threshold

    def test_evaluation_before_any_training_is_a_relu(self, autoencoder: BatchTopKAutoencoder, pre_activations: Tensor):
        assert torch.equal(autoencoder.eval().activate(pre_activations), pre_activations.relu())

    def test_evaluation_keeps_about_as_many(self, autoencoder: BatchTopKAutoencoder):
        generator = torch.Generator().manual_seed(1)
        for _ in range(30):
            autoencoder.activate(torch.randn(400, D_LATENT, generator=generator))
        latents = autoencoder.eval().activate(torch.randn(4000, D_LATENT, generator=generator))
        assert (latents != 0).sum(1).double().mean().item() == pytest.approx(K, rel=0.05)

    def test_gradient_passes_where_latents_fire(self, autoencoder: BatchTopKAutoencoder, pre_activations: Tensor):
        pre_activations.requires_grad_()
        latents = autoencoder.activate(pre_activations)
        latents.sum().backward()
        assert pre_activations.grad is not None
        assert torch.equal(pre_activations.grad, (latents != 0).float())


class TestJumpReLU:
    """arXiv 2407.14435, whose kernel K(u) is 1 for |u| < 1/2, else 0."""

    BANDWIDTH = 0.4

    @pytest.fixture
    def autoencoder(self) -> JumpReLUAutoencoder:
        made = JumpReLUAutoencoder(JumpReLUConfig(d_in=D_IN, d_latent=D_LATENT, bandwidth=self.BANDWIDTH)).double()
        with torch.no_grad():
            made.log_threshold.copy_(torch.linspace(-2, 0.5, D_LATENT))
        return made

    @pytest.fixture
    def pre_activations(self) -> Tensor:
        generator = torch.Generator().manual_seed(9)
        return torch.randn(N, D_LATENT, generator=generator, dtype=torch.float64).requires_grad_()

    @pytest.fixture
    def incoming(self) -> Tensor:
        return torch.randn(N, D_LATENT, generator=torch.Generator().manual_seed(10), dtype=torch.float64)

    def kernel(self, z: float, threshold: float) -> float:
        return float(abs((z - threshold) / self.BANDWIDTH) < 0.5)

    def test_initial_threshold(self):
        for value in (0.01, 0.3):
            made = JumpReLUAutoencoder(JumpReLUConfig(d_in=D_IN, d_latent=D_LATENT, initial_threshold=value))
            assert made.log_threshold.exp().tolist() == pytest.approx([value] * D_LATENT)

    def test_latents_jump_at_the_threshold(self, autoencoder: JumpReLUAutoencoder, pre_activations: Tensor):
        latents = autoencoder.activate(pre_activations)
        thresholds = autoencoder.log_threshold.exp()
        assert torch.equal(latents, torch.where(pre_activations > thresholds, pre_activations, 0))
        assert torch.equal(autoencoder.penalized(pre_activations, latents), (latents > 0).double())

    def test_gradients_of_the_latents(
        self, autoencoder: JumpReLUAutoencoder, pre_activations: Tensor, incoming: Tensor
    ):
        """Eq. 11: in the threshold -(theta / bandwidth) K((z - theta) / bandwidth); here by its logarithm."""
        autoencoder.activate(pre_activations).backward(incoming)
        assert autoencoder.log_threshold.grad is not None
        assert pre_activations.grad is not None
        for j, log_threshold in enumerate(autoencoder.log_threshold.tolist()):
            theta = math.exp(log_threshold)
            column, weights = pre_activations[:, j].tolist(), incoming[:, j].tolist()
            by_theta = sum(
                g * -(theta / self.BANDWIDTH) * self.kernel(z, theta) for z, g in zip(column, weights, strict=True)
            )
            assert autoencoder.log_threshold.grad[j].item() == pytest.approx(by_theta * theta, rel=1e-9, abs=1e-12)
            expected = [g * (z > theta) for z, g in zip(column, weights, strict=True)]
            assert pre_activations.grad[:, j].tolist() == pytest.approx(expected)
        assert int((autoencoder.log_threshold.grad != 0).sum()) == D_LATENT

    def check_l0_gradient(self, autoencoder: JumpReLUAutoencoder, pre_activations: Tensor) -> None:
        """Eq. 12: in the threshold -(1 / bandwidth) K((z - theta) / bandwidth), on either side of it."""
        assert autoencoder.log_threshold.grad is not None
        for j, log_threshold in enumerate(autoencoder.log_threshold.tolist()):
            theta = math.exp(log_threshold)
            by_theta = sum(-1 / self.BANDWIDTH * self.kernel(z, theta) for z in pre_activations[:, j].tolist()) / N
            assert autoencoder.log_threshold.grad[j].item() == pytest.approx(by_theta * theta, rel=1e-6, abs=1e-12)

    def test_gradients_of_the_l0_penalty(self, autoencoder: JumpReLUAutoencoder, pre_activations: Tensor):
        l0_penalty(autoencoder.penalized(pre_activations, autoencoder.activate(pre_activations))).backward()
        assert pre_activations.grad is None
        self.check_l0_gradient(autoencoder, pre_activations)

    def test_gradients_of_the_l0_term_of_training(self, autoencoder: JumpReLUAutoencoder, x: Tensor):
        x = x.double()
        objective = terms(autoencoder, x, x, Forms("mean", "bernoulli", "sum"), frozenset({"l0"}))
        objective[term_names(autoencoder).index("l0")].backward()
        assert autoencoder.W_enc.grad is None
        self.check_l0_gradient(autoencoder, autoencoder.pre_activations(x))

    def test_the_l0_penalty_counts_latents(self, autoencoder: JumpReLUAutoencoder, pre_activations: Tensor):
        latents = autoencoder.activate(pre_activations)
        l0 = l0_penalty(autoencoder.penalized(pre_activations, latents)).item()
        assert l0 == pytest.approx(sum(sum(v != 0 for v in row) for row in latents.tolist()) / N)

    def test_the_gradient_is_that_of_the_expected_l0(self):
        """Over many samples of normal values, minus their density at the threshold."""
        made = JumpReLUAutoencoder(JumpReLUConfig(d_in=1, d_latent=1, initial_threshold=0.8, bandwidth=0.1))
        z = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0))
        l0_penalty(made.penalized(z, made.activate(z))).backward()
        assert made.log_threshold.grad is not None
        density = torch.distributions.Normal(0, 1).log_prob(torch.tensor(0.8)).exp().item()
        assert made.log_threshold.grad.item() == pytest.approx(-density * 0.8, rel=0.03)


class TestGatedSAE:
    """arXiv 2404.16014, Eq. 5-9, with weights tied by r_mag, and without the decoder's bias before the encoder."""

    @pytest.fixture
    def autoencoder(self) -> GatedSAE:
        made = GatedSAE(GatedSAEConfig(d_in=D_IN, d_latent=D_LATENT)).double()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        return made

    @pytest.fixture
    def x(self, x: Tensor) -> Tensor:
        return x.double()

    def naive(self, autoencoder: GatedSAE, x: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Own copies of the parameters, latents, gate before its step, and the three terms' sum, written out."""
        p = {name: value.detach().clone().requires_grad_() for name, value in autoencoder.named_parameters()}
        gate = x @ p["W_enc"] + p["b_gate"]
        w_mag = p["W_enc"] * p["r_mag"].exp()[None, :]
        magnitude = torch.clamp(x @ w_mag + p["b_mag"], min=0)
        latents = torch.heaviside(gate, torch.zeros((), dtype=torch.float64)).detach() * magnitude
        x_hat = latents @ p["W_dec"] + p["b_dec"]
        fires = torch.clamp(gate, min=0)
        frozen = fires @ p["W_dec"].detach() + p["b_dec"].detach()
        terms = ((x - x_hat) ** 2).sum(1).mean() + 0.3 * fires.sum(1).mean() + ((x - frozen) ** 2).sum(1).mean()
        return p, latents, gate, terms

    def test_latents_and_penalty(self, autoencoder: GatedSAE, x: Tensor):
        _, latents, gate, _ = self.naive(autoencoder, x)
        pre_activations = autoencoder.pre_activations(x)
        torch.testing.assert_close(autoencoder.encode(x), latents)
        torch.testing.assert_close(autoencoder.penalized(pre_activations, latents), gate.clamp_min(0))
        assert 0 < int((latents != 0).sum()) < int((gate > 0).sum())  # an open gate may let no magnitude through

    def test_gradients_of_the_whole_objective(self, autoencoder: GatedSAE, x: Tensor):
        p, _, _, expected = self.naive(autoencoder, x)
        expected.backward()
        pre_activations = autoencoder.pre_activations(x)
        latents = autoencoder.activate(pre_activations)
        objective = (
            reconstruction_loss(autoencoder.decode_normalized(latents), x, "sum")
            + 0.3 * l1_penalty(autoencoder.penalized(pre_activations, latents), "mean")
            + reconstruction_loss(autoencoder.auxiliary_reconstruction(pre_activations), x, "sum")
        )
        objective.backward()
        assert objective.item() == pytest.approx(expected.item(), rel=1e-6)
        for name, parameter in autoencoder.named_parameters():
            torch.testing.assert_close(parameter.grad, p[name].grad, rtol=1e-5, atol=1e-7)

    def test_the_auxiliary_reconstruction_does_not_train_the_decoder(self, autoencoder: GatedSAE, x: Tensor):
        reconstruction_loss(autoencoder.auxiliary_reconstruction(autoencoder.pre_activations(x)), x).backward()
        assert autoencoder.W_enc.grad is not None
        assert autoencoder.b_gate.grad is not None
        assert autoencoder.W_enc.grad.any()
        assert autoencoder.b_gate.grad.any()
        for name in ("W_dec", "b_dec", "b_mag", "r_mag"):
            assert autoencoder.get_parameter(name).grad is None, name

    def test_the_penalty_trains_the_gate_alone(self, autoencoder: GatedSAE, x: Tensor):
        pre_activations = autoencoder.pre_activations(x)
        l1_penalty(autoencoder.penalized(pre_activations, autoencoder.activate(pre_activations))).backward()
        assert autoencoder.b_gate.grad is not None
        assert autoencoder.b_mag.grad is None
        assert autoencoder.r_mag.grad is None

    def test_the_gate_closes_at_zero(self):
        made = GatedSAE(GatedSAEConfig(d_in=D_IN, d_latent=3))
        with torch.no_grad():
            made.b_mag.fill_(1)
        assert made.activate(torch.tensor([[-1.0, 0.0, 1.0]])).tolist() == [[0, 0, 2]]
