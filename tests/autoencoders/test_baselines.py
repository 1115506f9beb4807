"""The paper's sparse autoencoders, and the interface that every architecture has."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bae_ray.analysis.features import feature_statistics
from bae_ray.autoencoders import Autoencoder, TopKConfig, build_autoencoder
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.autoencoders.literature import GatedSAE
from bae_ray.autoencoders.losses import l1_penalty, reconstruction_loss
from bae_ray.errors import InvalidInputError
from bae_ray.training.stack import _stacked

D_IN, D_LATENT, N = 6, 24, 50

SPARSE = [architecture for architecture in ARCHITECTURES if architecture != "bae"]

Make = Callable[..., Autoencoder]

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture
def x() -> Tensor:
    """Normalised activations."""
    return torch.randn(N, D_IN, generator=torch.Generator().manual_seed(8))


def plain(autoencoder: Autoencoder) -> Autoencoder:
    """Without a normalisation, and in double precision so that no rounding moves a latent past its threshold."""
    autoencoder = copy.deepcopy(autoencoder).double()
    for name, value in (("mean", 0), ("scale", 1), ("target_mean", 0), ("target_scale", 1)):
        if hasattr(autoencoder, name):
            getattr(autoencoder, name).fill_(value)
    return autoencoder


def test_what_fires_is_what_is_not_zero_in_the_latents(
    autoencoders: dict[str, Autoencoder], activations: Tensor, subtests: pytest.Subtests
):
    for name, autoencoder in autoencoders.items():
        with subtests.test(name):
            fires = autoencoder.fires(activations)
            assert fires.dtype == torch.bool
            assert fires.any()
            assert torch.equal(fires, autoencoder.encode(activations) != 0)
            with pytest.raises(InvalidInputError, match="d_in"):
                autoencoder.fires(activations[:, 1:])


class TestReleasedCode:
    VARIANTS = pytest.mark.parametrize(
        ("variant", "architecture", "options"),
        [
            ("sae_relu", "relu", {}),
            ("sae_topk", "topk", {"k": 4}),
            ("sae_jumprelu", "gated", {"threshold": 0.5}),  # the released code's name for the paper's Gated ReLU
        ],
    )

    @VARIANTS
    def test_numbers(
        self, golden: dict, set_released_weights, variant: str, architecture: str, options: dict[str, Any]
    ):
        expected = golden[variant]
        assert (expected["topk"], expected["theta"]) == (4, 0.5)
        autoencoder = build_autoencoder(ARCHITECTURES[architecture].config(d_in=8, d_latent=32, **options))
        set_released_weights(autoencoder, expected["state_dict"])
        x = torch.tensor(golden["x"])
        latents, x_hat = autoencoder(x)
        torch.testing.assert_close(latents, torch.tensor(expected["latents"]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x_hat, torch.tensor(expected["reconstruction"]), rtol=0, atol=1e-5)
        assert reconstruction_loss(x_hat, x).item() == pytest.approx(expected["mse"], abs=1e-5)
        assert l1_penalty(latents).item() == pytest.approx(expected["l1_sum"], rel=1e-6)


class TestNonLinearities:
    PRE_ACTIVATIONS = torch.tensor([[-3.0, 0.2, 0.5, 2.0, -0.1, 0.7], [-1.0, -2.0, -3.0, -4.0, -5.0, 0.0]])

    def activate(self, architecture: str, **options: Any) -> list[list[float]]:
        config = ARCHITECTURES[architecture].config(d_in=2, d_latent=6, **options)
        return build_autoencoder(config).activate(self.PRE_ACTIVATIONS).tolist()

    @pytest.mark.parametrize("architecture", ["relu", "transcoder"])
    def test_relu(self, architecture: str):
        assert self.activate(architecture)[0] == pytest.approx([0, 0.2, 0.5, 2, 0, 0.7])
        assert self.activate(architecture)[1] == [0] * 6

    def test_topk_keeps_the_largest_whatever_their_sign(self):
        assert self.activate("topk", k=2)[0] == pytest.approx([0, 0, 0, 2, 0, 0.7])
        assert self.activate("topk", k=3)[1] == [-1, -2, 0, 0, 0, 0]  # 0, the largest, is one of the three
        assert self.activate("topk", k=6)[0] == pytest.approx(self.PRE_ACTIVATIONS[0].tolist())

    def test_topk_without_negatives(self):
        assert self.activate("topk", k=3, nonnegative=True)[1] == [0] * 6
        assert self.activate("topk", k=6, nonnegative=True)[0] == pytest.approx([0, 0.2, 0.5, 2, 0, 0.7])

    def test_gated_keeps_what_is_above_the_threshold(self):
        """Strictly: 0.5 is not above 0.5 (Eq. 13)."""
        assert self.activate("gated")[0] == pytest.approx([0, 0, 0, 2, 0, 0.7])
        assert self.activate("gated", threshold=0.0)[0] == pytest.approx([0, 0.2, 0.5, 2, 0, 0.7])
        assert self.activate("gated", threshold=1.0)[1] == [0] * 6

    def test_equal_pre_activations_are_still_k(self):
        latents = build_autoencoder(TopKConfig(d_in=2, d_latent=6, k=4)).activate(torch.ones(3, 6))
        assert latents.sum(1).tolist() == [4, 4, 4]

    @pytest.mark.parametrize(("architecture", "options"), [("relu", {}), ("topk", {"k": 2}), ("gated", {})])
    def test_gradient_passes_where_latents_fire(self, architecture: str, options: dict[str, Any]):
        autoencoder = build_autoencoder(ARCHITECTURES[architecture].config(d_in=2, d_latent=6, **options))
        pre_activations = self.PRE_ACTIVATIONS[:1].clone().requires_grad_()
        latents = autoencoder.activate(pre_activations)
        latents.backward(torch.arange(1.0, 7.0)[None])
        assert pre_activations.grad is not None
        expected = torch.arange(1.0, 7.0) * (latents[0] != 0)
        assert pre_activations.grad[0].tolist() == expected.tolist()


def test_topk_of_a_sample_does_not_depend_on_the_others(random_autoencoder: Make, x: Tensor):
    autoencoder = random_autoencoder("topk", k=5)
    torch.testing.assert_close(autoencoder.encode(x), torch.cat([autoencoder.encode(row[None]) for row in x]))
    pre_activations = autoencoder.pre_activations(autoencoder.normalize(x)).tolist()
    for latents, row in zip(autoencoder.encode(x).tolist(), pre_activations, strict=True):
        kept = sorted(row)[-5:]
        assert latents == pytest.approx([value if value in kept else 0 for value in row], abs=1e-5)


class TestTranscoder:
    def test_the_target_has_a_normalisation_of_its_own(self, random_autoencoder: Make, x: Tensor):
        autoencoder, x = plain(random_autoencoder("transcoder")), x.double()
        latents, y_hat = autoencoder(x)
        autoencoder.mean.fill_(3)
        autoencoder.scale.fill_(20)
        autoencoder.target_mean.fill_(-7)  # pyright: ignore[reportCallIssue]
        autoencoder.target_scale.fill_(5)  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(autoencoder.encode(x * 20 + 3), latents)
        torch.testing.assert_close(autoencoder(x * 20 + 3).x_hat, y_hat * 5 - 7)
        torch.testing.assert_close(autoencoder.normalize_target(y_hat * 5 - 7), y_hat)
        torch.testing.assert_close(autoencoder.normalize(x * 20 + 3), x)

    def test_others_reconstruct_what_they_read(self, random_autoencoder: Make, x: Tensor):
        autoencoder = random_autoencoder("relu")
        assert torch.equal(autoencoder.normalize_target(x), autoencoder.normalize(x))


class TestInterface:
    """What holds for every architecture."""

    @every_architecture
    def test_forward_is_encode_and_decode(self, random_autoencoder: Make, architecture: str, x: Tensor):
        autoencoder = random_autoencoder(architecture)
        latents, x_hat = autoencoder(x)
        assert (latents.shape, x_hat.shape) == ((N, D_LATENT), (N, D_IN))
        assert torch.equal(latents, autoencoder.encode(x))
        assert torch.equal(x_hat, autoencoder.decode(latents))
        assert 0 < int((latents != 0).sum()) < latents.numel()

    @every_architecture
    def test_it_is_an_affine_map_either_side_of_the_non_linearity(
        self, random_autoencoder: Make, architecture: str, x: Tensor
    ):
        autoencoder = plain(random_autoencoder(architecture))
        x = x.double()
        expected = x @ autoencoder.W_enc + (0 if autoencoder.b_enc is None else autoencoder.b_enc)
        torch.testing.assert_close(autoencoder.pre_activations(x), expected)
        latents, x_hat = autoencoder(x)
        torch.testing.assert_close(latents, autoencoder.activate(expected))
        torch.testing.assert_close(x_hat, latents @ autoencoder.W_dec + autoencoder.b_dec)

    @every_architecture
    def test_normalisation_is_undone_by_decode(self, random_autoencoder: Make, architecture: str, x: Tensor):
        autoencoder = plain(random_autoencoder(architecture))
        x = x.double()
        latents, x_hat = autoencoder(x)
        for name in ("", "target_"):
            if hasattr(autoencoder, f"{name}mean"):
                getattr(autoencoder, f"{name}mean").fill_(3)
                getattr(autoencoder, f"{name}scale").fill_(20)
        scaled = autoencoder(x * 20 + 3)
        torch.testing.assert_close(scaled.latents, latents)
        torch.testing.assert_close(scaled.x_hat, x_hat * 20 + 3)

    @every_architecture
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_activations_of_any_precision_are_taken(
        self, random_autoencoder: Make, architecture: str, dtype: torch.dtype, x: Tensor
    ):
        autoencoder = random_autoencoder(architecture)
        latents, x_hat = autoencoder(x.to(dtype))
        assert latents.dtype == x_hat.dtype == torch.float32
        assert torch.equal(latents, autoencoder.encode(x.to(dtype).float()))
        torch.testing.assert_close(autoencoder.decode(latents.to(dtype)), x_hat, rtol=0.05, atol=0.2)

    @every_architecture
    def test_a_sample_is_encoded_the_same_in_any_company(self, random_autoencoder: Make, architecture: str, x: Tensor):
        autoencoder = random_autoencoder(architecture)
        alone = torch.cat([autoencoder.encode(row[None]) for row in x])
        torch.testing.assert_close(autoencoder.encode(x), alone)

    @every_architecture
    @pytest.mark.parametrize("shape", [(4, D_IN + 1), (D_IN,), (2, 3, D_IN)])
    def test_another_shape_of_activations_is_refused(
        self, random_autoencoder: Make, architecture: str, shape: tuple[int, ...]
    ):
        named = rf"x has shape \({', '.join(map(str, shape))},?\).*\[n, 6\] \(d_in = 6\)"
        for method in ("encode", "forward", "magnitudes"):
            with pytest.raises(InvalidInputError, match=named):
                getattr(random_autoencoder(architecture), method)(torch.zeros(shape))

    @every_architecture
    @pytest.mark.parametrize("shape", [(4, D_IN), (D_LATENT,), (2, 3, D_LATENT)])
    def test_another_shape_of_latents_is_refused(
        self, random_autoencoder: Make, architecture: str, shape: tuple[int, ...]
    ):
        with pytest.raises(InvalidInputError, match=r"latents has shape .*\[n, 24\] \(d_latent = 24\)"):
            random_autoencoder(architecture).decode(torch.zeros(shape))

    @every_architecture
    def test_no_samples(self, random_autoencoder: Make, architecture: str):
        latents, x_hat = random_autoencoder(architecture)(torch.zeros(0, D_IN))
        assert (latents.shape, x_hat.shape) == ((0, D_LATENT), (0, D_IN))

    @pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gated_sae"])
    def test_without_encoder_bias(self, architecture: str, x: Tensor):
        options = {"k": 3} if architecture in ("topk", "batchtopk") else {}
        autoencoder = build_autoencoder(
            ARCHITECTURES[architecture].config(d_in=D_IN, d_latent=D_LATENT, encoder_bias=False, **options)
        )
        assert "b_enc" not in autoencoder.state_dict()
        assert torch.equal(autoencoder.pre_activations(x), x @ autoencoder.W_enc)

    @every_architecture
    def test_every_parameter_learns(self, random_autoencoder: Make, architecture: str, x: Tensor):
        autoencoder = random_autoencoder(architecture).train()
        pre_activations = autoencoder.pre_activations(x)
        latents = autoencoder.activate(pre_activations)
        penalty = autoencoder.penalized(pre_activations, latents).sum()
        (reconstruction_loss(autoencoder.decode_normalized(latents), x) + penalty).backward()
        for name, parameter in autoencoder.named_parameters():
            assert parameter.grad is not None, name
            if name != "log_threshold":  # has one only near a threshold
                assert parameter.grad.abs().max() > 0, name


class TestStandardize:
    """The paper's rescaled magnitudes (section 5.3)."""

    @pytest.fixture(params=SPARSE)
    def autoencoder(self, request: pytest.FixtureRequest, random_autoencoder: Make) -> Autoencoder:
        autoencoder = random_autoencoder(request.param, standardize=True)
        with torch.no_grad():
            autoencoder.W_enc[:, 5] = 0
            bias = autoencoder.b_gate if isinstance(autoencoder, GatedSAE) else autoencoder.b_enc
            assert bias is not None
            bias[5] = -50  # a dead latent
        return autoencoder

    def test_magnitudes_have_mean_0_and_deviation_1_over_the_reference_set(
        self, autoencoder: Autoencoder, activations: Tensor
    ):
        feature_statistics(autoencoder, activations, batch_size=37).set_reference(autoencoder)
        latents, magnitudes = autoencoder.encode(activations), autoencoder.magnitudes(activations).double()
        varies = latents.std(0) > 0
        assert 2 < int(varies.sum()) < D_LATENT
        torch.testing.assert_close(magnitudes.mean(0), torch.zeros(D_LATENT).double(), rtol=0, atol=1e-4)
        deviation = magnitudes.std(0, correction=0)
        torch.testing.assert_close(deviation, varies.double(), rtol=0, atol=1e-3)

    def test_a_dead_latent_has_no_magnitude(self, autoencoder: Autoencoder, activations: Tensor):
        feature_statistics(autoencoder, activations).set_reference(autoencoder)
        assert not autoencoder.magnitudes(activations)[:, 5].any()
        assert not autoencoder.magnitudes(activations * -3)[:, 5].any()

    def test_another_set_is_measured_against_the_reference_set(self, autoencoder: Autoencoder, activations: Tensor):
        feature_statistics(autoencoder, activations).set_reference(autoencoder)
        reference, others = autoencoder.encode(activations), autoencoder.encode(activations * 0.5 + 1)
        varies = reference.std(0) > 0
        expected = (others - reference.mean(0)) / reference.std(0, correction=0)
        torch.testing.assert_close(
            autoencoder.magnitudes(activations * 0.5 + 1)[:, varies], expected[:, varies], rtol=1e-4, atol=1e-4
        )

    def test_reconstruction_stays(self, autoencoder: Autoencoder, activations: Tensor):
        before = autoencoder(activations)
        feature_statistics(autoencoder, activations).set_reference(autoencoder)
        after = autoencoder(activations)
        assert torch.equal(after.latents, before.latents)
        assert torch.equal(after.x_hat, before.x_hat)

    def test_a_latent_that_is_always_the_same_has_no_magnitude(self, autoencoder: Autoencoder, activations: Tensor):
        with torch.no_grad():
            if isinstance(autoencoder, GatedSAE):
                autoencoder.b_gate[5], autoencoder.b_mag[5] = 1, 100.7
            else:
                assert autoencoder.b_enc is not None
                autoencoder.b_enc[5] = 100.7
        assert autoencoder.encode(activations)[:, 5].unique().tolist() == pytest.approx([100.7])
        feature_statistics(autoencoder, activations, batch_size=37).set_reference(autoencoder)
        assert autoencoder.magnitudes(activations)[:, 5].abs().max() < 1e-3

    @pytest.mark.parametrize("architecture", SPARSE)
    def test_without_it_magnitudes_are_the_latents(
        self, random_autoencoder: Make, architecture: str, activations: Tensor
    ):
        autoencoder = random_autoencoder(architecture)
        assert not {"latent_mean", "latent_std"} & autoencoder.state_dict().keys()
        assert torch.equal(autoencoder.magnitudes(activations), autoencoder.encode(activations))


class TestMembers:
    """Autoencoders whose weights are stacked give what each gives alone."""

    M = 3

    @pytest.fixture(params=[*ARCHITECTURES, "bae_3_bits"])
    def alone(self, request: pytest.FixtureRequest, random_autoencoder: Make) -> list[Autoencoder]:
        options = {"bits_per_feature": 3} if request.param == "bae_3_bits" else {}
        architecture = request.param.removesuffix("_3_bits")
        made = [random_autoencoder(architecture, **options).train() for _ in range(self.M)]
        for seed, autoencoder in enumerate(made):
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in autoencoder.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return made

    @pytest.fixture
    def stacked(self, alone: list[Autoencoder]) -> Autoencoder:
        return _stacked(copy.deepcopy(alone))

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("training", [True, False])
    def test_every_step_is_that_of_each_alone(
        self, alone: list[Autoencoder], stacked: Autoencoder, shared: bool, training: bool, x: Tensor
    ):
        inputs = x if shared else torch.stack([x, x * 0.5, -x])
        stacked.train(training)
        pre_activations = stacked.pre_activations(inputs)
        latents = stacked.activate(pre_activations)
        x_hat = stacked.decode_normalized(latents)
        penalized = stacked.penalized(pre_activations, latents)
        assert pre_activations.shape == latents.shape == penalized.shape == (self.M, N, D_LATENT)
        assert x_hat.shape == (self.M, N, D_IN)
        for number, member in enumerate(alone):
            member.train(training)
            own_pre_activations = member.pre_activations(x if shared else inputs[number])
            own_latents = member.activate(own_pre_activations)
            torch.testing.assert_close(pre_activations[number], own_pre_activations)
            torch.testing.assert_close(latents[number], own_latents)
            torch.testing.assert_close(x_hat[number], member.decode_normalized(own_latents))
            torch.testing.assert_close(penalized[number], member.penalized(own_pre_activations, own_latents))
            for name, buffer in member.named_buffers():
                torch.testing.assert_close(stacked.get_buffer(name)[number], buffer)
            if isinstance(member, GatedSAE):
                assert isinstance(stacked, GatedSAE)
                torch.testing.assert_close(
                    stacked.auxiliary_reconstruction(pre_activations)[number],
                    member.auxiliary_reconstruction(own_pre_activations),
                )

    def test_gradients_are_those_of_each_alone(self, alone: list[Autoencoder], stacked: Autoencoder, x: Tensor):
        def objective(autoencoder: Autoencoder) -> Tensor:
            pre_activations = autoencoder.pre_activations(x)
            latents = autoencoder.activate(pre_activations)
            penalty = l1_penalty(autoencoder.penalized(pre_activations, latents), "mean")
            return (reconstruction_loss(autoencoder.decode_normalized(latents), x) + 0.1 * penalty).sum()

        objective(stacked).backward()
        for number, member in enumerate(alone):
            objective(member).backward()
            for name, parameter in member.named_parameters():
                together = stacked.get_parameter(name).grad
                assert together is not None
                assert parameter.grad is not None
                torch.testing.assert_close(together[number], parameter.grad, rtol=1e-4, atol=1e-6)
