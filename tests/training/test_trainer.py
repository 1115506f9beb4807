import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig, BAEConfig, ReLUConfig, TopKConfig, TranscoderConfig
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.errors import DivergedError, InvalidInputError, TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.samples import Split
from bae_ray.training.trainer import train, train_many

SMALL = TrainingConfig(epochs=6, batch_size=32, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4)


def data(n: int = 120, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1)) * 30 + 500


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


def epochs_of(training: TrainingConfig) -> list[TrainingMetrics]:
    lines: list[TrainingMetrics] = []
    train(data(), BAEConfig(), training, on_epoch=lines.extend)
    return lines


@pytest.mark.parametrize(
    ("change", "silent_epochs"),
    [
        ({"epochs": 8}, {"entropy": 2, "covariance": 0}),
        ({"epochs": 8, "covariance_warmup": 0.5, "entropy_warmup": 1.0}, {"entropy": 8, "covariance": 4}),
        ({"epochs": 8, "entropy_warmup": 3, "warmup_unit": "epochs"}, {"entropy": 3, "covariance": 0}),
    ],
)
def test_warm_ups_leave_terms_out(change: dict, silent_epochs: dict[str, int]):
    lines = epochs_of(SMALL.model_copy(update=change))
    assert [line.epoch for line in lines] == list(range(1, 9))
    for name, weight in (("entropy", 1e-3), ("covariance", 1e-4)):
        n = silent_epochs[name]
        assert [line.weights[name] for line in lines] == pytest.approx([0.0] * n + [weight] * (8 - n))
    for line in lines:
        assert set(line.terms) == {"reconstruction", "entropy", "covariance"}
        expected = sum(line.weights[name] * term for name, term in line.terms.items())
        assert line.loss == pytest.approx(expected, rel=1e-4)


def test_a_fraction_above_one_is_refused():
    with pytest.raises(ValueError, match=r"entropy_warmup is 50.0: a fraction is at most 1 \(or set warmup_unit"):
        TrainingConfig(entropy_warmup=50)


def test_every_step_can_be_logged():
    by_epoch = epochs_of(SMALL)
    by_step = epochs_of(SMALL.model_copy(update={"log": "step"}))
    assert [line.step for line in by_step] == list(range(1, 19))  # 96 training samples, 3 batches of 32, 6 epochs
    for epoch in by_epoch:
        steps = [line for line in by_step if line.epoch == epoch.epoch]
        assert sum(line.terms["entropy"] for line in steps) / 3 == pytest.approx(epoch.terms["entropy"], rel=1e-6)


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
    x[Split.draw(Rows([x]), None, 0.2, SMALL.seed).train[0]] = 1.0
    with pytest.raises(TrainingError, match=r"all 10 held-out activations are identical, so their FVU is undefined"):
        train(x, BAEConfig(), SMALL)


def test_divergence_names_the_step():
    with pytest.raises(
        DivergedError,
        match=r"the loss became (inf|nan) in epoch \d of 6, step [123] of 3 \(reconstruction .*Lower lr \(1e",
    ):
        train(data(), BAEConfig(), SMALL.model_copy(update={"lr": 1e30}))


ARCHITECTURE_CONFIGS = [
    one.config.model_validate({"k": 3} if "k" in one.config.model_fields else {})
    for one in ARCHITECTURES.values()
    if one.reconstructs == "input"
]


@pytest.mark.parametrize("architecture", ARCHITECTURE_CONFIGS, ids=lambda config: config.architecture)
def test_every_architecture_learns(architecture: ArchitectureConfig):
    settings = SMALL.model_copy(update={"epochs": 60})
    before = train(data(), architecture, SMALL.model_copy(update={"epochs": 1, "lr": 1e-9}))
    trained = train(data(), architecture, settings)
    assert trained.val.fvu < min(0.5, 0.6 * before.val.fvu)
    assert trained.all.n == 120


def test_transcoder_reconstructs_its_target():
    x = data()
    target = x[:, [3, 1, 0, 5, 2, 4]] * 7 - 100
    trained = train(x, TranscoderConfig(), SMALL.model_copy(update={"epochs": 60}), target=target)
    latents, y_hat = trained.autoencoder(x)
    fvu = ((y_hat - target).square().sum() / (target - target.mean(0)).square().sum()).item()
    assert fvu < 0.3
    assert trained.all.fvu == pytest.approx(fvu, rel=1e-3)
    assert latents.min() >= 0


@pytest.mark.parametrize(
    ("architecture", "target", "message"),
    [
        (TranscoderConfig(), None, "needs target activations"),
        (ReLUConfig(), data(), "takes no target activations"),
        (TranscoderConfig(), data(60), r"target has shape \(60, 6\) but the activations \(120, 6\)"),
    ],
)
def test_targets_that_do_not_fit(architecture: ArchitectureConfig, target: torch.Tensor | None, message: str):
    with pytest.raises(TrainingError, match=message):
        train(data(), architecture, SMALL, target=target)


def test_batches_from_disk_give_the_numbers_of_batches_in_memory():
    x = data().bfloat16()
    pieces = Rows([x[:50], x[50:57], x[57:]])
    in_memory = train(x, BAEConfig(), SMALL, placement="device")
    from_disk = train(pieces, BAEConfig(), SMALL, placement="disk")
    assert in_memory.all == from_disk.all
    for name, tensor in in_memory.autoencoder.state_dict().items():
        assert torch.equal(tensor, from_disk.autoencoder.state_dict()[name])


MEMBERS: list[tuple[ArchitectureConfig, dict]] = [
    (BAEConfig(), {}),
    (BAEConfig(), {"lr": 3e-3, "entropy_weight": 0.0, "entropy_warmup": 0.5}),
    (TopKConfig(k=3), {"grad_clip": 0.1}),
    (BAEConfig(expansion=2), {"decoder_norm": "unit", "revive_every": 2}),
    (BAEConfig(), {"patience": 1, "lr_decay": 0.5}),
    (BAEConfig(), {"entropy_form": "printed", "reconstruction": "sum"}),
]


def test_trained_together_each_gets_the_numbers_that_it_gets_alone():
    members = [(architecture, SMALL.model_copy(update=change)) for architecture, change in MEMBERS]
    lines: dict[int, list[TrainingMetrics]] = {}
    together = train_many(data(), members, on_epoch=lambda member, new: lines.setdefault(member, []).extend(new))
    for number, ((architecture, training), outcome) in enumerate(zip(members, together, strict=True)):
        alone_lines: list[TrainingMetrics] = []
        alone = train(data(), architecture, training, on_epoch=alone_lines.extend)
        assert not isinstance(outcome, TrainingError)
        for name, tensor in alone.autoencoder.state_dict().items():
            torch.testing.assert_close(outcome.autoencoder.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
        assert outcome.all.entropy_bits == pytest.approx(alone.all.entropy_bits, rel=1e-4)
        assert [line.epoch for line in lines[number]] == [line.epoch for line in alone_lines]
        assert [line.loss for line in lines[number]] == pytest.approx([line.loss for line in alone_lines], rel=1e-4)


def test_one_member_diverges_and_the_others_go_on():
    bad, good = SMALL.model_copy(update={"lr": 1e30}), SMALL
    first, second = train_many(data(), [(BAEConfig(), bad), (BAEConfig(), good)])
    assert isinstance(first, DivergedError)
    assert not isinstance(second, TrainingError)
    assert second.all == train(data(), BAEConfig(), good).all


def test_members_that_cannot_share_batches():
    other = SMALL.model_copy(update={"batch_size": 16})
    with pytest.raises(InvalidInputError, match=r"training.batch_size is 16 for member 1 and 32 for member 0"):
        train_many(data(), [(BAEConfig(), SMALL), (BAEConfig(), other)])
    with pytest.raises(InvalidInputError, match="nothing to train"):
        train_many(data(), [])


def test_lower_precision_and_compiled_steps_agree_roughly():
    settings = SMALL.model_copy(update={"epochs": 40})
    exact = train(data(400), ReLUConfig(), settings).all.fvu
    for change in ({"precision": "bf16"}, {"precision": "tf32"}):
        assert train(data(400), ReLUConfig(), settings.model_copy(update=change)).all.fvu == pytest.approx(
            exact, rel=0.2
        )


@pytest.mark.slow
@pytest.mark.filterwarnings(  # the compiler's own
    "ignore::FutureWarning:torch.*", "ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning"
)
def test_compiled_training_agrees():
    for architecture in (BAEConfig(), ReLUConfig()):
        exact = train(data(400), architecture, SMALL)
        compiled = train(data(400), architecture, SMALL.model_copy(update={"compile": True}))
        assert compiled.all.fvu == pytest.approx(exact.all.fvu, rel=0.01)


def test_unit_decoder_norm():
    trained = train(data(), BAEConfig(), SMALL.model_copy(update={"decoder_norm": "unit"}))
    torch.testing.assert_close(trained.autoencoder.W_dec.norm(dim=1), torch.ones(24))


def test_early_stop_goes_back_to_the_lowest_held_out_objective():
    """Against trainings of 1, 2, ... epochs: without schedules they are the same training, cut short."""
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    settings = SMALL.model_copy(update={"epochs": 60, "lr": 3e-2, "entropy_weight": 0.0, "covariance_weight": 0.0})
    settings = settings.model_copy(update={"entropy_warmup": 0.0})
    lines: list[TrainingMetrics] = []
    stopped = train(x, BAEConfig(), settings.model_copy(update={"patience": 2}), on_epoch=lines.extend)
    errors = [
        train(x, BAEConfig(), settings.model_copy(update={"epochs": epochs})).val.mse
        for epochs in range(1, len(lines) + 1)
    ]
    assert 3 < len(lines) < 60
    assert stopped.val.mse == pytest.approx(min(errors), rel=1e-5)
    assert errors.index(min(errors)) == len(lines) - 3, "two epochs without a fall, and the one of the lowest before"


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
