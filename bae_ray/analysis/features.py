"""Measures of an autoencoder on a set of activations, in bounded memory.

Shapes: N samples, D d_in, F d_latent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.values import check_type

DENSE_RATE = 0.1
"""A feature that fires on more than this share of the samples counts as dense."""
ROWS_AT_ONCE = 4096
BYTES_PER_LATENT = 32  # measured: pre-activation, latent, and intermediate results of the sums

NEGLIGIBLE = torch.finfo(torch.float64).eps

DEAD_RATE = 0.0
"""A feature that fires on no more than this share of the samples counts as dead."""


class FeatureMetrics(NamedTuple):
    """Measures over one set of activations."""

    n: int
    mse: float
    """Mean squared error over samples and dimensions, in the activations' own units squared."""
    fvu: float
    """Fraction of variance unexplained: squared error over the squared distance to this set's mean."""
    cosine: float
    """Cosine of activation and reconstruction, mean over samples. A large common mean alone makes it large."""
    cosine_centred: float
    """The same after subtracting the activations' mean (in training, that of both splits together) from both."""
    l0: float
    """Mean number of latents that fire on a sample."""
    dead: float
    """Fraction of latents whose firing rate is at most `dead_rate`, by default those that never fire."""
    dense: float
    """Fraction of latents whose firing rate is above `dense_rate`."""
    entropy_bits: float
    """Marginal entropy: Bernoulli entropies of the firing rates, summed over the latents (Eq. 4), in bits."""


class FeatureStatistics:
    """Accumulates the sums for `FeatureMetrics` over any number of batches, in double precision.

    The centred cosine subtracts `centre` [D]. None: the first batch's mean.
    """

    def __init__(
        self, d_in: int, d_latent: int, device: torch.device | str = "cpu", centre: Tensor | None = None
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._n = 0
        self._fired, self._latents, self._latents_squared = zeros(d_latent), zeros(d_latent), zeros(d_latent)
        self._squared_error, self._cosine, self._cosine_centred = zeros(), zeros(), zeros()
        # Sums are taken around a mean: around 0, the variance of a large-mean set would cancel away.
        self._origin = centre.to(device, torch.float64) if centre is not None else None
        self._shift, self._squared = zeros(d_in), zeros()

    def update(self, x: Tensor, latents: Tensor, x_hat: Tensor) -> None:
        """Add a batch: activations [N, D], latents [N, F], reconstruction [N, D], all in the activations' units."""
        x, x_hat = x.double(), x_hat.double()
        if self._origin is None:
            self._origin = x.mean(0)
        self._n += len(x)
        self._fired += (latents != 0).sum(0)
        self._latents += latents.sum(0, dtype=torch.float64)
        self._latents_squared += latents.square().sum(0, dtype=torch.float64)
        self._squared_error += (x_hat - x).square().sum()
        centred = x - self._origin
        self._shift += centred.sum(0)
        self._squared += centred.square().sum()
        self._cosine += cosines(x, x_hat).sum()
        self._cosine_centred += cosines(centred, x_hat - self._origin).sum()

    def merge(self, other: Self) -> None:
        """Add the samples of another set. Its centred cosines keep their own centre."""
        if other._origin is None:
            return
        if self._origin is None:
            self._origin = other._origin
        offset = other._origin - self._origin
        self._squared += other._squared + 2 * (offset @ other._shift) + other._n * (offset @ offset)
        self._shift += other._shift + other._n * offset
        self._n += other._n
        for name in ("_fired", "_latents", "_latents_squared", "_squared_error", "_cosine", "_cosine_centred"):
            getattr(self, name).add_(getattr(other, name))

    def cpu(self) -> Self:
        """These statistics in main memory, so that processes without a GPU can read them."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.cpu())
        return self

    @property
    def firing_rates(self) -> Tensor:
        """Share of the samples on which each latent fires, [F], float64."""
        return self._fired / self._n

    @property
    def latent_mean(self) -> Tensor:
        """Mean of each latent, [F], float64."""
        return self._latents / self._n

    @property
    def latent_std(self) -> Tensor:
        """Standard deviation of each latent, [F], float64."""
        return (self._latents_squared / self._n - self.latent_mean.square()).clamp_min(0).sqrt()

    def set_reference(self, autoencoder: Autoencoder) -> None:
        """Make the samples the autoencoder's reference set: set its prior and, if it standardises, its statistics."""
        autoencoder.prior.copy_(self.firing_rates)
        if autoencoder.standardize:
            autoencoder.latent_mean.copy_(self.latent_mean)
            autoencoder.latent_std.copy_(self.latent_std)

    def metrics(self, dead_rate: float = DEAD_RATE, dense_rate: float = DENSE_RATE) -> FeatureMetrics:
        """The measures over everything added so far."""
        rates = self.firing_rates
        squared = float(self._squared)
        variance = squared - float(self._shift.square().sum()) / self._n
        # Of rows that are identical it is no more than what rounding leaves of their sum of squares.
        varies = variance > NEGLIGIBLE * self._n * squared
        error = float(self._squared_error)
        return FeatureMetrics(
            n=self._n,
            mse=error / (self._n * len(self._shift)),
            fvu=error / variance if varies else float("nan"),
            cosine=float(self._cosine) / self._n,
            cosine_centred=float(self._cosine_centred) / self._n,
            l0=float(rates.sum()),
            dead=float((rates <= dead_rate).double().mean()),
            dense=float((rates > dense_rate).double().mean()),
            entropy_bits=float(bernoulli_entropy(rates).sum()),
        )


@torch.no_grad()
def feature_statistics(
    autoencoder: Autoencoder,
    x: Tensor | Rows,
    batch_size: int | None = None,
    target: Tensor | Rows | None = None,
    centre: Tensor | None = None,
) -> FeatureStatistics:
    """Statistics of an autoencoder over activations [N, D], a batch at a time on the autoencoder's device.

    `target` [N, D] is what a transcoder reconstructs; None: `x` itself. `centre` [D] is subtracted for the centred
    cosine; None: the mean of `target`. Without `batch_size` a batch takes about 256 MiB.
    """
    for given in (x, target):
        if isinstance(given, Tensor):
            check_type(given, "x")
    device = autoencoder.mean.device
    size = batch_size or rows_at_once(autoencoder)
    wanted = x if target is None else target
    statistics = FeatureStatistics(
        autoencoder.d_in, autoencoder.d_latent, device, column_mean(wanted) if centre is None else centre
    )
    with evaluating(autoencoder):
        for rows, wanted_rows in zip(x.split(size), wanted.split(size), strict=True):
            statistics.update(wanted_rows.to(device), *autoencoder(rows.to(device)))
    return statistics


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosine [N] of the rows of float64 tensors [N, D], within [-1, 1] at any scale; 0 with a row of zeros.

    float64 holds the squares of all numbers of float32, subnormal ones too.
    """
    found = torch.nn.functional.cosine_similarity(x, y, eps=0)
    return torch.where((x == 0).all(-1) | (y == 0).all(-1), 0.0, found).clamp(-1, 1)


def column_mean(x: Tensor | Rows) -> Tensor:
    """Mean [D] of activations [N, D], in double precision, on their device."""
    return torch.stack([rows.double().sum(0) for rows in x.split(ROWS_AT_ONCE)]).sum(0) / len(x)


def rows_at_once(autoencoder: Autoencoder) -> int:
    """Number of rows whose latents, with intermediate results, take at most about 256 MiB."""
    return max(1, min(ROWS_AT_ONCE, (256 << 20) // (BYTES_PER_LATENT * autoencoder.d_latent)))


@contextmanager
def evaluating(autoencoder: Autoencoder) -> Iterator[None]:
    """Put the autoencoder into evaluation mode: in training mode, latents may depend on the batch."""
    training = autoencoder.training
    autoencoder.eval()
    try:
        yield
    finally:
        autoencoder.train(training)


@torch.no_grad()
def spectral_norm(dictionary: Tensor) -> float:
    """Spectral norm of the covariance matrix [F, F] of a dictionary's rows [F, D], each row a variable (Table 1).

    This is its largest eigenvalue, which a D x D matrix shares.
    """
    centred = dictionary.double() - dictionary.double().mean(1, keepdim=True)
    return float(torch.linalg.eigvalsh(centred.T @ centred)[-1]) / (dictionary.shape[1] - 1)
