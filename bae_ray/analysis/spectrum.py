"""The spectrum of a cell's activations: the variances of their principal components, at unit RMS.

Shapes: N samples, D d_in.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import ROWS_AT_ONCE, column_mean

ROUNDING = 1e-12
"""Equal activations minus their mean leave less than this share of the mean, by rounding."""


class Spectrum(NamedTuple):
    """Principal components of training activations, centred and scaled to unit RMS as in training."""

    mean: Tensor
    """[D], in the activations' own units. All tensors are float64."""
    scale: float
    """Root mean square after subtracting the mean; 0 if all activations are equal."""
    variances: Tensor
    """[D], variances of the components, descending, with sum D. Those lost to rounding or too few samples are 0."""
    components: Tensor
    """[D, D], a component per column."""

    def coordinates(self, x: Tensor) -> Tensor:
        """Activations [N, D] at unit RMS in the components, float64."""
        return self.normalized(x) @ self.components

    def normalized(self, x: Tensor) -> Tensor:
        """Activations [N, D] centred and at unit RMS, float64, on the device of the spectrum."""
        return (x.to(self.mean.device, torch.float64) - self.mean) / (self.scale or 1.0)


@torch.no_grad()
def spectrum(x: Rows, device: torch.device | str = "cpu") -> Spectrum:
    """The spectrum of activations [N, D], which are read a batch at a time, twice."""
    n, d = x.shape
    mean = column_mean(x).to(device)
    covariance = torch.zeros(d, d, dtype=torch.float64, device=device)
    for batch in x.split(ROWS_AT_ONCE):
        centred = batch.to(device, torch.float64) - mean
        covariance += centred.T @ centred
    square = float(covariance.trace()) / (n * d)
    if square <= ROUNDING**2 * float(mean.square().mean()):
        return Spectrum(mean, 0.0, torch.zeros_like(mean), torch.eye(d, dtype=torch.float64, device=device))
    found, components = torch.linalg.eigh(covariance / (n * square))
    variances = found.flip(0)
    variances[n - 1 :] = 0
    variances[variances <= d * torch.finfo(torch.float64).eps * variances[0]] = 0
    return Spectrum(mean, square**0.5, variances, components.flip(1))
