from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bae_ray.autoencoders import BAEConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.objective import learning_rate
from bae_ray.training.samples import Batch
from bae_ray.training.stack import Stack

Released = Callable[[str, float, float], Stack]


@pytest.fixture
def released(golden: dict, set_released_weights) -> Released:
    """Make a stack of one BAE with the weights of the golden file, by gradient, entropy and covariance weight."""

    def make(gradient: str, entropy_weight: float, covariance_weight: float) -> Stack:
        training = TrainingConfig(
            epochs=30, lr=5e-4, entropy_weight=entropy_weight, covariance_weight=covariance_weight, entropy_warmup=0
        )
        config = BAEConfig.model_validate({"d_in": 8, "gradient": gradient})
        stack = Stack(config, [training], torch.device("cpu"), n_steps=30)
        set_released_weights(stack.members[0].autoencoder, golden["bae_state_dict"])
        return stack

    return make


def run(stack: Stack, x: Tensor, steps: int) -> Tensor:
    """mse, entropy and covariance penalty before each step, [steps, 3]."""
    weights, active = stack.weights(1), frozenset(stack.names)
    return torch.stack([stack.step(Batch(x, x), weights, active, step)[1:, 0] for step in range(steps)])


def test_thirty_steps_of_the_released_code(golden: dict, released: Released):
    recorded = golden["bae_release_training"]
    assert recorded["lr"] == 5e-4
    stack = released("release", recorded["entropy_weight"], recorded["covariance_weight"])
    ours = run(stack, torch.tensor(golden["x"]), recorded["steps"])
    torch.testing.assert_close(ours, torch.tensor(recorded["mse_entropy_cov_per_step"]), rtol=1e-4, atol=1e-4)


def test_steps_follow_the_plain_objective_of_equations_4_to_6(golden: dict, released: Released):
    """Against plain autograd through dense covariances, with Eq. 6 as a smooth part of the forward pass."""
    x = torch.tensor(golden["x"])
    weights = {k: torch.tensor(v).requires_grad_() for k, v in golden["bae_state_dict"].items()}
    optimizer = torch.optim.Adam(weights.values(), lr=5e-4)
    expected = []
    for _ in range(10):
        pre = x @ weights["encoder.weight"].T + weights["encoder.bias"]
        smooth = torch.sigmoid(pre)
        code = (pre >= 0).float() + smooth - smooth.detach()
        mse = ((code @ weights["decoder.weight"].T + weights["decoder.bias"] - x) ** 2).mean()
        p = code.mean(0).clamp(1e-12, 1 - 1e-12)
        entropy = -(p * p.log2() + (1 - p) * (1 - p).log2()).sum()
        cov = torch.cov(code.T)
        covariance = cov.abs().sum() - cov.diagonal().abs().sum()
        optimizer.zero_grad()
        (mse + 1e-3 * entropy + 1e-4 * covariance).backward()
        optimizer.step()
        expected.append([mse.item(), entropy.item(), covariance.item()])
    ours = run(released("sigmoid", 1e-3, 1e-4), x, 10)
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-3, atol=1e-5)


def test_terms_without_a_weight_are_measured_and_change_nothing(golden: dict, released: Released):
    x = torch.tensor(golden["x"])
    counted, left_out = (released("sigmoid", 0.0, 0.0) for _ in range(2))
    with_gradient = run(counted, x, 5)
    weights = left_out.weights(1)
    without = torch.stack([left_out.step(Batch(x, x), weights, frozenset(), step)[1:, 0] for step in range(5)])
    torch.testing.assert_close(with_gradient, without)
    assert (without[:, 1:] > 0).all()


def test_gradients_longer_than_the_limit_are_scaled(golden: dict, released: Released):
    """One step of SGD's size: with Adam the first step does not depend on the gradient's length, its moments do."""
    x = torch.tensor(golden["x"])
    stack = released("sigmoid", 1e-3, 1e-4)
    member = stack.members[0]
    stack.members[0] = member._replace(training=member.training.model_copy(update={"grad_clip": 1e-3}))
    run(stack, x, 1)
    first_moments = [member.optimizer.state[parameter]["exp_avg"] for parameter in member.autoencoder.parameters()]
    norm = torch.cat([moment.flatten() for moment in first_moments]).norm().item() / (1 - 0.9)
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("warmup", "decay", "expected"),
    [
        (0.0, 0.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (0.5, 0.0, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (0.0, 0.5, [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (0.25, 0.25, [0.5, 1, 1, 1, 1, 1, 1, 0.5]),
    ],
)
def test_learning_rate_schedule(warmup: float, decay: float, expected: list[float]):
    training = TrainingConfig(lr=0.1, lr_warmup=warmup, lr_decay=decay)
    assert [learning_rate(training, step, 8) / 0.1 for step in range(8)] == pytest.approx(expected)
