"""The training objective (paper, Eq. 5, 9, 11, 14, 16): a reconstruction term and the architecture's penalties.

And early stopping: once the held-out objective no longer falls, its best weights are restored.

Shapes: M members trained as one, N samples, D d_in.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.config import EntropyForm, Reduction
from bae_ray.autoencoders.covariance import covariance_penalty
from bae_ray.autoencoders.literature import GatedSAE
from bae_ray.autoencoders.losses import l0_penalty, l1_penalty, marginal_entropy, reconstruction_loss
from bae_ray.training.config import TrainingConfig

SCHEDULED = ("entropy", "covariance", "l1", "l0")
"""Penalties with a weight and a warm-up in `TrainingConfig`; the others count fully from the start."""


class Forms(NamedTuple):
    """The variants of the terms, which members that are trained as one share."""

    reconstruction: Reduction
    entropy: EntropyForm
    l1: Reduction

    @classmethod
    def of(cls, training: TrainingConfig) -> "Forms":
        """The variants that a config asks for."""
        return cls(training.reconstruction, training.entropy_form, training.l1_reduction)


def term_names(autoencoder: Autoencoder) -> tuple[str, ...]:
    """Names of an autoencoder's terms, the reconstruction first."""
    return ("reconstruction", *autoencoder.penalties)


def terms(autoencoder: Autoencoder, x: Tensor, target: Tensor, forms: Forms, active: frozenset[str]) -> list[Tensor]:
    """The terms in the order of `term_names`, unweighted, a value per member [M].

    `x` and `target` [N, D] are normalised. Terms that are not `active` are measured without a gradient.
    """
    pre_activations = autoencoder.pre_activations(x)
    at_once = autoencoder.with_penalties(pre_activations, forms.entropy == "printed", active)
    if at_once is not None:
        latents, *penalties = at_once
        x_hat = autoencoder.decode_normalized(latents)
        return [reconstruction_loss(x_hat, target, forms.reconstruction), *penalties]
    latents = autoencoder.activate(pre_activations)
    x_hat = autoencoder.decode_normalized(latents)
    measured = [reconstruction_loss(x_hat, target, forms.reconstruction)]
    penalized = autoencoder.penalized(pre_activations, latents)
    for name in autoencoder.penalties:
        with torch.set_grad_enabled(name in active and torch.is_grad_enabled()):
            match name:
                case "entropy":
                    term = marginal_entropy(penalized, forms.entropy)
                case "covariance":
                    term = covariance_penalty(penalized)
                case "l1":
                    term = l1_penalty(penalized, forms.l1)
                case "l0":
                    term = l0_penalty(penalized)
                case "auxiliary":
                    from_gate = cast(GatedSAE, autoencoder).auxiliary_reconstruction(pre_activations)
                    term = reconstruction_loss(from_gate, target, forms.reconstruction)
                case _:
                    raise AssertionError(f"{name} is not a term")
        measured.append(term)
    return measured


def weights(names: tuple[str, ...], training: TrainingConfig, epoch: int) -> list[float]:
    """Weight of each term in an epoch, counted from 1; 0 during its warm-up."""
    return [
        0.0
        if name in SCHEDULED and epoch <= warmup_epochs(name, training)
        else float(getattr(training, f"{name}_weight", 1.0))
        for name in names
    ]


def warmup_epochs(name: str, training: TrainingConfig) -> int:
    """Epochs at the start without this term."""
    length = float(getattr(training, f"{name}_warmup"))
    return round(length * training.epochs if training.warmup_unit == "fraction" else length)


def learning_rate(training: TrainingConfig, step: int, n_steps: int, later: Sequence[int] = ()) -> float:
    """Learning rate of a step, counted from 0, of `n_steps`: linear warm-up, then constant, then linear decay.

    Where the training goes on, to `later` numbers of steps one after the other, each of these parts has a decay of its
    own, over the same share of it.
    """
    begin, end = 0, n_steps
    for further in later:
        if step >= end:
            begin, end = end, further
    rising, falling = training.lr_warmup * n_steps, training.lr_decay * (end - begin)
    warm = min(1.0, (step + 1) / rising) if rising else 1.0
    decay = min(1.0, (end - step) / falling) if falling else 1.0
    return training.lr * min(warm, decay)


class EarlyStop:
    """Follows one member's held-out objective from the end of the warm-ups: before, the objective is another one."""

    def __init__(self, training: TrainingConfig, names: tuple[str, ...]) -> None:
        self._patience = training.patience or 0
        self._begin = max((warmup_epochs(name, training) for name in names if name in SCHEDULED), default=0)
        self._lowest, self._lowest_epoch = math.inf, 0
        self.best: dict[str, Tensor] = {}
        """The weights where the objective was lowest."""
        self.stopped = False

    def observe(self, epoch: int, loss: float, autoencoder: Autoencoder) -> None:
        """Note the held-out objective after an epoch."""
        if self.stopped or epoch <= self._begin:
            return
        if loss < self._lowest:
            self._lowest, self._lowest_epoch = loss, epoch
            self.best = {name: tensor.clone() for name, tensor in autoencoder.state_dict().items()}
        elif epoch - self._lowest_epoch >= self._patience:
            self.stopped = True

    @torch.no_grad()
    def restore(self, autoencoder: Autoencoder) -> None:
        """Give the autoencoder its best weights."""
        for name, tensor in autoencoder.state_dict().items():
            if name in self.best:
                tensor.copy_(self.best[name])

    def facts(self) -> dict[str, Any]:
        """What `resume` needs besides the best weights."""
        return {"lowest": self._lowest, "epoch": self._lowest_epoch, "stopped": self.stopped}

    def resume(self, facts: dict[str, Any], best: dict[str, Tensor]) -> None:
        """Go back to an earlier state."""
        self._lowest, self._lowest_epoch, self.stopped = facts["lowest"], facts["epoch"], facts["stopped"]
        self.best = best
