"""What is measured of an autoencoder on a set of activations, streamed in bounded memory.

Shapes: N samples, D d_in, F d_latent.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy

DENSE_RATE = 0.1
"""A feature that fires on more than this share of the samples counts as dense."""


class FeatureMetrics(NamedTuple):
    """Measures over one set of activations."""

    n: int
    mse: float
    """Mean squared error over samples and dimensions, in the activations' own units squared."""
    fvu: float
    """Fraction of variance unexplained: squared error over the squared distance to this set's mean."""
    l0: float
    """Latents that fire per sample, on average."""
    dead: float
    """Fraction of latents that never fire."""
    dense: float
    """Fraction of latents whose firing rate is above `DENSE_RATE`."""
    entropy_bits: float
    """Marginal entropy: Bernoulli entropies of the firing rates, summed over the latents (Eq. 4), in bits."""


class FeatureStatistics:
    """Accumulates, in double precision, what `FeatureMetrics` needs over any number of batches."""

    def __init__(self, d_in: int, d_latent: int, device: torch.device | str = "cpu") -> None:
        self._n = 0
        self._fired = torch.zeros(d_latent, dtype=torch.float64, device=device)
        self._squared_error = torch.zeros((), dtype=torch.float64, device=device)
        # Sums are taken around the first batch's mean: around 0, the variance of a large-mean set would cancel away.
        self._origin: Tensor | None = None
        self._shift = torch.zeros(d_in, dtype=torch.float64, device=device)
        self._squared = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, x: Tensor, latents: Tensor, x_hat: Tensor) -> None:
        """Add a batch: activations [N, D], latents [N, F], reconstruction [N, D], all in the activations' units."""
        x = x.double()
        if self._origin is None:
            self._origin = x.mean(0)
        self._n += len(x)
        self._fired += (latents != 0).sum(0)
        self._squared_error += (x_hat.double() - x).square().sum()
        self._shift += (x - self._origin).sum(0)
        self._squared += (x - self._origin).square().sum()

    def merge(self, other: Self) -> None:
        """Add the samples of another set."""
        if other._origin is None:
            return
        if self._origin is None:
            self._origin = other._origin
        offset = other._origin - self._origin
        self._squared += other._squared + 2 * (offset @ other._shift) + other._n * (offset @ offset)
        self._shift += other._shift + other._n * offset
        self._n += other._n
        self._fired += other._fired
        self._squared_error += other._squared_error

    @property
    def firing_rates(self) -> Tensor:
        """Share of the samples on which each latent fires, [F], float64."""
        return self._fired / self._n

    def metrics(self) -> FeatureMetrics:
        """The measures over everything added so far."""
        rates = self.firing_rates
        variance = float(self._squared - self._shift.square().sum() / self._n)
        error = float(self._squared_error)
        return FeatureMetrics(
            n=self._n,
            mse=error / (self._n * len(self._shift)),
            fvu=error / variance if variance > 0 else float("nan"),
            l0=float(rates.sum()),
            dead=float((rates == 0).double().mean()),
            dense=float((rates > DENSE_RATE).double().mean()),
            entropy_bits=float(bernoulli_entropy(rates).sum()),
        )


@torch.no_grad()
def feature_statistics(autoencoder: Autoencoder, x: Tensor, batch_size: int = 4096) -> FeatureStatistics:
    """Statistics of an autoencoder over activations [N, D], a batch at a time on the autoencoder's device."""
    device = autoencoder.mean.device
    statistics = FeatureStatistics(autoencoder.d_in, autoencoder.d_latent, device)
    for rows in x.split(batch_size):
        batch = rows.to(device)
        statistics.update(batch, *autoencoder(batch))
    return statistics
