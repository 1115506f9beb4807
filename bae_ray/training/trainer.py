"""Training one autoencoder on one matrix of activations.

Shapes: N samples, D d_in.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.analysis.features import FeatureMetrics, feature_statistics
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder
from bae_ray.autoencoders.losses import covariance_penalty, marginal_entropy, reconstruction_loss
from bae_ray.errors import DivergedError, TrainingError
from bae_ray.training.config import TrainingConfig


class EpochMetrics(NamedTuple):
    """Means over the steps of one epoch, on normalised activations."""

    epoch: int
    """Counted from 1."""
    loss: float
    mse: float
    entropy_bits: float
    """Marginal entropy of the minibatches, in bits."""
    covariance_penalty: float
    entropy_weight: float
    """0 during the warm-up."""
    seconds: float
    """Since training began."""


class Trained(NamedTuple):
    """A trained autoencoder and its measures, on the activations as given (not normalised)."""

    autoencoder: Autoencoder
    train: FeatureMetrics
    val: FeatureMetrics
    all: FeatureMetrics
    """Over training and held-out samples together: the paper's entropy is measured on all of them."""
    seconds: float


def train(
    x: Tensor,
    architecture: BAEConfig,
    training: TrainingConfig,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None,
) -> Trained:
    """Train an autoencoder on activations [N, D] with the objective of Eq. 5.

    The same `x`, configs and number of threads give the same numbers on a CPU. Raises `TrainingError` for data that
    cannot be trained on, and `DivergedError` where the loss stops being finite.
    """
    started = time.monotonic()
    _check(x, architecture)
    generator = torch.Generator().manual_seed(training.seed)
    train_rows, val_rows = _split(len(x), training.val_fraction, generator)
    autoencoder = build_autoencoder(architecture.model_copy(update={"d_in": x.shape[1]}))
    autoencoder.reset_parameters(generator)
    if training.normalize == "rms":
        _fit_normalization(autoencoder, x[train_rows])
    autoencoder.to(device)
    data = autoencoder.normalize(x[train_rows].to(device))
    _optimize(autoencoder, data, training, generator, on_epoch, started)

    autoencoder.eval()
    on_train = feature_statistics(autoencoder, x[train_rows])
    on_val = feature_statistics(autoencoder, x[val_rows])
    train_metrics, val_metrics = on_train.metrics(), on_val.metrics()
    for name, metrics in (("training", train_metrics), ("held-out", val_metrics)):
        if math.isnan(metrics.fvu):
            raise TrainingError(
                f"all {metrics.n} {name} activations are identical, so their FVU is undefined. Leave this cell out."
            )
        if not math.isfinite(metrics.mse):
            raise DivergedError(
                f"the reconstruction of the {name} activations is {metrics.mse}. Lower lr ({training.lr})."
            )
    on_train.merge(on_val)
    autoencoder.prior.copy_(on_train.firing_rates)
    return Trained(autoencoder, train_metrics, val_metrics, on_train.metrics(), time.monotonic() - started)


def _optimize(
    autoencoder: Autoencoder,
    data: Tensor,
    training: TrainingConfig,
    generator: torch.Generator,
    on_epoch: Callable[[EpochMetrics], None],
    started: float,
) -> None:
    optimizer = torch.optim.Adam(
        autoencoder.parameters(), lr=training.lr, betas=(training.beta1, training.beta2), fused=True
    )
    batch_size = min(training.batch_size, len(data))
    n_steps = len(data) // batch_size
    warmup_epochs = round(training.entropy_warmup * training.epochs)
    for epoch in range(1, training.epochs + 1):
        entropy_weight = 0.0 if epoch <= warmup_epochs else training.entropy_weight
        order = torch.randperm(len(data), generator=generator).to(data.device)
        totals = torch.zeros(4, device=data.device)
        for rows in order.split(batch_size)[:n_steps]:
            batch = data[rows]
            code = autoencoder.encode_normalized(batch)
            terms = {
                "mse": reconstruction_loss(autoencoder.decode_normalized(code), batch),
                "entropy": marginal_entropy(code),
                "covariance": covariance_penalty(code),
            }
            objective = (
                terms["mse"] + entropy_weight * terms["entropy"] + training.covariance_weight * terms["covariance"]
            )
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            totals += torch.stack([objective.detach(), *(term.detach() for term in terms.values())])
        loss, mse, entropy, covariance = (value / n_steps for value in totals.tolist())
        on_epoch(EpochMetrics(epoch, loss, mse, entropy, covariance, entropy_weight, time.monotonic() - started))
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss} in epoch {epoch} of {training.epochs} (mse {mse}, entropy {entropy} bits, "
                f"covariance penalty {covariance}). Lower lr ({training.lr}) or the loss weights."
            )


def _check(x: Tensor, architecture: BAEConfig) -> None:
    if x.ndim != 2 or len(x) < 4:
        raise TrainingError(f"activations have shape {tuple(x.shape)}; expected [n, d] with n of 4 or more.")
    if architecture.d_in not in (None, x.shape[1]):
        raise TrainingError(
            f"d_in is {architecture.d_in} but the activations are {x.shape[1]} wide. Leave d_in out: it is taken from "
            "them."
        )
    if not torch.isfinite(x).all():
        row = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise TrainingError(f"activations hold NaN or infinite numbers, first in row {row}. Extract them anew.")
    if bool((x == x[0]).all()):
        raise TrainingError(
            f"all {len(x)} activations are identical, so their entropy is 0 bits and FVU is undefined. Leave this cell "
            "out; a position that always holds the same token, as the start token at 0, is the usual reason."
        )


def _split(n: int, val_fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of the training and of the held-out split, at least two each."""
    order = torch.randperm(n, generator=generator)
    n_val = min(max(round(n * val_fraction), 2), n - 2)
    return order[n_val:].sort().values, order[:n_val].sort().values


def _fit_normalization(autoencoder: Autoencoder, x: Tensor) -> None:
    """Set mean [D] and scale [] so that normalised training activations are centred and of unit RMS."""
    x = x.double()
    mean = x.mean(0)
    autoencoder.mean.copy_(mean)
    autoencoder.scale.copy_((x - mean).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny))
