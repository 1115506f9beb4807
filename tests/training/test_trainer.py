import pytest
import torch

from bae_ray.autoencoders import BAEConfig
from bae_ray.errors import DivergedError, TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.trainer import EpochMetrics, _split, train

SMALL = TrainingConfig(epochs=6, batch_size=32, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4)


def data(n: int = 120, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1)) * 30 + 500


def reference_training(golden: dict, steps: int) -> list[tuple[float, float, float]]:
    """The objective of Eq. 5 with Eq. 6's gradient, in plain autograd: mse, entropy and covariance before each step."""
    x = torch.tensor(golden["x"])
    weights = {k: torch.tensor(v).requires_grad_() for k, v in golden["bae_state_dict"].items()}
    optimizer = torch.optim.Adam(weights.values(), lr=5e-4)
    seen = []
    for _ in range(steps):
        pre = x @ weights["encoder.weight"].T + weights["encoder.bias"]
        smooth = torch.sigmoid(pre)
        code = (pre >= 0).float() + smooth - smooth.detach()
        x_hat = code @ weights["decoder.weight"].T + weights["decoder.bias"]
        mse = ((x_hat - x) ** 2).mean()
        p = code.mean(0).clamp(1e-12, 1 - 1e-12)
        entropy = -(p * p.log2() + (1 - p) * (1 - p).log2()).sum()
        cov = torch.cov(code.T)
        covariance = cov.abs().sum() - cov.diagonal().abs().sum()
        optimizer.zero_grad()
        (mse + 1e-3 * entropy + 1e-4 * covariance).backward()
        optimizer.step()
        seen.append((mse.item(), entropy.item(), covariance.item()))
    return seen


def test_training_follows_the_plain_objective(golden: dict, monkeypatch: pytest.MonkeyPatch):
    """From the released code's weights, ten full-batch steps agree with plain autograd on every term."""
    from bae_ray.autoencoders.bae import BinaryAutoencoder

    def load(self: BinaryAutoencoder, generator) -> None:
        released = {name: torch.tensor(values) for name, values in golden["bae_state_dict"].items()}
        assert self.b_enc is not None
        for parameter, value in (
            (self.W_enc, released["encoder.weight"].T),
            (self.b_enc, released["encoder.bias"]),
            (self.W_dec, released["decoder.weight"].T),
            (self.b_dec, released["decoder.bias"]),
        ):
            parameter.data = value.clone()

    monkeypatch.setattr(BinaryAutoencoder, "reset_parameters", load)
    x = torch.tensor(golden["x"])
    training = TrainingConfig(
        epochs=10, batch_size=48, entropy_weight=1e-3, covariance_weight=1e-4, entropy_warmup=0, normalize="none",
        val_fraction=0.01,
    )  # fmt: skip
    held_out = torch.cat([x, torch.eye(2, 8)])
    monkeypatch.setattr("bae_ray.training.trainer._split", lambda *_: (torch.arange(48), torch.tensor([48, 49])))
    seen: list[EpochMetrics] = []
    train(held_out, BAEConfig(), training, on_epoch=seen.append)
    for ours, (mse, entropy, covariance) in zip(seen, reference_training(golden, 10), strict=True):
        assert ours.mse == pytest.approx(mse, rel=1e-4)
        assert ours.entropy_bits == pytest.approx(entropy, rel=1e-4)
        assert ours.covariance_penalty == pytest.approx(covariance, rel=1e-3)


def test_same_seed_same_numbers():
    first, second = (train(data(), BAEConfig(), SMALL) for _ in range(2))
    assert first.all == second.all
    for name, tensor in first.autoencoder.state_dict().items():
        assert torch.equal(tensor, second.autoencoder.state_dict()[name])
    other = train(data(), BAEConfig(), SMALL.model_copy(update={"seed": 1}))
    assert other.all != first.all


def test_split_is_disjoint_and_whole():
    trained = train(data(), BAEConfig(), SMALL)
    assert (trained.train.n, trained.val.n, trained.all.n) == (96, 24, 120)


def test_normalisation_prior_and_entropy_belong_to_the_checkpoint():
    x = data()
    trained = train(x, BAEConfig(), SMALL)
    code = trained.autoencoder.encode(x).detach()
    assert set(code.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(trained.autoencoder.prior, code.mean(0))
    assert trained.autoencoder.scale.item() == pytest.approx(30, rel=0.1)
    assert trained.autoencoder.mean.mean().item() == pytest.approx(500, abs=10)
    p = code.double().mean(0)
    p = p[(p > 0) & (p < 1)]
    assert trained.all.entropy_bits == pytest.approx(float(-(p * p.log2() + (1 - p) * (1 - p).log2()).sum()), rel=1e-6)
    assert trained.val.fvu < 1


def test_warm_up_leaves_the_entropy_out():
    epochs: list[EpochMetrics] = []
    train(data(), BAEConfig(), SMALL.model_copy(update={"epochs": 8}), on_epoch=epochs.append)
    assert [epoch.entropy_weight for epoch in epochs] == [0, 0, *[1e-3] * 6]
    for epoch in epochs:
        expected = epoch.mse + epoch.entropy_weight * epoch.entropy_bits + 1e-4 * epoch.covariance_penalty
        assert epoch.loss == pytest.approx(expected, rel=1e-4)


def test_entropy_term_lowers_the_entropy():
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    settings = SMALL.model_copy(update={"epochs": 60})
    free = train(x, BAEConfig(), settings.model_copy(update={"entropy_weight": 0.0, "covariance_weight": 0.0}))
    constrained = train(x, BAEConfig(), settings.model_copy(update={"entropy_weight": 2e-2}))
    assert constrained.all.entropy_bits < 0.7 * free.all.entropy_bits


@pytest.mark.parametrize(
    ("x", "architecture", "message"),
    [
        (torch.ones(10, 3), BAEConfig(), "all 10 activations are identical, so their entropy is 0 bits"),
        (torch.ones(3, 3), BAEConfig(), r"shape \(3, 3\); expected \[n, d\] with n of 4 or more"),
        (torch.tensor([[1.0, 2], [3, float("nan")], [0, 0], [1, 1]]), BAEConfig(), "NaN or infinite .* row 1"),
        (torch.randn(10, 3), BAEConfig(d_in=5), "d_in is 5 but the activations are 3 wide"),
    ],
)
def test_data_that_cannot_be_trained_on(x: torch.Tensor, architecture: BAEConfig, message: str):
    with pytest.raises(TrainingError, match=message):
        train(x, architecture, SMALL)


def test_held_out_split_without_variance_is_said():
    """One row differs, and it is in training: FVU on the held-out rows would be 0/0."""
    x = torch.zeros(50, 3)
    x[_split(50, 0.2, torch.Generator().manual_seed(SMALL.seed))[0][0]] = 1.0
    with pytest.raises(TrainingError, match=r"all 10 held-out activations are identical, so their FVU is undefined"):
        train(x, BAEConfig(), SMALL)


def test_divergence_names_the_epoch():
    with pytest.raises(DivergedError, match=r"the loss became (inf|nan) in epoch \d+ of 6 .* Lower lr \(1e\+30\)"):
        train(data(), BAEConfig(), SMALL.model_copy(update={"lr": 1e30}))


@pytest.mark.gpu
def test_training_on_a_gpu():
    trained = train(data(), BAEConfig(), SMALL, device="cuda")
    assert trained.autoencoder.W_enc.is_cuda
    assert trained.all.fvu == pytest.approx(train(data(), BAEConfig(), SMALL).all.fvu, rel=0.05)


@pytest.mark.slow
def test_rank_8_synthetic_set_has_8_bits():
    """Section 4.1: sums of a random subset of 8 orthonormal vectors carry 8 bits."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(128, 8, generator=generator)).Q.T
    x = torch.randint(0, 2, (16_384, 8), generator=generator).float() @ basis
    training = TrainingConfig(epochs=300, lr=2e-3, entropy_weight=5e-6, covariance_weight=1e-5, normalize="none")
    trained = train(x, BAEConfig(expansion=4), training)
    assert trained.all.entropy_bits == pytest.approx(8.0, abs=0.2)
    assert trained.train.fvu <= 0.01
    assert trained.val.fvu <= 0.01
